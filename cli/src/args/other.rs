//! `bigv group …`, `account`, `user`, `definitions`, `profile`, `completion` and `help`.

use super::ForceArgs;
use clap::{Args, Subcommand};

/// What to do about groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups of an account
    #[command(after_help = "Examples:\n  bigv group list\n  bigv group list --account acme")]
    List,
    /// Make a group
    #[command(after_help = "Examples:\n  bigv group new shop\n  bigv group new shop.acme")]
    New(GroupTarget),
    /// Remove an empty group
    #[command(after_help = "Examples:\n  bigv group delete shop")]
    Delete(GroupDelete),
}

/// Which group.
#[derive(Debug, Args)]
pub struct GroupTarget {
    /// The group: group[.account]; or say it with --group-name
    #[arg(value_name = "GROUP")]
    pub target: Option<String>,
}

/// `group delete`.
#[derive(Debug, Args)]
pub struct GroupDelete {
    /// Which.
    #[command(flatten)]
    pub target: GroupTarget,
    /// Asking.
    #[command(flatten)]
    pub force: ForceArgs,
}

/// What to do about accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Show an account: its groups and their VMs
    #[command(after_help = "Examples:\n  bigv account show\n  bigv account show acme")]
    Show(AccountTarget),
    /// List the accounts you can use
    #[command(after_help = "Examples:\n  bigv account list")]
    List,
    /// Make an account the profile's default
    #[command(after_help = "Examples:\n  bigv account select acme")]
    Select(AccountTarget),
}

/// Which account.
#[derive(Debug, Args)]
pub struct AccountTarget {
    /// The account; or say it with --account
    #[arg(value_name = "ACCOUNT")]
    pub target: Option<String>,
}

/// What to do about logins.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Show a login: yours, if none is named
    #[command(after_help = "Examples:\n  bigv user show\n  bigv user show alice")]
    Show(UserTarget),
    /// SSH keys, as the console uses them
    #[command(subcommand, alias = "keys")]
    Key(KeyCommand),
}

/// Which login.
#[derive(Debug, Args)]
pub struct UserTarget {
    /// The login; yours if left out
    #[arg(value_name = "USER")]
    pub user: Option<String>,
}

/// What to do about SSH keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List your SSH keys
    #[command(after_help = "Examples:\n  bigv user key list")]
    List(UserTarget),
    /// Add an SSH public key
    #[command(
        after_help = "Examples:\n  bigv user key add ~/.ssh/id_ed25519.pub\n  bigv user key add 'ssh-ed25519 AAAA… me@home'"
    )]
    Add(KeyChange),
    /// Remove an SSH public key
    #[command(
        after_help = "Examples:\n  bigv user key delete me@home\n  bigv user key delete 'ssh-ed25519 AAAA… me@home'"
    )]
    Delete(KeyChange),
}

/// Which key.
#[derive(Debug, Args)]
pub struct KeyChange {
    /// The key: a file, or the key itself; to delete also its comment
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Whose; yours if left out
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
}

/// `definitions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bigv definitions\n  bigv definitions images\n  bigv definitions grades")]
pub struct DefinitionsArgs {
    /// Only this: images, grades, hardware-profiles, keymaps, sendkeys or zones
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
}

/// What to do about the profile.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Write a profile from --location, --username, --account and the like
    #[command(after_help = "Examples:\n  \
        bigv profile generate --username alice --location https://brain.example\n\n\
        The password is not stored: `bigv profile password store` does that.")]
    Generate(ProfileGenerate),
    /// Show what is in the profile, but not the password
    #[command(after_help = "Examples:\n  bigv profile show")]
    Show,
    /// The password in the profile
    #[command(subcommand)]
    Password(PasswordCommand),
}

/// `profile generate`.
#[derive(Debug, Args)]
pub struct ProfileGenerate {
    /// Arguments for every ssh of `vm console`, split as a shell would
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub ssh_args: Option<String>,
    /// Asking.
    #[command(flatten)]
    pub force: ForceArgs,
}

/// What to do about the password in the profile.
#[derive(Debug, Subcommand)]
pub enum PasswordCommand {
    /// Store the password, in the clear, in a file that only you can read
    #[command(after_help = "Examples:\n  bigv profile password store\n  BIGV_PASSWORD=… bigv profile password store")]
    Store,
    /// Remove the password
    #[command(after_help = "Examples:\n  bigv profile password forget")]
    Forget,
}

/// `completion`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  eval \"$(bigv completion bash)\"\n  bigv completion zsh > ~/.zfunc/_bigv")]
pub struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `help`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bigv help vm\n  bigv help vm new\n  bigv help exit-codes")]
pub struct HelpArgs {
    /// A category and a command, or a topic: exit-codes, settings, names, scripting
    #[arg(value_name = "TOPIC")]
    pub topic: Vec<String>,
}
