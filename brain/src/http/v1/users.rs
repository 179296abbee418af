//! `/users`.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, MaybeCaller, Named},
        fault::Fault,
        shape,
    },
    service::users::{self, NewUser, UserChange},
};
use axum::extract::State;
use spine::secret::Secret;

/// GET /users
pub(crate) async fn list(State(api): State<Api>, caller: Caller) -> Result<Answer, Fault> {
    let found = users::list(&api.service, &caller, None).await?;
    Answer::ok(&found.into_iter().map(shape::user).collect::<Vec<_>>())
}

/// GET /users/{user}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&shape::user(users::show(&api.service, &caller, &named.segment("user")?).await?))
}

/// POST /users
pub(crate) async fn create(
    State(api): State<Api>,
    MaybeCaller(caller): MaybeCaller,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let user = NewUser {
        username: body.text("username").value(),
        email: body.text("email").value().filter(|email| !email.is_empty()),
        password: body.text("password").value().map(Secret::new),
        authorized_keys: body.text("authorized_keys").value(),
        account_name: body.text("account_name").value(),
    };
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let made = users::create(&api.service, caller.as_ref(), user).await?;
    Ok(Answer::ok(&shape::user(made))?.ignoring(ignored))
}

/// PUT /users/{user}
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let user = named.segment("user")?;
    let change = UserChange {
        authorized_keys: body.text("authorized_keys").change(),
        password: body.text("password").value().map(Secret::new),
    };
    body.skip(&["id"]);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let changed = users::change(&api.service, &caller, &user, change).await?;
    Ok(Answer::ok(&shape::user(changed))?.ignoring(ignored))
}
