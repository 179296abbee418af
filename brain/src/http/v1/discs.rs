//! `…/virtual_machines/{vm}/discs` and `/discs`.

use super::virtual_machines::read_new_disc;
use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        shape,
    },
    model::disc::DiscChange,
    service::discs,
};
use axum::extract::State;
use http::StatusCode;

/// GET /discs
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = discs::list(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(shape::disc).collect::<Vec<_>>())
}

/// GET …/virtual_machines/{vm}/discs
pub(crate) async fn list_of_vm(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = discs::list_of_vm(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(shape::disc).collect::<Vec<_>>())
}

/// GET …/discs/{part}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&shape::disc(discs::show(&api.service, &caller, &named.filter).await?))
}

/// POST …/virtual_machines/{vm}/discs
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let disc = read_new_disc(&mut body);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let made = discs::create(&api.service, &caller, &named.filter, disc).await?;
    Ok(Answer::ok(&shape::disc(made))?.ignoring(ignored))
}

/// PUT …/discs/{part}
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    body.skip(&["id", "type", "storage_pool", "storage_grade", "backup_count", "backups_enabled", "status"]);
    let change = DiscChange {
        label: body.text("label").value(),
        size_mib: body.integer("size").value(),
        force: body.boolean("force").value().unwrap_or(false),
        virtual_machine_id: body.integer("virtual_machine_id").value(),
    };
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let changed = discs::change(&api.service, &caller, &named.filter, &change).await?;
    Ok(Answer::ok(&shape::disc(changed))?.ignoring(ignored))
}

/// DELETE …/discs/{part}?purge=true
pub(crate) async fn delete(State(api): State<Api>, caller: Caller, named: Named) -> Result<StatusCode, Fault> {
    discs::delete(&api.service, &caller, &named.filter, named.flag("purge")).await?;
    Ok(StatusCode::NO_CONTENT)
}
