//! `/privileges`, `/users/{user}/privileges` and the privileges on a place.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        shape,
    },
    model::{account::Privilege, filter::Filter, name::Spec},
    service::privileges::{self, NewPrivilege},
};
use axum::extract::State;
use http::StatusCode;

fn shown(found: Vec<Privilege>) -> Result<Answer, Fault> {
    Answer::ok(&found.into_iter().map(shape::privilege).collect::<Vec<_>>())
}

fn id(named: &Named) -> Result<i64, Fault> {
    named.segment("privilege")?.id().ok_or(Fault::NotFound)
}

/// GET /privileges: one's own, or those of the user that the query names.
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let user = named.user()?.unwrap_or(Spec::Id(caller.user_id));
    shown(privileges::of_user(&api.service, &caller, &user).await?)
}

/// GET /users/{user}/privileges
pub(crate) async fn of_user(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    shown(privileges::of_user(&api.service, &caller, &named.segment("user")?).await?)
}

/// GET …/privileges below an account, group or machine
pub(crate) async fn on_place(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    shown(privileges::on_place(&api.service, &caller, &named.filter).await?)
}

/// GET /privileges/{privilege}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&shape::privilege(privileges::show(&api.service, &caller, id(&named)?).await?))
}

/// POST /users/{user}/privileges
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let filter = Filter {
        account: body.integer("account_id").value().map(Spec::Id),
        group: body.integer("group_id").value().map(Spec::Id),
        vm: body.integer("virtual_machine_id").value().map(Spec::Id),
        ..Filter::default()
    };
    let order = NewPrivilege {
        level: body.text("level").value(),
        filter,
        password_required: body.boolean("password_required").value(),
        yubikey_required: body.boolean("yubikey_required").value(),
        ip_restrictions: body.text("ip_restrictions").value(),
    };
    if body.integer("api_key_id").value().is_some() {
        body.complain("api_key_id", "is not included in the list");
    }
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let made = privileges::create(&api.service, &caller, &named.segment("user")?, order).await?;
    Ok(Answer::ok(&shape::privilege(made))?.ignoring(ignored))
}

/// DELETE /privileges/{privilege}: 200 and an empty object, which one client insists on.
pub(crate) async fn delete(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    privileges::delete(&api.service, &caller, id(&named)?).await?;
    Answer::with_status(StatusCode::OK, &serde_json::json!({}))
}
