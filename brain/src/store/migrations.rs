//! Disc moves: jobs as they were ordered, one migration a disc in each, and what is left over of them.
//!
//! ```text
//!   queued ──begin──▶ moving ──moved──▶ done
//!     │                 └──undo, undone──▶ errored │ cancelled
//!     └──▶ cancelled │ skipped
//! ```
//!
//! A generation is granted by [`begin`], before any tail is told. A job is finished when none of its
//! migrations is queued or moving.

use super::{
    StoreError,
    work::{parse, record, signed},
};
use crate::model::{
    migration::{Candidate, MigrationState, PoolLoad},
    work::Undo,
};
use serde_json::Value;
use spine::id::{DiscName, DiscNumber, Generation, Grade, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;
use tokio_postgres::{Row, Transaction};

/// Jobs shown at once, the newest.
const JOBS_MAX: i64 = 1000;

/// What an operator ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its number.
    pub id: i64,
    /// Sources, destinations and options, as they were ordered.
    pub arguments: Value,
    /// Who ordered it.
    pub created_by: String,
    /// Higher goes first.
    pub priority: i32,
    /// Why nothing more of it is begun, if so.
    pub stopped_reason: Option<String>,
    /// When it was ordered.
    pub created_at: OffsetDateTime,
    /// When it last changed.
    pub updated_at: OffsetDateTime,
    /// When its first disc began to move.
    pub started_at: Option<OffsetDateTime>,
    /// When the last of its discs had come to an end.
    pub finished_at: Option<OffsetDateTime>,
}

/// One disc of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub id: i64,
    /// The job.
    pub job_id: i64,
    /// The disc's number in the API. The disc may be gone.
    pub disc_id: i64,
    /// The pool that it leaves, and that pool's label.
    pub source: (i64, String),
    /// The tail that it leaves.
    pub source_tail_id: i64,
    /// The pool that it goes to, and that pool's label; none when there was none for it.
    pub target: Option<(i64, String)>,
    /// The tail that it goes to.
    pub target_tail_id: Option<i64>,
    /// The port at which that tail takes discs.
    pub port: Option<u16>,
    /// How far it is.
    pub state: MigrationState,
    /// What it waits for, or why it ended as it did.
    pub reason: Option<String>,
    /// When it was ordered.
    pub created_at: OffsetDateTime,
    /// When it last changed.
    pub updated_at: OffsetDateTime,
}

/// A queued migration, with what decides whether it can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its number.
    pub id: i64,
    /// Its job's priority.
    pub priority: i32,
    /// The VM of its disc; none when the disc is gone.
    pub vm_id: Option<i64>,
    /// What its tail calls the disc.
    pub disc: Option<DiscName>,
    /// MiB.
    pub size_mib: i64,
    /// The disc is there and nothing else is to be done to it first.
    pub settled: bool,
    /// The disc is to be removed.
    pub removed: bool,
    /// The pool that it lies in.
    pub source_pool_id: i64,
    /// The tail of that pool.
    pub source_tail: NodeName,
    /// The pool that it was planned for.
    pub target_pool_id: i64,
    /// The tail of that pool.
    pub target_tail: NodeName,
    /// Tails that say where they take discs, of these two.
    pub able_tails: BTreeSet<String>,
    /// What it was last said to wait for.
    pub reason: Option<String>,
}

/// Which discs a job is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Discs by number.
    pub disc_ids: Vec<i64>,
    /// All discs in these pools.
    pub pool_ids: Vec<i64>,
    /// All discs on these tails.
    pub tail_ids: Vec<i64>,
}

/// Writes a new job; returns its number.
///
/// # Errors
/// When the database fails.
pub async fn insert_job(
    tx: &Transaction<'_>,
    arguments: &Value,
    created_by: &str,
    priority: i32,
) -> Result<i64, StoreError> {
    let sql = "INSERT INTO migration_jobs (arguments, created_by, priority) VALUES ($1, $2, $3) RETURNING id";
    Ok(tx.query_one(sql, &[arguments, &created_by, &priority]).await?.get(0))
}

/// Writes one disc of a job: queued for a pool, or skipped with the reason. A disc that is queued or moving already
/// cannot be queued again (`migrations_one_a_disc`).
///
/// # Errors
/// When the database fails.
pub async fn insert(
    tx: &Transaction<'_>,
    job_id: i64,
    disc: &Candidate,
    target: Result<i64, &str>,
) -> Result<(), StoreError> {
    let Some(source) = disc.pool_id else { return Ok(()) };
    let state = if target.is_ok() { MigrationState::Queued } else { MigrationState::Skipped };
    tx.execute(
        "INSERT INTO migrations (job_id, disc_id, source_pool_id, target_pool_id, state, reason, finished_at)
         VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $5 = 'skipped' THEN now() END)",
        &[&job_id, &disc.id, &source, &target.ok(), &state.as_str(), &target.err()],
    )
    .await?;
    Ok(())
}

/// The newest jobs, or the one of this number.
///
/// # Errors
/// When the database fails.
pub async fn jobs(tx: &Transaction<'_>, id: Option<i64>, unfinished: bool) -> Result<Vec<Job>, StoreError> {
    let rows = tx
        .query(
            "SELECT id, arguments, created_by, priority, stopped_reason, created_at, updated_at, started_at, finished_at
             FROM migration_jobs WHERE ($1::bigint IS NULL OR id = $1) AND (NOT $2 OR finished_at IS NULL)
             ORDER BY id DESC LIMIT $3",
            &[&id, &unfinished, &JOBS_MAX],
        )
        .await?;
    let job = |row: &Row| Job {
        id: row.get(0),
        arguments: row.get(1),
        created_by: row.get(2),
        priority: row.get(3),
        stopped_reason: row.get(4),
        created_at: row.get(5),
        updated_at: row.get(6),
        started_at: row.get(7),
        finished_at: row.get(8),
    };
    Ok(rows.iter().rev().map(job).collect())
}

const MIGRATIONS: &str = "
    SELECT m.id, m.job_id, m.disc_id, s.id, s.label, s.tail_id, t.id, t.label, t.tail_id, n.migration_address, m.state,
           CASE WHEN m.finished_at IS NULL THEN coalesce(m.undo_reason, m.reason) ELSE m.reason END, m.created_at, m.updated_at
    FROM migrations m JOIN storage_pools s ON s.id = m.source_pool_id
    LEFT JOIN storage_pools t ON t.id = m.target_pool_id LEFT JOIN nodes n ON n.id = t.tail_id";

/// All migrations of these jobs.
///
/// # Errors
/// When the database fails.
pub async fn of_jobs(tx: &Transaction<'_>, job_ids: &[i64]) -> Result<Vec<Migration>, StoreError> {
    let sql = format!("{MIGRATIONS} WHERE m.job_id = ANY($1) ORDER BY m.id");
    tx.query(&sql, &[&job_ids]).await?.iter().map(migration_row).collect()
}

/// The migrations that are queued or moving: all, or of these discs.
///
/// # Errors
/// When the database fails.
pub async fn unfinished(tx: &Transaction<'_>, disc_ids: Option<&[i64]>) -> Result<Vec<Migration>, StoreError> {
    let sql = format!(
        "{MIGRATIONS} WHERE m.state IN ('queued', 'moving') AND ($1::bigint[] IS NULL OR m.disc_id = ANY($1))
         ORDER BY m.id"
    );
    tx.query(&sql, &[&disc_ids]).await?.iter().map(migration_row).collect()
}

fn migration_row(row: &Row) -> Result<Migration, StoreError> {
    let id: i64 = row.get(0);
    let address: Option<std::net::SocketAddr> = row.get::<_, Option<&str>>(9).and_then(|text| text.parse().ok());
    Ok(Migration {
        id,
        job_id: row.get(1),
        disc_id: row.get(2),
        source: (row.get(3), row.get(4)),
        source_tail_id: row.get(5),
        target: row.get::<_, Option<i64>>(6).zip(row.get(7)),
        target_tail_id: row.get(8),
        port: address.map(|address| address.port()),
        state: parse(row.get(10), || format!("migration {id}"))?,
        reason: row.get(11),
        created_at: row.get(12),
        updated_at: row.get(13),
    })
}

/// The discs that a job is about, in order, with what keeps each from being moved. They stay as they are until the
/// transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn candidates(tx: &Transaction<'_>, sources: &Sources) -> Result<Vec<Candidate>, StoreError> {
    let rows = tx
        .query(
            "SELECT d.id, d.number, d.label, d.virtual_machine_id, v.name, d.size_mib, d.grade, d.storage_pool_id, m.state,
                    t.label, array(SELECT n.name FROM disc_leftovers l JOIN nodes n ON n.id = l.tail_id
                                   WHERE l.disc_number = d.number)
             FROM discs d JOIN virtual_machines v ON v.id = d.virtual_machine_id
             LEFT JOIN storage_pools p ON p.id = d.storage_pool_id
             LEFT JOIN migrations m ON m.disc_id = d.id AND m.state IN ('queued', 'moving')
             LEFT JOIN storage_pools t ON t.id = m.target_pool_id
             WHERE d.remove_reason IS NULL AND (d.id = ANY($1) OR p.id = ANY($2) OR p.tail_id = ANY($3))
             ORDER BY d.number FOR UPDATE OF d",
            &[&sources.disc_ids, &sources.pool_ids, &sources.tail_ids],
        )
        .await?;
    rows.iter().map(candidate_row).collect()
}

fn candidate_row(row: &Row) -> Result<Candidate, StoreError> {
    let id: i64 = row.get(0);
    let under_way = row.get::<_, Option<&str>>(8).zip(row.get::<_, Option<&str>>(9));
    Ok(Candidate {
        id,
        number: DiscNumber(row.get::<_, i64>(1).unsigned_abs()),
        label: row.get(2),
        virtual_machine_id: row.get(3),
        virtual_machine_name: row.get(4),
        size_mib: row.get(5),
        grade: parse(row.get(6), || format!("disc {id}"))?,
        pool_id: row.get(7),
        obstacle: under_way.map(|(state, target)| match state {
            "moving" => format!("it is being moved to {target} already"),
            _ => format!("it is queued for {target} already"),
        }),
        leftover_tails: row.get::<_, Vec<String>>(10).into_iter().collect(),
    })
}

/// The queue: at most `count_max`, the first to begin first.
///
/// # Errors
/// When the database fails.
pub async fn queue(tx: &Transaction<'_>, count_max: i64) -> Result<Vec<Queued>, StoreError> {
    let rows = tx
        .query(
            "SELECT m.id, j.priority, d.virtual_machine_id, d.number, d.grade, coalesce(d.size_mib, 0),
                    coalesce(d.made AND d.image IS NULL, false), coalesce(d.remove_reason IS NOT NULL, true),
                    coalesce(s.id, m.source_pool_id), sn.name, t.id, tn.name,
                    sn.migration_address IS NOT NULL, tn.migration_address IS NOT NULL, m.reason
             FROM migrations m JOIN migration_jobs j ON j.id = m.job_id LEFT JOIN discs d ON d.id = m.disc_id
             JOIN storage_pools s ON s.id = coalesce(d.storage_pool_id, m.source_pool_id)
             JOIN nodes sn ON sn.id = s.tail_id
             JOIN storage_pools t ON t.id = m.target_pool_id JOIN nodes tn ON tn.id = t.tail_id
             WHERE m.state = 'queued' ORDER BY j.priority DESC, m.id LIMIT $1",
            &[&count_max],
        )
        .await?;
    rows.iter().map(queued_row).collect()
}

fn queued_row(row: &Row) -> Result<Queued, StoreError> {
    let id: i64 = row.get(0);
    let place = || format!("migration {id}");
    let number = row.get::<_, Option<i64>>(3).map(|number| DiscNumber(number.unsigned_abs()));
    let grade: Option<Grade> = row.get::<_, Option<&str>>(4).map(|grade| parse(grade, place)).transpose()?;
    let (source, target): (String, String) = (row.get(9), row.get(11));
    let able = [(&source, row.get(12)), (&target, row.get(13))];
    Ok(Queued {
        id,
        priority: row.get(1),
        vm_id: row.get(2),
        disc: number.zip(grade).map(|(number, grade)| DiscName { grade, number }),
        size_mib: row.get(5),
        settled: row.get(6),
        removed: row.get(7),
        source_pool_id: row.get(8),
        source_tail: parse(&source, place)?,
        target_pool_id: row.get(10),
        target_tail: parse(&target, place)?,
        able_tails: able.into_iter().filter(|(_, able)| *able).map(|(name, _)| name.clone()).collect(),
        reason: row.get(14),
    })
}

/// The disc of a queued migration; none when it is not queued any more.
///
/// # Errors
/// When the database fails.
pub async fn disc_of(tx: &Transaction<'_>, id: i64) -> Result<Option<i64>, StoreError> {
    let row = tx.query_opt("SELECT disc_id FROM migrations WHERE id = $1 AND state = 'queued'", &[&id]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// The tails that say where they take discs from other tails.
///
/// # Errors
/// When the database fails.
pub async fn able_tails(tx: &Transaction<'_>) -> Result<BTreeSet<String>, StoreError> {
    let rows = tx.query("SELECT name FROM nodes WHERE role = 'tail' AND migration_address IS NOT NULL", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How many moves each pool takes part in, and may.
///
/// # Errors
/// When the database fails.
pub async fn loads(tx: &Transaction<'_>) -> Result<BTreeMap<i64, PoolLoad>, StoreError> {
    let rows = tx
        .query(
            "SELECT p.id, p.label, p.migration_concurrency::bigint, count(m.id) FROM storage_pools p
             LEFT JOIN migrations m ON m.state = 'moving' AND p.id IN (m.source_pool_id, m.target_pool_id)
             GROUP BY p.id",
            &[],
        )
        .await?;
    let load = |row: &Row| PoolLoad { label: row.get(1), moves_max: row.get(2), moves_count: row.get(3) };
    Ok(rows.iter().map(|row| (row.get(0), load(row))).collect())
}

/// How many discs are moving.
///
/// # Errors
/// When the database fails.
pub async fn moving_count(tx: &Transaction<'_>) -> Result<usize, StoreError> {
    let row = tx.query_one("SELECT count(*) FROM migrations WHERE state = 'moving'", &[]).await?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX))
}

/// Begins a move: grants the next generation of its disc to the pool's tail, and sets its limit: the least of what its
/// pools, its job and `limit_mb_per_s` say. False when it is not queued any more, or the disc is not there to be moved.
/// The VM's row must be locked.
///
/// # Errors
/// When the database fails.
pub async fn begin(
    tx: &Transaction<'_>,
    id: i64,
    target_pool_id: i64,
    limit_mb_per_s: Option<i32>,
    reason: &str,
) -> Result<bool, StoreError> {
    let row = tx
        .query_opt(
            "WITH granted AS (
                 UPDATE discs d SET generation_granted = d.generation_granted + 1 FROM migrations m
                 WHERE m.id = $1 AND m.state = 'queued' AND d.id = m.disc_id AND d.made AND d.image IS NULL
                   AND d.remove_reason IS NULL AND d.storage_pool_id IS NOT NULL
                 RETURNING d.id, d.number, d.virtual_machine_id, d.storage_pool_id, d.generation_granted)
             UPDATE migrations m SET state = 'moving', generation = g.generation_granted, target_pool_id = $2,
                    source_pool_id = g.storage_pool_id, reason = NULL, started_at = now(), updated_at = now(),
                    limit_mb_per_s = least($3, nullif(s.migration_limit_mb_per_s, 0),
                                           nullif(t.migration_limit_mb_per_s, 0),
                                           (j.arguments #>> '{options,limit_mb_per_s}')::integer)
             FROM granted g, storage_pools s, storage_pools t, migration_jobs j
             WHERE m.id = $1 AND s.id = g.storage_pool_id AND t.id = $2 AND j.id = m.job_id
             RETURNING m.job_id, g.virtual_machine_id, g.number",
            &[&id, &target_pool_id, &limit_mb_per_s],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let sql = "UPDATE migration_jobs SET started_at = coalesce(started_at, now()), updated_at = now() WHERE id = $1";
    tx.execute(sql, &[&row.get::<_, i64>(0)]).await?;
    let disc = DiscNumber(row.get::<_, i64>(2).unsigned_abs());
    record(tx, row.get(1), "disc-moving", Some(disc), None, &format!("it is being moved to {reason}")).await?;
    Ok(true)
}

/// Says what a queued migration waits for.
///
/// # Errors
/// When the database fails.
pub async fn wait(tx: &Transaction<'_>, id: i64, reason: &str) -> Result<(), StoreError> {
    let sql = "UPDATE migrations SET reason = $2, updated_at = now() WHERE id = $1 AND state = 'queued'";
    tx.execute(sql, &[&id, &reason]).await?;
    Ok(())
}

/// Ends migrations that were not begun.
///
/// # Errors
/// When the database fails.
pub async fn end_queued(
    tx: &Transaction<'_>,
    ids: &[i64],
    state: MigrationState,
    reason: &str,
) -> Result<(), StoreError> {
    let rows = tx
        .query(
            "UPDATE migrations SET state = $2, reason = $3, finished_at = now(), updated_at = now()
             WHERE id = ANY($1) AND state = 'queued' RETURNING job_id",
            &[&ids, &state.as_str(), &reason],
        )
        .await?;
    finish_jobs(tx, &rows.iter().map(|row| row.get(0)).collect::<BTreeSet<i64>>()).await
}

/// Marks a move as to come to nothing; whoever said so first counts.
///
/// # Errors
/// When the database fails.
pub async fn undo(tx: &Transaction<'_>, disc: DiscNumber, undo: &Undo) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE migrations m SET undo_reason = $2, undo_state = $3, undo_stops_job = $4, updated_at = now()
         FROM discs d WHERE d.number = $1 AND m.disc_id = d.id AND m.state = 'moving' AND m.undo_reason IS NULL",
        &[&signed(disc.0), &undo.reason, &undo.state.as_str(), &undo.stops_job],
    )
    .await?;
    Ok(())
}

/// As [`undo`], of a disc by its number in the API.
///
/// # Errors
/// When the database fails.
pub async fn undo_disc(tx: &Transaction<'_>, disc_id: i64, how: &Undo) -> Result<(), StoreError> {
    match tx.query_opt("SELECT number FROM discs WHERE id = $1", &[&disc_id]).await? {
        Some(row) => undo(tx, DiscNumber(row.get::<_, i64>(0).unsigned_abs()), how).await,
        None => Ok(()),
    }
}

/// The target has the disc.
///
/// # Errors
/// When the database fails.
pub(super) async fn moved(tx: &Transaction<'_>, vm_id: i64, disc: DiscNumber) -> Result<(), StoreError> {
    let row = tx
        .query_opt(
            "UPDATE migrations m SET state = 'done', reason = NULL, finished_at = now(), updated_at = now()
             FROM discs d, storage_pools s, storage_pools t
             WHERE d.number = $1 AND m.disc_id = d.id AND m.state = 'moving' AND s.id = d.storage_pool_id
               AND t.id = m.target_pool_id
             RETURNING m.job_id, m.generation, s.tail_id, s.label, t.id, t.grade, t.label",
            &[&signed(disc.0)],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let (generation, source_tail): (i64, i64) = (row.get(1), row.get(2));
    tx.execute(
        "INSERT INTO disc_leftovers (virtual_machine_id, disc_number, grade, tail_id, generation)
         SELECT virtual_machine_id, number, grade, $2, $3 FROM discs WHERE number = $1",
        &[&signed(disc.0), &source_tail, &generation],
    )
    .await?;
    let sql = "UPDATE discs SET storage_pool_id = $2, grade = $3, generation = $4 WHERE number = $1";
    tx.execute(sql, &[&signed(disc.0), &row.get::<_, i64>(4), &row.get::<_, &str>(5), &generation]).await?;
    let message = format!("it was moved from {} to {}", row.get::<_, &str>(3), row.get::<_, &str>(6));
    record(tx, vm_id, "disc-moved", Some(disc), None, &message).await?;
    finish_jobs(tx, &BTreeSet::from([row.get(0)])).await
}

/// The source keeps the disc.
///
/// # Errors
/// When the database fails.
pub(super) async fn undone(tx: &Transaction<'_>, vm_id: i64, disc: DiscNumber) -> Result<(), StoreError> {
    let row = tx
        .query_opt(
            "UPDATE migrations m SET state = coalesce(m.undo_state, 'cancelled'), reason = m.undo_reason,
                    finished_at = now(), updated_at = now()
             FROM discs d, storage_pools t
             WHERE d.number = $1 AND m.disc_id = d.id AND m.state = 'moving' AND t.id = m.target_pool_id
             RETURNING m.job_id, m.generation, m.uuid, t.tail_id, t.grade, t.label, m.undo_stops_job,
                       coalesce(m.undo_reason, '')",
            &[&signed(disc.0)],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let job_id: i64 = row.get(0);
    tx.execute(
        "INSERT INTO disc_leftovers (virtual_machine_id, disc_number, grade, tail_id, generation, aborted)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            &vm_id,
            &signed(disc.0),
            &row.get::<_, &str>(4),
            &row.get::<_, i64>(3),
            &row.get::<_, i64>(1),
            &row.get::<_, uuid::Uuid>(2),
        ],
    )
    .await?;
    let (target, reason): (&str, &str) = (row.get(5), row.get(7));
    record(tx, vm_id, "disc-not-moved", Some(disc), None, &format!("it was not moved to {target}: {reason}")).await?;
    if row.get(6) {
        let why = format!("the job stopped when disc {disc} could not be moved: {reason}");
        let sql = "UPDATE migration_jobs SET stopped_reason = coalesce(stopped_reason, $2) WHERE id = $1";
        tx.execute(sql, &[&job_id, &why]).await?;
        tx.execute(
            "UPDATE migrations SET state = 'skipped', reason = $2, finished_at = now(), updated_at = now()
             WHERE job_id = $1 AND state = 'queued'",
            &[&job_id, &why],
        )
        .await?;
    }
    finish_jobs(tx, &BTreeSet::from([job_id])).await
}

/// A leftover is gone.
///
/// # Errors
/// When the database fails.
pub(super) async fn leftover_removed(
    tx: &Transaction<'_>,
    disc: DiscNumber,
    tail: &NodeName,
    generation: Generation,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM disc_leftovers l USING nodes n
         WHERE l.disc_number = $1 AND n.id = l.tail_id AND n.name = $2 AND l.generation = $3",
        &[&signed(disc.0), &tail.as_str(), &signed(generation.0)],
    )
    .await?;
    Ok(())
}

/// Changes a job's priority.
///
/// # Errors
/// When the database fails.
pub async fn set_priority(tx: &Transaction<'_>, job_id: i64, priority: i32) -> Result<(), StoreError> {
    let sql = "UPDATE migration_jobs SET priority = $2, updated_at = now() WHERE id = $1";
    tx.execute(sql, &[&job_id, &priority]).await?;
    Ok(())
}

/// Marks those of these jobs as finished of which nothing is queued or moving.
///
/// # Errors
/// When the database fails.
pub async fn finish_jobs(tx: &Transaction<'_>, job_ids: &BTreeSet<i64>) -> Result<(), StoreError> {
    let job_ids: Vec<i64> = job_ids.iter().copied().collect();
    tx.execute(
        "UPDATE migration_jobs j SET updated_at = now(), finished_at = CASE WHEN EXISTS (
             SELECT 1 FROM migrations m WHERE m.job_id = j.id AND m.state IN ('queued', 'moving')) THEN NULL ELSE now() END
         WHERE j.id = ANY($1) AND j.finished_at IS NULL",
        &[&job_ids],
    )
    .await?;
    Ok(())
}
