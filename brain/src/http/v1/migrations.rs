//! `/admin/migration_jobs`, `/admin/migrating_discs`, and what moves one disc or empties a pool or tail.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Named},
        fault::Fault,
        fields::Fields,
        shape,
    },
    model::{disc::Disc, migration::MigrationState, name::Spec},
    service::{
        emptying,
        inventory::MOVE_MB_PER_S_MAX,
        migrations::{self, DiscPlace, JobChange, JobOrder, JobTree, PlanLine},
        one,
    },
    store::migrations::Migration,
};
use axum::extract::State;
use serde_json::{Value, json};
use spine::api;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// GET /admin/migrating_discs
pub(crate) async fn migrating_discs(State(api): State<Api>, caller: Caller) -> Result<Answer, Fault> {
    let found = migrations::migrating_discs(&api.service, &caller).await?;
    Answer::ok(&found.into_iter().map(shape::disc).collect::<Vec<_>>())
}

/// POST /admin/discs/{disc}/migrate
pub(crate) async fn migrate(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let pool = body.text("new_pool_spec").value().filter(|pool| !pool.is_empty());
    let limit_mb_per_s = limit(&mut body);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let place = DiscPlace { pool: pool.as_deref(), grade: None, limit_mb_per_s };
    let ordered = migrations::migrate_disc(&api.service, &caller, id(&named, "disc")?, &place).await?;
    Ok(ordered_shape(ordered)?.ignoring(ignored))
}

/// POST /admin/discs/{disc}/regrade
pub(crate) async fn regrade(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let grade = body.text("new_grade").value();
    if grade.is_none() {
        body.complain("new_grade", "can't be blank");
    }
    let limit_mb_per_s = limit(&mut body);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let place = DiscPlace { pool: None, grade: grade.as_deref(), limit_mb_per_s };
    let ordered = migrations::migrate_disc(&api.service, &caller, id(&named, "disc")?, &place).await?;
    Ok(ordered_shape(ordered)?.ignoring(ignored))
}

/// POST /admin/discs/{disc}/cancel_migration
pub(crate) async fn cancel(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&shape::disc(migrations::cancel_disc(&api.service, &caller, id(&named, "disc")?).await?))
}

/// GET /admin/migration_jobs `?unfinished=1`
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let found = migrations::jobs(&api.service, &caller, None, named.flag("unfinished")).await?;
    Answer::ok(&found.into_iter().map(job_shape).collect::<Vec<_>>())
}

/// GET /admin/migration_jobs/{job}
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    Answer::ok(&job_shape(job(&api, &caller, &named).await?))
}

/// GET /admin/migration_jobs/{job}/migrations: those that are moving.
pub(crate) async fn active(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let tree = job(&api, &caller, &named).await?;
    let moving = tree.migrations.into_iter().filter(|one| one.state == MigrationState::Moving);
    Answer::ok(&moving.map(migration_shape).collect::<Vec<_>>())
}

/// POST /admin/migration_jobs `?plan=true`
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let mut options = body.object("options").value().unwrap_or_default();
    let priority = priority(&mut options);
    let grade = options.text("grade").value();
    let limit_mb_per_s = limit(&mut options);
    let (options_read, sources) = (json!({"priority": priority}), read_named(&mut body, "sources"));
    body.take_object("options", options);
    let destinations = read_named(&mut body, "destinations");
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let mut arguments =
        json!({"options": options_read, "sources": named_shape(&sources), "destinations": named_shape(&destinations)});
    if let Some(grade) = &grade {
        arguments["options"]["grade"] = json!(grade);
    }
    if let Some(limit) = limit_mb_per_s {
        arguments["options"]["limit_mb_per_s"] = json!(limit);
    }
    let order = JobOrder { sources, destinations, grade, priority: priority.unwrap_or(0), arguments };
    order_or_plan(&api, &caller, &named, &order).await.map(|answer| answer.ignoring(ignored))
}

/// PUT /admin/migration_jobs/{job}
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let mut options = body.object("options").value().unwrap_or_default();
    let priority = priority(&mut options);
    body.take_object("options", options);
    let mut cancel = body.object("cancel").value().unwrap_or_default();
    let cancel_all = cancel.boolean("all").value().unwrap_or(false);
    let cancelled = lists(&mut cancel);
    body.take_object("cancel", cancel);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let change = JobChange { cancel_all, cancel: cancelled, priority };
    let tree = migrations::change_job(&api.service, &caller, id(&named, "job")?, &change).await?;
    Ok(Answer::ok(&job_shape(tree))?.ignoring(ignored))
}

/// POST /admin/storage_pools/{pool}/empty `?plan=true`
pub(crate) async fn empty_pool(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(body): Body,
) -> Result<Answer, Fault> {
    let (limit, ignored) = only_limit(body)?;
    let spec = named.segment("pool")?;
    let answer = if named.flag("plan") {
        plan(&api, &caller, &emptying::of_pool(&name(&spec), limit)).await?
    } else {
        Answer::ok(&job_shape(emptying::pool(&api.service, &caller, &spec, limit).await?))?
    };
    Ok(answer.ignoring(ignored))
}

/// POST /admin/tails/{node}/empty `?plan=true`
pub(crate) async fn empty_tail(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(body): Body,
) -> Result<Answer, Fault> {
    let (limit, ignored) = only_limit(body)?;
    let spec = named.segment("node")?;
    let answer = if named.flag("plan") {
        plan(&api, &caller, &emptying::of_tail(&name(&spec), limit)).await?
    } else {
        Answer::ok(&job_shape(emptying::tail(&api.service, &caller, &spec, limit).await?))?
    };
    Ok(answer.ignoring(ignored))
}

/// What an order would do with each disc.
async fn plan(api: &Api, caller: &Caller, order: &JobOrder) -> Result<Answer, Fault> {
    Answer::ok(&plan_shape(&migrations::plan_job(&api.service, caller, order).await?))
}

async fn order_or_plan(api: &Api, caller: &Caller, named: &Named, order: &JobOrder) -> Result<Answer, Fault> {
    if named.flag("plan") {
        return plan(api, caller, order).await;
    }
    Answer::ok(&job_shape(migrations::create_job(&api.service, caller, order).await?))
}

async fn job(api: &Api, caller: &Caller, named: &Named) -> Result<JobTree, Fault> {
    Ok(one(migrations::jobs(&api.service, caller, Some(id(named, "job")?), false).await?)?)
}

/// Discs and jobs have numbers and no names.
pub(super) fn id(named: &Named, segment: &str) -> Result<i64, Fault> {
    named.segment(segment)?.id().ok_or(Fault::NotFound)
}

fn name(spec: &Spec) -> String {
    match spec {
        Spec::Id(id) => id.to_string(),
        Spec::Name(name) => name.clone(),
    }
}

fn priority(options: &mut Fields) -> Option<i32> {
    let given = options.integer("priority").value()?;
    let priority = i32::try_from(given).ok();
    if priority.is_none() {
        options.complain("priority", "is not included in the list");
    }
    priority
}

/// How fast discs are to move, in 10⁶ bytes a second.
fn limit(options: &mut Fields) -> Option<i64> {
    let given = options.integer("limit_mb_per_s").value()?;
    let limit = (1..=MOVE_MB_PER_S_MAX).contains(&given).then_some(given);
    if limit.is_none() {
        options.complain("limit_mb_per_s", &format!("must be between 1 and {MOVE_MB_PER_S_MAX}"));
    }
    limit
}

/// The limit of a body that says nothing else, and what was ignored there.
fn only_limit(mut body: Fields) -> Result<(Option<i64>, Vec<String>), Fault> {
    let limit = limit(&mut body);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    Ok((limit, ignored))
}

fn read_named(body: &mut Fields, name: &str) -> migrations::Named {
    let mut object = body.object(name).value().unwrap_or_default();
    let read = lists(&mut object);
    body.take_object(name, object);
    read
}

fn lists(object: &mut Fields) -> migrations::Named {
    let mut list = |name| object.texts(name).value().unwrap_or_default();
    migrations::Named { discs: list("discs"), pools: list("pools"), tails: list("tails") }
}

fn named_shape(named: &migrations::Named) -> Value {
    let lists = [("discs", &named.discs), ("pools", &named.pools), ("tails", &named.tails)];
    let number = |text: &String| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    lists.map(|(name, list)| (name.to_owned(), list.iter().map(number).collect::<Value>())).collect()
}

/// The disc, and the job that will move it: its turn may not have come.
fn ordered_shape((disc, job_id): (Disc, i64)) -> Result<Answer, Fault> {
    let mut shown = serde_json::to_value(shape::disc(disc)).map_err(|error| Fault::Internal(error.to_string()))?;
    shown["migration_job_id"] = json!(job_id);
    Answer::ok(&shown)
}

fn job_shape(tree: JobTree) -> api::MigrationJob {
    let job = tree.job;
    let ids = |state| -> Vec<i64> {
        tree.migrations.iter().filter(|one| one.state == state).map(|one| one.disc_id).collect()
    };
    let mut pools: Vec<i64> = tree.migrations.iter().filter_map(|one| Some(one.target.as_ref()?.0)).collect();
    pools.sort_unstable();
    pools.dedup();
    api::MigrationJob {
        id: job.id,
        args: job.arguments,
        queue: api::DiscIds { discs: ids(MigrationState::Queued) },
        active: api::DiscIds { discs: ids(MigrationState::Moving) },
        destinations: json!({ "pools": pools }),
        status: api::MigrationJobStatus {
            discs: api::MigrationJobDiscs {
                done: ids(MigrationState::Done),
                errored: ids(MigrationState::Errored),
                cancelled: ids(MigrationState::Cancelled),
                skipped: ids(MigrationState::Skipped),
            },
        },
        discs: tree.migrations.iter().map(job_disc_shape).collect(),
        priority: job.priority.into(),
        created_by: job.created_by,
        stopped_reason: job.stopped_reason,
        started_at: job.started_at.and_then(moment),
        finished_at: job.finished_at.and_then(moment),
        created_at: moment(job.created_at),
        updated_at: moment(job.updated_at),
    }
}

fn job_disc_shape(one: &Migration) -> api::MigrationJobDisc {
    api::MigrationJobDisc {
        id: one.disc_id,
        from: one.source.1.clone(),
        to: one.target.as_ref().map(|target| target.1.clone()),
        state: one.state.as_str().to_owned(),
        reason: one.reason.clone(),
    }
}

fn migration_shape(one: Migration) -> Value {
    json!({
        "id": one.id,
        "tail_id": one.target_tail_id,
        "disc_id": one.disc_id,
        "port": one.port,
        "created_at": moment(one.created_at),
        "updated_at": moment(one.updated_at),
        "migration_job_id": one.job_id,
    })
}

/// What would become of each disc.
pub(super) fn plan_shape(lines: &[PlanLine]) -> api::MigrationPlan {
    let line = |line: &PlanLine| api::MigrationPlanDisc {
        id: line.planned.disc.id,
        label: line.planned.disc.label.clone(),
        virtual_machine_id: line.planned.disc.virtual_machine_id,
        virtual_machine: line.planned.disc.virtual_machine_name.clone(),
        size: line.planned.disc.size_mib,
        from: line.from.clone(),
        to: line.to.clone(),
        reason: match &line.planned.target {
            Ok(choice) => choice.reason.clone(),
            Err(reason) => reason.clone(),
        },
    };
    api::MigrationPlan { discs: lines.iter().map(line).collect() }
}

pub(super) fn moment(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}
