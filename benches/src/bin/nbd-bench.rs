//! `nbd-bench`: measures NBD servers side by side, and reports. `scripts/bench` builds and runs it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use benches::{
    command, judge,
    loads::{Client, LOADS, Load},
    peers::{self, Spec, scratch::Pages},
    processor::Pair,
    report,
};
use clap::{Args, Parser, Subcommand};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Measures NBD servers side by side, and writes reports.
#[derive(Debug, Parser)]
#[command(
    name = "scripts/bench",
    after_help = "Other measurements, each with its own --help:
  scripts/bench scale      one tail with thousands of discs
  scripts/bench migrate    discs that move between two tails while guests write
  scripts/bench upgrade    how long clients wait while a new process takes a tail over"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the same loads on tail-nbd, nbdkit and qemu-nbd, in turn
    Peers(Peers),
    /// Write a Markdown report with SVG plots from the records in some folders
    Report(Report),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  scripts/bench peers                          all of it: 5 rounds of 3 s, some 20 minutes
  scripts/bench peers --quick                  a look: 1 round of 0.3 s, about a minute
  scripts/bench peers --load read-4k-4x32 --load write-128k-1x8 --client own
  scripts/bench peers --server 'other=other-nbd --port {port} {file}'
  scripts/bench peers --server \"tail-nbd-old=$PWD/old/tail-nbd serve --listen 127.0.0.1:{port} {file}\"

A command's {port} is a port on 127.0.0.1, {file} the measured file, to be served under the empty
export name, {mib} its size. A name that is there already is replaced; servers whose name starts
with tail-nbd are not counted among the peers. The record is saved after each round.
Loads: see benches/src/loads.rs, or give a wrong one.")]
struct Peers {
    /// Rounds [default: 5]
    #[arg(long)]
    rounds: Option<u32>,
    /// Counted seconds of each sample [default: 3]
    #[arg(long)]
    seconds: Option<f64>,
    /// 1 round of 0.3 s on a file of 64 MiB, unless said otherwise: to see that all works
    #[arg(long)]
    quick: bool,
    /// Another server, or another command for one
    #[arg(long = "server", value_name = "NAME=COMMAND", value_parser = Spec::parse)]
    servers: Vec<Spec>,
    /// Leave this server out
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Another tail with a disc that has no file, for the limit
    #[arg(long, value_name = "COMMAND")]
    null_server: Option<String>,
    /// Only this load; may be given again
    #[arg(long = "load", value_name = "LOAD", value_parser = load)]
    loads: Vec<&'static Load>,
    /// Only this client
    #[arg(long = "client", value_enum)]
    clients: Vec<Client>,
    /// Size of the measured file in MiB [default: 512]
    #[arg(long, value_name = "MIB")]
    file_mib: Option<u64>,
    /// In what pages the file is in the page cache: of 4 KiB, as with the kernels of Debian 12 and 13, or as large as this
    /// kernel makes them
    #[arg(long, value_enum, default_value_t)]
    pages: Pages,
    /// The servers' processor; the first that may be used if not given
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// The clients' processor; another core if not given
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    /// Niceness of clients and servers; below 0 they come before what else the machine does, as root. The session,
    /// that is the terminal, keeps it
    #[arg(long, value_name = "-20..19", default_value_t = 0, allow_negative_numbers = true)]
    nice: i32,
    /// Folder for the measured file and logs, on ext4 or XFS
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    scratch: PathBuf,
    /// Folder for the record
    #[arg(long, value_name = "DIR", default_value = "target/bench/records")]
    out: PathBuf,
    /// Fail if a bar is not met
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  scripts/bench report target/bench/records --out target/bench/report.md")]
struct Report {
    /// Folders with peers-*.json and memory-*.json
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The page; its plots go beside it
    #[arg(long, value_name = "FILE", default_value = "target/bench/report.md")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Peers(arguments) => {
            let scratch = arguments.scratch.clone();
            command::run("scripts/bench", &scratch, || run_peers(arguments))
        }
        Command::Report(arguments) => command::report("scripts/bench", write_report(&arguments)),
    }
}

fn run_peers(arguments: Peers) -> Result<ExitCode> {
    let mut err = std::io::stderr().lock();
    let check = arguments.check;
    let config = config(arguments, &mut err)?;
    config.check()?;
    writeln!(err, "about {} s; the record is {}", config.estimate().as_secs() + 1, config.record.display())?;
    let run = peers::run(&config, &mut err)?;
    write!(std::io::stdout().lock(), "{}", report::summary(&run))?;
    let verdicts = judge::verdicts(&run);
    let met = !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.met);
    Ok(if check && !met { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn config(arguments: Peers, err: &mut impl Write) -> Result<peers::Config> {
    let quick = arguments.quick;
    let name = record_name(&arguments.out)?;
    let null_command = match arguments.null_server.clone() {
        Some(command) => command,
        None => format!("{} serve --listen 127.0.0.1:{{port}} --null {{mib}}", tail()?),
    };
    let null_server = Spec::parse(&format!("{NULL_SERVER}={null_command}")).map_err(anyhow::Error::msg)?;
    let null_server = Some(null_server).filter(|spec| spec.program().is_some());
    Ok(peers::Config {
        rounds: arguments.rounds.unwrap_or(if quick { 1 } else { 5 }),
        seconds: arguments.seconds.unwrap_or(if quick { 0.3 } else { 3.0 }),
        warm_up_seconds: if quick { 0.1 } else { 0.5 },
        servers: servers(arguments.servers, &arguments.without, err)?,
        null_server,
        loads: if arguments.loads.is_empty() { LOADS.iter().collect() } else { arguments.loads },
        clients: if arguments.clients.is_empty() { vec![Client::Own, Client::Fio] } else { arguments.clients },
        file_mib: arguments.file_mib.unwrap_or(if quick { 64 } else { 512 }),
        pages: arguments.pages,
        pair: Pair::choose(arguments.server_cpu, arguments.client_cpu)?,
        // fio and the servers may have another working directory in mind.
        scratch: std::path::absolute(&arguments.scratch)?,
        nice: arguments.nice,
        record: name,
    })
}

/// What the null server is called in the record.
const NULL_SERVER: &str = "tail-nbd-null";

/// Those that are always compared, if they are there: name, command, and Debian's package.
fn defaults() -> Result<[(&'static str, String, &'static str); 3]> {
    let tail = tail()?;
    Ok([
        (
            judge::SUBJECT,
            format!("{tail} serve --listen 127.0.0.1:{{port}} {{file}}"),
            "cargo build --release -p tail-nbd",
        ),
        ("nbdkit", "nbdkit --foreground --ipaddr 127.0.0.1 --port {port} file {file}".to_owned(), "Debian: nbdkit"),
        (
            "qemu-nbd",
            "qemu-nbd --persistent --shared=0 --aio=io_uring --cache=writeback --format=raw --bind=127.0.0.1 \
             --port={port} {file}"
                .to_owned(),
            "Debian: qemu-utils",
        ),
    ])
}

/// The tail that was built with this program, as a word of a command.
fn tail() -> Result<String> {
    let own = std::env::current_exe().context("cannot find this program itself")?;
    let tail = own.with_file_name("tail-nbd");
    Ok(shlex::try_quote(tail.to_str().context("this program's path is no text")?)?.into_owned())
}

fn servers(given: Vec<Spec>, without: &[String], err: &mut impl Write) -> Result<Vec<Spec>> {
    let mut servers = Vec::new();
    for (name, command, source) in defaults()? {
        let spec = Spec { name: name.to_owned(), command };
        if given.iter().any(|other| other.name == name) || without.iter().any(|other| other == name) {
            continue;
        }
        if spec.program().is_none() {
            writeln!(err, "{name} is left out: its program is not there ({source})")?;
            continue;
        }
        servers.push(spec);
    }
    for spec in given {
        if servers.iter().any(|other: &Spec| other.name == spec.name) {
            bail!("--server {} is given twice", spec.name);
        }
        // The subject stays in front.
        let place = if spec.name == judge::SUBJECT { 0 } else { servers.len() };
        servers.insert(place, spec);
    }
    Ok(servers)
}

/// A name that no record has, by time; two runs in one second get a number.
fn record_name(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let now = time::OffsetDateTime::now_utc();
    let stamp = time::macros::format_description!("[year][month][day]-[hour][minute][second]");
    let stamp = now.format(stamp)?;
    let named = |end: String| folder.join(format!("peers-{stamp}{end}.json"));
    let mut names = (1u32..).map(|number| if number == 1 { named(String::new()) } else { named(format!("-{number}")) });
    names.find(|path| !path.exists()).context("every name is taken")
}

fn write_report(arguments: &Report) -> Result<ExitCode> {
    let report::Written { records_count: count, left_out } = report::write(&arguments.folders, &arguments.out)?;
    for reason in left_out {
        writeln!(std::io::stderr(), "left out: {reason}")?;
    }
    let noun = if count == 1 { "record" } else { "records" };
    writeln!(std::io::stdout().lock(), "{}: {count} {noun}", arguments.out.display())?;
    Ok(ExitCode::SUCCESS)
}

fn load(name: &str) -> Result<&'static Load, String> {
    let names = || LOADS.iter().map(|load| load.name).collect::<Vec<_>>().join(", ");
    Load::named(name).ok_or_else(|| format!("the loads are {}", names()))
}
