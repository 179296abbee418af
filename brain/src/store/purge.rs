//! How a VM leaves for good: by an operator's or owner's order, or when it was deleted long enough
//! ago (R051).
//!
//! A purged VM is gone for its users at once and its name is free. Its row stays, hidden, until its
//! qemu has stopped and its tails have removed its discs; the reconciler then frees its addresses
//! and deletes the row. Nothing of it is given to another VM while it may still be in use.

use super::StoreError;
use time::OffsetDateTime;
use tokio_postgres::Transaction;

/// Marks a VM, deleted or not, as to be gone for good. False when there is no such VM or it is
/// purged already. The caller commits, records an event of its own and pokes the reconciler.
///
/// # Errors
/// When the database fails.
pub async fn purge(tx: &Transaction<'_>, vm_id: i64, reason: &str) -> Result<bool, StoreError> {
    let changed = tx
        .execute(
            "UPDATE virtual_machines SET purged_at = now(), deleted_at = coalesce(deleted_at, now()), power_on = false,
                    power_ordered = power_ordered OR power_on
             WHERE id = $1 AND purged_at IS NULL",
            &[&vm_id],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    tx.execute(
        "UPDATE discs SET remove_reason = $2 WHERE virtual_machine_id = $1 AND remove_reason IS NULL",
        &[&vm_id, &reason],
    )
    .await?;
    tx.execute("DELETE FROM privileges WHERE virtual_machine_id = $1", &[&vm_id]).await?;
    Ok(true)
}

/// VMs that were deleted before `moment` and are not purged yet.
///
/// # Errors
/// When the database fails.
pub async fn due(tx: &Transaction<'_>, moment: OffsetDateTime) -> Result<Vec<i64>, StoreError> {
    let rows = tx
        .query(
            "SELECT id FROM virtual_machines WHERE deleted_at < $1 AND purged_at IS NULL ORDER BY id LIMIT 100",
            &[&moment],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
