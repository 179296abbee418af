//! `/admin/discs/{disc}/promote`, `take_back` and `remove_old_copies`, and `/admin/old_copies`.

use super::migrations::{id, moment};
use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        shape,
    },
    model::work::Force,
    service::forced::{self, ForceOrder},
    store::forced::OldCopy,
};
use axum::extract::State;
use spine::api;

/// POST /admin/discs/{disc}/promote
pub(crate) async fn promote(api: State<Api>, caller: Caller, named: Named, body: Body) -> Result<Answer, Fault> {
    force(api, caller, named, body, Force::Promote).await
}

/// POST /admin/discs/{disc}/take_back
pub(crate) async fn take_back(api: State<Api>, caller: Caller, named: Named, body: Body) -> Result<Answer, Fault> {
    force(api, caller, named, body, Force::TakeBack).await
}

async fn force(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
    how: Force,
) -> Result<Answer, Fault> {
    let reason = body.text("reason").value().unwrap_or_default();
    let writes_may_be_lost = body.boolean("acknowledged_writes_may_be_lost").value().unwrap_or(false);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let order = ForceOrder { how, reason, writes_may_be_lost };
    let disc = forced::force(&api.service, &caller, id(&named, "disc")?, &order).await?;
    Ok(Answer::ok(&shape::disc(disc))?.ignoring(ignored))
}

/// POST /admin/discs/{disc}/remove_old_copies
pub(crate) async fn remove_old_copies(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&shape::disc(forced::remove_old_copies(&api.service, &caller, id(&named, "disc")?).await?))
}

/// GET /admin/old_copies
pub(crate) async fn old_copies(State(api): State<Api>, caller: Caller) -> Result<Answer, Fault> {
    let found = forced::old_copies(&api.service, &caller).await?;
    Answer::ok(&found.into_iter().map(old_copy_shape).collect::<Vec<_>>())
}

fn old_copy_shape(copy: OldCopy) -> api::OldCopy {
    api::OldCopy {
        disc_id: copy.disc_id,
        virtual_machine_id: copy.vm_id,
        number: copy.number.0,
        tail: copy.tail,
        superseded_by: copy.superseded_by,
        kept: copy.kept,
        since: moment(copy.since),
    }
}
