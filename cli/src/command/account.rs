//! `bigv account …`.

use crate::{
    args::{AccountCommand, AccountTarget},
    context::Context,
    error::Error,
    output::{Output, pages},
};

/// Carries out one of them.
pub fn run(context: &Context, command: &AccountCommand) -> Result<Output, Error> {
    match command {
        AccountCommand::Show(target) => {
            let name = match &target.target {
                Some(name) => name.clone(),
                None => context.account()?,
            };
            let answer = context.client()?.account(&name, false)?;
            Ok(Output { page: pages::account(&answer.value), json: answer.json })
        }
        AccountCommand::List => {
            let answer = context.client()?.accounts()?;
            let page = pages::accounts(&answer.value, context.settings.account.as_deref());
            Ok(Output { page, json: answer.json })
        }
        AccountCommand::Select(target) => select(context, target),
    }
}

fn select(context: &Context, target: &AccountTarget) -> Result<Output, Error> {
    let typed = target.target.clone().or_else(|| context.globals().account_name.clone());
    let name = context.need(typed, "the account", "ACCOUNT or --account")?;
    // By its name, even if it was typed as a number; and it must exist.
    let name = context.client()?.account(&name, false)?.value.name;
    let mut profile = context.profile().clone();
    profile.account = Some(name.clone());
    context.store()?.save(&profile)?;
    Ok(Output::message(format!("Names that do not say an account now mean {name}.")))
}
