//! `nbd-migrate`: measures live moves of discs between two tails. `scripts/bench migrate` builds and runs it.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{
    command::{self, Places},
    migrate::{self, Config},
};
use clap::Parser;
use std::{io::Write, process::ExitCode};

/// Measures moves of discs between two tails while guests write, and checks every byte afterwards.
#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench migrate",
    after_help = "Examples:
  scripts/bench migrate              50 moves of 1 GiB: as root
  scripts/bench migrate --quick      5 moves of 128 MiB: a few minutes
  scripts/bench migrate --moves 200 --data-mib 64

Exits with 1 where a bar is not met. It needs root for its network namespaces, and twice the data's size in the scratch
folder."
)]
struct Arguments {
    /// A few small moves
    #[arg(long)]
    quick: bool,
    /// Moves under load [default: 50, quick: 5]
    #[arg(long, value_name = "N")]
    moves: Option<u32>,
    /// Data on the disc that moves, in MiB [default: 1024, quick: 128]
    #[arg(long, value_name = "MIB")]
    data_mib: Option<u64>,
    /// Discs that move at once [default: 100, quick: 10]
    #[arg(long, value_name = "N")]
    many: Option<u64>,
    /// Threads of each tail that serve
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: usize,
    /// How the tails read and write: cached, copied or direct, as a pool's io
    #[arg(long, value_name = "HOW", default_value = "cached")]
    io: String,
    #[command(flatten)]
    places: Places,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scratch = arguments.places.scratch.clone();
    command::run("scripts/bench migrate", &scratch, || run(arguments))
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let quick = |full, quick| if arguments.quick { quick } else { full };
    let config = Config {
        moves_count: arguments.moves.unwrap_or(quick(50, 5) as u32),
        data_mib: arguments.data_mib.unwrap_or(quick(1024, 128)),
        many_count: arguments.many.unwrap_or(quick(100, 10)),
        shards_count: arguments.shards,
        io: arguments.io,
        program: arguments.places.program()?,
        scratch: arguments.places.scratch()?,
    };
    let measured = migrate::run(&config, &mut std::io::stderr().lock())?;
    arguments.places.save("migrate", &measured.machine.date, &measured)?;
    write!(std::io::stdout().lock(), "{}", measured.table())?;
    Ok(if measured.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
