//! The guest's thread.

use super::{
    BLOCK_BYTES, Mix, Plan, Shared, Written,
    holds::{Deed, Holds},
    nbd,
    trace::Answer,
};
use crate::load::handshake::Stream;
use anyhow::{Result, bail};
use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// qemu's pauses between attempts to reconnect: at once, then these.
const RETRY_SECONDS: [u64; 5] = [1, 2, 4, 8, 16];

pub(super) struct Writer {
    plan: Plan,
    written: Written,
    stream: Stream,
    in_flight: HashMap<u64, InFlight>,
    busy: Vec<bool>,
    next: u64,
    random: u64,
    shared: Arc<Shared>,
    started: Instant,
}

struct InFlight {
    kind: Kind,
    block: u64,
    since: Instant,
}

#[derive(Clone, Copy)]
enum Kind {
    Write,
    Zero,
    Trim,
    Flush,
}

impl Writer {
    pub(super) fn new(plan: Plan, stream: Stream, shared: Arc<Shared>) -> Self {
        let blocks = vec![Holds::default(); plan.blocks_count as usize];
        let busy = vec![false; blocks.len()];
        let written = Written { place: plan.place.clone(), blocks, trace: Vec::new(), reconnects_count: 0 };
        let random = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (in_flight, started) = (HashMap::new(), Instant::now());
        Self { plan, written, stream, in_flight, busy, next: 1, random, shared, started }
    }

    pub(super) fn run(mut self, stop: &AtomicBool) -> Result<Written> {
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if stopping && self.in_flight.is_empty() {
                return Ok(self.written);
            }
            let filled = if stopping { Ok(()) } else { self.fill() };
            match filled.and_then(|()| self.take_answer()) {
                Ok(Some(0)) | Ok(None) => {}
                Ok(Some(error)) => bail!("a request was answered with error {error}"),
                Err(_) => self.reconnect()?,
            }
        }
    }

    /// Sends requests until enough are in flight.
    fn fill(&mut self) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        while self.in_flight.len() < self.plan.depth && self.is_due() {
            let (kind, block) = (self.next_kind(), self.free_block());
            let number = self.next;
            self.next += 1;
            self.busy[block as usize] = true;
            let request = InFlight { kind, block, since: Instant::now() };
            request.encode(number, &mut bytes);
            self.in_flight.insert(number, request);
        }
        (&self.stream).write_all(&bytes)
    }

    fn is_due(&self) -> bool {
        let Some(rate) = self.plan.rate else { return true };
        (self.next as f64) < self.started.elapsed().as_secs_f64() * rate as f64
    }

    fn next_kind(&mut self) -> Kind {
        if self.plan.mix == Mix::Writes {
            return Kind::Write;
        }
        match self.next_random() % 32 {
            0 => Kind::Flush,
            1 | 2 => Kind::Trim,
            3 | 4 => Kind::Zero,
            _ => Kind::Write,
        }
    }

    fn free_block(&mut self) -> u64 {
        loop {
            let block = self.next_random() % self.plan.blocks_count;
            if !self.busy[block as usize] {
                return block;
            }
        }
    }

    /// Xorshift64.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
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
        let Some(done) = self.in_flight.remove(&number).filter(|_| magic == nbd::SIMPLE_REPLY) else {
            return Err(ErrorKind::InvalidData.into());
        };
        self.busy[done.block as usize] = false;
        if let Some(deed) = done.deed(number) {
            let holds = &mut self.written.blocks[done.block as usize];
            *holds = holds.after(deed);
        }
        let at = Instant::now();
        let took_us = u32::try_from((at - done.since).as_micros()).unwrap_or(u32::MAX);
        let block = done.deed(number).map(|_| done.block as u32);
        self.written.trace.push(Answer { at, took_us, block });
        self.shared.answered_count.fetch_add(1, Ordering::Relaxed);
        self.shared.worst_us.fetch_max(took_us.into(), Ordering::Relaxed);
        Ok(Some(u32::from_be_bytes(error)))
    }

    /// As qemu does: at once, then after pauses; what was in flight is sent again.
    fn reconnect(&mut self) -> Result<()> {
        let until = Instant::now() + nbd::DEADLINE;
        let mut pauses = RETRY_SECONDS.iter().copied().chain(std::iter::repeat(16));
        self.written.reconnects_count += 1;
        self.stream = loop {
            match self.plan.place.connect() {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => return Err(error.context("the disc does not come back")),
                Err(_) => thread::sleep(Duration::from_secs(pauses.next().expect("it repeats"))),
            }
        };
        let mut bytes = Vec::new();
        for (number, request) in &self.in_flight {
            request.encode(*number, &mut bytes);
        }
        // If this fails, the next answer does not come either.
        let _ = (&self.stream).write_all(&bytes);
        Ok(())
    }
}

impl InFlight {
    fn encode(&self, number: u64, out: &mut Vec<u8>) {
        let offset_bytes = self.block * BLOCK_BYTES as u64;
        let whole = |command| nbd::request(command, number, offset_bytes, BLOCK_BYTES);
        match self.kind {
            Kind::Write => {
                out.extend(whole(nbd::WRITE));
                out.extend(number.to_be_bytes().repeat(BLOCK_BYTES / 8));
            }
            Kind::Zero => out.extend(whole(nbd::WRITE_ZEROES)),
            Kind::Trim => out.extend(whole(nbd::TRIM)),
            Kind::Flush => out.extend(nbd::request(nbd::FLUSH, number, 0, 0)),
        }
    }

    /// What it does to its block; none when it does nothing.
    fn deed(&self, number: u64) -> Option<Deed> {
        match self.kind {
            Kind::Write => Some(Deed::Write(number)),
            Kind::Zero => Some(Deed::Zero),
            Kind::Trim => Some(Deed::Trim),
            Kind::Flush => None,
        }
    }
}
