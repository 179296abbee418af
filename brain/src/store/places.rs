//! What placement chooses from.

use super::StoreError;
use crate::model::placement::{HeadPlace, PoolPlace};
use spine::id::NodeName;
use tokio_postgres::Transaction;

/// Placement decisions are made one after another: each counts what the one before has promised.
const PLACEMENT_LOCK: i64 = 0x6269_6776_706c_6163;

/// Waits for the turn to place something; it lasts until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn take_turn(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&PLACEMENT_LOCK]).await?;
    Ok(())
}

/// All heads, connected or not, with what is promised on each; `vm_id` is the VM to be placed.
///
/// # Errors
/// When the database fails.
pub async fn heads(tx: &Transaction<'_>, vm_id: i64) -> Result<Vec<HeadPlace>, StoreError> {
    let rows = tx
        .query(
            "SELECT n.name, coalesce(n.memory_total_mib, 0) * n.overcommit_ratio / 100, n.usage_strategy,
                    n.storage_address IS NOT NULL, coalesce(sum(r.memory_mib), 0)::bigint, count(r.id),
                    count(r.id) FILTER (WHERE g.account_id = (
                        SELECT og.account_id FROM virtual_machines ov JOIN groups og ON og.id = ov.group_id WHERE ov.id = $1))
             FROM nodes n
             LEFT JOIN runs r ON r.head_id = n.id AND r.state <> 'ended'
             LEFT JOIN virtual_machines v ON v.id = r.virtual_machine_id
             LEFT JOIN groups g ON g.id = v.group_id
             WHERE n.role = 'head' GROUP BY n.id ORDER BY n.name",
            &[&vm_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let name = node_name(row.get(0))?;
            let closed = closed(row.get(2))
                .or_else(|| (!row.get::<_, bool>(3)).then(|| "it has not told its storage address".to_owned()));
            Ok(HeadPlace {
                memory_total_mib: row.get(1),
                memory_promised_mib: row.get(4),
                memory_reported_mib: None,
                vms_count: row.get(5),
                owner_vms_count: row.get(6),
                closed,
                name,
            })
        })
        .collect()
}

/// All pools, of connected tails or not, with what is promised in each: a disc that moves is promised at both ends.
///
/// # Errors
/// When the database fails.
pub async fn pools(tx: &Transaction<'_>) -> Result<Vec<PoolPlace>, StoreError> {
    let rows = tx
        .query(
            "SELECT p.id, p.label, p.grade, p.size_mib, p.free_mib, p.overcommit_ratio,
                    coalesce(nullif(p.usage_strategy, 'default'), n.usage_strategy), n.name,
                    coalesce(sum(d.size_mib), 0)::bigint + (
                        SELECT coalesce(sum(c.size_mib), 0)::bigint FROM migrations m JOIN discs c ON c.id = m.disc_id
                        WHERE m.target_pool_id = p.id AND m.state = 'moving')
             FROM storage_pools p JOIN nodes n ON n.id = p.tail_id
             LEFT JOIN discs d ON d.storage_pool_id = p.id
             GROUP BY p.id, n.id ORDER BY p.label",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let tail = node_name(row.get(7))?;
            let label: String = row.get(1);
            Ok(PoolPlace {
                id: row.get(0),
                grade: row
                    .get::<_, &str>(2)
                    .parse()
                    .map_err(|error| StoreError::corrupt(format!("the grade of pool {label}"), error))?,
                size_mib: row.get(3),
                free_mib: row.get(4),
                overcommit_percent: i64::from(row.get::<_, i32>(5)),
                closed: closed(row.get(6)),
                promised_mib: row.get(8),
                tail,
                label,
            })
        })
        .collect()
}

fn node_name(text: &str) -> Result<NodeName, StoreError> {
    text.parse().map_err(|error| StoreError::corrupt("the name of a node", error))
}

fn closed(strategy: Option<&str>) -> Option<String> {
    (strategy == Some("empty")).then(|| "marked as to be emptied".to_owned())
}
