//! `bigv --admin …` about discs that move between tails: `migrate`, `create`, `cancel`, `update`, `regrade`, `empty`,
//! `migrations` and `show`.

use super::{ShowOldCommand, WaitArgs};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

/// What may be said of how a tail or a pool is used.
const STRATEGIES: [&str; 3] = ["empty", "default", "none"];

/// What to move.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Move a disc to another tail while its VM runs
    #[command(after_help = "Examples:\n  bigv migrate disc 45859 --admin\n  \
        bigv migrate disc 45859 tail2-sata1 --admin\n  \
        bigv migrate disc 45859 --limit 50 --admin\n  \
        bigv migrate disc 45859 --plan --admin\n\n\
        Without a pool the brain chooses one of the disc's grade. The disc's number is\n\
        in `bigv disc list` and `bigv pool discs`.")]
    Disc(MigrateDisc),
}

/// `migrate disc`.
#[derive(Debug, Args)]
pub struct MigrateDisc {
    /// The disc's number
    #[arg(value_name = "ID")]
    pub disc: u64,
    /// The storage pool it goes to: its label or number
    #[arg(value_name = "POOL", value_parser = NonEmptyStringValueParser::new())]
    pub pool: Option<String>,
    /// Send this many MB (10⁶ bytes) a second at most
    #[arg(long, value_name = "MB/S")]
    pub limit: Option<u32>,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "limit")]
    pub plan: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What to make.
#[derive(Debug, Subcommand)]
pub enum CreateCommand {
    /// Move many discs: a job
    #[command(after_help = "Examples:\n  bigv create migration --tail tail1 --plan --admin\n  \
        bigv create migration --tail tail1 --to-tail tail2 --admin\n  \
        bigv create migration --disc 17 --disc 18 --to-pool tail2-ssd1 --admin\n  \
        bigv create migration --pool tail1-sata1 --priority 10 --admin\n\n\
        --plan says what would become of each disc, and does nothing.")]
    Migration(CreateMigration),
}

/// `create migration`.
#[derive(Debug, Args)]
pub struct CreateMigration {
    /// A disc to be moved, by number; may be repeated
    #[arg(long = "disc", value_name = "ID")]
    pub discs: Vec<u64>,
    /// A storage pool whose discs are to be moved; may be repeated
    #[arg(long = "pool", value_name = "POOL")]
    pub pools: Vec<String>,
    /// A tail whose discs are to be moved; may be repeated
    #[arg(long = "tail", value_name = "TAIL")]
    pub tails: Vec<String>,
    /// A storage pool they may go to; may be repeated
    #[arg(long = "to-pool", value_name = "POOL")]
    pub to_pools: Vec<String>,
    /// A tail they may go to; may be repeated
    #[arg(long = "to-tail", value_name = "TAIL")]
    pub to_tails: Vec<String>,
    /// Jobs with a higher one go first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Send this many MB (10⁶ bytes) a second at most, for each disc
    #[arg(long, value_name = "MB/S")]
    pub limit: Option<u32>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What to call off.
#[derive(Debug, Subcommand)]
pub enum CancelCommand {
    /// Call off the move of a disc: it stays where it is
    #[command(after_help = "Examples:\n  bigv cancel migration --disc 45859 --admin\n\n\
        It counts until the disc is handed over. `bigv update migration` calls off all\n\
        or part of a job.")]
    Migration(CancelMigration),
}

/// `cancel migration`.
#[derive(Debug, Args)]
pub struct CancelMigration {
    /// The disc's number
    #[arg(long, value_name = "ID")]
    pub disc: u64,
}

/// What to change.
#[derive(Debug, Subcommand)]
pub enum UpdateCommand {
    /// Change a job: its priority, or call off all or part of it
    #[command(after_help = "Examples:\n  bigv update migration --id 5 --priority 10 --admin\n  \
        bigv update migration --id 5 --cancel-disc 17 --cancel-pool tail1-ssd1 --admin\n  \
        bigv update migration --id 5 --cancel-all --admin")]
    Migration(UpdateMigration),
    /// Change how a storage pool is used
    #[command(
        name = "pool",
        alias = "storage-pool",
        after_help = "Examples:\n  bigv update pool tail1-sata1 --migration-concurrency 4 --admin\n  \
        bigv update pool tail1-sata1 --migration-limit 100 --admin\n  \
        bigv update pool tail1-sata1 --usage-strategy empty --admin\n  \
        bigv update pool tail1-sata1 --relieve-automatically true --admin\n\n\
        The strategy is empty, default or none. A pool that is set to empty gets nothing\n\
        new, and what is in it moves away."
    )]
    Pool(UpdatePool),
    /// Change how a tail is used
    #[command(after_help = "Examples:\n  bigv update tail tail1 --usage-strategy empty --admin\n  \
        bigv update tail tail1 --usage-strategy none --admin\n\n\
        A tail that is set to empty gets nothing new, and what is on it moves away.")]
    Tail(UpdateTail),
}

/// `update migration`.
#[derive(Debug, Args)]
pub struct UpdateMigration {
    /// The job's number
    #[arg(long, value_name = "N")]
    pub id: u64,
    /// Jobs with a higher one go first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// A disc that is to stay, by number; may be repeated
    #[arg(long = "cancel-disc", value_name = "ID")]
    pub cancel_discs: Vec<u64>,
    /// A storage pool from or to which nothing is to be moved; may be repeated
    #[arg(long = "cancel-pool", value_name = "POOL")]
    pub cancel_pools: Vec<String>,
    /// A tail from or to which nothing is to be moved; may be repeated
    #[arg(long = "cancel-tail", value_name = "TAIL")]
    pub cancel_tails: Vec<String>,
    /// Call off all that is not done
    #[arg(long, conflicts_with_all = ["cancel_discs", "cancel_pools", "cancel_tails"])]
    pub cancel_all: bool,
}

/// `update pool`.
#[derive(Debug, Args)]
pub struct UpdatePool {
    /// Its label or number
    #[arg(value_name = "POOL", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// none clears it
    #[arg(long, value_name = "STRATEGY", value_parser = STRATEGIES)]
    pub usage_strategy: Option<String>,
    /// Percent of its size that may be promised to discs
    #[arg(long, value_name = "PERCENT")]
    pub overcommit_ratio: Option<u32>,
    /// How many moves it takes part in at once
    #[arg(long, value_name = "N")]
    pub migration_concurrency: Option<u32>,
    /// How fast each disc moves, in MB (10⁶ bytes) a second; 0: no limit
    #[arg(long, value_name = "MB/S")]
    pub migration_limit: Option<u32>,
    /// It is short with less free than this share of its size
    #[arg(long, value_name = "PERCENT")]
    pub short_percent: Option<u32>,
    /// Whether discs move away by themselves when it is short
    #[arg(long, value_name = "true|false")]
    pub relieve_automatically: Option<bool>,
    /// A new label
    #[arg(long, value_name = "LABEL")]
    pub label: Option<String>,
}

/// `update tail`.
#[derive(Debug, Args)]
pub struct UpdateTail {
    /// Its name or number
    #[arg(value_name = "TAIL", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// none clears it
    #[arg(long, value_name = "STRATEGY", value_parser = STRATEGIES)]
    pub usage_strategy: String,
}

/// What to give another grade.
#[derive(Debug, Subcommand)]
pub enum RegradeCommand {
    /// Move a disc to a storage pool of another grade while its VM runs
    #[command(after_help = "Examples:\n  bigv regrade disc 45859 ssd --admin\n  \
        bigv regrade disc 45859 ssd --limit 50 --admin\n  \
        bigv regrade disc 45859 ssd --plan --admin")]
    Disc(RegradeDisc),
}

/// `regrade disc`.
#[derive(Debug, Args)]
pub struct RegradeDisc {
    /// The disc's number
    #[arg(value_name = "ID")]
    pub disc: u64,
    /// The grade it is to have: see `bigv definitions grades`
    #[arg(value_name = "GRADE", value_parser = NonEmptyStringValueParser::new())]
    pub grade: String,
    /// Send this many MB (10⁶ bytes) a second at most
    #[arg(long, value_name = "MB/S")]
    pub limit: Option<u32>,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "limit")]
    pub plan: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What to empty.
#[derive(Debug, Subcommand)]
pub enum EmptyCommand {
    /// Move every disc off a tail; nothing new is placed there
    #[command(after_help = "Examples:\n  bigv empty tail tail1 --plan --admin\n  bigv empty tail tail1 --admin\n  \
        bigv empty tail tail1 --limit 50 --admin\n\n\
        `bigv update tail tail1 --usage-strategy none` opens it again.")]
    Tail(EmptyArgs),
    /// Move every disc out of a storage pool; nothing new is placed there
    #[command(
        alias = "storage-pool",
        after_help = "Examples:\n  bigv empty pool tail1-sata1 --plan --admin\n  bigv empty pool tail1-sata1 --admin\n  \
        bigv empty storage pool tail1-sata1 --admin\n\n\
        `bigv update pool tail1-sata1 --usage-strategy none` opens it again."
    )]
    Pool(EmptyArgs),
    /// The same, in two words
    #[command(subcommand, hide = true)]
    Storage(EmptyStorageCommand),
}

/// `empty storage`.
#[derive(Debug, Subcommand)]
pub enum EmptyStorageCommand {
    /// Move every disc out of a storage pool; nothing new is placed there
    #[command(after_help = "Examples:\n  bigv empty storage pool tail1-sata1 --admin")]
    Pool(EmptyArgs),
}

/// `empty …`.
#[derive(Debug, Args)]
pub struct EmptyArgs {
    /// Its label or number
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Send this many MB (10⁶ bytes) a second at most, for each disc
    #[arg(long, value_name = "MB/S")]
    pub limit: Option<u32>,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "limit")]
    pub plan: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `migrations`.
#[derive(Debug, Args)]
pub struct MigrationsArgs {
    /// Those that are finished, too
    #[arg(long)]
    pub all: bool,
}

/// What to see of moves.
#[derive(Debug, Subcommand)]
pub enum ShowCommand {
    /// One job with each of its discs
    #[command(after_help = "Examples:\n  bigv show migration 5 --admin\n  bigv show migration 5 --follow --admin")]
    Migration(ShowMigration),
    /// The jobs
    #[command(after_help = "Examples:\n  bigv show migrations --admin\n  bigv show migrations --all --admin")]
    Migrations(MigrationsArgs),
    /// What is moving
    #[command(subcommand)]
    Migrating(MigratingCommand),
    /// What was kept
    #[command(subcommand)]
    Old(ShowOldCommand),
}

/// `show migrating`.
#[derive(Debug, Subcommand)]
pub enum MigratingCommand {
    /// The discs that are moving, and how far they are
    #[command(after_help = "Examples:\n  bigv show migrating discs --admin")]
    Discs,
}

/// `show migration`.
#[derive(Debug, Args)]
pub struct ShowMigration {
    /// The job's number
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Wait until it has ended, and show how far it is meanwhile
    #[arg(long)]
    pub follow: bool,
}
