//! What a connection receives, and where to.

use super::parking::{Parked, Parking};
use super::{Connection, Transport};
use crate::buffer::Buffer;
use crate::geometry::ByteRange;
use crate::limits::{PIECE_BYTES, RECEIVE_AFTER_LARGE_BYTES, RECEIVE_BYTES, REQUESTS_IN_FLIGHT_MAX};
use crate::ring::op::Op;
use crate::ring::slots::Token;
use std::rc::Rc;

/// Bytes that were received and not looked at.
#[derive(Debug)]
pub struct Input {
    bytes: Bytes,
    start: usize,
    end: usize,
}

#[derive(Debug)]
enum Bytes {
    Received(Buffer),
    Parked(Parked),
    /// Somebody else has received them, before this process took over.
    Carried(Vec<u8>),
}

impl Input {
    /// The first `length` bytes of a buffer.
    pub fn new(buffer: Buffer, length: usize) -> Self {
        Self { bytes: Bytes::Received(buffer), start: 0, end: length }
    }

    /// Bytes that came from another process; none when there is none.
    pub fn carried(bytes: Vec<u8>) -> Option<Self> {
        let end = bytes.len();
        (end > 0).then_some(Self { bytes: Bytes::Carried(bytes), start: 0, end })
    }

    /// What is left.
    pub fn bytes(&self) -> &[u8] {
        let bytes = match &self.bytes {
            Bytes::Received(buffer) => buffer.bytes(),
            Bytes::Parked(parked) => parked.bytes(),
            Bytes::Carried(bytes) => bytes,
        };
        &bytes[self.start..self.end]
    }

    /// Gives its receive buffer back, if there is other room for what is left.
    pub fn park(&mut self, parking: &Parking) {
        if let Bytes::Received(_) = self.bytes
            && let Some(parked) = parking.park(self.bytes())
        {
            (self.start, self.end) = (0, self.end - self.start);
            self.bytes = Bytes::Parked(parked);
        }
    }

    /// So many bytes more have been looked at. True when nothing is left.
    pub fn consume(&mut self, count: usize) -> bool {
        self.start += count;
        assert!(self.start <= self.end);
        self.start == self.end
    }
}

/// A write whose payload is arriving, a piece at a time (safety rule 25).
#[derive(Debug)]
pub struct Landing {
    /// The request.
    pub transfer: Token,
    /// All of the write.
    pub range: ByteRange,
    /// Bytes of it before the piece.
    pub done: u64,
    /// Where the piece goes. `None` while it waits for a buffer, and while the kernel has it.
    pub buffer: Option<Buffer>,
    /// Bytes of the piece that are there.
    pub filled: usize,
}

impl Landing {
    /// The piece that is arriving.
    pub fn piece(&self) -> ByteRange {
        self.range.piece(self.done, PIECE_BYTES as u64)
    }

    /// How long the piece is, in bytes.
    pub fn piece_bytes(&self) -> usize {
        self.piece().length() as usize
    }
}

impl Connection {
    /// True when a new request may be started.
    pub fn has_room(&self) -> bool {
        self.in_flight_count < REQUESTS_IN_FLIGHT_MAX && !self.filling.as_ref().is_some_and(|batch| batch.is_full())
    }

    /// True when what has been received already waits for something.
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some() || self.asked.is_some() || self.transport == Transport::TlsAwaited
    }

    /// Copies what has arrived of the payload behind the request into its buffer. True when the piece is whole.
    pub fn land_input(&mut self) -> bool {
        let Some(landing) = &mut self.landing else { return false };
        let wanted = landing.piece_bytes();
        let Some(buffer) = &mut landing.buffer else { return false };
        if let Some(input) = &mut self.input {
            let count = input.bytes().len().min(wanted - landing.filled);
            buffer.bytes_mut()[landing.filled..landing.filled + count].copy_from_slice(&input.bytes()[..count]);
            landing.filled += count;
            self.server.handle_payload(count as u32);
            if input.consume(count) {
                self.input = None;
            }
        }
        landing.filled == wanted
    }

    /// The receive that is to be started now, if any. To receive nothing is the back-pressure.
    pub fn next_receive(&mut self) -> Option<Op> {
        if !self.is_reading() || self.held || self.receiving || self.input.is_some() || self.is_waiting() {
            return None;
        }
        let (socket, has_room) = (Rc::clone(&self.socket), self.has_room());
        let op = match &mut self.landing {
            Some(landing) => {
                let wanted = landing.piece_bytes();
                let buffer = landing.buffer.take()?;
                Op::ReceiveInto { socket, buffer, filled: landing.filled, wanted }
            }
            None if !has_room => return None,
            None if self.after_large => Op::Receive { socket, bytes_max: RECEIVE_AFTER_LARGE_BYTES },
            None => Op::Receive { socket, bytes_max: RECEIVE_BYTES as u32 },
        };
        self.receiving = true;
        Some(op)
    }
}
