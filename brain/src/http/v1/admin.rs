//! `/admin/…`: what those who run the cluster see of heads, tails and pools, and set in them.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        fields::Fields,
        shape,
        v1::migrations::plan_shape,
    },
    service::{
        inventory::{self, Node, NodeChange, Pool, PoolChange, UsageStrategy},
        migrations, one,
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
    let pool = one(inventory::pools(&api.service, &caller, Some(&spec)).await?)?;
    let moves = migrations::proposed_relief(&api.service, &caller, &pool).await?;
    let mut shown = pool_shape(pool);
    shown["proposed_moves"] = json!(plan_shape(&moves).discs);
    Answer::ok(&shown)
}

/// PUT /admin/heads/{node}
pub(crate) async fn update_head(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(body): Body,
) -> Result<Answer, Fault> {
    let (change, ignored) = read_node_change(body)?;
    let head = inventory::change_node(&api.service, &caller, Role::Head, &named.segment("node")?, &change).await?;
    Ok(Answer::ok(&head_shape(head))?.ignoring(ignored))
}

/// PUT /admin/tails/{node}
pub(crate) async fn update_tail(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(body): Body,
) -> Result<Answer, Fault> {
    let (change, ignored) = read_node_change(body)?;
    let tail = inventory::change_node(&api.service, &caller, Role::Tail, &named.segment("node")?, &change).await?;
    Ok(Answer::ok(&tail_shape(tail))?.ignoring(ignored))
}

/// PUT /admin/storage_pools/{pool}
pub(crate) async fn update_storage_pool(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let change = PoolChange {
        usage_strategy: read_strategy(&mut body),
        overcommit_ratio: body.integer("overcommit_ratio").value(),
        label: body.text("label").value(),
        migration_concurrency: body.integer("migration_concurrency").value(),
        short_percent: body.integer("short_percent").value(),
        relieve_automatically: body.boolean("relieve_automatically").value(),
        migration_limit_mb_per_s: body.integer("migration_limit_mb_per_s").value(),
    };
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let pool = inventory::change_pool(&api.service, &caller, &named.segment("pool")?, &change).await?;
    Ok(Answer::ok(&pool_shape(pool))?.ignoring(ignored))
}

/// GET /admin/tails/{node}/discs
pub(crate) async fn discs_of_tail(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = inventory::discs_of_tail(&api.service, &caller, &named.segment("node")?).await?;
    Answer::ok(&found.into_iter().map(shape::disc).collect::<Vec<_>>())
}

/// GET /admin/storage_pools/{pool}/discs
pub(crate) async fn discs_of_storage_pool(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
) -> Result<Answer, Fault> {
    let found = inventory::discs_of_pool(&api.service, &caller, &named.segment("pool")?).await?;
    Answer::ok(&found.into_iter().map(shape::disc).collect::<Vec<_>>())
}

/// A node's label is the name that it connects with: it cannot be changed here, and is ignored.
fn read_node_change(mut body: Fields) -> Result<(NodeChange, Vec<String>), Fault> {
    body.ignore("label");
    let usage_strategy = read_strategy(&mut body);
    let change = NodeChange { usage_strategy, overcommit_ratio: body.integer("overcommit_ratio").value() };
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    Ok((change, ignored))
}

fn read_strategy(body: &mut Fields) -> Option<Option<UsageStrategy>> {
    match body.text("usage_strategy").change()? {
        None => Some(None),
        Some(word) => match word.parse() {
            Ok(strategy) => Some(Some(strategy)),
            Err(_) => {
                body.complain("usage_strategy", "is not included in the list");
                None
            }
        },
    }
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
        "usage_strategy": tail.usage_strategy,
        "overcommit_ratio": tail.overcommit_ratio,
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
        "short_percent": pool.short_percent,
        "short": pool.is_short(),
        "relieve_automatically": pool.relieve_automatically,
        "migration_limit_mb_per_s": pool.migration_limit_mb_per_s,
    })
}
