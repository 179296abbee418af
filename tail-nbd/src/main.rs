//! The `tail-nbd` program: serves discs over NBD, and says how it does.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};
use tail_nbd::{
    config::Config,
    control::{status, table},
    server,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

/// The storage server of BigV: one NBD export for each disc, on the disc's own IPv6 address.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve discs until SIGTERM or SIGINT
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Ask the running server what it is doing
    Status {
        /// The configuration file that it was started with
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
    },
}

const EXAMPLES: &str = "\
Examples:
  tail-nbd run --config /etc/bigv/tail.toml
  tail-nbd status --config /etc/bigv/tail.toml
  tail-nbd status --config /etc/bigv/tail.toml --json | jq '.pools'
  RUST_LOG=tail_nbd=debug tail-nbd run --config tail.toml

Exit status: 0 after an orderly stop or an answer, 1 when something failed, 2 for bad usage.";

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::Status { config, json } => show_status(&config, json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tail-nbd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &std::path::Path) -> Result<()> {
    let config = Config::load(path)?;
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
    // The shards, the jobs and the addresses have threads of their own; one is enough for the rest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stop_sender, stop) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop_sender.send_replace(true);
        });
        Ok(server::run(config, stop).await?)
    })
}

fn show_status(path: &std::path::Path, json: bool) -> Result<()> {
    let config = Config::load(path)?;
    let socket = &config.control_listen;
    let asking = || format!("no tail-nbd answers at {}: is it running with this configuration?", socket.display());
    let status = status::ask(socket).with_context(asking)?;
    let text = if json { serde_json::to_string_pretty(&status)? + "\n" } else { table::render(&status) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
