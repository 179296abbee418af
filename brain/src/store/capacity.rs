//! The largest of what the cluster has, for bounds that requests are checked against (R025, R027).

use super::StoreError;
use std::collections::BTreeMap;
use tokio_postgres::Transaction;

/// The largest of what has ever been connected; nothing is known before the first node was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// MiB of the head with the most memory.
    pub memory_mib_max: Option<i64>,
    /// Cores of the head with the most.
    pub cores_max: Option<i64>,
    /// MiB of the largest pool of each grade.
    pub pool_mib_max: BTreeMap<String, i64>,
}

/// Reads it.
///
/// # Errors
/// When the database fails.
pub async fn read(tx: &Transaction<'_>) -> Result<Capacity, StoreError> {
    let heads =
        tx.query_one("SELECT max(memory_total_mib), max(cores)::bigint FROM nodes WHERE role = 'head'", &[]).await?;
    let pools = tx.query("SELECT grade, max(size_mib) FROM storage_pools GROUP BY grade", &[]).await?;
    Ok(Capacity {
        memory_mib_max: heads.get(0),
        cores_max: heads.get(1),
        pool_mib_max: pools.iter().map(|row| (row.get(0), row.get(1))).collect(),
    })
}
