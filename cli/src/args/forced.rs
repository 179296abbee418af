//! `bigv --admin …` about discs of which one tail is lost for good: `promote`, `take back`, and the old copies that remain.

use clap::{Args, Subcommand};

/// What to promote.
#[derive(Debug, Subcommand)]
pub enum PromoteCommand {
    /// The tail that a disc was about to move to gets it: the one that had it is lost
    #[command(after_help = "Examples:\n  bigv promote disc 45859 --reason \"tail1 burnt down\" --admin\n\n\
        Writes that the lost tail has acknowledged may be lost. The VM must be off; it\n\
        is started with new keys. Should the lost tail come back, it is told first that\n\
        the disc is not its own any more, and keeps what it has.")]
    Disc(ForceDisc),
}

/// What to take.
#[derive(Debug, Subcommand)]
pub enum TakeCommand {
    /// Take back what was given to a tail that is lost
    #[command(subcommand)]
    Back(TakeBackCommand),
}

/// What to take back.
#[derive(Debug, Subcommand)]
pub enum TakeBackCommand {
    /// The tail that has given a disc up gets it back: the one that it went to is lost
    #[command(after_help = "Examples:\n  bigv take back disc 45859 --reason \"tail2 burnt down\" --admin\n\n\
        Writes that the lost tail has acknowledged may be lost. The VM must be off; it\n\
        is started with new keys. Should the lost tail come back, it is told first that\n\
        the disc is not its own, and keeps what it has.")]
    Disc(ForceDisc),
}

/// `promote disc` and `take back disc`.
#[derive(Debug, Args)]
pub struct ForceDisc {
    /// The disc's number
    #[arg(value_name = "ID")]
    pub disc: u64,
    /// Why, for those who look later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The disc's number once more: does it without asking
    #[arg(long, value_name = "ID")]
    pub disc_confirmation: Option<u64>,
}

/// What to remove.
#[derive(Debug, Subcommand)]
pub enum RemoveCommand {
    /// What was kept
    #[command(subcommand)]
    Old(RemoveOldCommand),
}

/// What to remove of what was kept.
#[derive(Debug, Subcommand)]
pub enum RemoveOldCommand {
    /// Destroy what a tail has of a disc that was given to another one
    #[command(after_help = "Examples:\n  bigv remove old copies 45859 --admin\n\n\
        They may have the only copy of a write. `bigv show old copies` lists them.")]
    Copies(RemoveOldCopies),
}

/// `remove old copies`.
#[derive(Debug, Args)]
pub struct RemoveOldCopies {
    /// The disc's number
    #[arg(value_name = "ID")]
    pub disc: u64,
    /// The disc's number once more: does it without asking
    #[arg(long, value_name = "ID")]
    pub disc_confirmation: Option<u64>,
}

/// `show old`.
#[derive(Debug, Subcommand)]
pub enum ShowOldCommand {
    /// What tails have of discs that are other tails' now
    #[command(after_help = "Examples:\n  bigv show old copies --admin")]
    Copies,
}
