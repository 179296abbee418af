//! The `tail-nbd` program: serves discs over NBD, and says how it does.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use spine::id::DiscNumber;
use std::{
    io::{IsTerminal as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tail_nbd::{
    cleanup,
    config::Config,
    control::{rates, status, table},
    disc::mode::IoMode,
    limits::{BLOCKING_THREADS_MAX, SHARDS_MAX},
    nbd::offer::Tls,
    ring::probe::Mask,
    serve::{self, Listen, ServeConfig, Source},
    server,
    tls::{Credentials, Files, FrontConfig},
    upgrade::{
        giver::{Order, Report},
        taker::Taker,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::Level;
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
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Leave alone what kernels newer than this have: 6.1 or all
        #[arg(long, value_name = "KERNEL", default_value = "all")]
        features: Mask,
        /// Take over from the server at standard input, which hands over in this form
        #[arg(long, value_name = "FORM", hide = true)]
        take_over: Option<u32>,
    },
    /// Have this program take over from the running server; its clients notice a short pause
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade {
        /// The configuration file that the new server starts with; its control_listen is the running one's
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The program that takes over [default: this one]
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Serve a file, or the files of a directory, to whoever can connect: no brain, no root
    #[command(after_help = SERVE_EXAMPLES)]
    Serve {
        /// Where to listen: ADDRESS:PORT or unix:PATH; may be given several times [default: 127.0.0.1:10809, or
        /// the sockets that a service manager passes]
        #[arg(long, value_name = "PLACE")]
        listen: Vec<Listen>,
        /// Refuse whatever would change a file
        #[arg(long)]
        read_only: bool,
        /// How the files are read and written: cached, copied, which never sends the page cache's own
        /// pages, or direct, past the page cache
        #[arg(long, value_name = "MODE", default_value = "cached")]
        io: IoMode,
        #[command(flatten)]
        tls: TlsArguments,
        /// Tell Prometheus at this address, under /metrics
        #[arg(long, value_name = "ADDRESS:PORT")]
        metrics: Option<SocketAddr>,
        /// Threads that serve; each file is served by one of them
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = shards_count)]
        shards: usize,
        /// Leave alone what kernels newer than this have: 6.1 or all
        #[arg(long, value_name = "KERNEL", default_value = "all")]
        features: Mask,
        /// Serve so many MiB of nothing instead of a file, to measure what all but the file costs: zeroes, in which
        /// writes are lost, and which cannot be flushed
        #[arg(long, value_name = "MIB", conflicts_with = "path")]
        null: Option<u32>,
        /// A file, which gets the empty export name, or a directory, of which each file gets its own name
        #[arg(required_unless_present = "null")]
        path: Option<PathBuf>,
    },
    /// Ask the running server what it is doing
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// The configuration file that it was started with
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
        /// Look every so many seconds, and print what each disc did each second in between
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        interval: Option<u32>,
        /// Print so often, and end
        #[arg(long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
    },
    /// Have the running server open a disc again, and forget that a flush of it failed
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload {
        /// The configuration file that it was started with
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The disc's number, as `status` shows it
        disc: u64,
    },
    /// After the end of a server: take away the addresses that none of its discs has
    #[command(after_help = REMOVE_EXAMPLES)]
    RemoveAddresses {
        /// The configuration file that it was started with
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Named as nbdkit names them.
#[derive(Debug, Args)]
struct TlsArguments {
    /// Offer TLS with server-cert.pem and server-key.pem of this folder
    #[arg(long, value_name = "DIR", group = "tls_credentials")]
    tls_certificates: Option<PathBuf>,
    /// Turn away clients without a certificate of the folder's ca-cert.pem
    #[arg(long, requires = "tls_certificates")]
    tls_verify_peer: bool,
    /// Offer TLS to those who share a key of this file with us, which has NAME:HEX in each line
    #[arg(long, value_name = "FILE", group = "tls_credentials")]
    tls_psk: Option<PathBuf>,
    /// Whether clients must use TLS [default: required with certificates or keys, off without]
    #[arg(long, value_name = "MODE", requires_ifs = [("offered", "tls_credentials"), ("required", "tls_credentials")])]
    tls: Option<Tls>,
}

impl TlsArguments {
    fn into_config(self) -> Option<FrontConfig> {
        let offered = self.tls.unwrap_or(Tls::Required);
        let credentials = match (self.tls_certificates, self.tls_psk) {
            (Some(folder), _) => Credentials::Certificates(Files {
                certificate: folder.join("server-cert.pem"),
                key: folder.join("server-key.pem"),
                authorities: self.tls_verify_peer.then(|| folder.join("ca-cert.pem")),
            }),
            (None, Some(keys)) => Credentials::Keys(keys),
            (None, None) => return None,
        };
        (offered != Tls::Off).then_some(FrontConfig { offered, credentials })
    }
}

const EXAMPLES: &str = "\
Examples, and more of them in `tail-nbd COMMAND --help`:
  tail-nbd serve --listen [::1]:10809 disc.img
  nbdinfo -- [ tail-nbd serve disc.img ]
  tail-nbd run --config /etc/bigv/tail.toml
  tail-nbd status --config /etc/bigv/tail.toml
  tail-nbd upgrade --config /etc/bigv/tail.toml

Exit status: 0 after an orderly stop or an answer, 1 when something failed, 2 for bad usage.";

const RUN_EXAMPLES: &str = "\
Examples:
  tail-nbd run --config /etc/bigv/tail.toml
  RUST_LOG=tail_nbd=debug tail-nbd run --config tail.toml";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  tail-nbd upgrade --config /etc/bigv/tail.toml
  tail-nbd upgrade --config /etc/bigv/tail.toml --program /opt/tail-nbd-next

When the new program does not become ready, the running server serves on, and the message says why.";

const SERVE_EXAMPLES: &str = "\
Examples:
  tail-nbd serve disc.img
  tail-nbd serve --listen [::1]:10809 --read-only disc.img
  tail-nbd serve --listen unix:/run/discs.sock --shards 4 /srv/discs
  tail-nbd serve --tls-certificates /etc/pki/nbd --tls-verify-peer disc.img
  tail-nbd serve --tls-psk /etc/nbd/keys.psk disc.img
  tail-nbd serve --metrics 127.0.0.1:9436 disc.img
  nbdinfo -- [ tail-nbd serve disc.img ]
  nbdcopy -- [ tail-nbd serve --read-only disc.img ] copy.img
  systemd-socket-activate -l 10809 tail-nbd serve disc.img";

const STATUS_EXAMPLES: &str = "\
Examples:
  tail-nbd status --config /etc/bigv/tail.toml
  tail-nbd status --config /etc/bigv/tail.toml --interval 5
  tail-nbd status --config /etc/bigv/tail.toml --json | jq '.pools'";

const RELOAD_EXAMPLES: &str = "\
Example:
  tail-nbd reload --config /etc/bigv/tail.toml 7";

const REMOVE_EXAMPLES: &str = "\
Example, as the service's ExecStopPost= has it:
  tail-nbd remove-addresses --config /etc/bigv/tail.toml";

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { config, features, take_over: None } => run(&config, features),
        Command::Run { config, features, take_over: Some(format) } => take_over(&config, features, format),
        Command::Upgrade { config, program } => upgrade(&config, program),
        Command::Serve { listen, read_only, io, tls, metrics, shards, features, null, path } => serve(ServeConfig {
            source: path.map_or(Source::Null(u64::from(null.unwrap_or_default()) << 20), Source::Path),
            read_only,
            io,
            listen,
            shards_count: shards,
            tls: tls.into_config(),
            metrics_listen: metrics,
            mask: features,
        }),
        Command::Status { config, json, interval, count } => show_status(&config, json, interval, count),
        Command::Reload { config, disc } => reload(&config, DiscNumber(disc)),
        Command::RemoveAddresses { config } => remove_addresses(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tail-nbd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path, features: Mask) -> Result<()> {
    let config = Config { mask: features, ..Config::load(path)? };
    log(Level::INFO);
    until_stopped(async |stop| Ok(server::run(config, stop).await?))
}

fn take_over(path: &Path, features: Mask, format: u32) -> Result<()> {
    let taker = Taker::from_stdin(format)?;
    let config = match Config::load(path) {
        Ok(config) => Config { mask: features, ..config },
        Err(error) => {
            taker.fail(&error.to_string());
            return Err(error.into());
        }
    };
    log(Level::INFO);
    until_stopped(async |stop| Ok(server::take_over(config, taker, stop).await?))
}

fn upgrade(path: &Path, program: Option<PathBuf>) -> Result<()> {
    let config = Config::load(path)?;
    let socket = &config.control_listen;
    let program = match program {
        Some(program) => program,
        None => std::env::current_exe().context("cannot tell where this program is")?,
    };
    let absolute = |path: &Path| path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
    let order = Order { program: absolute(&program)?, config: absolute(path)? };
    let asking = || format!("no tail-nbd answers at {}: is it running with this configuration?", socket.display());
    match status::upgrade(socket, order).with_context(asking)? {
        Ok(Report { pid, discs_count, clients_count, pause_us }) => {
            let pause_ms = pause_us as f64 / 1000.0;
            writeln!(
                std::io::stdout(),
                "{discs_count} discs, {clients_count} connections taken over by process {pid}, pause {pause_ms:.1} ms"
            )?;
            Ok(())
        }
        Err(reason) => anyhow::bail!("nothing was handed over, and the running server serves on: {reason}"),
    }
}

fn serve(mut config: ServeConfig) -> Result<()> {
    let activated = serve::is_activated();
    if config.listen.is_empty() && !activated {
        config.listen.push(Listen::Tcp((Ipv4Addr::LOCALHOST, spine::limits::NBD_PORT).into()));
    }
    // Who starts it for one command wants to see the output of that command.
    log(if activated { Level::WARN } else { Level::INFO });
    until_stopped(async |stop| Ok(serve::run(config, stop).await?))
}

fn shards_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=SHARDS_MAX).contains(count));
    count.ok_or_else(|| format!("it is a number from 1 to {SHARDS_MAX}"))
}

fn log(level: Level) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}

/// Runs until the work is over, which is told of SIGTERM and SIGINT.
fn until_stopped(work: impl AsyncFnOnce(watch::Receiver<bool>) -> Result<()>) -> Result<()> {
    // The shards, the jobs and the addresses have threads of their own; one is enough for the rest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()?;
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
        work(stop).await
    })
}

fn show_status(path: &std::path::Path, json: bool, interval: Option<u32>, count: Option<u32>) -> Result<()> {
    let config = Config::load(path)?;
    let socket = &config.control_listen;
    let ask = || {
        let asking = || format!("no tail-nbd answers at {}: is it running with this configuration?", socket.display());
        anyhow::Ok((status::ask(socket).with_context(asking)?, std::time::Instant::now()))
    };
    let print = |status: &status::Status| {
        let text = if json { serde_json::to_string_pretty(status)? + "\n" } else { table::render(status) };
        anyhow::Ok(std::io::stdout().write_all(text.as_bytes())?)
    };
    let (mut before, mut asked) = ask()?;
    let Some(seconds) = interval else { return print(&before) };
    let mut left = count.unwrap_or(u32::MAX);
    while left > 0 {
        std::thread::sleep(std::time::Duration::from_secs(seconds.into()));
        let (mut after, now) = ask()?;
        rates::tell(&before, &mut after, now - asked);
        print(&after)?;
        (before, asked) = (after, now);
        left -= u32::from(count.is_some());
    }
    Ok(())
}

fn reload(path: &Path, disc: DiscNumber) -> Result<()> {
    let config = Config::load(path)?;
    let socket = &config.control_listen;
    let asking = || format!("no tail-nbd answers at {}: is it running with this configuration?", socket.display());
    match status::reload(socket, disc).with_context(asking)? {
        Ok(()) => Ok(writeln!(std::io::stdout(), "disc {disc} is open again")?),
        Err(reason) => anyhow::bail!("disc {disc} was not loaded again: {reason}"),
    }
}

fn remove_addresses(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    log(Level::WARN);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for address in runtime.block_on(cleanup::remove_addresses(&config))? {
        writeln!(std::io::stdout(), "removed {address}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_counted_only_when_it_is_repeated() {
        let parse = |options: &str| {
            Arguments::try_parse_from(format!("tail-nbd status --config tail.toml {options}").split_whitespace())
        };
        assert!(parse("").is_ok() && parse("--json --interval 5 --count 2").is_ok());
        assert!(parse("--count 2").is_err() && parse("--interval 0").is_err());
    }

    #[test]
    fn examples_are_of_commands_and_options_that_there_are() {
        let all = [EXAMPLES, RUN_EXAMPLES, UPGRADE_EXAMPLES, SERVE_EXAMPLES, STATUS_EXAMPLES, RELOAD_EXAMPLES];
        let lines = all.into_iter().chain([REMOVE_EXAMPLES]).flat_map(str::lines);
        let commands =
            lines.filter_map(|line| line.strip_prefix("  ")?.split_once("tail-nbd ")).map(|(_, command)| command);
        let mut examples_count = 0;
        for command in commands {
            let words = command.split_whitespace().take_while(|word| !["]", "|"].contains(word));
            let parsed = Arguments::try_parse_from(["tail-nbd"].into_iter().chain(words));
            assert!(parsed.is_ok(), "{command}: {parsed:?}");
            examples_count += 1;
        }
        assert!(examples_count > 20, "{examples_count}");
    }

    #[test]
    fn rule11_the_service_runs_commands_that_there_are() {
        let commands: Vec<_> = include_str!("../tail-nbd.service")
            .lines()
            .filter_map(|line| line.strip_prefix("Exec")?.split_once('='))
            .map(|(_, line)| {
                Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
            })
            .map(|arguments| arguments.command)
            .collect();
        assert!(
            matches!(commands[..], [Command::Run { .. }, Command::Upgrade { .. }, Command::RemoveAddresses { .. }]),
            "{commands:?}"
        );
    }
}
