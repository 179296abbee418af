//! A guest that writes all the time, reconnects as qemu does, and knows for each block what may be there.
//!
//! Each write fills one block of 4 KiB with its number, which no other write has. A block has one request in flight at
//! most, so after the last answer [`holds`] says what each block may hold. What was in flight when the connection went
//! is sent again after the reconnect, as qemu does: it may be carried out twice.

mod holds;
pub mod nbd;
pub mod trace;
mod writer;

pub use nbd::{BLOCK_BYTES, Place};

use anyhow::{Context, Result};
use holds::Holds;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use trace::Answer;
use writer::Writer;

/// Blocks that one read of the check asks for.
const CHECK_BLOCKS: u64 = 256;

/// How a guest writes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The disc.
    pub place: Place,
    /// Blocks from the disc's start that it writes to.
    pub blocks_count: u64,
    /// Requests in flight.
    pub depth: usize,
    /// At most so many requests a second; none: as many as go.
    pub rate: Option<u64>,
    /// Of what kinds they are.
    pub mix: Mix,
    /// For the choice of blocks.
    pub seed: u64,
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Writes alone.
    Writes,
    /// Writes, and now and then a trim, a write of zeroes and a flush.
    All,
}

/// A guest that runs on a thread of its own, and sends nothing more when this is dropped.
#[derive(Debug)]
pub struct Guest {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Written>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests that were answered.
    answered_count: AtomicU64,
    /// The longest that one took since this was last asked for, in microseconds.
    worst_us: AtomicU64,
}

/// What is on the disc now, and how it came there.
#[derive(Debug)]
pub struct Written {
    place: Place,
    /// By block.
    blocks: Vec<Holds>,
    /// Every answer, in order.
    pub trace: Vec<Answer>,
    /// How often the connection went.
    pub reconnects_count: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Blocks of which something was known.
    pub blocks_count: u64,
    /// Those that held something else.
    pub wrong_count: u64,
    /// The first of these.
    pub first_wrong: Option<String>,
}

impl Checked {
    /// Adds what another check found.
    pub fn add(&mut self, other: Self) {
        self.blocks_count += other.blocks_count;
        self.wrong_count += other.wrong_count;
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
    }
}

impl Guest {
    /// Starts to write.
    ///
    /// # Errors
    /// When the disc does not let it in.
    pub fn start(plan: Plan) -> Result<Self> {
        let (stop, shared) = (Arc::<AtomicBool>::default(), Arc::<Shared>::default());
        let stream = plan.place.connect()?;
        let (until, to) = (stop.clone(), shared.clone());
        let writer = thread::Builder::new().name("guest".into());
        let thread = writer.spawn(move || Writer::new(plan, stream, to).run(&until))?;
        Ok(Self { stop, shared, thread: Some(thread) })
    }

    /// Requests that were answered so far.
    pub fn answered_count(&self) -> u64 {
        self.shared.answered_count.load(Ordering::Relaxed)
    }

    /// The longest that a request took since this was last asked for.
    pub fn take_worst(&self) -> Duration {
        Duration::from_micros(self.shared.worst_us.swap(0, Ordering::Relaxed))
    }

    /// Stops it, when all it has sent is answered.
    ///
    /// # Errors
    /// When a request failed, or the disc is gone.
    pub fn stop(mut self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the guest panicked"))?
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Written {
    /// Reads every block back. Blocks of which nothing is known are not looked at.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn check(&self) -> Result<Checked> {
        let stream = self.place.connect()?;
        let mut checked = Checked::default();
        for (first, holds) in (0..).step_by(CHECK_BLOCKS as usize).zip(self.blocks.chunks(CHECK_BLOCKS as usize)) {
            let data = nbd::read(&stream, first, holds.len() as u64).context("a block cannot be read back")?;
            for ((block, holds), bytes) in (first..).zip(holds).zip(data.chunks_exact(BLOCK_BYTES)) {
                let Some(found) = holds.check(bytes) else { continue };
                checked.blocks_count += 1;
                if let Err(found) = found {
                    checked.wrong_count += 1;
                    let what = || format!("{}: block {block} holds {found:#x}, and not {holds}", self.place);
                    checked.first_wrong.get_or_insert_with(what);
                }
            }
        }
        Ok(checked)
    }
}
