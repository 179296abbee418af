//! `…/virtual_machines/{vm}/nics` and `/nics`.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Named},
        fault::Fault,
        shape,
    },
    service::nics,
};
use axum::extract::State;

/// GET /nics
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = nics::list(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(shape::nic).collect::<Vec<_>>())
}

/// GET …/virtual_machines/{vm}/nics
pub(crate) async fn list_of_vm(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = nics::list_of_vm(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(shape::nic).collect::<Vec<_>>())
}

/// GET …/nics/{part}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&shape::nic(nics::show(&api.service, &caller, &named.filter).await?))
}
