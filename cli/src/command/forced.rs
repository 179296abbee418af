//! `bigv --admin promote …`, `take back …`, `remove old copies` and `show old copies`.

use super::admin::require_admin;
use crate::{
    args::{ForceDisc, PromoteCommand, RemoveCommand, RemoveOldCommand, ShowOldCommand, TakeBackCommand, TakeCommand},
    context::Context,
    error::Error,
    output::{Output, migrations as pages},
};
use serde_json::json;

/// `bigv promote …`
pub fn promote(context: &Context, PromoteCommand::Disc(args): &PromoteCommand) -> Result<Output, Error> {
    let question = format!(
        "Disc {} is to be had by the tail that it was about to move to, without the one that has it.",
        args.disc
    );
    force(context, args, "promote", &question)
}

/// `bigv take …`
pub fn take(context: &Context, TakeCommand::Back(TakeBackCommand::Disc(args)): &TakeCommand) -> Result<Output, Error> {
    let question = format!("Disc {} is to be taken back from the tail that it was given to.", args.disc);
    force(context, args, "take_back", &question)
}

fn force(context: &Context, args: &ForceDisc, action: &str, question: &str) -> Result<Output, Error> {
    require_admin(context)?;
    let reason = context.need(args.reason.clone(), "the reason", "--reason")?;
    let question = format!("{question} Writes that the lost tail has acknowledged may be lost for good.");
    confirm(context, args.disc, args.disc_confirmation, &question)?;
    let order = json!({"reason": reason, "acknowledged_writes_may_be_lost": true});
    let json = context.client()?.force_disc(args.disc, action, &order)?;
    let text = format!(
        "What becomes of disc {} is written down, and is being carried out: `bigv show migrating discs --admin` lists it \
         until that is done. What the lost tail has of it is kept: `bigv show old copies --admin`.",
        args.disc
    );
    Ok(Output { json, ..Output::message(text) })
}

/// `bigv remove …`
pub fn remove(
    context: &Context,
    RemoveCommand::Old(RemoveOldCommand::Copies(args)): &RemoveCommand,
) -> Result<Output, Error> {
    require_admin(context)?;
    let question =
        format!("Old copies of disc {} are to be destroyed. They may have the only copy of a write.", args.disc);
    confirm(context, args.disc, args.disc_confirmation, &question)?;
    let json = context.client()?.force_disc(args.disc, "remove_old_copies", &json!({}))?;
    Ok(Output { json, ..Output::message(format!("The old copies of disc {} are being removed.", args.disc)) })
}

/// `bigv show old …`
pub fn show(context: &Context, ShowOldCommand::Copies: &ShowOldCommand) -> Result<Output, Error> {
    require_admin(context)?;
    let answer = context.client()?.old_copies()?;
    Ok(Output { page: pages::old_copies(&answer.value), json: answer.json })
}

/// The disc is named twice.
fn confirm(context: &Context, disc: u64, again: Option<u64>, question: &str) -> Result<(), Error> {
    match again {
        Some(again) if again == disc => Ok(()),
        Some(again) => {
            Err(Error::BadInput(format!("--disc-confirmation says {again}, but the disc that it is about is {disc}")))
        }
        None => context.confirm_by_name(question, "the disc's number", &disc.to_string(), "--disc-confirmation"),
    }
}
