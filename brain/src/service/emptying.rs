//! Empties storage pools and tails: nothing new is placed there, and what is there moves away (B13).

use super::{
    Service, ServiceError,
    error::permit_admin,
    migrations::{JobOrder, JobTree, Named, job_of, write_job},
    one,
};
use crate::{
    auth::Caller,
    model::name::Spec,
    store::inventory::{self, NodeChange, PoolChange, UsageStrategy},
};
use serde_json::{Value, json};
use spine::message::Role;

/// The job that empties a pool, each disc at most this fast, in 10⁶ bytes a second.
pub fn of_pool(label: &str, limit_mb_per_s: Option<i64>) -> JobOrder {
    let arguments = json!({"options": options(limit_mb_per_s), "sources": {"pools": [label]}, "destinations": {}});
    let sources = Named { pools: vec![label.to_owned()], ..Named::default() };
    JobOrder { sources, arguments, ..JobOrder::default() }
}

/// The job that empties a tail, each disc at most this fast, in 10⁶ bytes a second.
pub fn of_tail(name: &str, limit_mb_per_s: Option<i64>) -> JobOrder {
    let arguments = json!({"options": options(limit_mb_per_s), "sources": {"tails": [name]}, "destinations": {}});
    let sources = Named { tails: vec![name.to_owned()], ..Named::default() };
    JobOrder { sources, arguments, ..JobOrder::default() }
}

fn options(limit_mb_per_s: Option<i64>) -> Value {
    limit_mb_per_s.map_or_else(|| json!({}), |limit| json!({"limit_mb_per_s": limit}))
}

/// Closes a pool to new discs and orders that its discs move away, as [`of_pool`] says.
///
/// # Errors
/// When the caller does not run the cluster, or there is no such pool.
pub async fn pool(
    service: &Service,
    caller: &Caller,
    spec: &Spec,
    limit_mb_per_s: Option<i64>,
) -> Result<JobTree, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let pool = one(inventory::pools(&tx, Some(spec)).await?)?;
    let change = PoolChange { usage_strategy: Some(Some(UsageStrategy::Empty)), ..PoolChange::default() };
    inventory::update_pool(&tx, pool.id, &change).await?;
    let job_id = write_job(service, &tx, &caller.username, &of_pool(&pool.label, limit_mb_per_s)).await?;
    let job = job_of(&tx, job_id).await?;
    tx.commit().await?;
    service.poke.all();
    Ok(job)
}

/// Closes a tail's pools to new discs and orders that its discs move away, as [`of_tail`] says.
///
/// # Errors
/// When the caller does not run the cluster, or there is no such tail.
pub async fn tail(
    service: &Service,
    caller: &Caller,
    spec: &Spec,
    limit_mb_per_s: Option<i64>,
) -> Result<JobTree, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let tail = one(inventory::nodes(&tx, &Role::Tail.to_string(), Some(spec)).await?)?;
    let change = NodeChange { usage_strategy: Some(Some(UsageStrategy::Empty)), ..NodeChange::default() };
    inventory::update_node(&tx, tail.id, &change).await?;
    let job_id = write_job(service, &tx, &caller.username, &of_tail(&tail.name, limit_mb_per_s)).await?;
    let job = job_of(&tx, job_id).await?;
    tx.commit().await?;
    service.poke.all();
    Ok(job)
}
