//! What a connection receives, and where to.
//!
//! The payload of a write lands in a buffer, and is written from there; or, when it is large and still in the socket, its pages
//! land in a pipe, and nobody copies them before the file system does. A pipe takes what is there at once, so
//! [`Op::Poll`] says when there is more. If it is full too early (a sender may fill each page of the network with a few bytes),
//! or the socket has something that cannot be moved, what is in the pipe counts as received and not looked at, and
//! the piece lands in a buffer.

use super::parking::{Parked, Parking};
use super::{Connection, Transport};
use crate::buffer::Buffer;
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::{PAGES_PIECE_BYTES, PIECE_BYTES, RECEIVE_AFTER_LARGE_BYTES, RECEIVE_BYTES, REQUESTS_IN_FLIGHT_MAX};
use crate::ring::op::Op;
use crate::ring::pipe::Pipe;
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
    /// Bytes of the piece that are there, in the buffer.
    pub filled: usize,
    /// Where its pages go instead.
    pub pages: Option<Pipe>,
    /// The socket has said that there is more, and nothing of it is in the pipe yet.
    pub announced: bool,
    /// Pages do not work for this one.
    pub copied: bool,
}

impl Landing {
    /// A write of which `done` bytes are dealt with.
    pub fn new(transfer: Token, range: ByteRange, done: u64) -> Self {
        Self { transfer, range, done, buffer: None, filled: 0, pages: None, announced: false, copied: false }
    }

    /// The piece that is arriving.
    pub fn piece(&self) -> ByteRange {
        let bytes_max = if self.pages.is_some() { PAGES_PIECE_BYTES } else { PIECE_BYTES };
        self.range.piece(self.done, bytes_max as u64)
    }

    /// True when it has no place yet.
    pub fn wants_place(&self) -> bool {
        self.buffer.is_none() && self.pages.is_none()
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

    /// Takes in what has arrived of the payload behind the request. True when the piece is whole.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn land(&mut self) -> Result<bool, Errno> {
        let Some(landing) = &mut self.landing else { return Ok(false) };
        let wanted = landing.piece_bytes();
        let Some(pipe) = &mut landing.pages else { return Ok(self.land_input()) };
        let before = pipe.left();
        let mut is_full = false;
        if let Some(input) = &mut self.input {
            let length = input.bytes().len().min(wanted - pipe.left());
            let count = pipe.put(&input.bytes()[..length]).unwrap_or(0);
            is_full = count < length;
            if input.consume(count) {
                self.input = None;
            }
        }
        while pipe.left() < wanted && !is_full {
            match pipe.pull(&self.socket, wanted - pipe.left()) {
                Ok(count) if count > 0 => {}
                Err(rustix::io::Errno::INTR) => {}
                // When there is more, or the end, the socket says so, and it is looked at again.
                Ok(_) | Err(rustix::io::Errno::AGAIN) => break,
                Err(errno) => return Err(Errno(errno.raw_os_error())),
            }
        }
        let (count, is_whole) = (pipe.left() - before, pipe.left() == wanted);
        self.server.handle_payload(count as u32);
        let is_stuck = is_full || (std::mem::take(&mut landing.announced) && count == 0);
        if !is_whole && is_stuck {
            landing.copied = true;
            self.return_pages()?;
        }
        Ok(is_whole)
    }

    /// Takes what has arrived of a piece out of its pipe; then it is as if nothing of it had been looked at.
    ///
    /// # Errors
    /// When the kernel does not give it back, which is the end of this connection.
    pub fn return_pages(&mut self) -> Result<(), Errno> {
        let Some(mut pipe) = self.landing.as_mut().and_then(|landing| landing.pages.take()) else { return Ok(()) };
        let mut bytes = Vec::new();
        pipe.read_out(&mut bytes).map_err(|errno| Errno(errno.raw_os_error()))?;
        self.server.handle_payload_returned(bytes.len() as u32);
        bytes.extend_from_slice(self.input.as_ref().map_or(&[], Input::bytes));
        self.input = Input::carried(bytes);
        Ok(())
    }

    /// Copies what has arrived of the payload behind the request into its buffer. True when the piece is whole.
    fn land_input(&mut self) -> bool {
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
            Some(landing) if landing.pages.is_some() => Op::Poll { file: socket },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use crate::nbd::client::Client;
    use crate::nbd::offer::Tls;
    use crate::nbd::option::Export;
    use crate::nbd::request::Header;
    use crate::nbd::server::Event;
    use crate::nbd::wire::{command_type, option_type};
    use crate::ring::pipe::Pipes;
    use crate::ring::slots::Slots;
    use std::io::Write;
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::net::UnixStream;

    const LENGTH: u32 = 200_000;

    /// A connection that has just been asked for a write.
    fn asked_for_a_write(socket: UnixStream) -> Connection {
        let token = Slots::new(1).insert(()).unwrap();
        let size = DiscSize::from_bytes(1 << 30).unwrap();
        let (peer, batch) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Box::default());
        let mut connection = Connection::new(token, Rc::new(socket.into()), peer, true, Tls::Off, batch);
        let (mut client, mut said, mut out) = (Client::new(), vec![], vec![]);
        client.write_flags(&mut said);
        client.write_go(&mut said, option_type::GO, "", &[]);
        let command = command_type::WRITE;
        client.write_request(&mut said, Header { flags: 0, command, cookie: 1, offset: 0, length: LENGTH.into() });
        let mut rest = said.as_slice();
        loop {
            let (consumed, event) = connection.server.handle_bytes(rest, &mut out).unwrap();
            rest = &rest[consumed..];
            match event {
                Some(Event::ExportWanted(_)) => {
                    let export = Export { size, description: String::new(), read_only: false };
                    connection.server.handle_export(Ok(export), &mut out).unwrap();
                }
                Some(Event::Request(_)) => break,
                _ => assert!(!rest.is_empty()),
            }
        }
        connection.landing = Some(Landing::new(token, size.range(0, LENGTH.into()).unwrap(), 0));
        connection
    }

    /// Each send takes a place of the pipe, so few bytes fill it.
    #[test]
    fn a_pipe_that_is_full_too_early_gives_back_what_it_has() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = asked_for_a_write(ours);
        connection.landing.as_mut().unwrap().pages = Pipes::default().take();
        connection.input = Input::carried(b"first".to_vec());
        theirs.set_nonblocking(true).unwrap();
        let sent: Vec<u8> = (0..3000u32).flat_map(|nth| [nth as u8; 60]).collect();
        let (mut parts, mut in_pipe) = (sent.chunks(60), 0);
        while !connection.landing.as_ref().unwrap().copied {
            // As long as it takes something it is asked again, and then it is known that there is more.
            while let Some(part) = parts.clone().next()
                && theirs.write_all(part).is_ok()
            {
                parts.next();
            }
            assert_eq!(connection.land(), Ok(false));
            if let Some(pages) = &connection.landing.as_ref().unwrap().pages {
                in_pipe = pages.left();
                assert!(matches!(connection.next_receive(), Some(Op::Poll { .. })));
                (connection.receiving, connection.landing.as_mut().unwrap().announced) = (false, true);
            }
        }
        assert!((5..sent.len()).contains(&in_pipe), "it was full: {in_pipe}");
        assert!(connection.landing.as_ref().is_some_and(Landing::wants_place));
        let all = [b"first", sent.as_slice()].concat();
        assert_eq!(connection.input.as_ref().unwrap().bytes(), &all[..in_pipe]);
        assert_eq!(connection.server.payload_remaining(), LENGTH);
    }
}
