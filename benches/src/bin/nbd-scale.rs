//! `nbd-scale`: measures a tail with thousands of discs. `scripts/bench scale` builds and runs it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use benches::{
    record::{self, FORMAT, Memory},
    scale::{self, Config},
};
use clap::Parser;
use std::{fs, io::Write, path::PathBuf, process::ExitCode};

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
    /// The tail's program; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    tail: Option<PathBuf>,
    /// Folder for the discs, on ext4 or XFS
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    scratch: PathBuf,
    /// Folder for the records
    #[arg(long, value_name = "DIR", default_value = "target/bench/records")]
    out: PathBuf,
    /// Fail if a bar is not met
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be closed; the exit code then has to do.
            let _ = writeln!(std::io::stderr(), "scripts/bench scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let own = std::env::current_exe().context("cannot find this program itself")?;
    let config = Config {
        discs_count: arguments.discs,
        busy_count: arguments.busy,
        depth: arguments.depth,
        shards_count: arguments.shards,
        idle_seconds: arguments.idle_seconds,
        busy_seconds: arguments.busy_seconds,
        program: std::path::absolute(arguments.tail.unwrap_or_else(|| own.with_file_name("tail-nbd")))?,
        scratch: std::path::absolute(&arguments.scratch)?,
    };
    fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let measured = scale::run(&config, &mut std::io::stderr().lock())?;
    let stamp = measured.machine.date.replace(['-', ':'], "").replace(' ', "-");
    record::save(&arguments.out.join(format!("scale-{stamp}.json")), &measured)?;
    let memory = Memory { format: FORMAT, machine: measured.machine.clone(), memory: measured.memory.clone() };
    record::save(&arguments.out.join(format!("memory-{stamp}.json")), &memory)?;
    write!(std::io::stdout().lock(), "{}", measured.table())?;
    Ok(if arguments.check && !measured.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
