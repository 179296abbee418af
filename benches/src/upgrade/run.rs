//! The measurement.

use super::{
    crowd::{Crowd, DISC_BYTES, Kind},
    record::{Upgrade, Upgrades, sum_up},
};
use crate::{
    brain::Brain,
    peers::machine,
    record::FORMAT,
    scale::{
        client::Client,
        net::{self, Net},
        orders::{self, tail_name},
        raise_open_files,
        tail::Tail,
    },
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// The attachment key of every disc.
const KEY: &str = "upgrade";
/// Between what happens and what is looked at next.
const SETTLE: Duration = Duration::from_millis(500);
/// Descriptors of this process beside one for each client.
const OPEN_FILES_SPARE: u64 = 512;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Config {
    /// Discs, each with a client: 1 to 5,000.
    pub discs_count: u64,
    /// How many of the clients write all the time.
    pub writers_count: u64,
    /// How many of the others read all the time.
    pub readers_count: u64,
    /// How often each of the rest reads.
    pub every: Duration,
    /// How often a new process takes over: 1 to 1,000 times.
    pub upgrades_count: u32,
    /// Threads of the tail that serve.
    pub shards_count: usize,
    /// The tail's program.
    pub program: PathBuf,
    /// A folder on ext4 or XFS for the tail's files.
    pub scratch: PathBuf,
}

/// Measures. Moves this thread into a network namespace that is gone afterwards.
///
/// # Errors
/// When a number is out of its range, or anything fails: an upgrade that is refused, a client that is cut off, a write
/// that was acknowledged and is not there.
pub fn run(config: &Config, err: &mut dyn Write) -> Result<Upgrades> {
    let Config { discs_count, writers_count, readers_count, every, upgrades_count, shards_count, .. } = *config;
    if !(1..=5000).contains(&discs_count) || writers_count.saturating_add(readers_count) > discs_count {
        bail!("{writers_count} writers and {readers_count} readers of {discs_count} clients: at most 5,000 in all");
    }
    if !(1..=1000).contains(&upgrades_count) || every < Duration::from_millis(1) {
        bail!("1 to 1,000 upgrades, with 1 ms or more between two reads of a client");
    }
    raise_open_files(discs_count + OPEN_FILES_SPARE)?;
    fs::create_dir_all(&config.scratch)?;
    let machine = machine::describe(&config.scratch, &config.scratch)?;
    let net = Net::new()?;
    net.enter()?;
    let brain = Brain::start(net::BRAIN.parse()?)?;
    let mut tail = Tail::new(&net, &config.scratch, &config.program, shards_count)?;
    tail.start()?;
    brain.wait_ready(&tail_name())?;
    writeln!(err, "making {discs_count} discs")?;
    let mut clients = Vec::new();
    for (number, nth) in (1..=discs_count).zip(0..) {
        brain.order(&tail_name(), orders::create(number, DISC_BYTES, KEY)).wait()?;
        let kind = match nth {
            nth if nth < writers_count => Kind::Writer,
            nth if nth < writers_count + readers_count => Kind::Reader,
            _ => Kind::Quiet,
        };
        clients.push((kind, Client::connect(number, KEY)?));
    }
    let crowd = Crowd::start(clients, every)?;
    let mut upgrades = Vec::new();
    let mut stretch = SETTLE;
    for nth in 1..=upgrades_count {
        // What is left of the start, or of the upgrade before, is over.
        thread::sleep(SETTLE);
        crowd.take_longest()?;
        thread::sleep(stretch);
        let longest_before_ms = crowd.take_longest()?;
        let begun = Instant::now();
        let pause_ms = tail.upgrade().with_context(|| format!("upgrade {nth}"))?.pause_ms;
        let took = begun.elapsed();
        stretch = took;
        let longest_ms = crowd.take_longest().with_context(|| format!("upgrade {nth}: {}", tail.log_tail()))?;
        let known_count = brain.wait_ready(&tail_name())?;
        if known_count as u64 != discs_count {
            bail!("after upgrade {nth} the brain knows {known_count} discs");
        }
        writeln!(err, "upgrade {nth} of {upgrades_count}: pause {pause_ms:.1} ms")?;
        upgrades.push(Upgrade { pause_ms, took_ms: took.as_secs_f64() * 1e3, longest_ms, longest_before_ms });
    }
    let answers_count = crowd.finish()?;
    writeln!(err, "{answers_count} answers, and everything that was acknowledged is there")?;
    tail.stop()?;
    let load_after = fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned();
    Ok(Upgrades {
        format: FORMAT,
        discs_count,
        writers_count,
        readers_count,
        every_ms: every.as_secs_f64() * 1e3,
        shards_count,
        load_averages: [machine.load_average.clone(), load_after],
        machine,
        figures: sum_up(&upgrades),
        upgrades,
    })
}
