//! `nbd-upgrade`: measures how long clients wait while a new process takes a tail over. `scripts/bench upgrade` builds and
//! runs it.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{
    command::{self, Places},
    upgrade::{self, Config},
};
use clap::Parser;
use std::{io::Write, process::ExitCode, time::Duration};

/// Measures how long each client waits while a new process takes a tail over, again and again.
#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench upgrade",
    after_help = "Examples:
  nice -n -15 scripts/bench upgrade             400 discs, 20 upgrades: some two minutes, as root
  scripts/bench upgrade --discs 40 --upgrades 3 a look

It needs root for its network namespaces. Clients and tail have the niceness of the command."
)]
struct Arguments {
    /// Discs, each with a client
    #[arg(long, value_name = "N", default_value_t = 400)]
    discs: u64,
    /// Clients that have a write of 64 KiB under way all the time
    #[arg(long, value_name = "N", default_value_t = 8)]
    writers: u64,
    /// Clients that have a read of 4 KiB under way all the time
    #[arg(long, value_name = "N", default_value_t = 2)]
    readers: u64,
    /// Milliseconds between two reads of each of the others
    #[arg(long, value_name = "MS", default_value_t = 50)]
    every_ms: u64,
    /// How often a new process takes over
    #[arg(long, value_name = "N", default_value_t = 20)]
    upgrades: u32,
    /// Threads of the tail that serve
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: usize,
    #[command(flatten)]
    places: Places,
    /// Fail if a bar is not met
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scratch = arguments.places.scratch.clone();
    command::run("scripts/bench upgrade", &scratch, || run(arguments))
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = Config {
        discs_count: arguments.discs,
        writers_count: arguments.writers,
        readers_count: arguments.readers,
        every: Duration::from_millis(arguments.every_ms),
        upgrades_count: arguments.upgrades,
        shards_count: arguments.shards,
        program: arguments.places.program()?,
        scratch: arguments.places.scratch()?,
    };
    let measured = upgrade::run(&config, &mut std::io::stderr().lock())?;
    arguments.places.save("upgrade", &measured.machine.date, &measured)?;
    write!(std::io::stdout().lock(), "{}", measured.table())?;
    Ok(if arguments.check && !measured.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
