//! `bigv`, the customers' tool: category, command, options.
//!
//! ```text
//!   what was typed      what it means        what is done          what is said
//!   args ─────────────▶ context ───────────▶ command/* ──────────▶ output
//!   (clap, no I/O)      (profile, env,       (one file a noun)     (human, json, table)
//!                        credentials)             │
//!                                                 ▼
//!                                              client ──HTTP/JSON──▶ brain
//! ```
//!
//! * [`client`] is the reusable part: the brain's public API for other Rust programs. `bigv` uses
//!   nothing else, there is no private API (R014).
//! * [`exit`] lists what the exit codes mean.
//! * `output` is the only place that prints; the same data goes into every format.
//!
//! Invariants: nothing is asked unless standard input and standard error are a terminal; no answer
//! of a server makes it panic or reaches the terminal unfiltered; an interrupted wait never cancels
//! the operation.
//!
//! Deliberately absent: an interactive shell, retries of requests that change something, and any
//! state but the profile.
#![forbid(unsafe_code)]

mod args;
pub mod client;
mod command;
mod context;
mod error;
pub mod exit;
mod interrupt;
mod names;
mod output;
mod profile;
mod prompt;
mod settings;
mod wait;

use clap::FromArgMatches;
use error::Error;
use exit::Exit;
use std::ffi::OsString;

/// Carries out one command line, its first word being the program's name, and says how it ended.
pub fn run(args: Vec<OsString>) -> Exit {
    let root = args::root();
    let typed = args::words::normalise(args, &root);
    let parsed = root.clone().try_get_matches_from(typed).and_then(|matches| args::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    match dispatch(&cli) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            output::error(&error);
            error.exit()
        }
    }
}

fn dispatch(cli: &args::Cli) -> Result<(), Error> {
    interrupt::watch()?;
    let context = context::Context::new(&cli.globals)?;
    let output = command::run(&context, cli)?;
    context.show_warnings();
    output::print(&output, context.settings.format)
}
