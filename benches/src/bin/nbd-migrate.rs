//! `nbd-migrate`: measures live moves of discs between two tails. `scripts/bench migrate` builds and runs it.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{
    command::{self, Places},
    migrate::{self, Config, page},
};
use clap::{Parser, builder::PossibleValuesParser};
use std::{io::Write, path::PathBuf, process::ExitCode};

/// Measures moves of discs between two tails while guests write, and checks every byte afterwards.
#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench migrate",
    after_help = "Examples:
  scripts/bench migrate              all of it, as root
  scripts/bench migrate --quick      a look: some minutes
  scripts/bench migrate --only pauses --moves 200 --data-mib 64

Exits with 1 where a bar is not met. It needs root for its network namespaces, and twice the data's size in the scratch
folder."
)]
struct Arguments {
    /// A few small moves
    #[arg(long)]
    quick: bool,
    /// Only this question, after the first (an idle disc); may be given again
    #[arg(long, value_name = "QUESTION", value_parser = PossibleValuesParser::new(migrate::question_names()))]
    only: Vec<String>,
    /// Moves under load [default: 50, quick: 5]
    #[arg(long, value_name = "N")]
    moves: Option<u32>,
    /// Data on the disc that moves, in MiB [default: 1024, quick: 128]
    #[arg(long, value_name = "MIB")]
    data_mib: Option<u64>,
    /// Discs that move at once [default: 100, quick: 10]
    #[arg(long, value_name = "N")]
    many: Option<u64>,
    /// Moves under those who check every byte, of each of two discs [default: 200, quick: 5]
    #[arg(long, value_name = "N")]
    verify: Option<u32>,
    /// Moves of the disc of a booted machine [default: 10, quick: 3]
    #[arg(long, value_name = "N")]
    machine: Option<u32>,
    /// The machine's disc image, as scripts/tiny-image makes it
    #[arg(long, value_name = "FILE", default_value = "target/images/tiny.raw")]
    image: PathBuf,
    /// Rounds of the comparison with other ways [default: 5, quick: 3]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Threads of each tail that serve
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: usize,
    /// How the tails read and write: cached, copied or direct, as a pool's io
    #[arg(long, value_name = "HOW", default_value = "cached")]
    io: String,
    /// The report; its plots go beside it [default: migrate-DATE.md beside the record]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the record instead of a table
    #[arg(long)]
    json: bool,
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
        quick: arguments.quick,
        only: arguments.only,
        moves_count: arguments.moves.unwrap_or(quick(50, 5) as u32),
        data_mib: arguments.data_mib.unwrap_or(quick(1024, 128)),
        verify_count: arguments.verify.unwrap_or(quick(200, 5) as u32),
        machine_count: arguments.machine.unwrap_or(quick(10, 3) as u32),
        image: arguments.image,
        rounds_count: arguments.rounds.unwrap_or(quick(5, 3) as u32),
        many_count: arguments.many.unwrap_or(quick(100, 10)),
        shards_count: arguments.shards,
        io: arguments.io,
        program: arguments.places.program()?,
        scratch: arguments.places.scratch()?,
    };
    let measured = migrate::run(&config, &mut std::io::stderr().lock())?;
    let record = arguments.places.save("migrate", &measured.machine.date, &measured)?;
    let report = arguments.report.unwrap_or_else(|| record.with_extension("md"));
    page::write(&measured, &report)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &measured)?;
        writeln!(out)?;
    } else {
        write!(out, "{}\n{}\n", measured.table(), report.display())?;
    }
    Ok(if measured.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
