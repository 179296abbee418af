//! The public HTTP API.
//!
//! ```text
//!   request ─▶ guard (log, time, request id) ─▶ router ─▶ handler: read ─▶ service ─▶ shape ─▶ answer
//! ```
//!
//! * [`v1`]: the handlers, by what they are about; the router below is the table of them.
//! * [`extract`], [`fields`]: what a request says: caller, path, query, body. [`query`] reads the latter two.
//! * [`shape`]: what an answer looks like. [`fault`]: what an error looks like. [`guard`]: around every request.
//! * [`serve`]: connections: how many, and for how long. [`waiting`]: who may wait for a status.
//!
//! Invariants: a body is read only from an object of bounded size and depth; every answer is JSON with the bare
//! content type `application/json` (but a session's token, which is plain text); the codes are 200, 202, 204, 400,
//! 401, 403, 404, 405, 500 and 503, because clients take others for bugs; an attribute that is not acted on is named
//! in `X-Ignored-Attributes`; nothing of a request's body or headers is logged.
//!
//! Absent: TLS (a reverse proxy does that), API keys, impersonation, additional addresses, backups.

pub mod extract;
pub mod fault;
pub mod fields;
mod guard;
pub mod query;
pub mod serve;
pub mod shape;
pub mod v1;
pub mod waiting;

use crate::{auth::Gate, config::Config, fleet::Registry, reconcile::Poke, service::Service, store::Store};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{delete, get, post},
};
use fault::Fault;
use std::sync::Arc;
use v1::{
    accounts, admin, definitions, discs, forced, groups, migrations, nics, privileges, sessions, users,
    virtual_machines,
};
use waiting::Waiting;

/// What the API is served from.
#[derive(Clone)]
pub struct AppState {
    /// The database, as [`Store::for_api`] gives it.
    pub store: Store,
    /// Wakes the reconciler.
    pub poke: Poke,
    /// The connected nodes.
    pub registry: Registry,
    /// How the cluster is set up.
    pub config: Arc<Config>,
}

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    /// The use cases' means.
    pub service: Service,
    /// Turns of those who wait for a status.
    pub(crate) waiting: Waiting,
}

/// The whole API, for [`serve::serve`], which adds the peer's address: it counts for privileges that are limited to
/// networks, and for slowing down who guesses passwords.
pub fn router(state: AppState) -> Router {
    let AppState { store, poke, registry, config } = state;
    let gate = Gate::new(store.clone());
    let service = Service { store, poke, registry, config, gate };
    let api = Api { service, waiting: Waiting::default() };
    let vms = "/accounts/{account}/groups/{group}/virtual_machines";
    let vm = "/accounts/{account}/groups/{group}/virtual_machines/{vm}";
    Router::new()
        .route("/health", get(definitions::health))
        .route("/definitions", get(definitions::list))
        .route("/session", post(sessions::create))
        .route("/session/{token}", get(sessions::show))
        .route("/accounts", get(accounts::list).post(accounts::create))
        .route("/accounts/{account}", get(accounts::show).put(accounts::update))
        .route("/accounts/{account}/privileges", get(privileges::on_place))
        .route("/accounts/{account}/groups", get(groups::list_in_account).post(groups::create))
        .route("/accounts/{account}/groups/{group}", get(groups::show).put(groups::update).delete(groups::delete))
        .route("/accounts/{account}/groups/{group}/privileges", get(privileges::on_place))
        .route("/accounts/{account}/groups/{group}/vm_create", post(virtual_machines::vm_create))
        .route(vms, get(virtual_machines::list_in_group).post(virtual_machines::create))
        .route(&format!("{vm}/privileges"), get(privileges::on_place))
        .merge(of_vm(vm))
        .route("/groups", get(groups::list))
        .route("/groups/{group}", get(groups::show))
        .route("/virtual_machines", get(virtual_machines::list))
        .merge(of_vm("/virtual_machines/{vm}"))
        .route("/discs", get(discs::list))
        .route("/discs/{part}", get(discs::show).put(discs::update).delete(discs::delete))
        .route("/nics", get(nics::list))
        .route("/nics/{part}", get(nics::show))
        .route("/users", get(users::list).post(users::create))
        .route("/users/{user}", get(users::show).put(users::update))
        .route("/users/{user}/privileges", get(privileges::of_user).post(privileges::create))
        .route("/privileges", get(privileges::list))
        .route("/privileges/{privilege}", delete(privileges::delete).get(privileges::show))
        .route("/admin/heads", get(admin::heads))
        .route("/admin/heads/{node}", get(admin::head).put(admin::update_head))
        .route("/admin/tails", get(admin::tails))
        .route("/admin/tails/{node}", get(admin::tail).put(admin::update_tail))
        .route("/admin/tails/{node}/discs", get(admin::discs_of_tail))
        .route("/admin/tails/{node}/empty", post(migrations::empty_tail))
        .route("/admin/storage_pools", get(admin::storage_pools))
        .route("/admin/storage_pools/{pool}", get(admin::storage_pool).put(admin::update_storage_pool))
        .route("/admin/storage_pools/{pool}/discs", get(admin::discs_of_storage_pool))
        .route("/admin/storage_pools/{pool}/empty", post(migrations::empty_pool))
        .route("/admin/migrating_discs", get(migrations::migrating_discs))
        .route("/admin/discs/{disc}/migrate", post(migrations::migrate))
        .route("/admin/discs/{disc}/cancel_migration", post(migrations::cancel))
        .route("/admin/discs/{disc}/regrade", post(migrations::regrade))
        .route("/admin/discs/{disc}/promote", post(forced::promote))
        .route("/admin/discs/{disc}/take_back", post(forced::take_back))
        .route("/admin/discs/{disc}/remove_old_copies", post(forced::remove_old_copies))
        .route("/admin/old_copies", get(forced::old_copies))
        .route("/admin/migration_jobs", get(migrations::list).post(migrations::create))
        .route("/admin/migration_jobs/{job}", get(migrations::show).put(migrations::update))
        .route("/admin/migration_jobs/{job}/migrations", get(migrations::active))
        .fallback(|| async { Fault::NotFound })
        .method_not_allowed_fallback(|| async { Fault::MethodNotAllowed })
        // Bodies are read with a bound of their own, which answers in the API's form.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn(guard::around))
        .with_state(api)
}

/// What there is under one machine, nested or flat.
fn of_vm(vm: &str) -> Router<Api> {
    Router::new()
        .route(vm, get(virtual_machines::show).put(virtual_machines::update).delete(virtual_machines::delete))
        .route(&format!("{vm}/signal"), post(virtual_machines::signal))
        .route(&format!("{vm}/reimage"), post(virtual_machines::reimage))
        .route(&format!("{vm}/discs"), get(discs::list_of_vm).post(discs::create))
        .route(&format!("{vm}/discs/{{part}}"), get(discs::show).put(discs::update).delete(discs::delete))
        .route(&format!("{vm}/nics"), get(nics::list_of_vm))
        .route(&format!("{vm}/nics/{{part}}"), get(nics::show))
}
