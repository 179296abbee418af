//! `/accounts`.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        shape,
    },
    service::{ServiceError, accounts},
};
use axum::extract::State;

/// GET /accounts
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    if !named.wants_overview() {
        let found = accounts::list(&api.service, &caller, &named.filter).await?;
        return Answer::ok(&found.into_iter().map(shape::account).collect::<Vec<_>>());
    }
    let domain = &api.service.config.cluster_domain;
    let found = accounts::overview(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(|tree| shape::account_tree(tree, domain)).collect::<Vec<_>>())
}

/// GET /accounts/{account}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    if !named.wants_overview() {
        return Answer::ok(&shape::account(accounts::show(&api.service, &caller, &named.filter).await?));
    }
    let found = accounts::overview(&api.service, &caller, &named.filter).await?.into_iter().next();
    let tree = found.ok_or(ServiceError::NotFound)?;
    Answer::ok(&shape::account_tree(tree, &api.service.config.cluster_domain))
}

/// POST /accounts
pub(crate) async fn create(State(api): State<Api>, caller: Caller, Body(mut body): Body) -> Result<Answer, Fault> {
    let name = body.text("name").value();
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let made = accounts::create(&api.service, &caller, name.as_deref()).await?;
    Ok(Answer::ok(&shape::account(made))?.ignoring(ignored))
}

/// PUT /accounts/{account}: nothing of an account can be changed by its owners.
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let account = accounts::show(&api.service, &caller, &named.filter).await?;
    if body.text("name").value().is_some_and(|name| name != account.name) {
        body.complain("name", "cannot be changed");
    }
    body.skip(&["id", "suspended"]);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    Ok(Answer::ok(&shape::account(account))?.ignoring(ignored))
}
