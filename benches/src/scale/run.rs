//! The measurement, a phase at a time.

use super::{
    client::{Client, READ_BYTES},
    net::{self, Net},
    orders::{self, tail_name},
    record::Scale,
    tail::Tail,
};
use crate::{
    brain::{Brain, Pending},
    figures::{Bar, Figure},
    load::{self, plan},
    peers::machine,
    processor::CpuTime,
    record::{FORMAT, MemoryPoint},
    statistics::Spread,
};
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    collections::VecDeque,
    fs,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The size of each disc but one.
const DISC_BYTES: u64 = 1 << 20;
/// Orders that are sent before the first is answered.
const ORDERS_AT_ONCE: usize = 64;
/// Discs of which each is timed from its order to its first byte.
const NEW_DISCS: u64 = 20;
/// The attachment key of every disc.
const KEY: &str = "scale";
/// Addresses are announced for 10 s after they came up; nothing is idle before that.
const SETTLE: Duration = Duration::from_secs(12);
/// How long a client that waits for the restart tries.
const BACK_DEADLINE: Duration = Duration::from_secs(60);
/// Connections to the disc that the busy ones are compared with, and requests in flight on each.
const SINGLE: (usize, usize) = (4, 32);
/// Descriptors of this process beside one for each client.
const OPEN_FILES_SPARE: u64 = 512;
/// For the random offsets.
const SEED: u64 = 1;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Config {
    /// Discs, each with an idle client: 50 to 50,000.
    pub discs_count: u64,
    /// How many of them are busy at once: at most as many, and at most 1,000.
    pub busy_count: u64,
    /// Requests in flight on the connection of each busy disc.
    pub depth: usize,
    /// Threads of the tail that serve.
    pub shards_count: usize,
    /// Seconds of idleness that are measured.
    pub idle_seconds: f64,
    /// Seconds of each load.
    pub busy_seconds: f64,
    /// The tail's program.
    pub program: PathBuf,
    /// A folder on ext4 or XFS for the tail's files.
    pub scratch: PathBuf,
}

/// What the phases share.
struct Lab {
    config: Config,
    net: Net,
    brain: Brain,
    tail: Tail,
    idle: Vec<Client>,
    figures: Vec<Figure>,
    memory: Vec<MemoryPoint>,
}

/// Measures. Moves this thread into a network namespace that is gone afterwards.
///
/// # Errors
/// When a number is out of its range, or anything fails: a disc that is not served, a client that is cut off.
pub fn run(config: &Config, err: &mut dyn Write) -> Result<Scale> {
    let Config { discs_count, busy_count, .. } = *config;
    if !(50..=50_000).contains(&discs_count) || busy_count > discs_count.min(1000) || busy_count == 0 {
        bail!("{busy_count} busy discs of {discs_count}: at most 1,000 of 50 to 50,000");
    }
    let in_range = |seconds| (0.1..=60.0).contains(&seconds);
    if config.depth == 0 || !in_range(config.idle_seconds) || !in_range(config.busy_seconds) {
        bail!("each phase takes 0.1 to 60 s, with at least one request in flight");
    }
    raise_open_files(discs_count + busy_count + OPEN_FILES_SPARE)?;
    fs::create_dir_all(&config.scratch)?;
    let machine = machine::describe(&config.scratch, &config.scratch)?;
    let net = Net::new()?;
    net.enter()?;
    let brain = Brain::start(net::BRAIN.parse()?)?;
    let tail = Tail::new(&net, &config.scratch, &config.program, config.shards_count)?;
    let (idle, figures, memory) = (Vec::new(), Vec::new(), Vec::new());
    let mut lab = Lab { config: config.clone(), net, brain, tail, idle, figures, memory };
    lab.say(err, "making the discs")?;
    lab.fill()?;
    lab.say(err, "measuring idleness")?;
    lab.rest()?;
    lab.say(err, "making and removing single discs")?;
    lab.come_and_go()?;
    lab.say(err, "loading")?;
    lab.busy()?;
    lab.say(err, "restarting")?;
    lab.restart()?;
    lab.say(err, "starting without addresses")?;
    lab.cold_start()?;
    lab.say(err, "done")?;
    Ok(Scale {
        format: FORMAT,
        machine,
        discs_count,
        shards_count: config.shards_count,
        busy_count,
        figures: lab.figures,
        memory: lab.memory,
    })
}

impl Lab {
    /// Orders a disc that the clients may use with `key`.
    fn order_disc(&self, number: u64, size_bytes: u64, key: &str) -> Pending {
        self.brain.order(&tail_name(), orders::create(number, size_bytes, key))
    }

    /// Orders the end of a disc.
    fn remove(&self, number: u64) -> Pending {
        self.brain.order(&tail_name(), orders::remove(number))
    }

    fn say(&self, err: &mut dyn Write, what: &str) -> Result<()> {
        Ok(writeln!(err, "{what} ({} figures so far)", self.figures.len())?)
    }

    fn note(&mut self, name: &str, value: f64, unit: &'static str, bar: impl Into<Option<Bar>>) {
        let figure = Figure::new(name, value, unit);
        self.figures.push(match bar.into() {
            Some(bar) => figure.with(bar),
            None => figure,
        });
    }

    /// Makes all discs and connects a client to each, in steps between which memory is looked at.
    fn fill(&mut self) -> Result<()> {
        self.tail.start()?;
        self.brain.wait_ready(&tail_name())?;
        self.remember(0)?;
        let count = self.config.discs_count;
        let steps = [count / 8, count / 4, count / 2, count];
        let (mut made, mut each_ms) = (0, Vec::new());
        for step in steps {
            let begun = Instant::now();
            self.create(made + 1..=step)?;
            each_ms.push(begun.elapsed().as_secs_f64() * 1e3 / (step - made) as f64);
            for number in made + 1..=step {
                self.idle.push(Client::connect(number, KEY)?);
            }
            made = step;
            self.remember(made)?;
        }
        self.note("creating a disc, the first eighth", each_ms[0], "ms", None);
        self.note("creating a disc, the last half", each_ms[3], "ms", None);
        Ok(())
    }

    fn create(&self, numbers: impl Iterator<Item = u64>) -> Result<()> {
        let mut pending = VecDeque::new();
        for number in numbers {
            if pending.len() == ORDERS_AT_ONCE
                && let Some(first) = pending.pop_front()
            {
                Pending::wait(first)?;
            }
            pending.push_back(self.order_disc(number, DISC_BYTES, KEY));
        }
        pending.into_iter().try_for_each(Pending::wait)
    }

    fn remember(&mut self, discs_count: u64) -> Result<()> {
        let rss_kib = self.tail.own_memory_kib()?;
        self.memory.push(MemoryPoint { discs_count, rss_kib });
        Ok(())
    }

    /// Memory and processor time of discs that do nothing.
    fn rest(&mut self) -> Result<()> {
        thread::sleep(SETTLE);
        let (first, count) = (self.memory[0].rss_kib as f64, self.config.discs_count);
        let now = self.tail.own_memory_kib()? as f64;
        self.note("memory of a disc with a client", (now - first) / count as f64, "KiB", Bar::AtMost(24.0));
        self.note("memory of the tail without discs", first / 1024.0, "MiB", Bar::AtMost(256.0));
        let quarter = count / 4;
        let then = self.memory.iter().find(|point| point.discs_count == quarter).map_or(first, |p| p.rss_kib as f64);
        let (early, late) = ((then - first) / quarter as f64, (now - then) / (count - quarter) as f64);
        self.note("memory of a later disc against an early one", late / early.max(0.1), "×", Bar::AtMost(1.5));
        let pid = self.tail.pid()?;
        let (begun, before) = (Instant::now(), CpuTime::of(pid)?);
        thread::sleep(Duration::from_secs_f64(self.config.idle_seconds));
        let used = CpuTime::of(pid)?.since(before).as_secs_f64() / begun.elapsed().as_secs_f64();
        self.note("idle CPU", used * 100.0, "% of a core", Bar::AtMost(0.5));
        Ok(())
    }

    /// New discs, one at a time, and their end, while somebody else reads.
    fn come_and_go(&mut self) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let observer = observe(Client::connect(1, KEY)?, Arc::clone(&stop))?;
        let before_ms = {
            thread::sleep(Duration::from_secs(1));
            observer.take()
        };
        let first_new = self.config.discs_count + 1;
        let (mut first_byte_ms, mut ordered_ms) = (Vec::new(), Vec::new());
        for number in first_new..first_new + NEW_DISCS {
            let begun = Instant::now();
            self.order_disc(number, DISC_BYTES, KEY).wait()?;
            let answered = Instant::now();
            Client::connect(number, KEY)?.look()?;
            first_byte_ms.push(answered.elapsed().as_secs_f64() * 1e3);
            ordered_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        observer.take();
        for number in first_new..first_new + NEW_DISCS {
            self.remove(number).wait()?;
        }
        let during_ms = observer.take();
        stop.store(true, Ordering::Relaxed);
        observer.join()?;
        for client in &mut self.idle {
            client.look().context("after discs were made and removed")?;
        }
        let spread = |values: &[f64]| Spread::of(values).context("nothing was measured");
        let (ordered, first_byte) = (spread(&ordered_ms)?, spread(&first_byte_ms)?);
        self.note("a new disc, from its order to its first byte", ordered.median, "ms", Bar::AtMost(20.0));
        self.note("a new disc, from the answer to its first byte", first_byte.median, "ms", None);
        self.note("the slowest of them, from its order", ordered.max, "ms", None);
        self.note("slowest read of another client before", before_ms, "ms", None);
        self.note("slowest read of another client while discs are removed", during_ms, "ms", None);
        self.note("idle clients cut off meanwhile", 0.0, "", Bar::AtMost(0.0));
        Ok(())
    }

    /// Many busy discs against one.
    fn busy(&mut self) -> Result<()> {
        let busy_count = self.config.busy_count;
        let bytes = busy_count * DISC_BYTES;
        let single = self.config.discs_count + NEW_DISCS + 1;
        self.order_disc(single, bytes, KEY).wait()?;
        self.tail.fill(single, bytes)?;
        // Every so many, so that each shard has its part.
        let stride = self.config.discs_count / busy_count;
        let numbers: Vec<u64> = (0..busy_count).map(|nth| 1 + nth * stride).collect();
        let numbers: Vec<u64> =
            numbers.iter().zip(0u64..).map(|(n, nth)| n + (nth % 2) * (stride.min(2) - 1)).collect();
        for number in &numbers {
            self.tail.fill(*number, DISC_BYTES)?;
            self.tail.warm(*number)?;
        }
        self.tail.warm(single)?;
        let targets = |numbers: &[u64]| -> Vec<String> {
            numbers.iter().map(|number| net::disc_address(*number).to_string()).collect()
        };
        let mut rates = [Vec::new(), Vec::new()];
        let mut cpu_us = [Vec::new(), Vec::new()];
        let mut client_us = [Vec::new(), Vec::new()];
        let (mut shares, mut shard_shares) = (Vec::new(), Vec::new());
        // In turn, so that what else the machine does hits both alike.
        for _ in 0..3 {
            for (which, discs, (connections_count, depth)) in
                [(0, &[single][..], SINGLE), (1, &numbers[..], (numbers.len(), self.config.depth))]
            {
                let load = self.load(connections_count, depth)?;
                let (report, counts) = load::run_on(&load, &targets(discs))?;
                let summary = report.summary();
                rates[which].push(summary.iops);
                cpu_us[which].extend(summary.server_cpu_us);
                client_us[which].push(summary.client_cpu_us);
                if which == 1 {
                    shares.push(worst_share(&counts));
                    let own_shard = |shard: u64| -> Vec<u64> {
                        let of_shard = |number: u64| number % self.config.shards_count as u64 == shard;
                        discs.iter().zip(&counts).filter(|(n, _)| of_shard(**n)).map(|(_, count)| *count).collect()
                    };
                    let shards = (0..self.config.shards_count as u64).map(own_shard);
                    shard_shares.push(shards.map(|counts| worst_share(&counts)).fold(f64::INFINITY, f64::min));
                }
            }
        }
        let median = |values: &[f64]| Spread::of(values).map_or(0.0, |spread| spread.median);
        let (one, many) = (median(&rates[0]), median(&rates[1]));
        self.note(&format!("reads of {} connections × {} on one disc", SINGLE.0, SINGLE.1), one, "IOPS", None);
        self.note(&format!("reads of {busy_count} discs × {} at once", self.config.depth), many, "IOPS", None);
        self.note("busy discs together against one", many / one.max(1.0), "×", Bar::AtLeast(0.8));
        self.note("the worst share of a busy disc against a fair one", median(&shares), "×", Bar::AtLeast(0.5));
        // A shard that shares its processor with the client has less to give.
        self.note("the same among the discs of one shard", median(&shard_shares), "×", Bar::AtLeast(0.5));
        self.note("CPU of the tail for a read, one disc", median(&cpu_us[0]), "µs", None);
        self.note("CPU of the tail for a read, busy discs", median(&cpu_us[1]), "µs", None);
        self.note("CPU of the client for a read, one disc", median(&client_us[0]), "µs", None);
        self.note("CPU of the client for a read, busy discs", median(&client_us[1]), "µs", None);
        self.remove(single).wait()
    }

    fn load(&self, connections_count: usize, depth: usize) -> Result<load::Config> {
        Ok(load::Config {
            target: String::new(),
            export: KEY.to_owned(),
            connections_count,
            depth,
            plan: plan::Config {
                block_bytes: READ_BYTES as u32,
                writes_percent: 0,
                sequential: false,
                span_bytes: None,
                seed: SEED,
            },
            warm_up: Duration::from_millis(500),
            duration: Duration::from_secs_f64(self.config.busy_seconds),
            rate: None,
            server_pid: Some(self.tail.pid()?),
        })
    }

    /// A restart while every client waits to come back.
    fn restart(&mut self) -> Result<()> {
        let stopped = self.tail.stop()?;
        self.idle.clear();
        let begun = Instant::now();
        let ready = self.tail.start()?;
        let deadline = begun + BACK_DEADLINE;
        for number in 1..=self.config.discs_count {
            self.idle.push(Client::connect_until(number, KEY, deadline)?);
        }
        let back = begun.elapsed();
        for client in &mut self.idle {
            client.look()?;
        }
        let known = self.brain.wait_ready(&tail_name())?;
        let dumped = begun.elapsed();
        if known as u64 != self.config.discs_count {
            bail!("after a restart the brain knows {known} discs");
        }
        self.note("orderly stop", stopped.as_secs_f64(), "s", None);
        self.note("restart until ready", ready.as_secs_f64(), "s", Bar::AtMost(5.0));
        self.note("restart until every client is back", back.as_secs_f64(), "s", Bar::AtMost(5.0));
        self.note("restart until the brain knows all", dumped.as_secs_f64(), "s", None);
        Ok(())
    }

    /// A start as after a reboot.
    fn cold_start(&mut self) -> Result<()> {
        self.tail.stop()?;
        self.idle.clear();
        self.net.flush_discs()?;
        let count = usize::try_from(self.config.discs_count)?;
        let begun = Instant::now();
        self.tail.start()?;
        let listening = self.tail.wait_until("all discs listen", |tail| Ok(tail.listening_count()? >= count))?;
        let added = self.tail.wait_until("all addresses are up", |tail| Ok(tail.addresses_count()? >= count))?;
        self.note("cold start until all discs listen", (listening - begun).as_secs_f64(), "s", Bar::AtMost(5.0));
        self.note("cold start until all addresses are up", (added - begun).as_secs_f64(), "s", Bar::AtMost(40.0));
        Client::connect(self.config.discs_count, KEY)?.look()?;
        self.tail.stop()?;
        Ok(())
    }
}

/// What the one that got least got, of an equal share.
fn worst_share(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let least = counts.iter().min().copied().unwrap_or(0);
    least as f64 * counts.len() as f64 / total.max(1) as f64
}

/// A thread that reads all the time.
struct Observer {
    slowest_ns: Arc<std::sync::atomic::AtomicU64>,
    thread: thread::JoinHandle<Result<()>>,
}

fn observe(mut client: Client, stop: Arc<AtomicBool>) -> Result<Observer> {
    let slowest_ns = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let slowest = Arc::clone(&slowest_ns);
    let thread = thread::Builder::new().name("observer".into()).spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            client.look()?;
            slowest.fetch_max(u64::try_from(begun.elapsed().as_nanos())?, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(Observer { slowest_ns, thread })
}

impl Observer {
    /// The slowest read since the last call, in ms.
    fn take(&self) -> f64 {
        self.slowest_ns.swap(0, Ordering::Relaxed) as f64 / 1e6
    }

    fn join(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|_| bail!("the observer panicked"))
    }
}

/// Lets this process have as many open files as `wanted`.
///
/// # Errors
/// When it may not.
pub(crate) fn raise_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .with_context(|| format!("{wanted} open files are needed, and the limit (ulimit -n) is lower"))
}
