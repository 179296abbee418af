//! An NBD load generator: one thread, any number of connections, many requests a system call.
//!
//! ```text
//!   plan ──▶ which request next, and (open loop) when it is due
//!   connection ──▶ fills its window, sends batches, counts replies
//!   report ◀── latency from when a request was *due*, not from when it could be sent
//! ```
//!
//! With a rate, requests are due at fixed times whatever the server does, and each latency counts
//! from that time: a server that stalls is charged for every request that waited behind the stall
//! (this is what leaving out coordinated omission means). Without a rate the window is kept full, and
//! latency counts from the moment a request is handed to the kernel.
//!
//! Payloads of large reads are discarded inside the kernel (`MSG_TRUNC`), which costs the client next
//! to nothing and every server the same.

pub mod connection;
pub mod handshake;
pub mod plan;
pub mod report;

use anyhow::{Context, Result, bail};
use connection::Connection;
use plan::Plan;
use report::Report;
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, epoll, poll},
};
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// What to do, to whom, for how long.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST:PORT`, with an IPv6 literal in brackets, or `unix:PATH`.
    pub target: String,
    /// The export's name.
    pub export: String,
    /// How many connections.
    pub connections_count: usize,
    /// Requests in flight on each.
    pub depth: usize,
    /// The mix of requests and their places.
    pub plan: plan::Config,
    /// Time that is not counted, first.
    pub warm_up: Duration,
    /// Time that is counted.
    pub duration: Duration,
    /// Requests a second over all connections; none keeps every window full.
    pub rate: Option<f64>,
    /// The process whose processor time is charged to the requests.
    pub server_pid: Option<u32>,
}

/// Longest sleep when nothing is due: the ends of warm-up and run are met this exactly.
const POLL_MAX: Duration = Duration::from_millis(10);
/// Up to so many connections are all looked at in turn, without asking which of them have something.
const EAGER_MAX: usize = 16;
/// How long the last requests may take to come back.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the load to its end.
///
/// # Errors
/// When the server cannot be reached, refuses the export, breaks the protocol, or answers a request
/// with an error.
pub fn run(config: &Config) -> Result<Report> {
    Ok(run_on(config, std::slice::from_ref(&config.target))?.0)
}

/// As [`run`], with the connections dealt out to `targets` in turn instead of [`Config::target`]. Also returns how many
/// requests each connection got answered while they were counted, in the order of the connections.
///
/// # Errors
/// As [`run`].
pub fn run_on(config: &Config, targets: &[String]) -> Result<(Report, Vec<u64>)> {
    if config.connections_count == 0 || config.depth == 0 || targets.is_empty() {
        bail!("targets, connections and depth must be at least 1");
    }
    let mut connections = Vec::with_capacity(config.connections_count);
    for (number, target) in targets.iter().cycle().take(config.connections_count).enumerate() {
        let (stream, export) =
            handshake::connect(target, &config.export).with_context(|| format!("connection {number} to {target}"))?;
        let plan = Plan::new(&config.plan, export.size_bytes, number as u64)?;
        connections.push(Connection::new(stream, plan, config.depth)?);
    }
    let mut report = Report::new(config);
    let mut received = vec![0; connection::RECEIVE_BYTES];
    let started = Instant::now();
    let counted_from = started + config.warm_up;
    let ends = counted_from + config.duration;
    // In the open loop each connection is due at its own share of the rate, evenly staggered.
    let interval = config.rate.map(|rate| Duration::from_secs_f64(config.connections_count as f64 / rate));
    for (connection, nth) in connections.iter_mut().zip(0u32..) {
        let stagger = interval.map(|interval| interval * nth / config.connections_count as u32);
        connection.start(started, interval, stagger.unwrap_or_default());
    }
    // In the open loop each connection has times of its own.
    let many = connections.len() > EAGER_MAX && config.rate.is_none();
    let mut ready = many.then(|| Ready::new(&connections)).transpose()?;
    let mut counting = false;
    loop {
        let now = Instant::now();
        if !counting && now >= counted_from {
            report.start(now, config.server_pid)?;
            counting = true;
        }
        if now >= ends {
            break;
        }
        if let Some(ready) = &mut ready {
            for nth in ready.wait()? {
                connections[nth].answer(&mut report, &mut received, counting)?;
            }
            continue;
        }
        let mut progressed = false;
        for connection in &mut connections {
            progressed |= connection.turn(&mut report, &mut received, counting)?;
        }
        if !progressed {
            wait(&connections, now)?;
        }
    }
    report.stop(Instant::now(), config.server_pid)?;
    finish(&mut connections, &mut report, &mut received)?;
    let counts = connections.iter().map(Connection::counted).collect();
    Ok((report, counts))
}

/// Which of many connections have something to do.
struct Ready {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Ready {
    fn new(connections: &[Connection]) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (connection, nth) in connections.iter().zip(0u64..) {
            // A turn takes all that is there and sends all that goes, so only what comes after it is news.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&epoll, connection, epoll::EventData::new_u64(nth), flags)?;
        }
        Ok(Self { epoll, events: Vec::with_capacity(connections.len()) })
    }

    /// The connections with news, as soon as there are any.
    fn wait(&mut self) -> Result<impl Iterator<Item = usize>> {
        self.events.clear();
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(POLL_MAX.subsec_nanos()) };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        Ok(self.events.iter().map(|event| event.data.u64() as usize))
    }
}

/// Lets what is in flight come back, uncounted, then says goodbye: some servers do not survive a
/// client that leaves in the middle.
fn finish(connections: &mut [Connection], report: &mut Report, received: &mut [u8]) -> Result<()> {
    let deadline = Instant::now() + DRAIN_DEADLINE;
    connections.iter_mut().for_each(Connection::stop);
    while !connections.iter().all(Connection::is_idle) {
        let now = Instant::now();
        if now >= deadline {
            bail!("requests were still in flight {DRAIN_DEADLINE:?} after the last was sent");
        }
        let mut progressed = false;
        for connection in connections.iter_mut() {
            progressed |= connection.turn(report, received, false)?;
        }
        if !progressed {
            wait(connections, now)?;
        }
    }
    connections.iter_mut().for_each(Connection::disconnect);
    Ok(())
}

/// Sleeps until a socket is ready or the next request is due.
fn wait(connections: &[Connection], now: Instant) -> Result<()> {
    let due = connections.iter().filter_map(Connection::due).min();
    let sleep = due.map_or(POLL_MAX, |due| due.saturating_duration_since(now).min(POLL_MAX));
    let mut fds: Vec<PollFd<'_>> = connections
        .iter()
        .map(|connection| {
            let writing = if connection.wants_to_send() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(connection, PollFlags::IN | writing)
        })
        .collect();
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(sleep.subsec_nanos()) };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("poll"),
    }
}
