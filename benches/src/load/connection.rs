//! One connection: keeps its window full, sends in batches, counts replies.

use super::{
    handshake::Stream,
    plan::{Operation, Plan},
    report::Report,
};
use anyhow::{Context, Result, bail};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg},
};
use std::{
    collections::VecDeque,
    io::{IoSlice, Write},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const REQUEST_BYTES: usize = 28;
const REPLY_BYTES: usize = 16;
const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
/// One receive takes at most this much: the length of the buffer that all connections share, so that hundreds of them
/// do not push one another's bytes out of the processor's cache.
pub const RECEIVE_BYTES: usize = 256 << 10;
/// From this many bytes still to come, a payload is discarded inside the kernel.
const DISCARD_BYTES_MIN: usize = 16 << 10;
/// Slices of one sendmsg: the kernel's UIO_MAXIOV is 1024.
const SLICES_MAX: usize = 512;

/// A request in flight, found by its cookie.
#[derive(Debug, Clone, Copy)]
struct Slot {
    operation: Operation,
    counts_from: Instant,
    busy: bool,
}

/// A message on its way to the kernel: the header, and for a write the payload after it.
#[derive(Debug)]
struct Message {
    header: [u8; REQUEST_BYTES],
    payload_bytes: usize,
    sent_bytes: usize,
}

/// One connection and its window of requests.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    plan: Plan,
    slots: Vec<Slot>,
    free: Vec<u32>,
    outgoing: VecDeque<Message>,
    payload: Vec<u8>,
    /// The start of a header whose end has not arrived.
    held: [u8; REPLY_BYTES],
    /// Bytes of it.
    held_bytes: usize,
    counted: u64,
    /// Bytes of a read's payload still to come.
    payload_left: usize,
    interval: Option<Duration>,
    next_due: Instant,
    stopping: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    /// A connection that has finished its handshake.
    ///
    /// # Errors
    /// When `depth` is over 2^32.
    pub fn new(stream: Stream, plan: Plan, depth: usize) -> Result<Self> {
        let idle = Slot { operation: Operation::Read, counts_from: Instant::now(), busy: false };
        let depth_u32 = u32::try_from(depth).context("the depth is too big")?;
        // Bytes that do not compress and are no zeroes, so that no server can skip them.
        let payload = (0..plan.block_bytes()).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
        Ok(Self {
            stream,
            plan,
            slots: vec![idle; depth],
            free: (0..depth_u32).rev().collect(),
            outgoing: VecDeque::with_capacity(depth),
            payload,
            held: [0; REPLY_BYTES],
            held_bytes: 0,
            counted: 0,
            payload_left: 0,
            interval: None,
            next_due: Instant::now(),
            stopping: false,
        })
    }

    /// Sets the clock going; with an interval a request is due at each multiple of it.
    pub fn start(&mut self, now: Instant, interval: Option<Duration>, stagger: Duration) {
        self.interval = interval;
        self.next_due = now + stagger;
    }

    /// Requests that were answered while they were counted.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Sends and receives what can be, without waiting; `received` has [`RECEIVE_BYTES`] bytes, and nothing in it is
    /// kept. True when anything moved.
    ///
    /// # Errors
    /// When the server breaks the protocol, hangs up, or answers with an error.
    pub fn turn(&mut self, report: &mut Report, received: &mut [u8], counting: bool) -> Result<bool> {
        self.fill();
        let sent = self.send()?;
        let moved = self.receive(report, received, counting)?;
        Ok(sent || moved)
    }

    /// As [`Connection::turn`] the other way round: takes what has arrived, and asks for as much again.
    ///
    /// # Errors
    /// As [`Connection::turn`].
    pub fn answer(&mut self, report: &mut Report, received: &mut [u8], counting: bool) -> Result<()> {
        self.receive(report, received, counting)?;
        self.fill();
        self.send()?;
        Ok(())
    }

    /// When the next request is due; none while it waits for a reply or for the socket anyway.
    pub fn due(&self) -> Option<Instant> {
        (self.interval.is_some() && !self.free.is_empty()).then_some(self.next_due)
    }

    /// True while bytes wait for the socket to take them.
    pub fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Makes no further requests; those in flight go on.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// True when nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Says goodbye; the server's answer is not waited for.
    pub fn disconnect(&mut self) {
        // The run is over and measured: a server that is gone already does not matter any more.
        let _ = (&self.stream).write(&header(CMD_DISC, 0, 0, 0));
    }

    fn fill(&mut self) {
        if self.stopping {
            return;
        }
        let now = Instant::now();
        while let Some(slot) = self.free.last().copied() {
            let counts_from = match self.interval {
                Some(_) if self.next_due > now => break,
                Some(interval) => {
                    let due = self.next_due;
                    self.next_due += interval;
                    due
                }
                None => now,
            };
            self.free.pop();
            let (operation, offset) = self.plan.next_request();
            self.slots[slot as usize] = Slot { operation, counts_from, busy: true };
            let (command, payload_bytes) = match operation {
                Operation::Read => (CMD_READ, 0),
                Operation::Write => (CMD_WRITE, self.payload.len()),
            };
            let header = header(command, u64::from(slot), offset, self.plan.block_bytes());
            self.outgoing.push_back(Message { header, payload_bytes, sent_bytes: 0 });
        }
    }

    fn send(&mut self) -> Result<bool> {
        let mut moved = false;
        while !self.outgoing.is_empty() {
            let mut slices = Vec::with_capacity(SLICES_MAX);
            for message in self.outgoing.iter().take(SLICES_MAX / 2) {
                let header_left = message.header.get(message.sent_bytes..).unwrap_or_default();
                if !header_left.is_empty() {
                    slices.push(IoSlice::new(header_left));
                }
                let payload_sent = message.sent_bytes.saturating_sub(REQUEST_BYTES);
                if payload_sent < message.payload_bytes {
                    slices.push(IoSlice::new(&self.payload[payload_sent..]));
                }
            }
            let mut sent =
                match sendmsg(&self.stream, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                    Ok(sent) => sent,
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(error) => return Err(error).context("cannot send"),
                };
            moved |= sent > 0;
            while sent > 0 {
                let message = self.outgoing.front_mut().context("more was sent than asked")?;
                let left = REQUEST_BYTES + message.payload_bytes - message.sent_bytes;
                let now = left.min(sent);
                message.sent_bytes += now;
                sent -= now;
                if now == left {
                    self.outgoing.pop_front();
                }
            }
        }
        Ok(moved)
    }

    fn receive(&mut self, report: &mut Report, received: &mut [u8], counting: bool) -> Result<bool> {
        let mut moved = false;
        loop {
            received[..self.held_bytes].copy_from_slice(&self.held[..self.held_bytes]);
            // Discarding stops short of the next header, so it is only used well inside a payload.
            let (range, flags) = if self.payload_left >= DISCARD_BYTES_MIN {
                (0..self.payload_left.min(RECEIVE_BYTES), RecvFlags::TRUNC)
            } else {
                (self.held_bytes..RECEIVE_BYTES, RecvFlags::empty())
            };
            let wanted = range.len();
            let count = match recv(&self.stream, &mut received[range], flags) {
                Ok((_, 0)) => bail!("the server hung up"),
                Ok((_, count)) => count,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(moved),
                Err(error) => return Err(error).context("cannot receive"),
            };
            moved = true;
            if self.payload_left >= DISCARD_BYTES_MIN {
                self.payload_left -= count;
            } else {
                self.parse(&received[..self.held_bytes + count], report, counting)?;
            }
            if count < wanted {
                return Ok(true);
            }
        }
    }

    /// Goes through the held bytes and the new ones behind them.
    fn parse(&mut self, received: &[u8], report: &mut Report, counting: bool) -> Result<()> {
        let now = Instant::now();
        let end = received.len();
        let mut at = 0;
        loop {
            let skipped = self.payload_left.min(end - at);
            self.payload_left -= skipped;
            at += skipped;
            if end - at < REPLY_BYTES {
                break;
            }
            let reply: [u8; REPLY_BYTES] = received[at..at + REPLY_BYTES].try_into().expect("16 bytes");
            at += REPLY_BYTES;
            let slot = self.finish(&reply, now, report, counting)?;
            if slot.operation == Operation::Read {
                self.payload_left = self.plan.block_bytes() as usize;
            }
        }
        self.held_bytes = end - at;
        self.held[..self.held_bytes].copy_from_slice(&received[at..]);
        Ok(())
    }

    fn finish(&mut self, reply: &[u8; REPLY_BYTES], now: Instant, report: &mut Report, counting: bool) -> Result<Slot> {
        let word = |range: std::ops::Range<usize>| u32::from_be_bytes(reply[range].try_into().expect("four bytes"));
        if word(0..4) != SIMPLE_REPLY_MAGIC {
            bail!("the server's reply has no magic: {:02x?}", &reply[..]);
        }
        if word(4..8) != 0 {
            bail!("the server answered a request with error {}", word(4..8));
        }
        let cookie = u64::from_be_bytes(reply[8..16].try_into().expect("eight bytes"));
        let index = usize::try_from(cookie).unwrap_or(usize::MAX);
        let slot = self.slots.get_mut(index).filter(|slot| slot.busy);
        let slot = slot.with_context(|| format!("the server answered cookie {cookie}, which is not in flight"))?;
        slot.busy = false;
        let finished = *slot;
        self.free.push(index as u32);
        if counting {
            self.counted += 1;
            report.count(finished.operation, now.saturating_duration_since(finished.counts_from));
        }
        Ok(finished)
    }
}

fn header(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0u8; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}
