//! `bigv definitions`: what there is to choose from.

use crate::{
    args::DefinitionsArgs,
    context::Context,
    error::Error,
    output::{Output, pages},
};
use serde_json::Value;
use spine::api::Definition;

/// Shows them. Needs no login.
pub fn run(context: &Context, args: &DefinitionsArgs) -> Result<Output, Error> {
    let answer = context.anonymous()?.definitions()?;
    let Some(kind) = &args.kind else {
        let shown: Vec<&Definition> = answer.value.iter().collect();
        return Ok(Output { page: pages::definitions(&answer.value, &shown), json: answer.json });
    };
    let id = match kind.as_str() {
        "images" | "image" | "distribution" => "distributions".to_owned(),
        "grades" | "grade" | "storage" => "storage_grades".to_owned(),
        "zones" => "zone_names".to_owned(),
        other => other.replace('-', "_"),
    };
    let Some(at) = answer.value.iter().position(|definition| definition.id == id) else {
        let known: Vec<&str> = answer.value.iter().map(|definition| definition.id.as_str()).collect();
        return Err(Error::BadInput(format!("there are no definitions of {kind:?}, only of {}", known.join(", "))));
    };
    let page = pages::definitions(&answer.value, &[&answer.value[at]]);
    Ok(Output { page, json: answer.json.get(at).cloned().unwrap_or(Value::Null) })
}

/// The distribution to take when none is said: the first of the cluster's.
pub fn first_distribution(context: &Context) -> Result<String, Error> {
    let definitions = context.anonymous()?.definitions()?.value;
    let first = definitions
        .iter()
        .find(|definition| definition.id == "distributions")
        .and_then(|definition| definition.data.get(0)?.as_str().map(str::to_owned));
    first.ok_or_else(|| {
        Error::BadInput("this cluster has no distributions: say --vm-distribution none for a VM without one".to_owned())
    })
}
