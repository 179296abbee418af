//! A guest that writes all the time, reconnects as qemu does, and knows for each block what must be there.
//!
//! Each write fills one block of 4 KiB with its number, which no other write has. A block has one write in flight at
//! most, so after the last answer each block must hold the number of the last write to it. What was in flight when the
//! connection went is sent again after the reconnect, as qemu does: it may be carried out twice.

use super::net;
use crate::load::handshake::{self, Stream};
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What one write covers.
pub const BLOCK_BYTES: usize = 4096;
/// qemu's pauses between attempts to reconnect: at once, then these.
const RETRY_SECONDS: [u64; 5] = [1, 2, 4, 8, 16];
/// A disc that is away longer has not moved but is lost.
const DEADLINE: Duration = Duration::from_secs(120);
const SIMPLE_REPLY: [u8; 4] = 0x6744_6698u32.to_be_bytes();
const REQUEST: [u8; 4] = 0x2560_9513u32.to_be_bytes();
const READ: u16 = 0;
const WRITE: u16 = 1;
/// Blocks that one read of the check asks for.
const CHECK_BLOCKS: u64 = 256;

/// How a guest writes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The disc.
    pub number: u64,
    /// Blocks from the disc's start that it writes to.
    pub blocks_count: u64,
    /// Writes in flight.
    pub depth: usize,
    /// At most so many writes a second; none: as many as go.
    pub rate: Option<u64>,
    /// For the choice of blocks.
    pub seed: u64,
}

/// A guest that runs on a thread of its own.
#[derive(Debug)]
pub struct Guest {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Written>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Writes that were answered.
    answered_count: AtomicU64,
    /// The longest that a write took since this was last asked for, in microseconds.
    worst_us: AtomicU64,
}

/// What is on the disc now.
#[derive(Debug)]
pub struct Written {
    plan: Plan,
    /// By block: the number of the last write; 0 where none was.
    blocks: Vec<u64>,
    /// How long writes took, in microseconds.
    pub latencies_us: Histogram<u64>,
    /// How often the connection went.
    pub reconnects_count: u64,
}

struct InFlight {
    block: u64,
    since: Instant,
}

impl Guest {
    /// Starts to write.
    ///
    /// # Errors
    /// When the disc does not let it in.
    pub fn start(plan: Plan) -> Result<Self> {
        let (stop, shared) = (Arc::<AtomicBool>::default(), Arc::<Shared>::default());
        let stream = connect(plan.number)?;
        let (until, to) = (stop.clone(), shared.clone());
        let thread = thread::Builder::new()
            .name(format!("guest{}", plan.number))
            .spawn(move || Writer::new(plan, stream, to).run(&until))?;
        Ok(Self { stop, shared, thread })
    }

    /// Writes that were answered so far.
    pub fn answered_count(&self) -> u64 {
        self.shared.answered_count.load(Ordering::Relaxed)
    }

    /// The longest that a write took since this was last asked for.
    pub fn take_worst(&self) -> Duration {
        Duration::from_micros(self.shared.worst_us.swap(0, Ordering::Relaxed))
    }

    /// Stops it, when all it has written is answered.
    ///
    /// # Errors
    /// When a write failed, or the disc is gone.
    pub fn stop(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the guest panicked"))?
    }
}

struct Writer {
    written: Written,
    stream: Stream,
    in_flight: HashMap<u64, InFlight>,
    busy: Vec<bool>,
    next: u64,
    random: u64,
    shared: Arc<Shared>,
    started: Instant,
}

impl Writer {
    fn new(plan: Plan, stream: Stream, shared: Arc<Shared>) -> Self {
        let latencies_us = Histogram::new(3).expect("three digits are allowed");
        let blocks = vec![0; plan.blocks_count as usize];
        let busy = vec![false; blocks.len()];
        let written = Written { plan, blocks, latencies_us, reconnects_count: 0 };
        let random = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { written, stream, in_flight: HashMap::new(), busy, next: 1, random, shared, started: Instant::now() }
    }

    fn run(mut self, stop: &AtomicBool) -> Result<Written> {
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if stopping && self.in_flight.is_empty() {
                return Ok(self.written);
            }
            let filled = if stopping { Ok(()) } else { self.fill() };
            match filled.and_then(|()| self.take_answer()) {
                Ok(Some(0)) | Ok(None) => {}
                Ok(Some(error)) => bail!("a write was answered with error {error}"),
                Err(_) => self.reconnect()?,
            }
        }
    }

    /// Sends writes until enough are in flight.
    fn fill(&mut self) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        while self.in_flight.len() < self.written.plan.depth && self.is_due() {
            let block = self.free_block();
            let number = self.next;
            self.next += 1;
            self.busy[block as usize] = true;
            self.in_flight.insert(number, InFlight { block, since: Instant::now() });
            write_request(&mut bytes, number, block);
        }
        (&self.stream).write_all(&bytes)
    }

    fn is_due(&self) -> bool {
        let Some(rate) = self.written.plan.rate else { return true };
        (self.next as f64) < self.started.elapsed().as_secs_f64() * rate as f64
    }

    fn free_block(&mut self) -> u64 {
        loop {
            // Xorshift64.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let block = self.random % self.written.plan.blocks_count;
            if !self.busy[block as usize] {
                return block;
            }
        }
    }

    /// The error of the next answer; none when nothing is in flight.
    fn take_answer(&mut self) -> std::io::Result<Option<u32>> {
        if self.in_flight.is_empty() {
            thread::sleep(Duration::from_micros(200));
            return Ok(None);
        }
        let mut reply = [0; 16];
        (&self.stream).read_exact(&mut reply)?;
        let [magic, error, high, low] = [0, 4, 8, 12].map(|at| <[u8; 4]>::try_from(&reply[at..at + 4]).expect("four"));
        let number = u64::from_be_bytes([high, low].concat().try_into().expect("eight"));
        let Some(done) = self.in_flight.remove(&number).filter(|_| magic == SIMPLE_REPLY) else {
            return Err(ErrorKind::InvalidData.into());
        };
        self.busy[done.block as usize] = false;
        self.written.blocks[done.block as usize] = number;
        let took_us = u64::try_from(done.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.written.latencies_us.saturating_record(took_us);
        self.shared.answered_count.fetch_add(1, Ordering::Relaxed);
        self.shared.worst_us.fetch_max(took_us, Ordering::Relaxed);
        Ok(Some(u32::from_be_bytes(error)))
    }

    /// As qemu does: at once, then after pauses; what was in flight is sent again.
    fn reconnect(&mut self) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        let mut pauses = RETRY_SECONDS.iter().copied().chain(std::iter::repeat(16));
        self.written.reconnects_count += 1;
        self.stream = loop {
            match connect(self.written.plan.number) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => return Err(error.context("the disc does not come back")),
                Err(_) => thread::sleep(Duration::from_secs(pauses.next().expect("it repeats"))),
            }
        };
        let mut bytes = Vec::new();
        for (number, write) in &self.in_flight {
            write_request(&mut bytes, *number, write.block);
        }
        // If this fails, the next answer does not come either.
        let _ = (&self.stream).write_all(&bytes);
        Ok(())
    }
}

impl Written {
    /// Reads every block back, and returns how many there were.
    ///
    /// # Errors
    /// With the first block that holds anything but its last write. Blocks that were never written are not looked at.
    pub fn check(&self) -> Result<u64> {
        let stream = connect(self.plan.number)?;
        let mut checked_count = 0;
        for first in (0..self.plan.blocks_count).step_by(CHECK_BLOCKS as usize) {
            let count = CHECK_BLOCKS.min(self.plan.blocks_count - first);
            let data = read(&stream, first, count)?;
            for (block, bytes) in (first..).zip(data.chunks_exact(BLOCK_BYTES)) {
                let number = self.blocks[block as usize];
                if number == 0 {
                    continue;
                }
                let found = bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight")));
                if let Some(wrong) = found.clone().find(|found| *found != number) {
                    bail!("disc {}: block {block} holds write {wrong}, and not {number}", self.plan.number);
                }
                checked_count += 1;
            }
        }
        Ok(checked_count)
    }
}

/// Writes a distinct number into each of the first blocks of a disc.
///
/// # Errors
/// When the disc does not take them.
pub fn fill(number: u64, blocks_count: u64) -> Result<()> {
    let stream = connect(number)?;
    for first in (0..blocks_count).step_by(CHECK_BLOCKS as usize) {
        let count = CHECK_BLOCKS.min(blocks_count - first);
        let mut bytes = header(WRITE, first, first * BLOCK_BYTES as u64, count as usize * BLOCK_BYTES);
        bytes.extend((first..first + count).flat_map(|block| (u64::MAX - block).to_be_bytes().repeat(BLOCK_BYTES / 8)));
        (&stream).write_all(&bytes)?;
        let mut reply = [0; 16];
        (&stream).read_exact(&mut reply)?;
        ensure!(reply[..4] == SIMPLE_REPLY && reply[4..8] == [0; 4], "disc {number} refuses a write");
    }
    Ok(())
}

fn connect(number: u64) -> Result<Stream> {
    let (stream, _) = handshake::connect(&net::disc_address(number).to_string(), super::cluster::KEY)
        .with_context(|| format!("disc {number}"))?;
    if let Stream::Tcp(stream) = &stream {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(DEADLINE))?;
    }
    Ok(stream)
}

fn read(stream: &Stream, first: u64, count: u64) -> Result<Vec<u8>> {
    let mut stream = stream;
    let length = count as usize * BLOCK_BYTES;
    stream.write_all(&header(READ, first, first * BLOCK_BYTES as u64, length))?;
    let mut reply = vec![0; 16 + length];
    stream.read_exact(&mut reply)?;
    ensure!(reply[..4] == SIMPLE_REPLY && reply[4..8] == [0; 4], "the disc refuses a read");
    Ok(reply.split_off(16))
}

fn write_request(out: &mut Vec<u8>, number: u64, block: u64) {
    out.extend(header(WRITE, number, block * BLOCK_BYTES as u64, BLOCK_BYTES));
    out.extend(number.to_be_bytes().repeat(BLOCK_BYTES / 8));
}

/// NBD protocol, "Request message".
fn header(command: u16, cookie: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28 + length);
    bytes.extend(REQUEST);
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend((length as u32).to_be_bytes());
    bytes
}
