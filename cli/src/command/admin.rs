//! `bigv --admin …`: heads, tails and storage pools, as the brain lists them.

use crate::{
    args::{HeadCommand, PoolCommand, TailCommand},
    context::Context,
    error::Error,
    output::{Output, Page, migrations, pages},
};
use serde_json::Value;
use spine::api::MigrationPlanDisc;

/// What is shown of a kind of thing.
struct Kind {
    /// Its collection below `/admin`.
    collection: &'static str,
    /// One of it, in errors.
    noun: &'static str,
    columns: &'static [Column],
}

/// What it is called, the API's attribute, and how it is written.
type Column = (&'static str, &'static str, Style);

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Mib,
    YesNo,
    Percent,
    /// 10⁶ bytes a second; 0 is no limit.
    Limit,
}

const HEADS: Kind = Kind {
    collection: "heads",
    noun: "head",
    columns: &[
        ("head", "label", Style::Plain),
        ("online", "online", Style::YesNo),
        ("VMs", "virtual_machines_count", Style::Plain),
        ("memory", "total_memory", Style::Mib),
        ("free", "free_memory", Style::Mib),
        ("cores used", "used_cores", Style::Plain),
        ("address", "cnc_address", Style::Plain),
        ("note", "last_note", Style::Plain),
    ],
};

const TAILS: Kind = Kind {
    collection: "tails",
    noun: "tail",
    columns: &[
        ("tail", "label", Style::Plain),
        ("online", "online", Style::YesNo),
        ("pools", "pools", Style::Plain),
        ("use", "usage_strategy", Style::Plain),
        ("address", "cnc_address", Style::Plain),
        ("note", "last_note", Style::Plain),
    ],
};

const POOLS: Kind = Kind {
    collection: "storage_pools",
    noun: "storage pool",
    columns: &[
        ("pool", "label", Style::Plain),
        ("grade", "grade", Style::Plain),
        ("size", "size", Style::Mib),
        ("free", "free_space", Style::Mib),
        ("promised", "alloc", Style::Mib),
        ("discs", "discs", Style::Plain),
        ("short", "short", Style::YesNo),
        ("use", "usage_strategy", Style::Plain),
        ("note", "note", Style::Plain),
    ],
};

/// What a pool's own page says beyond that.
const POOL_SETTINGS: [Column; 5] = [
    ("overcommit", "overcommit_ratio", Style::Percent),
    ("moves at once", "migration_concurrency", Style::Plain),
    ("move limit", "migration_limit_mb_per_s", Style::Limit),
    ("short below", "short_percent", Style::Percent),
    ("relieves itself", "relieve_automatically", Style::YesNo),
];

/// `bigv head …`
pub fn heads(context: &Context, command: &HeadCommand) -> Result<Output, Error> {
    match command {
        HeadCommand::List => list(context, &HEADS),
        HeadCommand::Show(args) => show(context, &HEADS, &args.name),
    }
}

/// `bigv tail …`
pub fn tails(context: &Context, command: &TailCommand) -> Result<Output, Error> {
    match command {
        TailCommand::List => list(context, &TAILS),
        TailCommand::Show(args) => show(context, &TAILS, &args.name),
        TailCommand::Discs(args) => discs(context, &TAILS, &args.name),
    }
}

/// `bigv pool …`
pub fn pools(context: &Context, command: &PoolCommand) -> Result<Output, Error> {
    match command {
        PoolCommand::List => list(context, &POOLS),
        PoolCommand::Show(args) => show_pool(context, &args.name),
        PoolCommand::Discs(args) => discs(context, &POOLS, &args.name),
    }
}

fn list(context: &Context, kind: &Kind) -> Result<Output, Error> {
    require_admin(context)?;
    let answer = context.client()?.admin_list(kind.collection)?;
    let row = |thing: &Value| kind.columns.iter().map(|column| cell(thing, column)).collect();
    let page = Page::List {
        title: None,
        headers: kind.columns.iter().map(|(header, ..)| *header).collect(),
        rows: answer.value.iter().map(row).collect(),
        none: format!("There are no {}s.", kind.noun),
    };
    Ok(Output { json: answer.json, page })
}

fn show(context: &Context, kind: &Kind, name: &str) -> Result<Output, Error> {
    require_admin(context)?;
    let thing = context.client()?.admin_one(kind.collection, name, kind.noun)?;
    let facts = kind.columns.iter().map(|column| (column.0, cell(&thing, column))).collect();
    Ok(Output { json: thing, page: Page::Facts(facts) })
}

/// A pool, and the moves that the brain proposes when it is short.
fn show_pool(context: &Context, name: &str) -> Result<Output, Error> {
    require_admin(context)?;
    let pool = context.client()?.admin_one(POOLS.collection, name, POOLS.noun)?;
    let columns = POOLS.columns.iter().chain(&POOL_SETTINGS);
    let facts = Page::Facts(columns.map(|column| (column.0, cell(&pool, column))).collect());
    let page = match pool.get("short").and_then(Value::as_bool) {
        Some(true) => {
            let proposed = pool.get("proposed_moves").cloned().unwrap_or_default();
            // An older brain proposes nothing.
            let discs: Vec<MigrationPlanDisc> = serde_json::from_value(proposed).unwrap_or_default();
            Page::Several(vec![facts, migrations::proposed(&discs)])
        }
        _ => facts,
    };
    Ok(Output { json: pool, page })
}

fn discs(context: &Context, kind: &Kind, name: &str) -> Result<Output, Error> {
    require_admin(context)?;
    let answer = context.client()?.admin_discs(kind.collection, name, kind.noun)?;
    Ok(Output { page: pages::discs(&answer.value), json: answer.json })
}

/// The brain decides who may; the option keeps operators from acting as such by accident.
pub fn require_admin(context: &Context) -> Result<(), Error> {
    if context.globals().admin {
        return Ok(());
    }
    Err(Error::BadInput("this is for operators: say --admin".to_owned()))
}

fn cell(thing: &Value, (_, attribute, style): &Column) -> String {
    match (thing.get(attribute), style) {
        (None | Some(Value::Null), _) => String::new(),
        (Some(Value::Bool(yes)), Style::YesNo) => if *yes { "yes" } else { "no" }.to_owned(),
        (Some(Value::Number(number)), Style::Percent) => format!("{number} %"),
        (Some(Value::Number(number)), Style::Limit) => match number.as_u64() {
            Some(0) => "none".to_owned(),
            _ => format!("{number} MB/s"),
        },
        (Some(Value::Number(number)), Style::Mib) => number.as_i64().map_or_else(|| number.to_string(), pages::size),
        (Some(Value::String(text)), _) => text.clone(),
        (Some(Value::Array(items)), _) => {
            let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            items.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        (Some(other), _) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_the_brain_sends_can_be_shown() {
        let thing = json!({"a": null, "b": true, "c": 2048, "d": "x", "e": ["x", 5], "f": {"g": 1}, "h": -1, "z": 0});
        let cell = |attribute, style| cell(&thing, &("", attribute, style));
        assert_eq!(cell("a", Style::Mib), "");
        assert_eq!(cell("nothing", Style::YesNo), "");
        assert_eq!(cell("b", Style::YesNo), "yes");
        assert_eq!(cell("c", Style::Mib), "2 GiB");
        assert_eq!(cell("c", Style::Plain), "2048");
        assert_eq!(cell("d", Style::Mib), "x");
        assert_eq!(cell("e", Style::Plain), "x, 5");
        assert_eq!(cell("f", Style::Plain), "{\"g\":1}");
        assert_eq!(cell("h", Style::Mib), "-1 MiB");
        assert_eq!(cell("c", Style::Percent), "2048 %");
        assert_eq!(cell("c", Style::Limit), "2048 MB/s");
        assert_eq!(cell("z", Style::Limit), "none");
    }
}
