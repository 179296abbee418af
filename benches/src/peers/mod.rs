//! Side by side: the same loads on several servers, in turn, so that what else the machine does hits all alike.
//!
//! ```text
//!   for each round
//!     for each load and client:  server A, server B, server C    each started anew, alone on its processor
//!     for each server:           idle with a client connected
//!     the limit:                 fio reads the file itself; the tail serves a disc without a file
//!     save the record
//! ```
//!
//! Invariants
//! * One server lives at a time, on one processor; the client, which is this process or fio, has another.
//!   On some kernels io_uring's workers do not keep to the processor of who started them: how many threads were
//!   free to leave it is in the record.
//! * The file is warm and nothing of it waits to be written when a sample begins.
//! * Every run ends by itself: rounds, seconds and every start and wait are bounded.
//! * A server that fails makes failed samples, and the others are still measured.
//! * No server outlives this process, however it ends.
//!
//! Deliberately absent: judging ([`crate::judge`]), and discs of more than one machine.

mod fio;
pub(crate) mod machine;
pub(crate) mod program;
pub mod scratch;
mod server;

pub use program::find;
pub use server::Spec;

use crate::{
    load::{self, handshake, plan},
    loads::{Client, LIMIT_LOAD, Load},
    processor::{self, CpuTime, Pair},
    record::{self, FORMAT, Figures, Idle, Limit, LimitKind, Outcome, Run, Sample, Settings},
};
use anyhow::{Context, Result, bail};
use scratch::{Pages, Scratch};
use server::Server;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What a start and a stop of a server, and warming the file, take: only for the estimate that people see.
const BETWEEN_SAMPLES_SECONDS: f64 = 0.4;
/// What fio takes beside the run itself, for the estimate.
const FIO_START_SECONDS: f64 = 0.4;
/// How long a server may take to come to rest before its idle time is measured.
const SETTLE: Duration = Duration::from_millis(300);
/// A server is idle for at most this long: ten times the shortest timer that anyone would wake up by.
const IDLE_SECONDS_MAX: f64 = 1.0;
/// For the random offsets: any number does, if it is the same for all.
const SEED: u64 = 1;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Config {
    /// Rounds: 1 to 100.
    pub rounds: u32,
    /// Counted seconds of a sample: 0.05 to 60.
    pub seconds: f64,
    /// Seconds before them that are not counted.
    pub warm_up_seconds: f64,
    /// Who is measured, in this order.
    pub servers: Vec<Spec>,
    /// The tail with a disc that has no file, for the limit.
    pub null_server: Option<Spec>,
    /// With which loads.
    pub loads: Vec<&'static Load>,
    /// Sent by whom.
    pub clients: Vec<Client>,
    /// A folder on ext4 or XFS for the measured file and the servers' logs.
    pub scratch: PathBuf,
    /// Size of the measured file.
    pub file_mib: u64,
    /// In what pieces the file is in the page cache.
    pub pages: Pages,
    /// Whose processor is whose.
    pub pair: Pair,
    /// Niceness of clients and servers, -20 to 19: below 0 they come before what else the machine does.
    pub nice: i32,
    /// Where the record goes: saved after each round.
    pub record: PathBuf,
}

impl Config {
    /// How long it will take, roughly; for settings that [`Config::check`] has passed.
    pub fn estimate(&self) -> Duration {
        let each = |client: &Client| match client {
            Client::Own => self.seconds + self.warm_up_seconds + BETWEEN_SAMPLES_SECONDS,
            Client::Fio => self.seconds + FIO_START_SECONDS + BETWEEN_SAMPLES_SECONDS,
        };
        let loads: f64 = self.clients.iter().map(each).sum::<f64>() * self.loads.len() as f64;
        let idle = SETTLE.as_secs_f64() + self.idle_seconds() + BETWEEN_SAMPLES_SECONDS;
        let limit = 2.0 * (self.seconds + BETWEEN_SAMPLES_SECONDS);
        Duration::from_secs_f64(f64::from(self.rounds) * ((loads + idle) * self.servers.len() as f64 + limit))
    }

    fn idle_seconds(&self) -> f64 {
        self.seconds.min(IDLE_SECONDS_MAX)
    }

    fn has_limit(&self) -> bool {
        self.clients.contains(&Client::Own) && self.loads.iter().any(|load| load.name == LIMIT_LOAD)
    }

    /// Refuses what cannot be measured, before anything is started; [`run`] does it too.
    ///
    /// # Errors
    /// When a number is out of its range, there is nothing to measure, or a server's program is not there.
    pub fn check(&self) -> Result<()> {
        if !(1..=100).contains(&self.rounds) {
            bail!("{} rounds: between 1 and 100", self.rounds);
        }
        if !(0.05..=60.0).contains(&self.seconds) || !(0.0..=60.0).contains(&self.warm_up_seconds) {
            bail!("a sample of {} s after {} s: between 0.05 and 60 s", self.seconds, self.warm_up_seconds);
        }
        if !(2..=65_536).contains(&self.file_mib) {
            bail!("a file of {} MiB: between 2 and 65536", self.file_mib);
        }
        if !(-20..=19).contains(&self.nice) {
            bail!("a niceness of {}: between -20 and 19", self.nice);
        }
        if self.servers.is_empty() || self.loads.is_empty() || self.clients.is_empty() {
            bail!("there is nothing to measure: servers, loads and clients must be at least one each");
        }
        for spec in self.servers.iter().chain(&self.null_server) {
            spec.program().with_context(|| format!("{}: there is no program for {}", spec.name, spec.command))?;
        }
        Ok(())
    }
}

/// Measures, and saves the record after each round. `progress` gets a line for each sample.
///
/// # Errors
/// When the settings are unfit or the machine is: a program is missing, the folder is on a tmpfs. What goes wrong
/// with a single sample is in the record.
pub fn run(config: &Config, progress: &mut dyn Write) -> Result<Run> {
    config.check()?;
    fs::create_dir_all(&config.scratch).with_context(|| format!("cannot make {}", config.scratch.display()))?;
    let machine = machine::describe(&config.scratch, &config.scratch)?;
    let fio = program::find("fio");
    if fio.is_none() && config.clients.contains(&Client::Fio) {
        bail!("fio is missing (Debian: fio); --client own does without");
    }
    let scratch = Scratch::prepare(&config.scratch, config.file_mib, config.pages)?;
    processor::pin(config.pair.client)?;
    if config.nice != 0 {
        processor::set_nice(config.nice)?;
    }
    let mut run = Run {
        format: FORMAT,
        machine,
        settings: Settings {
            rounds: config.rounds,
            seconds: config.seconds,
            warm_up_seconds: config.warm_up_seconds,
            file_mib: config.file_mib,
            pages: config.pages,
            server_cpu: config.pair.server,
            client_cpu: config.pair.client,
            nice: config.nice,
            fio: fio.and_then(|_| version_of_fio(&config.scratch)),
        },
        servers: config.servers.iter().chain(&config.null_server).map(|spec| spec.served(&config.scratch)).collect(),
        samples: Vec::new(),
        idle: Vec::new(),
        limits: Vec::new(),
    };
    for round in 1..=config.rounds {
        Bench { config, scratch: &scratch, round, progress }.round(&mut run)?;
        record::save(&config.record, &run)?;
    }
    Ok(run)
}

fn version_of_fio(scratch: &Path) -> Option<String> {
    let printed = program::Program::start(&["fio", "--version"], &scratch.join("fio.log")).ok()?;
    Some(printed.output(Duration::from_secs(5)).ok()?.trim().to_owned())
}

/// One round of a run.
struct Bench<'a> {
    config: &'a Config,
    scratch: &'a Scratch,
    round: u32,
    progress: &'a mut dyn Write,
}

impl Bench<'_> {
    fn round(&mut self, run: &mut Run) -> Result<()> {
        for load in &self.config.loads {
            for &client in &self.config.clients {
                for spec in &self.config.servers {
                    let sample = self.sample(load, client, spec)?;
                    run.samples.push(sample);
                }
            }
        }
        for spec in &self.config.servers {
            match self.idle(spec) {
                Ok(cpu_us_per_s) => {
                    self.say("idle", "own", &spec.name, &format!("{cpu_us_per_s:.0} µs CPU a second"))?;
                    run.idle.push(Idle { round: self.round, server: spec.name.clone(), cpu_us_per_s });
                }
                Err(error) => self.say("idle", "own", &spec.name, &format!("failed: {error:#}"))?,
            }
        }
        if self.config.has_limit() {
            for limit in [self.bare_read(), self.null_disc()] {
                match limit {
                    Ok(Some(limit)) => {
                        let text = format!("{:.0} a second, {:.2} µs CPU", limit.iops, limit.cpu_us);
                        self.say("limit", "", &format!("{:?}", limit.kind), &text)?;
                        run.limits.push(limit);
                    }
                    Ok(None) => {}
                    Err(error) => self.say("limit", "", "", &format!("failed: {error:#}"))?,
                }
            }
        }
        Ok(())
    }

    /// A line for people who wait.
    fn say(&mut self, load: &str, client: &str, server: &str, text: &str) -> Result<()> {
        let (round, rounds) = (self.round, self.config.rounds);
        writeln!(self.progress, "round {round}/{rounds}  {load:<15} {client:<4} {server:<16} {text}")
            .context("cannot tell of the progress")
    }

    fn sample(&mut self, load: &Load, client: Client, spec: &Spec) -> Result<Sample> {
        let measured = self.measure(load, client, spec);
        let text = match &measured {
            Ok(f) => format!(
                "{:>8.0} a second  {:>6.0} MiB/s  p50 {:>6.0} µs  p99 {:>6.0} µs  server {:>6.2} µs CPU  client {:>6.2}",
                f.iops, f.mib_per_s, f.p50_us, f.p99_us, f.server_cpu_us, f.client_cpu_us
            ),
            Err(error) => format!("failed: {error:#}"),
        };
        self.say(load.name, &client.to_string(), &spec.name, &text)?;
        let outcome = match measured {
            Ok(figures) => Outcome::Figures(figures),
            Err(error) => Outcome::Failure(format!("{error:#}")),
        };
        Ok(Sample { round: self.round, load: load.name.to_owned(), client, server: spec.name.clone(), outcome })
    }

    fn measure(&self, load: &Load, client: Client, spec: &Spec) -> Result<Figures> {
        let server = self.start(spec)?;
        let figures = match client {
            Client::Own => self.own(load, &server)?,
            Client::Fio => {
                let mib = self.scratch.mib();
                fio::run(load, &server.uri(), mib, self.config.seconds, server.pid(), &self.config.scratch)?
            }
        };
        let threads_unpinned_count = server.threads_unpinned_count()?;
        Ok(Figures { rss_peak_kib: server.rss_peak_kib()?, threads_unpinned_count, ..figures })
    }

    fn start(&self, spec: &Spec) -> Result<Server> {
        self.scratch.warm()?;
        Server::start(spec, self.scratch.path(), self.scratch.mib(), self.config.pair, &self.config.scratch)
    }

    fn own(&self, load: &Load, server: &Server) -> Result<Figures> {
        let (warm_up, duration) = (self.config.warm_up_seconds, self.config.seconds);
        let summary = load::run(&load_config(load, server, warm_up, duration))?.summary();
        Ok(Figures {
            iops: summary.iops,
            mib_per_s: summary.mib_per_s,
            p50_us: summary.p50_us,
            p99_us: summary.p99_us,
            server_cpu_us: summary.server_cpu_us.context("the server's processor time was not measured")?,
            client_cpu_us: summary.client_cpu_us,
            client_wait_share: Some(summary.client_wait_share),
            rss_peak_kib: 0,
            threads_unpinned_count: 0,
        })
    }

    /// µs a second of a server that has been busy, and now has a client that asks for nothing.
    fn idle(&self, spec: &Spec) -> Result<f64> {
        let server = self.start(spec)?;
        let _idle_client = handshake::connect(&server.target(), "")?;
        load::run(&load_config(Load::named(LIMIT_LOAD).context("no such load")?, &server, 0.0, 0.05))?;
        thread::sleep(SETTLE);
        let (from, before) = (Instant::now(), CpuTime::of(server.pid())?);
        thread::sleep(Duration::from_secs_f64(self.config.idle_seconds()));
        let used = CpuTime::of(server.pid())?.since(before);
        Ok(used.as_secs_f64() * 1e6 / from.elapsed().as_secs_f64())
    }

    /// On the servers' processor, as they read.
    fn bare_read(&self) -> Result<Option<Limit>> {
        if program::find("fio").is_none() {
            return Ok(None);
        }
        self.scratch.warm()?;
        processor::pin(self.config.pair.server)?;
        let (path, mib) = (self.scratch.path(), self.scratch.mib());
        let limit = fio::bare_read(path, mib, self.config.seconds, self.round, &self.config.scratch);
        processor::pin(self.config.pair.client)?;
        limit.map(Some).context("fio's own read of the file")
    }

    fn null_disc(&self) -> Result<Option<Limit>> {
        let Some(spec) = &self.config.null_server else { return Ok(None) };
        let load = Load::named(LIMIT_LOAD).context("no such load")?;
        let figures = self.measure(load, Client::Own, spec).context("the disc without a file")?;
        let (iops, cpu_us) = (figures.iops, figures.server_cpu_us);
        Ok(Some(Limit { round: self.round, kind: LimitKind::NullDisc, iops, cpu_us }))
    }
}

fn load_config(load: &Load, server: &Server, warm_up_seconds: f64, seconds: f64) -> load::Config {
    load::Config {
        target: server.target(),
        export: String::new(),
        connections_count: load.connections_count,
        depth: load.depth,
        plan: plan::Config {
            block_bytes: load.block_bytes,
            writes_percent: if load.operation == plan::Operation::Write { 100 } else { 0 },
            sequential: false,
            span_bytes: None,
            seed: SEED,
        },
        warm_up: Duration::from_secs_f64(warm_up_seconds),
        duration: Duration::from_secs_f64(seconds),
        rate: None,
        server_pid: Some(server.pid()),
    }
}
