//! `/admin/…`: what those who run the cluster see of heads, tails and pools.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Named},
        fault::Fault,
    },
    service::{
        inventory::{self, Node, Pool},
        one,
    },
};
use axum::extract::State;
use serde_json::{Value, json};
use spine::message::Role;

/// GET /admin/heads
pub(crate) async fn heads(State(api): State<Api>, caller: Caller) -> Result<Answer, Fault> {
    let found = inventory::nodes(&api.service, &caller, Role::Head, None).await?;
    Answer::ok(&found.into_iter().map(head_shape).collect::<Vec<_>>())
}

/// GET /admin/heads/{node}
pub(crate) async fn head(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let spec = named.segment("node")?;
    Answer::ok(&head_shape(one(inventory::nodes(&api.service, &caller, Role::Head, Some(&spec)).await?)?))
}

/// GET /admin/tails
pub(crate) async fn tails(State(api): State<Api>, caller: Caller) -> Result<Answer, Fault> {
    let found = inventory::nodes(&api.service, &caller, Role::Tail, None).await?;
    Answer::ok(&found.into_iter().map(tail_shape).collect::<Vec<_>>())
}

/// GET /admin/tails/{node}
pub(crate) async fn tail(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let spec = named.segment("node")?;
    Answer::ok(&tail_shape(one(inventory::nodes(&api.service, &caller, Role::Tail, Some(&spec)).await?)?))
}

/// GET /admin/storage_pools
pub(crate) async fn storage_pools(State(api): State<Api>, caller: Caller) -> Result<Answer, Fault> {
    let found = inventory::pools(&api.service, &caller, None).await?;
    Answer::ok(&found.into_iter().map(pool_shape).collect::<Vec<_>>())
}

/// GET /admin/storage_pools/{pool}
pub(crate) async fn storage_pool(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let spec = named.segment("pool")?;
    Answer::ok(&pool_shape(one(inventory::pools(&api.service, &caller, Some(&spec)).await?)?))
}

fn head_shape(head: Node) -> Value {
    json!({
        "id": head.id,
        "uuid": head.uuid,
        "label": head.name,
        "zone": null,
        "arch": "x86_64",
        "cnc_address": head.storage_address,
        "last_note": head.last_note.unwrap_or_default(),
        "total_memory": head.memory_mib,
        "usage_strategy": head.usage_strategy,
        "overcommit_ratio": head.overcommit_ratio,
        "models": [],
        "free_memory": head.free_memory_mib,
        "online": head.online,
        "cores": head.cores,
        "used_cores": head.used_cores,
        "virtual_machines_count": head.vms_count,
    })
}

fn tail_shape(tail: Node) -> Value {
    json!({
        "id": tail.id,
        "uuid": tail.uuid,
        "label": tail.name,
        "cnc_address": tail.storage_address,
        "zone": null,
        "last_note": tail.last_note.unwrap_or_default(),
        "online": tail.online,
        "pools": tail.pools,
    })
}

fn pool_shape(pool: Pool) -> Value {
    json!({
        "id": pool.id,
        "name": pool.name,
        "label": pool.label,
        "zone": null,
        "size": pool.size_mib,
        "free_space": pool.free_mib,
        "ceiling": pool.ceiling_mib,
        "alloc": pool.promised_mib,
        "discs": pool.discs_count,
        "backups": 0,
        "overcommit_ratio": pool.overcommit_ratio,
        "migration_concurrency": pool.migration_concurrency,
        "usage_strategy": pool.usage_strategy,
        "grade": pool.grade,
        "note": pool.note,
        "iops_limit": pool.iops_limit,
    })
}
