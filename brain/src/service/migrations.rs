//! Moves discs between tails: orders jobs, shows how they stand, calls them off (B13, B14, B15, R126).
//!
//! Nothing here talks to a tail: a job is rows, and the reconciler begins what is queued.

use super::{
    Service, ServiceError,
    error::{invalid, permit_admin},
    one,
};
use crate::{
    auth::Caller,
    fleet::registry::Presence,
    model::{
        disc::{Disc, MoveProgress},
        filter::Filter,
        invalid::Invalid,
        migration::{Destinations, MigrationState, Planned, plan},
        name::Spec,
        placement::PoolPlace,
        privilege::Reach,
        work::Undo,
    },
    reconcile::propose,
    store::{
        discs,
        events::{self, Event},
        forced,
        inventory::{self, Node, Pool},
        migrations::{self, Job, Migration, Sources},
        places,
    },
};
use serde_json::{Value, json};
use spine::{
    id::{DiscName, Grade},
    message::Role,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Transaction;

/// Discs, pools and tails as an operator names them: numbers, labels, a tail's UUID or address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Discs, by number.
    pub discs: Vec<String>,
    /// Pools.
    pub pools: Vec<String>,
    /// Tails.
    pub tails: Vec<String>,
}

/// What an operator orders.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobOrder {
    /// What is to be moved.
    pub sources: Named,
    /// Where to: pools, and all pools of tails. None: wherever there is room.
    pub destinations: Named,
    /// Another grade than the discs have.
    pub grade: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// As it was ordered.
    pub arguments: Value,
}

/// Where one disc is to go, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscPlace<'a> {
    /// This pool; none: wherever there is room.
    pub pool: Option<&'a str>,
    /// A pool of this grade instead of the disc's own.
    pub grade: Option<&'a str>,
    /// 10⁶ bytes a second at most.
    pub limit_mb_per_s: Option<i64>,
}

/// A job with its discs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobTree {
    /// The job.
    pub job: Job,
    /// One a disc, in order.
    pub migrations: Vec<Migration>,
}

/// What a job would do, or does, with one disc.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanLine {
    /// The disc, and its pool or why it stays.
    pub planned: Planned,
    /// The label of the pool it lies in.
    pub from: Option<String>,
    /// The label of the pool it goes to.
    pub to: Option<String>,
}

/// What is to be called off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobChange {
    /// All that is not done.
    pub cancel_all: bool,
    /// Discs, and those that leave or go to these pools and tails.
    pub cancel: Named,
    /// A new priority.
    pub priority: Option<i32>,
}

/// What a job would do, disc by disc, without doing it.
///
/// # Errors
/// When the caller does not run the cluster, or names what there is not.
pub async fn plan_job(service: &Service, caller: &Caller, order: &JobOrder) -> Result<Vec<PlanLine>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    planned(service, &tx, order).await
}

/// What would bring a pool that is short back over its threshold (R126); nothing when it is not short.
///
/// # Errors
/// When the caller does not run the cluster.
pub async fn proposed_relief(service: &Service, caller: &Caller, pool: &Pool) -> Result<Vec<PlanLine>, ServiceError> {
    permit_admin(caller)?;
    if !pool.is_short() {
        return Ok(vec![]);
    }
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let pools = inventory::pools(&tx, None).await?;
    let moves = propose(&tx, &service.registry, pool, service.config.placement.discs).await?;
    Ok(moves.into_iter().map(|planned| line(planned, &pools)).collect())
}

/// Orders a job: each disc that can be moved is queued for a pool, the others are skipped with the reason.
///
/// # Errors
/// When the caller does not run the cluster, or names what there is not.
pub async fn create_job(service: &Service, caller: &Caller, order: &JobOrder) -> Result<JobTree, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let job_id = write_job(service, &tx, &caller.username, order).await?;
    let tree = job_of(&tx, job_id).await?;
    tx.commit().await?;
    service.poke.all();
    Ok(tree)
}

/// Orders the move of one disc, which must be possible. Returns the disc and the job.
///
/// # Errors
/// When there is no such disc, or why it cannot be moved there.
pub async fn migrate_disc(
    service: &Service,
    caller: &Caller,
    disc_id: i64,
    place: &DiscPlace<'_>,
) -> Result<(Disc, i64), ServiceError> {
    permit_admin(caller)?;
    let DiscPlace { pool, grade, limit_mb_per_s } = *place;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let disc = find(&tx, disc_id).await?;
    let attribute = if grade.is_some() { "new_grade" } else { "new_pool_spec" };
    if grade == Some(disc.grade.as_str()) {
        return Err(invalid("new_grade", format!("is the grade that the disc has: {}", disc.grade)));
    }
    let sources = Named { discs: vec![disc_id.to_string()], ..Named::default() };
    let destinations = Named { pools: pool.map(str::to_owned).into_iter().collect(), ..Named::default() };
    let mut arguments = json!({"sources": {"discs": [disc_id]}, "destinations": {"pools": destinations.pools},
        "options": grade.map_or_else(|| json!({}), |grade| json!({"grade": grade}))});
    if let Some(limit) = limit_mb_per_s {
        arguments["options"]["limit_mb_per_s"] = json!(limit);
    }
    let order = JobOrder { sources, destinations, grade: grade.map(str::to_owned), priority: 0, arguments };
    let lines = planned(service, &tx, &order).await.map_err(|error| match error {
        ServiceError::Invalid(wrong) if wrong.has("destinations") => invalid(attribute, wrong.to_string()),
        other => other,
    })?;
    if let Some(Err(reason)) = lines.into_iter().next().map(|line| line.planned.target) {
        return Err(invalid(attribute, reason));
    }
    let job_id = write_job(service, &tx, &caller.username, &order).await?;
    let disc = find(&tx, disc_id).await?;
    tx.commit().await?;
    service.poke.all();
    Ok((disc, job_id))
}

/// Writes a job within a transaction; returns its number.
pub(super) async fn write_job(
    service: &Service,
    tx: &Transaction<'_>,
    created_by: &str,
    order: &JobOrder,
) -> Result<i64, ServiceError> {
    let lines = planned(service, tx, order).await?;
    let job_id = migrations::insert_job(tx, &order.arguments, created_by, order.priority).await?;
    for line in &lines {
        let target = line.planned.target.as_ref().map(|choice| choice.place).map_err(String::as_str);
        migrations::insert(tx, job_id, &line.planned.disc, target).await?;
    }
    migrations::finish_jobs(tx, &BTreeSet::from([job_id])).await?;
    let queued = lines.iter().filter(|line| line.planned.target.is_ok()).count();
    let message = format!("migration job {job_id}: {queued} of {} discs are queued", lines.len());
    let event = Event { actor: created_by, kind: "migration-job-created", message: &message, ..Event::default() };
    events::record(tx, &event).await?;
    Ok(job_id)
}

/// Plans a job as things stand. Nobody else plans or places anything until the transaction ends.
async fn planned(service: &Service, tx: &Transaction<'_>, order: &JobOrder) -> Result<Vec<PlanLine>, ServiceError> {
    let pools = inventory::pools(tx, None).await?;
    let tails = inventory::nodes(tx, &Role::Tail.to_string(), None).await?;
    let sources = sources("sources", &order.sources, &pools, &tails)?;
    let mut destinations =
        Destinations { pool_ids: destination_pools(&order.destinations, &pools, &tails)?, grade: None };
    destinations.grade =
        order.grade.as_deref().map(str::parse::<Grade>).transpose().map_err(|_| not_listed("new_grade"))?;
    places::take_turn(tx).await?;
    let able = migrations::able_tails(tx).await?;
    let mut places = places::pools(tx).await?;
    for place in &mut places {
        place.closed = place.closed.take().or_else(|| closed(service, place, &able));
    }
    let mut discs = migrations::candidates(tx, &sources).await?;
    for disc in &mut discs {
        let tail = disc.pool_id.and_then(|id| places.iter().find(|place| place.id == id)).map(|place| &place.tail);
        if let Some(tail) = tail.filter(|tail| !able.contains(tail.as_str())) {
            disc.obstacle.get_or_insert_with(|| unable(tail.as_str()));
        }
    }
    if let Some(missing) = sources.disc_ids.iter().find(|id| !discs.iter().any(|disc| disc.id == **id)) {
        return Err(invalid("sources", format!("there is no disc {missing}")));
    }
    let planned = plan(discs, &places, &destinations, service.config.placement.discs);
    Ok(planned.into_iter().map(|planned| line(planned, &pools)).collect())
}

fn line(planned: Planned, pools: &[Pool]) -> PlanLine {
    let label = |id: i64| pools.iter().find(|pool| pool.id == id).map(|pool| pool.label.clone());
    PlanLine {
        from: planned.disc.pool_id.and_then(label),
        to: planned.target.as_ref().ok().and_then(|choice| label(choice.place)),
        planned,
    }
}

fn unable(tail: &str) -> String {
    format!("{tail} takes no part in moves: its configuration has no migration address, or it is older than moves are")
}

fn closed(service: &Service, place: &PoolPlace, able: &BTreeSet<String>) -> Option<String> {
    if !able.contains(place.tail.as_str()) {
        return Some(unable(place.tail.as_str()));
    }
    (service.registry.presence(&place.tail) != Presence::Ready).then(|| "not connected".to_owned())
}

fn not_listed(attribute: &str) -> ServiceError {
    invalid(attribute, "is not included in the list")
}

/// What is named in this attribute, which names something.
fn sources(attribute: &str, named: &Named, pools: &[Pool], tails: &[Node]) -> Result<Sources, ServiceError> {
    let mut wrong = Invalid::default();
    let disc = |text: &String| text.parse::<i64>().map_err(|_| format!("{text:?} is not the number of a disc"));
    let sources = Sources {
        disc_ids: resolve(attribute, &named.discs, disc, &mut wrong),
        pool_ids: resolve(attribute, &named.pools, |text| pool_id(text, pools), &mut wrong),
        tail_ids: resolve(attribute, &named.tails, |text| tail_id(text, tails), &mut wrong),
    };
    if wrong.is_empty() && sources == Sources::default() {
        wrong.add(attribute, "can't be blank: name discs, pools or tails");
    }
    wrong.result()?;
    Ok(sources)
}

fn resolve(
    attribute: &str,
    named: &[String],
    find: impl Fn(&String) -> Result<i64, String>,
    wrong: &mut Invalid,
) -> Vec<i64> {
    let found = named.iter().filter_map(|text| find(text).map_err(|sentence| wrong.add(attribute, sentence)).ok());
    found.collect()
}

/// The pools that are named, and those of the tails that are; none when none are.
fn destination_pools(named: &Named, pools: &[Pool], tails: &[Node]) -> Result<Option<BTreeSet<i64>>, ServiceError> {
    let mut ids = BTreeSet::new();
    for text in &named.pools {
        ids.insert(pool_id(text, pools).map_err(|sentence| invalid("destinations", sentence))?);
    }
    for text in &named.tails {
        let id = tail_id(text, tails).map_err(|sentence| invalid("destinations", sentence))?;
        let own = tails.iter().find(|tail| tail.id == id).map(|tail| tail.pools.as_slice()).unwrap_or_default();
        ids.extend(pools.iter().filter(|pool| own.contains(&pool.label)).map(|pool| pool.id));
    }
    Ok((!named.pools.is_empty() || !named.tails.is_empty()).then_some(ids))
}

fn pool_id(text: &str, pools: &[Pool]) -> Result<i64, String> {
    let found = pools.iter().find(|pool| pool.label == text || pool.id.to_string() == text);
    found.map(|pool| pool.id).ok_or_else(|| format!("there is no storage pool {text:?}"))
}

fn tail_id(text: &str, tails: &[Node]) -> Result<i64, String> {
    let is_it = |tail: &&Node| {
        tail.name == text
            || tail.id.to_string() == text
            || tail.uuid.to_string() == text.to_ascii_lowercase()
            || tail.storage_address.is_some_and(|address| text.parse() == Ok(address))
    };
    tails.iter().find(is_it).map(|tail| tail.id).ok_or_else(|| format!("there is no tail {text:?}"))
}

/// Jobs with their discs: all, or the one of this number.
///
/// # Errors
/// When the caller does not run the cluster.
pub async fn jobs(
    service: &Service,
    caller: &Caller,
    id: Option<i64>,
    unfinished: bool,
) -> Result<Vec<JobTree>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    trees(&tx, id, unfinished).await
}

/// A job with its discs.
pub(super) async fn job_of(tx: &Transaction<'_>, id: i64) -> Result<JobTree, ServiceError> {
    one(trees(tx, Some(id), false).await?)
}

async fn trees(tx: &Transaction<'_>, id: Option<i64>, unfinished: bool) -> Result<Vec<JobTree>, ServiceError> {
    let jobs = migrations::jobs(tx, id, unfinished).await?;
    let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    let mut by_job: BTreeMap<i64, Vec<Migration>> = BTreeMap::new();
    for migration in migrations::of_jobs(tx, &ids).await? {
        by_job.entry(migration.job_id).or_default().push(migration);
    }
    let tree = |job: Job| JobTree { migrations: by_job.remove(&job.id).unwrap_or_default(), job };
    Ok(jobs.into_iter().map(tree).collect())
}

/// The discs that are moving, with how far they are.
///
/// # Errors
/// When the caller does not run the cluster.
pub async fn migrating_discs(service: &Service, caller: &Caller) -> Result<Vec<Disc>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut found = discs::moving(&tx).await?;
    add_progress(service, &mut found);
    Ok(found)
}

/// Adds to discs that move what their tails say of it now.
pub(super) fn add_progress(service: &Service, discs: &mut [Disc]) {
    for disc in discs {
        let (Some(moving), Ok(grade)) = (&mut disc.moving, disc.grade.parse()) else { continue };
        let name = DiscName { grade, number: moving.number };
        let Some(report) = service.registry.disc(&moving.source_tail, &name) else { continue };
        let own = report.migration.as_ref().filter(|own| own.id == moving.id);
        moving.progress = own.map(|own| MoveProgress {
            percent: report.migration_progress,
            eta_s: report.migration_eta,
            speed_mb_per_s: report.migration_speed,
            migration: own.clone(),
        });
    }
}

/// Calls off the move of a disc, queued or under way. It counts until the source has given the disc up.
///
/// # Errors
/// When there is no such disc, or nothing to be called off.
pub async fn cancel_disc(service: &Service, caller: &Caller, disc_id: i64) -> Result<Disc, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let disc = find(&tx, disc_id).await?;
    let own = migrations::unfinished(&tx, Some(&[disc_id])).await?;
    if own.is_empty() {
        return Err(invalid("migration", "there is none to be cancelled: the disc is neither queued nor moving"));
    }
    if forced::is_ordered(&tx, disc_id).await? {
        return Err(invalid("migration", "cannot be cancelled: an operator has said which tail gets the disc"));
    }
    cancel(&tx, caller, &own).await?;
    let disc = find(&tx, disc.id).await?;
    tx.commit().await?;
    service.poke.all();
    service.poke.vm(disc.virtual_machine_id);
    Ok(disc)
}

/// Changes a job: calls all or part of it off, or gives it another priority.
///
/// # Errors
/// When there is no such job, or a name is of nothing.
pub async fn change_job(
    service: &Service,
    caller: &Caller,
    id: i64,
    change: &JobChange,
) -> Result<JobTree, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let tree = job_of(&tx, id).await?;
    if let Some(priority) = change.priority {
        migrations::set_priority(&tx, id, priority).await?;
    }
    let pools = inventory::pools(&tx, None).await?;
    let tails = inventory::nodes(&tx, &Role::Tail.to_string(), None).await?;
    let named = match change.cancel == Named::default() {
        true => Sources::default(),
        false => sources("cancel", &change.cancel, &pools, &tails)?,
    };
    if let Some(stranger) = named.disc_ids.iter().find(|id| !tree.migrations.iter().any(|one| one.disc_id == **id)) {
        return Err(invalid("cancel", format!("disc {stranger} is not one of migration job {id}")));
    }
    let concerns = |one: &Migration| {
        let pools = [Some(one.source.0), one.target.as_ref().map(|target| target.0)];
        let tails = [Some(one.source_tail_id), one.target_tail_id];
        change.cancel_all
            || named.disc_ids.contains(&one.disc_id)
            || pools.iter().flatten().any(|id| named.pool_ids.contains(id))
            || tails.iter().flatten().any(|id| named.tail_ids.contains(id))
    };
    let open = tree.migrations.into_iter().filter(|one| !one.state.is_final() && concerns(one));
    let open: Vec<Migration> = open.collect();
    cancel(&tx, caller, &open).await?;
    let tree = job_of(&tx, id).await?;
    tx.commit().await?;
    service.poke.all();
    Ok(tree)
}

async fn cancel(tx: &Transaction<'_>, caller: &Caller, open: &[Migration]) -> Result<(), ServiceError> {
    let reason = format!("cancelled by {}", caller.username);
    let queued: Vec<i64> = open.iter().filter(|one| one.state == MigrationState::Queued).map(|one| one.id).collect();
    migrations::end_queued(tx, &queued, MigrationState::Cancelled, &reason).await?;
    let undo = Undo { reason, state: MigrationState::Cancelled, stops_job: false };
    // One whose turn came this moment is moving now.
    for id in open.iter().map(|one| one.disc_id) {
        migrations::undo_disc(tx, id, &undo).await?;
    }
    Ok(())
}

pub(super) async fn find(tx: &Transaction<'_>, disc_id: i64) -> Result<Disc, ServiceError> {
    let filter = Filter { part: Some(Spec::Id(disc_id)), ..Filter::default() }.with_deleted();
    one(discs::list(tx, &Reach::everything(), &filter).await?)
}
