//! Groups of VMs.

use super::{StoreError, select};
use crate::model::{account::Group, filter::Filter, privilege::Reach};
use tokio_postgres::{Row, Transaction};

fn from_row(row: &Row) -> Group {
    Group { id: row.get("id"), account_id: row.get("account_id"), name: row.get("name") }
}

/// The groups that the caller can see and the filter names, by account and name. A grant on a VM
/// makes its group visible.
///
/// # Errors
/// When the database fails.
pub async fn list(tx: &Transaction<'_>, reach: &Reach, filter: &Filter) -> Result<Vec<Group>, StoreError> {
    let sql = format!(
        "SELECT DISTINCT a.name AS account_name, g.id, g.account_id, g.name \
         FROM groups g JOIN accounts a ON a.id = g.account_id \
         LEFT JOIN virtual_machines v ON v.group_id = g.id AND v.purged_at IS NULL WHERE {} \
         ORDER BY account_name, g.name",
        select::VISIBLE_AND_NAMED
    );
    let filter = filter.clone().with_deleted();
    let bound = select::Bound::new(reach, &filter);
    Ok(tx.query(&sql, &bound.params()).await?.iter().map(from_row).collect())
}

/// Writes a new group and returns its number.
///
/// # Errors
/// When the account has one of this name (see [`StoreError::constraint`]), or the database fails.
pub async fn insert(tx: &Transaction<'_>, account_id: i64, name: &str) -> Result<i64, StoreError> {
    let sql = "INSERT INTO groups (account_id, name) VALUES ($1, $2) RETURNING id";
    Ok(tx.query_one(sql, &[&account_id, &name]).await?.get(0))
}

/// Gives a group another name.
///
/// # Errors
/// When the account has one of this name, or the database fails.
pub async fn rename(tx: &Transaction<'_>, id: i64, name: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE groups SET name = $2 WHERE id = $1", &[&id, &name]).await?;
    Ok(())
}

/// How many VMs a group still has: those that can be seen, those deleted that can be brought back,
/// and those purged whose remains are still being cleared away.
///
/// # Errors
/// When the database fails.
pub async fn vm_counts(tx: &Transaction<'_>, id: i64) -> Result<[i64; 3], StoreError> {
    let sql = "SELECT count(*) FILTER (WHERE deleted_at IS NULL), \
         count(*) FILTER (WHERE deleted_at IS NOT NULL AND purged_at IS NULL), \
         count(*) FILTER (WHERE purged_at IS NOT NULL) FROM virtual_machines WHERE group_id = $1";
    let row = tx.query_one(sql, &[&id]).await?;
    Ok([row.get(0), row.get(1), row.get(2)])
}

/// Drops a group; the privileges on it go too.
///
/// # Errors
/// When it still has VMs, or the database fails.
pub async fn delete(tx: &Transaction<'_>, id: i64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM groups WHERE id = $1", &[&id]).await?;
    Ok(())
}
