//! `nbd-load`: loads an NBD server and says what it took.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use benches::load::{self, plan};
use clap::Parser;
use spine::size::SizeMib;
use std::{io::Write, process::ExitCode, time::Duration};

/// Loads an NBD server with requests and prints rate, latency and processor time.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  nbd-load 127.0.0.1:10809 --connections 4 --depth 32
  nbd-load '[fd00:b16:0:d::7]:10809' --export KEY --writes 100 --block 128k --json
  nbd-load unix:/tmp/nbd.sock --rate 20000 --depth 128     latency at a fixed rate, from when each was due")]
struct Arguments {
    /// HOST:PORT, [IPV6]:PORT or unix:PATH
    target: String,
    /// The export's name
    #[arg(long, default_value = "")]
    export: String,
    /// Connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Bytes of a request, with k or m
    #[arg(long, default_value = "4k", value_parser = block_bytes)]
    block: u32,
    /// How many of a hundred requests are writes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    writes: u8,
    /// One block after another instead of anywhere
    #[arg(long)]
    sequential: bool,
    /// Use only this much of the export, as 512M
    #[arg(long)]
    span: Option<SizeMib>,
    /// Seconds that are counted
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds that are not, first
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warm_up: f64,
    /// Requests a second over all connections, whatever the server does (open loop)
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Charge this process's CPU time to the requests
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// For the random offsets
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code then has to do.
            let _ = writeln!(std::io::stderr(), "nbd-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let span_bytes = arguments.span.map(|span| span.bytes().context("the span is too big")).transpose()?;
    let config = load::Config {
        target: arguments.target,
        export: arguments.export,
        connections_count: arguments.connections,
        depth: arguments.depth,
        plan: plan::Config {
            block_bytes: arguments.block,
            writes_percent: arguments.writes,
            sequential: arguments.sequential,
            span_bytes,
            seed: arguments.seed,
        },
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        duration: Duration::from_secs_f64(arguments.seconds),
        rate: arguments.rate,
        server_pid: arguments.server_pid,
    };
    let summary = load::run(&config)?.summary();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(out, "{summary}")?;
    }
    Ok(())
}

fn block_bytes(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.to_ascii_lowercase() {
        t if t.ends_with('k') => (t[..t.len() - 1].to_owned(), 1 << 10),
        t if t.ends_with('m') => (t[..t.len() - 1].to_owned(), 1 << 20),
        t => (t, 1),
    };
    let bytes = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| (1..=64 << 20).contains(bytes)).ok_or_else(|| "a block is 1 byte to 64m".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    value.ok_or_else(|| "between 0 and 3600 seconds".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|rate| (1.0..=1e8).contains(rate));
    value.ok_or_else(|| "between 1 and 100000000 requests a second".to_owned())
}
