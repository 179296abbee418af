//! `bigv --admin …`: what operators see of the cluster itself.

use clap::{Args, Subcommand};

/// What to see of heads.
#[derive(Debug, Subcommand)]
pub enum HeadCommand {
    /// List the heads
    #[command(after_help = "Examples:\n  bigv head list --admin")]
    List,
    /// Show one head
    #[command(after_help = "Examples:\n  bigv head show head1 --admin")]
    Show(NamedArgs),
}

/// What to see of tails.
#[derive(Debug, Subcommand)]
pub enum TailCommand {
    /// List the tails
    #[command(after_help = "Examples:\n  bigv tail list --admin")]
    List,
    /// Show one tail
    #[command(after_help = "Examples:\n  bigv tail show tail1 --admin")]
    Show(NamedArgs),
    /// List the discs on a tail
    #[command(after_help = "Examples:\n  bigv tail discs tail1 --admin")]
    Discs(NamedArgs),
}

/// What to see of storage pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// List the storage pools
    #[command(after_help = "Examples:\n  bigv pool list --admin")]
    List,
    /// Show one storage pool
    #[command(after_help = "Examples:\n  bigv pool show tail1-sata1 --admin")]
    Show(NamedArgs),
    /// List the discs in a storage pool
    #[command(after_help = "Examples:\n  bigv pool discs tail1-sata1 --admin")]
    Discs(NamedArgs),
}

/// Which one.
#[derive(Debug, Args)]
pub struct NamedArgs {
    /// Its label or number
    #[arg(value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: String,
}
