//! All clients at work, each on a thread of its own.

use crate::scale::client::Client;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What one write brings.
const WRITE_BYTES: usize = 64 << 10;
/// Blocks that a writer goes through.
const BLOCKS_COUNT: usize = 16;
/// What a disc needs for that, in bytes.
pub const DISC_BYTES: u64 = (BLOCKS_COUNT * WRITE_BYTES) as u64;
/// A thread has a few buffers on its heap, and nothing deep.
const STACK_BYTES: usize = 128 << 10;
/// Longer than any client waits for an answer.
const TURN_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Has a write under way all the time.
    Writer,
    /// Has a read under way all the time.
    Reader,
    /// Reads every so often.
    Quiet,
}

/// The clients.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    kind: Kind,
    seen: Arc<Seen>,
    thread: JoinHandle<Result<()>>,
}

/// What a client tells while it works.
#[derive(Debug, Default)]
struct Seen {
    answers_count: AtomicU64,
    longest_us: AtomicU64,
}

impl Crowd {
    /// Starts them. Those that read every so often do it `every` so often.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(clients: Vec<(Kind, Client)>, every: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let count = u32::try_from(clients.len().max(1))?;
        let begun = Instant::now();
        let start = |(nth, (kind, client)): (u32, (Kind, Client))| {
            let seen = Arc::new(Seen::default());
            let work = Work { client, stop: Arc::clone(&stop), seen: Arc::clone(&seen) };
            // In turn, and not all at once.
            let first = begun + every * nth / count;
            let run = move || match kind {
                Kind::Writer => work.write(),
                Kind::Reader => work.read(),
                Kind::Quiet => work.look(first, every),
            };
            let thread = thread::Builder::new().name(format!("client{nth}")).stack_size(STACK_BYTES).spawn(run)?;
            Ok(Member { kind, seen, thread })
        };
        let members = (0..).zip(clients).map(start).collect::<Result<_>>()?;
        Ok(Self { stop, members })
    }

    /// The longest wait of each client for an answer since the last call, in ms. A wait that is not over is waited for.
    ///
    /// # Errors
    /// When a client has been cut off.
    pub fn take_longest(&self) -> Result<Vec<(Kind, f64)>> {
        let until = Instant::now() + TURN_DEADLINE;
        let answers = |member: &Member| member.seen.answers_count.load(Ordering::Relaxed);
        let before: Vec<u64> = self.members.iter().map(answers).collect();
        for (member, before) in self.members.iter().zip(before) {
            while answers(member) == before {
                if member.thread.is_finished() || Instant::now() >= until {
                    bail!("a client is cut off, or has no answer after {TURN_DEADLINE:?}");
                }
                thread::sleep(LOOK_EVERY);
            }
        }
        let longest = |member: &Member| (member.kind, member.seen.longest_us.swap(0, Ordering::Relaxed) as f64 / 1e3);
        Ok(self.members.iter().map(longest).collect())
    }

    /// Ends their work; the writers look whether everything is there. Returns how many answers there were.
    ///
    /// # Errors
    /// When a client was cut off, or something that was acknowledged is not there.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers_count = 0;
        for Member { seen, thread, .. } in self.members {
            thread.join().unwrap_or_else(|_| bail!("a client panicked"))?;
            answers_count += seen.answers_count.load(Ordering::Relaxed);
        }
        Ok(answers_count)
    }
}

/// One client's.
struct Work {
    client: Client,
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

impl Work {
    fn write(mut self) -> Result<()> {
        let mut written = [0u64; BLOCKS_COUNT];
        let mut data = vec![0; WRITE_BYTES];
        for round in 1u64.. {
            if self.is_over() {
                break;
            }
            let block = (round % BLOCKS_COUNT as u64) as usize;
            stamp(&mut data, round);
            let begun = Instant::now();
            self.client.write((block * WRITE_BYTES) as u64, &data)?;
            self.note(begun);
            written[block] = round;
        }
        let mut wanted = vec![0; WRITE_BYTES];
        for (block, round) in written.into_iter().enumerate() {
            self.client.read((block * WRITE_BYTES) as u64, &mut data)?;
            stamp(&mut wanted, round);
            anyhow::ensure!(data == wanted, "write {round} was acknowledged and is not there");
        }
        Ok(())
    }

    fn read(mut self) -> Result<()> {
        while !self.is_over() {
            let begun = Instant::now();
            self.client.look()?;
            self.note(begun);
        }
        Ok(())
    }

    fn look(mut self, first: Instant, every: Duration) -> Result<()> {
        let mut due = first;
        while !self.is_over() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.client.look()?;
            self.note(due);
            // Who has waited long asks once for all that was due meanwhile.
            let late = Instant::now().saturating_duration_since(due).as_nanos() / every.as_nanos().max(1);
            due += every * (u32::try_from(late).context("it waited for years")? + 1);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, since: Instant) {
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.seen.longest_us.fetch_max(us, Ordering::Relaxed);
        self.seen.answers_count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes data that belong to one write only; those of write 0 are what a new disc has.
fn stamp(data: &mut [u8], round: u64) {
    for (word, nth) in data.chunks_exact_mut(8).zip(1..) {
        word.copy_from_slice(&round.wrapping_mul(nth).to_le_bytes());
    }
}
