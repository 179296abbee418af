//! What operators see of heads, tails and pools, what they set in them, and whether the brain can work.

use super::{
    Service, ServiceError, emptying,
    error::{permit_admin, taken},
    migrations::add_progress,
    one,
};
use crate::{
    auth::Caller,
    model::{
        disc::Disc,
        invalid::Invalid,
        name::{Spec, check_label},
    },
    store::{
        discs,
        events::{self, Event},
        inventory,
    },
};
use spine::message::Role;
use std::time::Duration;

pub use crate::store::inventory::{Node, NodeChange, Pool, PoolChange, UsageStrategy};

/// How long the database may take to answer before it counts as unreachable.
const DATABASE_ANSWER_MAX: Duration = Duration::from_secs(5);

/// The nodes of one role, or the one of this number or name.
///
/// # Errors
/// When the caller does not run the cluster, or the database fails.
pub async fn nodes(
    service: &Service,
    caller: &Caller,
    role: Role,
    spec: Option<&Spec>,
) -> Result<Vec<Node>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut found = inventory::nodes(&tx, &role.to_string(), spec).await?;
    let connected = service.registry.nodes();
    for node in &mut found {
        let known = connected.iter().find(|known| known.name.as_str() == node.name);
        // The registry knows at once, the table a moment later.
        node.online = known.is_some_and(|known| known.ready);
        node.free_memory_mib = known.and_then(|known| known.free_memory_mib);
        node.last_note = known.and_then(|known| known.last_words.clone());
    }
    Ok(found)
}

/// All pools, or the one of this number or label.
///
/// # Errors
/// When the caller does not run the cluster, or the database fails.
pub async fn pools(service: &Service, caller: &Caller, spec: Option<&Spec>) -> Result<Vec<Pool>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(inventory::pools(&tx, spec).await?)
}

/// Changes a node. A tail that is to be emptied is so from now on: its discs are queued to move away.
///
/// # Errors
/// When the caller does not run the cluster, there is no such node, or a value is wrong.
pub async fn change_node(
    service: &Service,
    caller: &Caller,
    role: Role,
    spec: &Spec,
    change: &NodeChange,
) -> Result<Node, ServiceError> {
    permit_admin(caller)?;
    let mut wrong = Invalid::default();
    check_number(&mut wrong, "overcommit_ratio", change.overcommit_ratio, PERCENT_MAX);
    wrong.result()?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let node = one(inventory::nodes(&tx, &role.to_string(), Some(spec)).await?)?;
    inventory::update_node(&tx, node.id, change).await?;
    let empties = is_new_empty(change.usage_strategy, node.usage_strategy.as_deref());
    let message = format!("{role} {}: {change:?}", node.name);
    let event = Event {
        actor: &caller.username,
        kind: "node-changed",
        node: Some(&node.name),
        message: &message,
        ..Event::default()
    };
    events::record(&tx, &event).await?;
    tx.commit().await?;
    service.poke.all();
    let id = Spec::Id(node.id);
    if role == Role::Tail && empties {
        emptying::tail(service, caller, &id, None).await?;
    }
    one(nodes(service, caller, role, Some(&id)).await?)
}

/// Changes a pool. One that is to be emptied is so from now on: its discs are queued to move away.
///
/// # Errors
/// When the caller does not run the cluster, there is no such pool, or a value is wrong.
pub async fn change_pool(
    service: &Service,
    caller: &Caller,
    spec: &Spec,
    change: &PoolChange,
) -> Result<Pool, ServiceError> {
    permit_admin(caller)?;
    let mut wrong = Invalid::default();
    check_number(&mut wrong, "overcommit_ratio", change.overcommit_ratio, PERCENT_MAX);
    check_number(&mut wrong, "migration_concurrency", change.migration_concurrency, CONCURRENCY_MAX);
    check_number(&mut wrong, "short_percent", change.short_percent, 100);
    check_number(&mut wrong, "migration_limit_mb_per_s", change.migration_limit_mb_per_s, MOVE_MB_PER_S_MAX);
    if let Some(Err(sentence)) = change.label.as_deref().map(check_label) {
        wrong.add("label", sentence);
    }
    wrong.result()?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let pool = one(inventory::pools(&tx, Some(spec)).await?)?;
    let label_taken = taken("storage_pools_label_key", "label");
    inventory::update_pool(&tx, pool.id, change).await.map_err(label_taken)?;
    let empties = is_new_empty(change.usage_strategy, pool.usage_strategy.as_deref());
    let message = format!("storage pool {}: {change:?}", pool.label);
    let event = Event { actor: &caller.username, kind: "pool-changed", message: &message, ..Event::default() };
    events::record(&tx, &event).await?;
    tx.commit().await?;
    service.poke.all();
    let id = Spec::Id(pool.id);
    if empties {
        emptying::pool(service, caller, &id, None).await?;
    }
    one(pools(service, caller, Some(&id)).await?)
}

/// Highest overcommit, in percent: a hundred times what there is.
const PERCENT_MAX: i64 = 10_000;
/// Most moves that a pool takes part in at once.
const CONCURRENCY_MAX: i64 = 1000;
/// The highest limit that can be set of a move, in 10⁶ bytes a second: a thousand times what a network carries.
pub const MOVE_MB_PER_S_MAX: i64 = 10_000_000;

fn check_number(wrong: &mut Invalid, attribute: &str, number: Option<i64>, most: i64) {
    if number.is_some_and(|number| !(0..=most).contains(&number)) {
        wrong.add(attribute, format!("must be between 0 and {most}"));
    }
}

fn is_new_empty(change: Option<Option<UsageStrategy>>, before: Option<&str>) -> bool {
    change == Some(Some(UsageStrategy::Empty)) && before != Some(UsageStrategy::Empty.as_str())
}

/// The discs in the pools of a tail.
///
/// # Errors
/// When the caller does not run the cluster, or there is no such tail.
pub async fn discs_of_tail(service: &Service, caller: &Caller, spec: &Spec) -> Result<Vec<Disc>, ServiceError> {
    let tail = one(nodes(service, caller, Role::Tail, Some(spec)).await?)?;
    discs_in(service, &tail.pools).await
}

/// The discs in a pool.
///
/// # Errors
/// When the caller does not run the cluster, or there is no such pool.
pub async fn discs_of_pool(service: &Service, caller: &Caller, spec: &Spec) -> Result<Vec<Disc>, ServiceError> {
    let pool = one(pools(service, caller, Some(spec)).await?)?;
    discs_in(service, &[pool.label]).await
}

async fn discs_in(service: &Service, pools: &[String]) -> Result<Vec<Disc>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut found = discs::in_pools(&tx, pools).await?;
    add_progress(service, &mut found);
    Ok(found)
}

/// Why the database cannot be asked; none while it can.
pub async fn database_problem(service: &Service) -> Option<String> {
    let asked = async {
        let client = service.store.client().await.map_err(|error| error.to_string())?;
        client.simple_query("SELECT 1").await.map(drop).map_err(|error| error.to_string())
    };
    match tokio::time::timeout(DATABASE_ANSWER_MAX, asked).await {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(format!("no answer within {} s", DATABASE_ANSWER_MAX.as_secs())),
    }
}
