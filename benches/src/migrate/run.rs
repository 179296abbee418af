//! The measurement, a question at a time.

use super::{
    cluster::{Cluster, Moved},
    guest::{self, BLOCK_BYTES, Guest, Plan},
    record::Moves,
};
use crate::{
    figures::{Bar, Figure},
    peers::machine,
    record::FORMAT,
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// The disc that most questions are about.
const DISC: u64 = 1;
const DISC_BYTES: u64 = 4 << 30;
/// A large disc with little on it.
const SPARSE_DISC: u64 = 2;
const SPARSE_BYTES: u64 = 64 << 30;
const SPARSE_MIB: u64 = 100;
/// The first of the discs that move at once, their size, and how much is on each.
const MANY_FIRST: u64 = 100;
const MANY_BYTES: u64 = 64 << 20;
const MANY_MIB: u64 = 4;
/// Writes in flight of the guest whose pauses count.
const DEPTH: usize = 16;
/// Writes a second of a guest that has its pace.
const STEADY_RATE: u64 = 5000;
/// What a limited move is limited to, in 10⁶ bytes a second.
const LIMIT_MB_PER_S: u32 = 50;
/// How much longer than without a guest a move may take that its guest outruns, before it is called off.
const OUTRUN_TIMES_MAX: f64 = 20.0;
/// How long a limit is kept within its bound.
const WINDOW: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a guest writes alone, to compare with.
const ALONE: Duration = Duration::from_secs(5);
const BLOCKS_IN_MIB: u64 = (1 << 20) / BLOCK_BYTES as u64;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Config {
    /// Moves under load whose pauses are measured: 1 to 1,000.
    pub moves_count: u32,
    /// MiB of data on the disc that moves: 16 to 4,096.
    pub data_mib: u64,
    /// Discs that move at once: 1 to 200.
    pub many_count: u64,
    /// Threads of each tail that serve.
    pub shards_count: usize,
    /// How the pools' files are read and written: `io` of a pool.
    pub io: String,
    /// The tail's program.
    pub program: PathBuf,
    /// A folder on ext4 or XFS for the tails' files.
    pub scratch: PathBuf,
}

/// What the questions share.
struct Lab {
    config: Config,
    cluster: Cluster,
    idle: Option<Duration>,
    pauses_ms: Vec<f64>,
    figures: Vec<Figure>,
}

type Question = fn(&mut Lab) -> Result<()>;

/// Measures. Moves this thread into a network namespace that is gone afterwards.
///
/// # Errors
/// When a number is out of its range, or anything fails: a move that does not come to its end, a byte that is wrong.
pub fn run(config: &Config, err: &mut dyn Write) -> Result<Moves> {
    ensure!((1..=1000).contains(&config.moves_count), "1 to 1,000 moves");
    ensure!((16..=4096).contains(&config.data_mib), "16 to 4,096 MiB of data");
    ensure!((1..=200).contains(&config.many_count), "1 to 200 discs at once");
    fs::create_dir_all(&config.scratch)?;
    let machine = machine::describe(&config.scratch, &config.scratch)?;
    let cluster = Cluster::start(&config.scratch, &config.program, config.shards_count, &config.io)?;
    let mut lab = Lab { config: config.clone(), cluster, idle: None, pauses_ms: Vec::new(), figures: Vec::new() };
    let questions: [(&str, Question); 6] = [
        ("moving an idle disc", Lab::idle),
        ("moving it under load, again and again", Lab::busy),
        ("moving it with a limit", Lab::limited),
        ("moving it slower than its guest writes", Lab::outrun),
        ("moving a large disc with little on it", Lab::sparse),
        ("moving many at once", Lab::many),
    ];
    for (what, question) in questions {
        let known_count = lab.figures.len();
        writeln!(err, "{what}")?;
        question(&mut lab).with_context(|| what.to_owned())?;
        for figure in &lab.figures[known_count..] {
            writeln!(err, "  {}: {:.2} {}", figure.name, figure.value, figure.unit)?;
        }
    }
    Ok(Moves { format: FORMAT, machine, pauses_ms: lab.pauses_ms, figures: lab.figures })
}

impl Lab {
    fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str, bar: impl Into<Option<Bar>>) {
        let figure = Figure::new(name, value, unit);
        self.figures.push(match bar.into() {
            Some(bar) => figure.with(bar),
            None => figure,
        });
    }

    fn data_blocks(&self) -> u64 {
        self.config.data_mib * BLOCKS_IN_MIB
    }

    fn guest(&self, rate: Option<u64>, seed: u64) -> Result<Guest> {
        Guest::start(Plan { number: DISC, blocks_count: self.data_blocks(), depth: DEPTH, rate, seed })
    }

    /// Nobody writes: how fast, how much on the wire, and are the holes still there?
    fn idle(&mut self) -> Result<()> {
        self.cluster.create(DISC, DISC_BYTES)?;
        guest::fill(DISC, self.data_blocks())?;
        let (before, sent_before) = (self.cluster.allocated_bytes(DISC)?, self.cluster.sent_bytes(DISC)?);
        let moving = self.cluster.begin_move(DISC, None)?;
        while !self.cluster.has_moved(&moving)? {
            thread::sleep(LOOK_EVERY / 50);
        }
        let sent = self.cluster.sent_bytes(DISC)? - sent_before;
        let Moved { took, .. } = self.cluster.finish_move(&moving)?;
        let after = self.cluster.allocated_bytes(DISC)?;
        self.idle = Some(took);
        self.note("an idle disc moves in", took.as_secs_f64(), "s", None);
        self.note("which is", self.config.data_mib as f64 / took.as_secs_f64(), "MiB/s", None);
        self.note("allocated after against before", after as f64 / before as f64, "×", Bar::AtMost(1.01));
        self.note("the same, at least", after as f64 / before as f64, "×", Bar::AtLeast(0.99));
        self.note("bytes on the wire against allocated, idle", sent as f64 / before as f64, "×", Bar::AtMost(1.1));
        Ok(())
    }

    /// What does the guest see, and is every byte there afterwards?
    fn busy(&mut self) -> Result<()> {
        let guest = self.guest(None, 1)?;
        let mut reported_ms = 0;
        for _ in 0..self.config.moves_count {
            guest.take_worst();
            let moved = self.cluster.move_disc(DISC, None)?;
            let pause_ms = moved.report.get("pause_ms").and_then(serde_json::Value::as_u64);
            reported_ms = reported_ms.max(pause_ms.unwrap_or_default());
            // What waited for the reconnect has been answered by then.
            let answered = guest.answered_count();
            while guest.answered_count() < answered + 10 * DEPTH as u64 {
                thread::sleep(LOOK_EVERY / 10);
            }
            self.pauses_ms.push(guest.take_worst().as_secs_f64() * 1e3);
        }
        let written = guest.stop()?;
        let blocks_count = written.check()?;
        let mut sorted = self.pauses_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
        let (median, p99, worst) = (at(0.5), at(0.99), at(1.0));
        self.note("longest write of a move, median", median, "ms", None);
        self.note("longest write of a move, p99", p99, "ms", Bar::AtMost(100.0));
        self.note("longest write of a move, worst", worst, "ms", Bar::AtMost(500.0));
        self.note("longest pause that a source reported", reported_ms as f64, "ms", None);
        self.note("moves under load", f64::from(self.config.moves_count), "", None);
        self.note("reconnects", written.reconnects_count as f64, "", None);
        self.note("blocks that were checked", blocks_count as f64, "", None);
        self.note("blocks that were wrong", 0.0, "", Bar::AtMost(0.0));
        Ok(())
    }

    /// Is a limit kept, and does the guest keep its speed?
    fn limited(&mut self) -> Result<()> {
        let guest = self.guest(Some(STEADY_RATE), 2)?;
        thread::sleep(ALONE / 5);
        let (begun, before) = (Instant::now(), guest.answered_count());
        thread::sleep(ALONE);
        let alone = (guest.answered_count() - before) as f64 / begun.elapsed().as_secs_f64();
        let moving = self.cluster.begin_move(DISC, Some(LIMIT_MB_PER_S))?;
        let (begun, before) = (Instant::now(), guest.answered_count());
        let mut looks: Vec<(Instant, u64)> = Vec::new();
        let mut fastest = 0.0f64;
        while !self.cluster.has_moved(&moving)? {
            let copied = self.cluster.source_report(&moving).get("bytes_copied").and_then(serde_json::Value::as_u64);
            let now = Instant::now();
            looks.push((now, copied.unwrap_or_default()));
            let window = looks.iter().rev().find(|(at, _)| now.duration_since(*at) >= WINDOW);
            if let (Some((at, earlier)), Some(copied)) = (window, copied) {
                let rate = copied.saturating_sub(*earlier) as f64 / now.duration_since(*at).as_secs_f64() / 1e6;
                fastest = fastest.max(rate);
            }
            thread::sleep(LOOK_EVERY);
        }
        let beside = (guest.answered_count() - before) as f64 / begun.elapsed().as_secs_f64();
        self.cluster.finish_move(&moving)?;
        guest.stop()?.check()?;
        let bound = f64::from(LIMIT_MB_PER_S) * 1.05;
        self.note("fastest two seconds of a move limited to 50 MB/s", fastest, "MB/s", Bar::AtMost(bound));
        self.note("a guest's writes beside it, against alone", beside / alone, "×", Bar::AtLeast(0.7));
        Ok(())
    }

    /// Does a move come to its end though the guest writes three times faster than it may copy?
    fn outrun(&mut self) -> Result<()> {
        let rate = u64::from(LIMIT_MB_PER_S) * 3_000_000 / BLOCK_BYTES as u64;
        let idle_s = self.config.data_mib as f64 * 1.048_576 / f64::from(LIMIT_MB_PER_S);
        let patience = Duration::from_secs_f64(idle_s * OUTRUN_TIMES_MAX);
        let guest = self.guest(Some(rate), 3)?;
        let moving = self.cluster.begin_move(DISC, Some(LIMIT_MB_PER_S))?;
        while !self.cluster.has_moved(&moving)? && moving.age() < patience {
            thread::sleep(LOOK_EVERY);
        }
        let times = if self.cluster.has_moved(&moving)? {
            self.cluster.finish_move(&moving)?.took.as_secs_f64() / idle_s
        } else {
            self.cluster.cancel_move(&moving)?;
            OUTRUN_TIMES_MAX
        };
        guest.stop()?.check()?;
        self.note("three times outrun: time against an idle disc's (20: called off)", times, "×", Bar::AtMost(3.0));
        Ok(())
    }

    /// Is the time that of the data, or that of the disc?
    fn sparse(&mut self) -> Result<()> {
        self.cluster.create(SPARSE_DISC, SPARSE_BYTES)?;
        guest::fill(SPARSE_DISC, SPARSE_MIB * BLOCKS_IN_MIB)?;
        let moved = self.cluster.move_disc(SPARSE_DISC, None)?;
        let idle = self.idle.context("the idle disc comes first")?.as_secs_f64() / self.config.data_mib as f64;
        let expected = idle * SPARSE_MIB as f64;
        self.note(
            "a disc of 64 GiB with 100 MiB on it moves in",
            moved.took.as_secs_f64(),
            "s",
            Bar::AtMost(2.0 * expected + 1.0),
        );
        self.cluster.remove(SPARSE_DISC)
    }

    /// Do all come to their end, and is nobody paused for long?
    fn many(&mut self) -> Result<()> {
        let numbers: Vec<u64> = (MANY_FIRST..MANY_FIRST + self.config.many_count).collect();
        let blocks_count = MANY_MIB * BLOCKS_IN_MIB;
        for number in &numbers {
            self.cluster.create(*number, MANY_BYTES)?;
            guest::fill(*number, blocks_count)?;
        }
        let guests: Vec<Guest> = numbers
            .iter()
            .map(|number| Guest::start(Plan { number: *number, blocks_count, depth: 1, rate: Some(20), seed: *number }))
            .collect::<Result<_>>()?;
        let begun = Instant::now();
        let moves: Vec<_> =
            numbers.iter().map(|number| self.cluster.begin_move(*number, None)).collect::<Result<_>>()?;
        for moving in &moves {
            self.cluster.finish_move(moving)?;
        }
        let took = begun.elapsed();
        thread::sleep(LOOK_EVERY);
        let worst = guests.iter().map(Guest::take_worst).max().unwrap_or_default();
        for guest in guests {
            guest.stop()?.check()?;
        }
        self.note(format!("{} discs at once move in", numbers.len()), took.as_secs_f64(), "s", None);
        self.note("longest write of any of their guests", worst.as_secs_f64() * 1e3, "ms", Bar::AtMost(500.0));
        numbers.into_iter().try_for_each(|number| self.cluster.remove(number))
    }
}
