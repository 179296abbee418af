//! `bigv disc …`.

use crate::{
    args::{DiscCommand, DiscDelete, DiscNew, DiscResize, words},
    client::VmPath,
    context::Context,
    error::Error,
    output::{Output, pages},
    wait,
};
use serde_json::json;
use spine::{
    api::{Disc, NewDisc},
    size::SizeMib,
    spec::DiscSpec,
};

/// Carries out one of them.
pub fn run(context: &Context, command: &DiscCommand) -> Result<Output, Error> {
    match command {
        DiscCommand::New(args) => new(context, args),
        DiscCommand::List(target) => {
            let answer = context.client()?.discs(&context.vm_path(target.typed())?)?;
            Ok(Output { page: pages::discs(&answer.value), json: answer.json })
        }
        DiscCommand::Resize(args) => resize(context, args),
        DiscCommand::Delete(args) => delete(context, args),
    }
}

fn new(context: &Context, args: &DiscNew) -> Result<Output, Error> {
    let said = match (&args.disc_grade, &args.disc_size) {
        (Some(grade), Some(size)) => Some(format!("{grade}:{size}")),
        (None, size) => size.clone(),
        (Some(grade), None) => {
            let size = context.need(args.disc.clone(), "the disc's size", "--disc-size")?;
            Some(format!("{grade}:{size}"))
        }
    };
    let positional_disc = if args.disc_grade.is_some() && args.disc_size.is_none() { &None } else { &args.disc };
    let [vm, disc] = words::fill([&args.vm_name, &said], [&args.vm, positional_disc])?;
    let vm = context.vm_path(vm.as_deref())?;
    let disc = context.need(disc, "the disc, as [GRADE:]SIZE", "DISC or --disc-size")?;
    let spec: DiscSpec = disc.parse().map_err(|e: spine::spec::DiscSpecError| Error::BadInput(e.to_string()))?;
    let client = context.client()?;
    let label = match &args.disc_label {
        Some(label) => label.clone(),
        None => free_label(&client.discs(&vm)?.value),
    };
    let order = NewDisc { label: Some(label), storage_grade: spec.grade.to_string(), size: mib(spec.size)? };
    let made = client.create_disc(&vm, &order)?;
    let answer = wait::disc::settled(context, &vm, made, None, &args.wait)?;
    Ok(Output { page: pages::discs(std::slice::from_ref(&answer.value)), json: answer.json })
}

/// `disc-N`, one above the number of discs and above every `disc-N` there is.
fn free_label(discs: &[Disc]) -> String {
    let numbers = discs.iter().filter_map(|disc| disc.label.strip_prefix("disc-")?.parse::<u32>().ok());
    let highest = numbers.max().unwrap_or(0).max(u32::try_from(discs.len()).unwrap_or(0));
    format!("disc-{}", highest.saturating_add(1))
}

fn resize(context: &Context, args: &DiscResize) -> Result<Output, Error> {
    let options = [&args.vm_name, &args.disc_label, &args.disc_size];
    let [vm, label, size] = words::fill(options, [&args.vm, &args.label, &args.size])?;
    let vm = context.vm_path(vm.as_deref())?;
    let label = need_label(context, label)?;
    let size = context.need(size, "the new size, or +SIZE", "SIZE or --disc-size")?;
    let (grow_by, text) = match size.strip_prefix('+') {
        Some(text) => (true, text),
        None => (false, size.as_str()),
    };
    let given: SizeMib = text.parse().map_err(|e: spine::size::SizeError| Error::BadInput(e.to_string()))?;
    let client = context.client()?;
    let before = client.disc(&vm, &label)?.value;
    let now = before.size;
    let wanted = if grow_by { now.saturating_add(mib(given)?) } else { mib(given)? };
    let mut changes = json!({ "size": wanted });
    if wanted < now {
        let question = format!(
            "Shrinking disc {label:?} of {vm} from {} to {} loses what is behind the new end. Go on?",
            pages::size(now),
            pages::size(wanted)
        );
        context.confirm(&question, args.force.force, "--force")?;
        changes["force"] = json!(true);
    }
    let changed = client.update_disc(&vm, &label, &changes)?;
    let answer = wait::disc::settled(context, &vm, changed, Some(&before), &args.wait)?;
    Ok(Output { page: pages::discs(std::slice::from_ref(&answer.value)), json: answer.json })
}

fn delete(context: &Context, args: &DiscDelete) -> Result<Output, Error> {
    let [vm, label] = words::fill([&args.vm_name, &args.disc_label], [&args.vm, &args.label])?;
    let vm = context.vm_path(vm.as_deref())?;
    let label = need_label(context, label)?;
    let confirmed = match &args.disc_label_confirmation {
        Some(again) if *again != label => {
            return Err(Error::BadInput(format!(
                "--disc-label-confirmation says {again:?}, but the disc to be destroyed is {label:?}"
            )));
        }
        other => other.is_some(),
    };
    check_exists(context, &vm, &label)?;
    let question = format!("Destroy disc {label:?} of {vm} and all that is on it, for good?");
    context.confirm(&question, confirmed || args.force.force, "--force or --disc-label-confirmation")?;
    context.client()?.purge_disc(&vm, &label)?;
    Ok(Output::message(format!("Disc {label} of {vm} was destroyed")))
}

/// Before a question is asked about it.
fn check_exists(context: &Context, vm: &VmPath, label: &str) -> Result<(), Error> {
    context.client()?.disc(vm, label)?;
    Ok(())
}

fn need_label(context: &Context, label: Option<String>) -> Result<String, Error> {
    context.need(label, "the disc's label", "LABEL or --disc-label")
}

/// The API counts in signed MiB.
fn mib(size: SizeMib) -> Result<i64, Error> {
    i64::try_from(size.0).map_err(|_| Error::BadInput(format!("{size} is too big")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disc(label: &str) -> Disc {
        serde_json::from_value(json!({
            "id": 1, "label": label, "size": 50, "virtual_machine_id": 1, "storage_pool": null,
            "storage_grade": "sata", "backup_count": 0, "backups_enabled": false
        }))
        .unwrap()
    }

    #[test]
    fn a_new_disc_gets_a_label_that_is_free() {
        let label = |labels: &[&str]| free_label(&labels.iter().map(|label| disc(label)).collect::<Vec<_>>());
        assert_eq!(label(&[]), "disc-1");
        assert_eq!(label(&["disc-1"]), "disc-2");
        assert_eq!(label(&["vda", "data"]), "disc-3");
        assert_eq!(label(&["disc-7"]), "disc-8");
        assert_eq!(label(&["disc-4294967295"]), "disc-4294967295", "the brain refuses what is taken");
    }
}
