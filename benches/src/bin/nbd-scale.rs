//! `nbd-scale`: measures a tail with thousands of discs. `scripts/bench scale` builds and runs it.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{
    command::{self, Places},
    record::{FORMAT, Memory},
    scale::{self, Config},
};
use clap::Parser;
use std::{io::Write, process::ExitCode};

/// Measures one tail with thousands of discs, each on its own address and with a connected client.
#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench scale",
    after_help = "Examples:
  scripts/bench scale                           4,000 discs: some three minutes, as root
  scripts/bench scale --discs 300 --busy 50     a look
  scripts/bench report target/bench/records     the memory plot is made from what this saves

It needs root for its network namespaces, and two processors or more."
)]
struct Arguments {
    /// Discs, each with an idle client
    #[arg(long, value_name = "N", default_value_t = 4000)]
    discs: u64,
    /// How many of them are busy at once
    #[arg(long, value_name = "N", default_value_t = 400)]
    busy: u64,
    /// Requests in flight on each of them
    #[arg(long, value_name = "N", default_value_t = 8)]
    depth: usize,
    /// Threads of the tail that serve
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: usize,
    /// Seconds of idleness that are measured
    #[arg(long, value_name = "S", default_value_t = 20.0)]
    idle_seconds: f64,
    /// Seconds of each of the six loads
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    busy_seconds: f64,
    #[command(flatten)]
    places: Places,
    /// Fail if a bar is not met
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scratch = arguments.places.scratch.clone();
    command::run("scripts/bench scale", &scratch, || run(arguments))
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = Config {
        discs_count: arguments.discs,
        busy_count: arguments.busy,
        depth: arguments.depth,
        shards_count: arguments.shards,
        idle_seconds: arguments.idle_seconds,
        busy_seconds: arguments.busy_seconds,
        program: arguments.places.program()?,
        scratch: arguments.places.scratch()?,
    };
    let measured = scale::run(&config, &mut std::io::stderr().lock())?;
    arguments.places.save("scale", &measured.machine.date, &measured)?;
    let memory = Memory { format: FORMAT, machine: measured.machine.clone(), memory: measured.memory.clone() };
    arguments.places.save("memory", &measured.machine.date, &memory)?;
    write!(std::io::stdout().lock(), "{}", measured.table())?;
    Ok(if arguments.check && !measured.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
