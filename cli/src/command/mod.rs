//! One file a noun: each takes what was typed and gives an [`Output`].

mod account;
mod admin;
mod definitions;
mod disc;
mod forced;
mod group;
mod help;
mod migration;
mod power;
mod profile;
mod user;
pub mod vm;

use crate::{
    args::{self, Category, Cli},
    context::Context,
    error::Error,
    output::Output,
};

/// Carries out a command.
pub fn run(context: &Context, cli: &Cli) -> Result<Output, Error> {
    match &cli.category {
        None => help::run(&[]),
        Some(Category::Vm(command)) => vm::run(context, command),
        Some(Category::Disc(command)) => disc::run(context, command),
        Some(Category::Group(command)) => group::run(context, command),
        Some(Category::Account(command)) => account::run(context, command),
        Some(Category::User(command)) => user::run(context, command),
        Some(Category::Definitions(args)) => definitions::run(context, args),
        Some(Category::Profile(command)) => profile::run(context, command),
        Some(Category::Head(command)) => admin::heads(context, command),
        Some(Category::Tail(command)) => admin::tails(context, command),
        Some(Category::Pool(command)) => admin::pools(context, command),
        Some(Category::Migrate(command)) => migration::migrate(context, command),
        Some(Category::Create(command)) => migration::create(context, command),
        Some(Category::Cancel(command)) => migration::cancel(context, command),
        Some(Category::Update(command)) => migration::update(context, command),
        Some(Category::Regrade(command)) => migration::regrade(context, command),
        Some(Category::Empty(command)) => migration::empty(context, command),
        Some(Category::Promote(command)) => forced::promote(context, command),
        Some(Category::Take(command)) => forced::take(context, command),
        Some(Category::Remove(command)) => forced::remove(context, command),
        Some(Category::Migrations(args)) => migration::list(context, args),
        Some(Category::Show(command)) => migration::show(context, command),
        Some(Category::Completion(args)) => completion(args),
        Some(Category::Help(args)) => help::run(&args.topic),
    }
}

fn completion(args: &args::CompletionArgs) -> Result<Output, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::root(), "bigv", &mut script);
    Ok(Output::raw(String::from_utf8_lossy(&script).into_owned()))
}
