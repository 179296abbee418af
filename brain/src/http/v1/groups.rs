//! `/accounts/{account}/groups` and `/groups`.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        shape,
    },
    service::{groups, one},
};
use axum::extract::State;
use http::StatusCode;

/// GET /groups
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = groups::list(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(shape::group).collect::<Vec<_>>())
}

/// GET /accounts/{account}/groups
pub(crate) async fn list_in_account(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = groups::list_in_account(&api.service, &caller, &named.filter).await?;
    if !named.wants_overview() {
        return Answer::ok(&found.into_iter().map(shape::group).collect::<Vec<_>>());
    }
    let domain = &api.service.config.cluster_domain;
    let trees = groups::overview(&api.service, &caller, &named.filter).await?;
    Answer::ok(&trees.into_iter().map(|tree| shape::group_tree(tree, domain)).collect::<Vec<_>>())
}

/// GET /accounts/{account}/groups/{group} and /groups/{group}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    if !named.wants_overview() {
        return Answer::ok(&shape::group(one(groups::list(&api.service, &caller, &named.filter).await?)?));
    }
    let found = one(groups::overview(&api.service, &caller, &named.filter).await?)?;
    Answer::ok(&shape::group_tree(found, &api.service.config.cluster_domain))
}

/// POST /accounts/{account}/groups
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let name = body.text("name").value();
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let made = groups::create(&api.service, &caller, &named.filter, name.as_deref()).await?;
    Ok(Answer::ok(&shape::group(made))?.ignoring(ignored))
}

/// PUT /accounts/{account}/groups/{group}
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let name = body.text("name").value();
    body.skip(&["id", "account_id", "type", "virtual_machines"]);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let changed = groups::rename(&api.service, &caller, &named.filter, name.as_deref()).await?;
    Ok(Answer::ok(&shape::group(changed))?.ignoring(ignored))
}

/// DELETE /accounts/{account}/groups/{group}
pub(crate) async fn delete(State(api): State<Api>, caller: Caller, named: Named) -> Result<StatusCode, Fault> {
    groups::delete(&api.service, &caller, &named.filter).await?;
    Ok(StatusCode::NO_CONTENT)
}
