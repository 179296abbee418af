//! Outcomes of moves that an operator forces, and what is left over of them (safety rule 9).

use super::{
    StoreError,
    events::{self, Event},
    migrations::finish_jobs,
    work::{parse, record, signed},
};
use crate::model::work::Force;
use spine::id::{DiscNumber, Generation};
use std::collections::BTreeSet;
use time::OffsetDateTime;
use tokio_postgres::Transaction;

/// What an operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// Which end gets the disc.
    pub how: Force,
    /// Who says so.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The highest generation that a tail reports of the disc.
    pub seen: Generation,
}

/// An old copy of a disc, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldCopy {
    /// The disc's number in the API; none when it is gone.
    pub disc_id: Option<i64>,
    /// The VM it belongs to, or belonged to.
    pub vm_id: i64,
    /// Its number in the cluster.
    pub number: DiscNumber,
    /// Where the copy is.
    pub tail: String,
    /// The tail that was given the disc; none: it moved in the ordinary way, and the copy goes by itself.
    pub superseded_by: Option<String>,
    /// It stays until an operator has it removed.
    pub kept: bool,
    /// Since when it is left over.
    pub since: OffsetDateTime,
}

/// Writes down how the move of a disc is to end, with the next generation. The VM's row must be locked.
///
/// # Errors
/// When the disc is not moving, or the database fails.
pub async fn order(tx: &Transaction<'_>, vm_id: i64, disc: DiscNumber, order: &Order<'_>) -> Result<(), StoreError> {
    let row = tx
        .query_one(
            "WITH granted AS (
                 UPDATE discs SET generation_granted = greatest(generation_granted, $2) + 1
                 WHERE number = $1 RETURNING id, generation_granted)
             UPDATE migrations m SET forced = $3, forced_generation = g.generation_granted, forced_by = $4,
                    forced_reason = $5, updated_at = now()
             FROM granted g, storage_pools s, storage_pools t
             WHERE m.disc_id = g.id AND m.state = 'moving' AND s.id = m.source_pool_id AND t.id = m.target_pool_id
             RETURNING g.generation_granted, s.label, t.label",
            &[&signed(disc.0), &signed(order.seen.0), &order.how.as_str(), &order.by, &order.reason],
        )
        .await?;
    let (generation, source, target): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let (kind, what) = match order.how {
        Force::Promote => ("disc-promoted", format!("{target} is to have it, without {source}")),
        Force::TakeBack => ("disc-taken-back", format!("{source} is to take it back from {target}")),
    };
    let message = format!("{what}, with generation {generation}; acknowledged writes may be lost: {}", order.reason);
    let disc_number = Some(signed(disc.0));
    let event = Event { actor: order.by, kind, vm_id: Some(vm_id), disc_number, node: None, message: &message };
    events::record(tx, &event).await
}

/// One end owns the disc, as it was ordered.
///
/// # Errors
/// When the database fails.
pub(super) async fn ended(tx: &Transaction<'_>, vm_id: i64, disc: DiscNumber) -> Result<(), StoreError> {
    let row = tx
        .query_opt(
            "UPDATE migrations m SET state = CASE WHEN m.forced = 'promote' THEN 'done' ELSE 'cancelled' END,
                    reason = CASE WHEN m.forced = 'promote' THEN 'promoted by ' ELSE 'taken back by ' END
                             || m.forced_by || ', and acknowledged writes may be lost: ' || m.forced_reason,
                    finished_at = now(), updated_at = now()
             FROM discs d, storage_pools s, storage_pools t, nodes sn, nodes tn
             WHERE d.number = $1 AND m.disc_id = d.id AND m.state = 'moving' AND m.forced IS NOT NULL
               AND s.id = d.storage_pool_id AND sn.id = s.tail_id AND t.id = m.target_pool_id AND tn.id = t.tail_id
             RETURNING m.job_id, m.forced, m.forced_generation, m.uuid, sn.id, sn.name, d.grade, tn.id, tn.name, t.grade,
                       t.id, m.reason",
            &[&signed(disc.0)],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let (job_id, generation): (i64, i64) = (row.get(0), row.get(2));
    let how: Force = parse(row.get(1), || format!("the move of disc {disc}"))?;
    let (source, target) =
        ((row.get::<_, i64>(4), row.get::<_, &str>(5)), (row.get::<_, i64>(7), row.get::<_, &str>(8)));
    let (loser, winner, grade): (_, _, &str) = match how {
        Force::Promote => (source, target, row.get(6)),
        Force::TakeBack => (target, source, row.get(9)),
    };
    tx.execute(
        "INSERT INTO disc_leftovers (virtual_machine_id, disc_number, grade, tail_id, generation, superseded_by,
                                     superseded_move, kept) VALUES ($1, $2, $3, $4, $5, $6, $7, true)",
        &[&vm_id, &signed(disc.0), &grade, &loser.0, &generation, &winner.1, &row.get::<_, uuid::Uuid>(3)],
    )
    .await?;
    match how {
        Force::Promote => {
            let sql = "UPDATE discs SET storage_pool_id = $2, grade = $3, generation = $4 WHERE number = $1";
            tx.execute(sql, &[&signed(disc.0), &row.get::<_, i64>(10), &row.get::<_, &str>(9), &generation]).await?;
        }
        Force::TakeBack => {
            let sql = "UPDATE discs SET generation = $2 WHERE number = $1";
            tx.execute(sql, &[&signed(disc.0), &generation]).await?;
        }
    }
    record(tx, vm_id, "disc-forced", Some(disc), Some(winner.1), row.get(11)).await?;
    finish_jobs(tx, &BTreeSet::from([job_id])).await
}

/// True when an operator has said how the move of a disc ends.
///
/// # Errors
/// When the database fails.
pub async fn is_ordered(tx: &Transaction<'_>, disc_id: i64) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM migrations WHERE disc_id = $1 AND state = 'moving' AND forced IS NOT NULL";
    Ok(tx.query_opt(sql, &[&disc_id]).await?.is_some())
}

/// The old copies there are, the oldest first.
///
/// # Errors
/// When the database fails.
pub async fn old_copies(tx: &Transaction<'_>) -> Result<Vec<OldCopy>, StoreError> {
    let rows = tx
        .query(
            "SELECT d.id, l.virtual_machine_id, l.disc_number, n.name, l.superseded_by, l.kept, l.created_at
             FROM disc_leftovers l JOIN nodes n ON n.id = l.tail_id LEFT JOIN discs d ON d.number = l.disc_number
             ORDER BY l.id",
            &[],
        )
        .await?;
    let copy = |row: &tokio_postgres::Row| OldCopy {
        disc_id: row.get(0),
        vm_id: row.get(1),
        number: DiscNumber(row.get::<_, i64>(2).unsigned_abs()),
        tail: row.get(3),
        superseded_by: row.get(4),
        kept: row.get(5),
        since: row.get(6),
    };
    Ok(rows.iter().map(copy).collect())
}

/// Has the kept copies of a disc removed, as `by` has said; the number of them.
///
/// # Errors
/// When the database fails.
pub async fn release(tx: &Transaction<'_>, disc: DiscNumber, by: &str) -> Result<usize, StoreError> {
    let sql = "UPDATE disc_leftovers l SET kept = false FROM nodes n
               WHERE l.disc_number = $1 AND l.kept AND n.id = l.tail_id RETURNING l.virtual_machine_id, n.name";
    let rows = tx.query(sql, &[&signed(disc.0)]).await?;
    for row in &rows {
        let (vm_id, disc_number) = (Some(row.get(0)), Some(signed(disc.0)));
        let message = "its old copy there is to be removed";
        let event = Event { actor: by, kind: "old-copy-released", vm_id, disc_number, node: Some(row.get(1)), message };
        events::record(tx, &event).await?;
    }
    Ok(rows.len())
}

/// What the tails call a disc; none when there is none of this number in the API.
///
/// # Errors
/// When the database fails.
pub async fn number_of(tx: &Transaction<'_>, disc_id: i64) -> Result<Option<DiscNumber>, StoreError> {
    let row = tx.query_opt("SELECT number FROM discs WHERE id = $1", &[&disc_id]).await?;
    Ok(row.map(|row| DiscNumber(row.get::<_, i64>(0).unsigned_abs())))
}
