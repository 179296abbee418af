//! Heads, tails and pools as operators see them.

use super::StoreError;
use crate::model::name::Spec;
use std::{net::IpAddr, str::FromStr};
use tokio_postgres::Transaction;
use uuid::Uuid;

/// A head or a tail.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its number.
    pub id: i64,
    /// Its identity.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Where it is on the storage LAN.
    pub storage_address: Option<IpAddr>,
    /// MiB it offers to VMs; heads.
    pub memory_mib: Option<i64>,
    /// MiB of these still free, as it says itself; heads that are connected.
    pub free_memory_mib: Option<u64>,
    /// Its cores; heads.
    pub cores: Option<i64>,
    /// Cores of the VMs that run on it.
    pub used_cores: i64,
    /// VMs that run on it.
    pub vms_count: i64,
    /// None, `default` or `empty`.
    pub usage_strategy: Option<String>,
    /// Percent.
    pub overcommit_ratio: i64,
    /// Whether it is connected.
    pub online: bool,
    /// Why its last connection ended.
    pub last_note: Option<String>,
    /// The labels of its pools; tails.
    pub pools: Vec<String>,
}

/// A storage pool. All sizes in MiB.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its number.
    pub id: i64,
    /// Its name, unique on its tail.
    pub name: String,
    /// Its name in the cluster.
    pub label: String,
    /// Size of the filesystem that holds it.
    pub size_mib: i64,
    /// What is free on that.
    pub free_mib: i64,
    /// What its discs may add up to.
    pub ceiling_mib: i64,
    /// What its discs add up to.
    pub promised_mib: i64,
    /// How many discs it holds.
    pub discs_count: i64,
    /// Percent of its size that discs may add up to.
    pub overcommit_ratio: i64,
    /// Moves at the same time.
    pub migration_concurrency: i64,
    /// None, `default` or `empty`.
    pub usage_strategy: Option<String>,
    /// The grade of its discs.
    pub grade: String,
    /// For people.
    pub note: String,
    /// Operations a second for each disc; 0: no limit.
    pub iops_limit: i64,
    /// With less free than this share (percent) it is short.
    pub short_percent: i64,
    /// Whether discs are moved away by themselves when it is.
    pub relieve_automatically: bool,
    /// How fast each disc moves from it and to it, in 10⁶ bytes a second; 0: no limit.
    pub migration_limit_mb_per_s: i64,
}

impl Pool {
    /// Less is free than should be (R126). One that does not report itself is not known to be.
    pub fn is_short(&self) -> bool {
        self.size_mib > 0
            && i128::from(self.free_mib) * 100 < i128::from(self.size_mib) * i128::from(self.short_percent)
    }
}

/// What is to become of what is on a node or in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageStrategy {
    /// As if nothing were said.
    Default,
    /// Nothing new is placed there, and what is there moves away.
    Empty,
}

impl UsageStrategy {
    /// The API's and the database's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Empty => "empty",
        }
    }
}

/// The error of a word that is no strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not included in the list")]
pub struct UnknownStrategy;

impl FromStr for UsageStrategy {
    type Err = UnknownStrategy;
    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        [Self::Default, Self::Empty].into_iter().find(|strategy| strategy.as_str() == text).ok_or(UnknownStrategy)
    }
}

/// What is to change in a node. None: stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// None within: cleared.
    pub usage_strategy: Option<Option<UsageStrategy>>,
    /// Percent.
    pub overcommit_ratio: Option<i64>,
}

/// What is to change in a pool. None: stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolChange {
    /// None within: cleared.
    pub usage_strategy: Option<Option<UsageStrategy>>,
    /// Percent.
    pub overcommit_ratio: Option<i64>,
    /// Its name in the cluster.
    pub label: Option<String>,
    /// Moves at the same time.
    pub migration_concurrency: Option<i64>,
    /// Percent.
    pub short_percent: Option<i64>,
    /// Whether discs are moved away by themselves when it is short.
    pub relieve_automatically: Option<bool>,
    /// 10⁶ bytes a second; 0: no limit.
    pub migration_limit_mb_per_s: Option<i64>,
}

/// Changes a node.
///
/// # Errors
/// When the database fails.
pub async fn update_node(tx: &Transaction<'_>, id: i64, change: &NodeChange) -> Result<(), StoreError> {
    let strategy = change.usage_strategy.flatten().map(UsageStrategy::as_str);
    tx.execute(
        "UPDATE nodes SET usage_strategy = CASE WHEN $2 THEN $3 ELSE usage_strategy END,
                overcommit_ratio = coalesce($4::bigint::integer, overcommit_ratio) WHERE id = $1",
        &[&id, &change.usage_strategy.is_some(), &strategy, &change.overcommit_ratio],
    )
    .await?;
    Ok(())
}

/// Changes a pool.
///
/// # Errors
/// When another pool has the label, or the database fails.
pub async fn update_pool(tx: &Transaction<'_>, id: i64, change: &PoolChange) -> Result<(), StoreError> {
    let strategy = change.usage_strategy.flatten().map(UsageStrategy::as_str);
    tx.execute(
        "UPDATE storage_pools SET usage_strategy = CASE WHEN $2 THEN $3 ELSE usage_strategy END,
                overcommit_ratio = coalesce($4::bigint::integer, overcommit_ratio), label = coalesce($5, label),
                migration_concurrency = coalesce($6::bigint::integer, migration_concurrency),
                short_percent = coalesce($7::bigint::integer, short_percent),
                relieve_automatically = coalesce($8, relieve_automatically),
                migration_limit_mb_per_s = coalesce($9::bigint::integer, migration_limit_mb_per_s)
         WHERE id = $1",
        &[
            &id,
            &change.usage_strategy.is_some(),
            &strategy,
            &change.overcommit_ratio,
            &change.label,
            &change.migration_concurrency,
            &change.short_percent,
            &change.relieve_automatically,
            &change.migration_limit_mb_per_s,
        ],
    )
    .await?;
    Ok(())
}

/// The nodes of one role, or the one with this number or name.
///
/// # Errors
/// When the database fails.
pub async fn nodes(tx: &Transaction<'_>, role: &str, spec: Option<&Spec>) -> Result<Vec<Node>, StoreError> {
    let sql = "SELECT n.id, n.uuid, n.name, n.storage_address, n.memory_total_mib, n.cores, n.usage_strategy, \
         n.overcommit_ratio, n.online, \
         (SELECT count(*) FROM runs r WHERE r.head_id = n.id AND r.state <> 'ended') AS vms_count, \
         (SELECT coalesce(sum(v.cores), 0)::bigint FROM runs r JOIN virtual_machines v ON v.id = r.virtual_machine_id \
           WHERE r.head_id = n.id AND r.state <> 'ended') AS used_cores, \
         array(SELECT p.label FROM storage_pools p WHERE p.tail_id = n.id ORDER BY p.label) AS pools \
         FROM nodes n WHERE n.role = $1 AND ($2::bigint IS NULL OR n.id = $2) AND ($3::text IS NULL OR n.name = $3) \
         ORDER BY n.name";
    let (id, name) = (spec.and_then(Spec::id), spec.and_then(Spec::name));
    let rows = tx.query(sql, &[&role, &id, &name]).await?;
    let node = |row: &tokio_postgres::Row| Node {
        id: row.get("id"),
        uuid: row.get("uuid"),
        name: row.get("name"),
        storage_address: row.get("storage_address"),
        memory_mib: row.get("memory_total_mib"),
        free_memory_mib: None,
        cores: row.get::<_, Option<i32>>("cores").map(i64::from),
        used_cores: row.get("used_cores"),
        vms_count: row.get("vms_count"),
        usage_strategy: row.get("usage_strategy"),
        overcommit_ratio: row.get::<_, i32>("overcommit_ratio").into(),
        online: row.get("online"),
        last_note: None,
        pools: row.get("pools"),
    };
    Ok(rows.iter().map(node).collect())
}

/// All pools, or the one with this number or label.
///
/// # Errors
/// When the database fails.
pub async fn pools(tx: &Transaction<'_>, spec: Option<&Spec>) -> Result<Vec<Pool>, StoreError> {
    let sql = "SELECT p.id, p.name, p.label, p.size_mib, p.free_mib, p.overcommit_ratio, p.migration_concurrency, \
         p.usage_strategy, p.grade, p.note, p.iops_limit, p.short_percent, p.relieve_automatically, \
         p.migration_limit_mb_per_s, count(d.id) AS discs_count, \
         coalesce(sum(d.size_mib), 0)::bigint AS promised_mib \
         FROM storage_pools p LEFT JOIN discs d ON d.storage_pool_id = p.id \
         WHERE ($1::bigint IS NULL OR p.id = $1) AND ($2::text IS NULL OR p.label = $2) GROUP BY p.id ORDER BY p.label";
    let (id, label) = (spec.and_then(Spec::id), spec.and_then(Spec::name));
    let rows = tx.query(sql, &[&id, &label]).await?;
    let pool = |row: &tokio_postgres::Row| {
        let size_mib: i64 = row.get("size_mib");
        let overcommit_ratio: i64 = row.get::<_, i32>("overcommit_ratio").into();
        Pool {
            id: row.get("id"),
            name: row.get("name"),
            label: row.get("label"),
            size_mib,
            free_mib: row.get("free_mib"),
            ceiling_mib: size_mib.saturating_mul(overcommit_ratio) / 100,
            promised_mib: row.get("promised_mib"),
            discs_count: row.get("discs_count"),
            overcommit_ratio,
            migration_concurrency: row.get::<_, i32>("migration_concurrency").into(),
            usage_strategy: row.get("usage_strategy"),
            grade: row.get("grade"),
            note: row.get("note"),
            iops_limit: row.get::<_, i32>("iops_limit").into(),
            short_percent: row.get::<_, i32>("short_percent").into(),
            relieve_automatically: row.get("relieve_automatically"),
            migration_limit_mb_per_s: row.get::<_, i32>("migration_limit_mb_per_s").into(),
        }
    };
    Ok(rows.iter().map(pool).collect())
}
