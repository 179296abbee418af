//! Discs, as the API sees them: what is marked for removal is no longer there.

use super::{StoreError, select, virtual_machines::status_from_row};
use crate::model::{
    disc::{Disc, Moving},
    filter::Filter,
    privilege::{Place, Reach},
};
use spine::id::{DiscNumber, MigrationId};
use tokio_postgres::{Row, Transaction};

const SELECT: &str = "SELECT d.id, d.virtual_machine_id, a.id AS account_id, g.id AS group_id, d.position, d.label, \
     d.size_mib, d.grade, p.label AS storage_pool, d.status_state, d.status_reason, d.status_since, d.status_progress, \
     m.uuid AS move_id, d.number, pn.name AS tail, t.label AS move_pool, t.grade AS move_grade, m.job_id, m.undo_reason, \
     m.limit_mb_per_s \
     FROM discs d JOIN virtual_machines v ON v.id = d.virtual_machine_id JOIN groups g ON g.id = v.group_id \
     JOIN accounts a ON a.id = g.account_id LEFT JOIN storage_pools p ON p.id = d.storage_pool_id \
     LEFT JOIN nodes pn ON pn.id = p.tail_id LEFT JOIN migrations m ON m.disc_id = d.id AND m.state = 'moving' \
     LEFT JOIN storage_pools t ON t.id = m.target_pool_id \
     WHERE d.remove_reason IS NULL AND ($12::bigint IS NULL OR d.id = $12) \
     AND ($13::text IS NULL OR d.label = $13) AND ";

fn from_row(row: &Row) -> Disc {
    let vm_id = row.get("virtual_machine_id");
    Disc {
        id: row.get("id"),
        virtual_machine_id: vm_id,
        vm_place: Place::vm(row.get("account_id"), row.get("group_id"), vm_id),
        position: row.get::<_, i32>("position").into(),
        label: row.get("label"),
        size_mib: row.get("size_mib"),
        grade: row.get("grade"),
        storage_pool: row.get("storage_pool"),
        status: status_from_row(row),
        moving: moving_from_row(row),
    }
}

fn moving_from_row(row: &Row) -> Option<Moving> {
    Some(Moving {
        id: MigrationId(row.get::<_, Option<_>>("move_id")?),
        number: DiscNumber(row.get::<_, i64>("number").unsigned_abs()),
        source_tail: row.get::<_, Option<&str>>("tail")?.parse().ok()?,
        storage_pool: row.get::<_, Option<_>>("move_pool")?,
        grade: row.get::<_, Option<_>>("move_grade")?,
        job_id: row.get("job_id"),
        undo_reason: row.get("undo_reason"),
        limit_mb_per_s: row.get::<_, Option<i32>>("limit_mb_per_s").map(i64::from),
        progress: None,
    })
}

/// The discs that the caller can see and the filter names, in the guest's order.
///
/// # Errors
/// When the database fails.
pub async fn list(tx: &Transaction<'_>, reach: &Reach, filter: &Filter) -> Result<Vec<Disc>, StoreError> {
    let sql = format!("{SELECT}{} ORDER BY v.id, d.position", select::VISIBLE_AND_NAMED);
    let bound = select::Bound::new(reach, filter);
    Ok(tx.query(&sql, &bound.params_with_part()).await?.iter().map(from_row).collect())
}

/// All discs that are moving to another tail.
///
/// # Errors
/// When the database fails.
pub async fn moving(tx: &Transaction<'_>) -> Result<Vec<Disc>, StoreError> {
    let sql = format!("{SELECT}{} AND m.uuid IS NOT NULL ORDER BY d.id", select::VISIBLE_AND_NAMED);
    let (reach, filter) = (Reach::everything(), Filter::default().with_deleted());
    let bound = select::Bound::new(&reach, &filter);
    Ok(tx.query(&sql, &bound.params_with_part()).await?.iter().map(from_row).collect())
}

/// All discs in the pools with these labels.
///
/// # Errors
/// When the database fails.
pub async fn in_pools(tx: &Transaction<'_>, labels: &[String]) -> Result<Vec<Disc>, StoreError> {
    let sql = format!("{SELECT}{} AND p.label = ANY($14) ORDER BY d.id", select::VISIBLE_AND_NAMED);
    let (reach, filter) = (Reach::everything(), Filter::default().with_deleted());
    let bound = select::Bound::new(&reach, &filter);
    let mut params = bound.params_with_part();
    params.push(&labels);
    Ok(tx.query(&sql, &params).await?.iter().map(from_row).collect())
}

/// A disc that is to be made: everything checked.
#[derive(Clone, Debug)]
pub struct DiscRow<'a> {
    /// The VM it belongs to.
    pub virtual_machine_id: i64,
    /// Unique on its VM: a second one is refused by the database.
    pub label: &'a str,
    /// MiB.
    pub size_mib: i64,
    /// Its grade.
    pub grade: &'a str,
    /// What to write onto it.
    pub image: Option<&'a str>,
}

/// Writes a new disc behind the VM's others and returns its number. The caller has locked the VM.
///
/// # Errors
/// When the label is taken (see [`StoreError::constraint`]), or the database fails.
pub async fn insert(tx: &Transaction<'_>, disc: &DiscRow<'_>) -> Result<i64, StoreError> {
    let sql = "INSERT INTO discs (virtual_machine_id, position, label, size_mib, grade, image) \
         VALUES ($1, (SELECT coalesce(max(position) + 1, 0) FROM discs \
                      WHERE virtual_machine_id = $1 AND remove_reason IS NULL), $2, $3, $4, $5) RETURNING id";
    let row =
        tx.query_one(sql, &[&disc.virtual_machine_id, &disc.label, &disc.size_mib, &disc.grade, &disc.image]).await?;
    Ok(row.get(0))
}

/// Gives a disc another label and size. Once `shrink_forced` has been said, a smaller size may cut
/// off data until the disc has its size.
///
/// # Errors
/// When the label is taken, or the database fails.
pub async fn update(tx: &Transaction<'_>, disc: &Disc, shrink_forced: bool) -> Result<(), StoreError> {
    let sql = "UPDATE discs SET label = $2, size_mib = $3, shrink_forced = shrink_forced OR $4 WHERE id = $1";
    tx.execute(sql, &[&disc.id, &disc.label, &disc.size_mib, &shrink_forced]).await?;
    Ok(())
}

/// Orders an image to be written onto a disc.
///
/// # Errors
/// When the database fails.
pub async fn order_image(tx: &Transaction<'_>, id: i64, image: &str) -> Result<(), StoreError> {
    let sql = "UPDATE discs SET image = $2, image_ordered = false WHERE id = $1";
    tx.execute(sql, &[&id, &image]).await?;
    Ok(())
}

/// Marks a disc for removal: the API no longer shows it, and the reconciler destroys it once no run
/// uses it.
///
/// # Errors
/// When the database fails.
pub async fn mark_removed(tx: &Transaction<'_>, id: i64, reason: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE discs SET remove_reason = $2 WHERE id = $1", &[&id, &reason]).await?;
    Ok(())
}
