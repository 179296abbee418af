//! What was typed. No I/O here, and no defaults that come from files.
//!
//! Positional arguments and options are two ways to say the same: `disc resize web1 disc-2 +1GB` is
//! `disc resize --vm-name web1 --disc-label disc-2 --disc-size +1GB`. What neither says is asked for
//! on a terminal, and is an error elsewhere.

mod admin;
mod disc;
mod forced;
mod migration;
mod other;
mod vm;
pub mod words;

pub use admin::*;
pub use disc::*;
pub use forced::*;
pub use migration::*;
pub use other::*;
pub use vm::*;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "bigv",
    version,
    about = "Virtual machines, their discs and everything around them",
    disable_help_subcommand = true,
    max_term_width = 80,
    after_help = "Examples:\n  \
        bigv profile generate --username alice --location https://brain.example\n  \
        bigv vm new web1 --vm-discs sata:25GB,ssd:5GB\n  \
        bigv vm list\n  \
        bigv vm console web1\n\n\
        `bigv help vm` and `bigv help vm new` say more. Other topics of `bigv help`:\n\
        exit-codes, settings, names, scripting."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What it is about.
    #[command(subcommand)]
    pub category: Option<Category>,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// The brain's base URL
    #[arg(long, global = true, value_name = "URL")]
    pub location: Option<String>,
    /// Whom to log in as
    #[arg(long, global = true, value_name = "USER")]
    pub username: Option<String>,
    /// Their password; everyone on this machine can see it: prefer BIGV_PASSWORD or the profile
    #[arg(long, global = true, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// The account for names that do not say one
    #[arg(long = "account", global = true, value_name = "ACCOUNT")]
    pub account_name: Option<String>,
    /// The group for names that do not say one
    #[arg(long, visible_alias = "group", alias = "vm-group", global = true, value_name = "GROUP")]
    pub group_name: Option<String>,
    /// The profile to use, a folder in ~/.bigv
    #[arg(long = "profile", global = true, value_name = "NAME")]
    pub profile_name: Option<String>,
    /// How to show the result: human, json or table
    #[arg(long, global = true, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output_format: Option<Format>,
    /// Never ask: what is missing is an error
    #[arg(long, global = true)]
    pub no_prompt: bool,
    /// For scripts: --no-prompt --output-format json
    #[arg(short, long, global = true)]
    pub batch: bool,
    /// The same as --output-format json
    #[arg(long, global = true, conflicts_with = "output_format")]
    pub json: bool,
    /// Act as an operator: heads, tails and pools can be seen
    #[arg(long, global = true)]
    pub admin: bool,
    /// Allow plain http to another machine
    #[arg(long, global = true)]
    pub insecure: bool,
}

/// How to show a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Human,
    /// The API's objects
    Json,
    /// Boxed tables
    Table,
}

/// What a command is about.
#[derive(Debug, Subcommand)]
pub enum Category {
    /// Virtual machines
    #[command(subcommand)]
    Vm(VmCommand),
    /// Discs of virtual machines
    #[command(subcommand, alias = "disk")]
    Disc(DiscCommand),
    /// Groups of virtual machines
    #[command(subcommand)]
    Group(GroupCommand),
    /// Accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Logins and their SSH keys
    #[command(subcommand)]
    User(UserCommand),
    /// What there is to choose from: images, storage grades, …
    #[command(alias = "definition")]
    Definitions(DefinitionsArgs),
    /// Where the brain is and who you are, kept in ~/.bigv
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Heads, which run VMs; needs --admin
    #[command(subcommand)]
    Head(HeadCommand),
    /// Tails, which serve discs; needs --admin
    #[command(subcommand)]
    Tail(TailCommand),
    /// Storage pools of the tails; needs --admin
    #[command(subcommand, name = "pool", alias = "storage-pool")]
    Pool(PoolCommand),
    /// Move a disc to another tail; needs --admin
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Move many discs; needs --admin
    #[command(subcommand)]
    Create(CreateCommand),
    /// Call off what was ordered; needs --admin
    #[command(subcommand)]
    Cancel(CancelCommand),
    /// Change jobs, storage pools and tails; needs --admin
    #[command(subcommand)]
    Update(UpdateCommand),
    /// Give a disc another grade; needs --admin
    #[command(subcommand)]
    Regrade(RegradeCommand),
    /// Move every disc off a tail or out of a pool; needs --admin
    #[command(subcommand)]
    Empty(EmptyCommand),
    /// A tail is lost: give its disc to the other; needs --admin
    #[command(subcommand)]
    Promote(PromoteCommand),
    /// A tail is lost: take a disc back; needs --admin
    #[command(subcommand)]
    Take(TakeCommand),
    /// Destroy what was kept of such discs; needs --admin
    #[command(subcommand)]
    Remove(RemoveCommand),
    /// The jobs that move discs; needs --admin
    #[command(after_help = "Examples:\n  bigv migrations --admin\n  bigv migrations --all --admin")]
    Migrations(MigrationsArgs),
    /// What moves, and how far it is; needs --admin
    #[command(subcommand)]
    Show(ShowCommand),
    /// Completion for a shell: eval "$(bigv completion bash)"
    Completion(CompletionArgs),
    /// Help about a category, a command or a topic
    Help(HelpArgs),
}

/// How long to wait for what was started.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
    /// Wait this many seconds at most; what was started goes on all the same
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), conflicts_with = "no_wait")]
    pub wait_max: Option<u64>,
}

/// Whether to ask first.
#[derive(Debug, Args)]
pub struct ForceArgs {
    /// Do it without asking
    #[arg(long)]
    pub force: bool,
}

/// The command line's grammar.
pub fn root() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        root().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_that_fits_a_terminal() {
        fn check(command: &clap::Command, path: &str, wrong: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|sub| check(sub, &path, wrong));
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if !help.contains(path.trim()) {
                wrong.push(format!("{path} has no example"));
            }
            wrong.extend(help.lines().filter(|line| line.chars().count() > 80).map(str::to_owned));
        }
        let mut wrong = Vec::new();
        check(&root(), "", &mut wrong);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
