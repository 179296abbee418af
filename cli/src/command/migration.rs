//! `bigv --admin migrate …`, `create`, `cancel`, `update`, `regrade`, `empty`, `migrations` and `show`.

use super::admin::require_admin;
use crate::{
    args::{
        CancelCommand, CreateCommand, CreateMigration, EmptyArgs, EmptyCommand, EmptyStorageCommand, MigrateCommand,
        MigratingCommand, MigrationsArgs, RegradeCommand, ShowCommand, UpdateCommand, UpdateMigration, UpdatePool,
        UpdateTail, WaitArgs,
    },
    client::Answer,
    context::Context,
    error::Error,
    output::{Output, migrations as pages},
    wait,
};
use serde_json::{Map, Value, json};
use spine::api::MigrationJob;

/// `bigv migrate …`
pub fn migrate(context: &Context, MigrateCommand::Disc(args): &MigrateCommand) -> Result<Output, Error> {
    require_admin(context)?;
    if args.plan {
        let pools: Vec<&String> = args.pool.iter().collect();
        return plan(context, &json!({"sources": {"discs": [args.disc]}, "destinations": {"pools": pools}}));
    }
    let mut body = Map::new();
    body.extend(args.pool.as_ref().map(|pool| ("new_pool_spec".to_owned(), json!(pool))));
    body.extend(limit(args.limit));
    let body = Value::Object(body);
    let job = context.client()?.order_disc(args.disc, "migrate", &body)?;
    follow(context, job, &args.wait)
}

/// What would become of each disc of a job.
fn plan(context: &Context, order: &Value) -> Result<Output, Error> {
    let answer = context.client()?.plan_job(order)?;
    Ok(Output { page: pages::plan(&answer.value), json: answer.json })
}

/// How a limit is said to the brain.
fn limit(mb_per_s: Option<u32>) -> Option<(String, Value)> {
    mb_per_s.map(|limit| ("limit_mb_per_s".to_owned(), json!(limit)))
}

/// `bigv regrade …`
pub fn regrade(context: &Context, RegradeCommand::Disc(args): &RegradeCommand) -> Result<Output, Error> {
    require_admin(context)?;
    if args.plan {
        return plan(context, &json!({"sources": {"discs": [args.disc]}, "options": {"grade": args.grade}}));
    }
    let mut body = Map::from_iter([("new_grade".to_owned(), json!(args.grade))]);
    body.extend(limit(args.limit));
    let job = context.client()?.order_disc(args.disc, "regrade", &Value::Object(body))?;
    follow(context, job, &args.wait)
}

/// `bigv create …`
pub fn create(context: &Context, CreateCommand::Migration(args): &CreateCommand) -> Result<Output, Error> {
    require_admin(context)?;
    if args.discs.is_empty() && args.pools.is_empty() && args.tails.is_empty() {
        return Err(Error::Missing { what: "what is to be moved", option: "--disc, --pool or --tail" });
    }
    let order = job_order(args);
    if args.plan {
        return plan(context, &order);
    }
    follow(context, context.client()?.create_job(&order)?, &args.wait)
}

fn job_order(args: &CreateMigration) -> Value {
    let mut options = Map::new();
    options.extend(args.priority.map(|priority| ("priority".to_owned(), json!(priority))));
    options.extend(limit(args.limit));
    json!({
        "options": options,
        "sources": {"discs": args.discs, "pools": args.pools, "tails": args.tails},
        "destinations": {"pools": args.to_pools, "tails": args.to_tails},
    })
}

/// `bigv empty …`
pub fn empty(context: &Context, command: &EmptyCommand) -> Result<Output, Error> {
    match command {
        EmptyCommand::Tail(args) => empty_one(context, "tails", "tail", args),
        EmptyCommand::Pool(args) | EmptyCommand::Storage(EmptyStorageCommand::Pool(args)) => {
            empty_one(context, "storage_pools", "storage pool", args)
        }
    }
}

fn empty_one(context: &Context, collection: &'static str, noun: &str, args: &EmptyArgs) -> Result<Output, Error> {
    require_admin(context)?;
    let client = context.client()?;
    if args.plan {
        let answer = client.plan_emptying(collection, &args.name, noun)?;
        return Ok(Output { page: pages::plan(&answer.value), json: answer.json });
    }
    let mut order = Map::new();
    order.extend(limit(args.limit));
    follow(context, client.empty(collection, &args.name, noun, &Value::Object(order))?, &args.wait)
}

/// `bigv cancel …`
pub fn cancel(context: &Context, CancelCommand::Migration(args): &CancelCommand) -> Result<Output, Error> {
    require_admin(context)?;
    let json = context.client()?.cancel_disc(args.disc)?;
    let text =
        format!("The move of disc {} is being called off. Look again with `bigv migrations --all --admin`.", args.disc);
    Ok(Output { json, ..Output::message(text) })
}

/// `bigv update …`
pub fn update(context: &Context, command: &UpdateCommand) -> Result<Output, Error> {
    require_admin(context)?;
    match command {
        UpdateCommand::Migration(args) => update_job(context, args),
        UpdateCommand::Pool(args) => update_pool(context, args),
        UpdateCommand::Tail(args) => update_tail(context, args),
    }
}

fn update_job(context: &Context, args: &UpdateMigration) -> Result<Output, Error> {
    let mut changes = Map::new();
    if let Some(priority) = args.priority {
        changes.insert("options".to_owned(), json!({ "priority": priority }));
    }
    if args.cancel_all {
        changes.insert("cancel".to_owned(), json!({"all": true}));
    } else if !(args.cancel_discs.is_empty() && args.cancel_pools.is_empty() && args.cancel_tails.is_empty()) {
        let cancel = json!({"discs": args.cancel_discs, "pools": args.cancel_pools, "tails": args.cancel_tails});
        changes.insert("cancel".to_owned(), cancel);
    }
    if changes.is_empty() {
        return Err(Error::Missing {
            what: "what is to change",
            option: "--priority, --cancel-disc, … or --cancel-all",
        });
    }
    let answer = context.client()?.update_job(args.id, &Value::Object(changes))?;
    Ok(Output { page: pages::job(&answer.value), json: answer.json })
}

fn update_pool(context: &Context, args: &UpdatePool) -> Result<Output, Error> {
    let mut changes = Map::new();
    let mut set = |name: &str, value: Option<Value>| changes.extend(value.map(|value| (name.to_owned(), value)));
    set("usage_strategy", args.usage_strategy.as_deref().map(strategy));
    set("overcommit_ratio", args.overcommit_ratio.map(|n| json!(n)));
    set("migration_concurrency", args.migration_concurrency.map(|n| json!(n)));
    set("migration_limit_mb_per_s", args.migration_limit.map(|n| json!(n)));
    set("short_percent", args.short_percent.map(|n| json!(n)));
    set("relieve_automatically", args.relieve_automatically.map(|n| json!(n)));
    set("label", args.label.as_ref().map(|label| json!(label)));
    if changes.is_empty() {
        return Err(Error::Missing {
            what: "what is to change",
            option: "--usage-strategy, --migration-concurrency, …",
        });
    }
    let json = context.client()?.admin_update("storage_pools", &args.name, "storage pool", &Value::Object(changes))?;
    Ok(Output { json, ..Output::message(format!("Storage pool {} was changed.", args.name)) })
}

fn update_tail(context: &Context, args: &UpdateTail) -> Result<Output, Error> {
    let changes = json!({"usage_strategy": strategy(&args.usage_strategy)});
    let json = context.client()?.admin_update("tails", &args.name, "tail", &changes)?;
    Ok(Output { json, ..Output::message(format!("Tail {} was changed.", args.name)) })
}

/// `none` clears it.
fn strategy(word: &str) -> Value {
    if word == "none" { Value::Null } else { json!(word) }
}

/// `bigv migrations`
pub fn list(context: &Context, args: &MigrationsArgs) -> Result<Output, Error> {
    require_admin(context)?;
    let answer = context.client()?.jobs(!args.all)?;
    Ok(Output { page: pages::jobs(&answer.value), json: answer.json })
}

/// `bigv show …`
pub fn show(context: &Context, command: &ShowCommand) -> Result<Output, Error> {
    require_admin(context)?;
    match command {
        ShowCommand::Old(command) => super::forced::show(context, command),
        ShowCommand::Migrations(args) => list(context, args),
        ShowCommand::Migration(args) => {
            let answer = context.client()?.job(args.id)?;
            if args.follow {
                return follow(context, answer, &WaitArgs { no_wait: false, wait_max: None });
            }
            Ok(Output { page: pages::job(&answer.value), json: answer.json })
        }
        ShowCommand::Migrating(MigratingCommand::Discs) => {
            let answer = context.client()?.migrating_discs()?;
            Ok(Output { page: pages::migrating(&answer.value), json: answer.json })
        }
    }
}

/// Waits as the options say, and shows the job as it is then.
fn follow(context: &Context, job: Answer<MigrationJob>, args: &WaitArgs) -> Result<Output, Error> {
    let job = wait::job::finished(context, job, args)?;
    Ok(Output { page: pages::job(&job.value), json: job.json })
}
