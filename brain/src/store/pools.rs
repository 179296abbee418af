//! Storage pools, as their tails report them.

use super::StoreError;
use spine::{id::NodeName, resource::global::StoragePools};
use tokio_postgres::Transaction;

/// Brings the rows of one tail's pools up to date. A pool that is not reported any more keeps its
/// row, because discs may be in it, with no room left.
///
/// # Errors
/// When the database fails.
pub async fn report(tx: &Transaction<'_>, tail: &NodeName, pools: &StoragePools) -> Result<(), StoreError> {
    let Some(row) = tx.query_opt("SELECT id FROM nodes WHERE name = $1 AND role = 'tail'", &[&tail.as_str()]).await?
    else {
        return Ok(());
    };
    let tail_id: i64 = row.get(0);
    let names: Vec<&str> = pools.keys().map(|name| name.as_str()).collect();
    tx.execute(
        "UPDATE storage_pools SET size_mib = 0, free_mib = 0 WHERE tail_id = $1 AND name <> ALL($2)",
        &[&tail_id, &names],
    )
    .await?;
    for (name, pool) in pools {
        let label = format!("{tail}-{name}");
        let (grade, note) = (pool.grade.as_str(), pool.note.as_str());
        let sizes = [mib(pool.size), mib(pool.free), mib(pool.allocated)];
        tx.execute(
            "INSERT INTO storage_pools (tail_id, name, label, grade, size_mib, free_mib, allocated_mib, note)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (tail_id, name) DO UPDATE
             SET grade = $4, size_mib = $5, free_mib = $6, allocated_mib = $7, note = $8",
            &[&tail_id, &name.as_str(), &label, &grade, &sizes[0], &sizes[1], &sizes[2], &note],
        )
        .await?;
    }
    Ok(())
}

/// Whole MiB: what is reported in bytes never seems more than it is. 2^64 bytes are 2^44 of them.
fn mib(bytes: u64) -> i64 {
    i64::try_from(bytes >> 20).unwrap_or(i64::MAX)
}
