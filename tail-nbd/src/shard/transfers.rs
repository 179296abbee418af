//! Requests being carried out, and their answers.

use super::owner::Shard;
use crate::buffer::Buffer;
use crate::connection::State;
use crate::connection::transfer::Transfer;
use crate::disc::mode;
use crate::disc::mode::IoMode;
use crate::disc::sparse::Part;
use crate::disc::{Disc, Locker};
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::{PAGES_BYTES_MIN, PIECE_BYTES, PIPE_BYTES};
use crate::metrics::{Limit, Timed};
use crate::nbd::offer::Style;
use crate::nbd::reply;
use crate::nbd::request::Command;
use crate::nbd::wire::Error;
use crate::ring::batch::Batch;
use crate::ring::op::{Completion, Handle, Op, Owner};
use crate::ring::pipe::Pipe;
use crate::ring::slots::{Slots, Token};
use rustix::io::ReadWriteFlags;
use std::io::IoSliceMut;
use std::rc::Rc;

impl Shard {
    /// What a READ does next: a piece of it is read, or is a hole.
    pub(super) fn next_part(discs: &mut Slots<Disc>, transfer: &Transfer, style: Style) -> Part {
        let rest = transfer.read_rest();
        if !transfer.may_be_cut(style) {
            return Part { range: rest, hole: false };
        }
        match discs.get_mut(transfer.disc).filter(|disc| disc.changes_count == 0) {
            Some(disc) => disc.sparse.next_part(&disc.data, rest, PIECE_BYTES as u64),
            None => Part { range: rest.piece(0, PIECE_BYTES as u64), hole: false },
        }
    }

    /// Reads the next piece of a READ: at once what is small and in the page cache, the rest by the ring.
    pub(super) fn submit_read(&mut self, id: Token, mut buffer: Buffer, range: ByteRange) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let Some(disc) = self.discs.get_mut(transfer.disc) else { return };
        if let Some(blocks) = disc.blocks_of(range) {
            return self.submit_direct_read(id, buffer, range, blocks);
        }
        // Only what is the last of its request, so that a read of a thousand pieces does not nest a thousand calls.
        let small = self.pipes.is_some() && range.length() < PAGES_BYTES_MIN && range == transfer.read_rest();
        let mut cold = disc.expects_to_wait(range, small);
        if small && !cold {
            let length = range.length() as usize;
            let space = &mut buffer.bytes_mut()[..length];
            if matches!(read_cached(&disc.data, space, range.offset()), Ok(count) if count == length) {
                return self.handle_read(id, buffer, length);
            }
            disc.warmth.handle_look(false);
            cold = disc.is_file;
        }
        let file = Rc::clone(&disc.data);
        self.outbox.push_back((Owner::Transfer(id), Op::Read { file, buffer, start: 0, range, cold }));
    }

    /// A piece's payload is whole; `last` says that no more is to come. It is written when no brake holds it.
    pub(super) fn submit_write(&mut self, id: Token, payload: Payload, range: ByteRange, last: bool) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.landing = !last;
        // A write that has failed already only takes its payload in.
        if transfer.error.is_some() {
            return self.finish_write(id);
        }
        transfer.writes_count += 1;
        self.brake_piece(id, payload, range);
    }

    /// Writes a piece.
    pub(super) fn begin_write(&mut self, id: Token, payload: Payload, range: ByteRange) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        // Since it came, another piece may have failed, or the rest of them been given up.
        if transfer.error.is_some() || transfer.abandoned {
            transfer.writes_count -= 1;
            return self.finish_write(id);
        }
        let Some(disc) = self.discs.get_mut(transfer.disc) else { return };
        let file = Rc::clone(&disc.data);
        let op = match payload {
            Payload::Copied(buffer) => match disc.blocks_of(range) {
                Some(blocks) => return self.submit_change(id, buffer, range, blocks),
                None => Op::Write { file, buffer, start: 0, range },
            },
            Payload::Pages(pipe) => {
                disc.referred.push(range);
                Op::WritePages { file, pipe, range }
            }
        };
        disc.changes_count += 1;
        self.outbox.push_back((Owner::Transfer(id), op));
    }

    /// The rest of the payload will not come: the client is cut, or being closed. There is no answer: an error
    /// would reach the guest, while a client without an answer sends the write again when it is back.
    pub(super) fn abandon_write(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.landing = false;
        transfer.abandoned = true;
        self.finish_write(id);
    }

    /// Goes on with a READ that has sent a piece, waits for a buffer, or begins with a hole.
    pub(super) fn continue_read(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let Some(connection) = self.connections.get(transfer.connection) else { return };
        self.current = Some(transfer.disc);
        if connection.state == State::Cut {
            transfer.abandoned = true;
            return self.finish(id);
        }
        let style = connection.style();
        if self.suspend(id) {
            return;
        }
        loop {
            let Some(transfer) = self.transfers.get(id) else { return };
            let disc = transfer.disc;
            let Part { range, hole } = Self::next_part(&mut self.discs, transfer, style);
            if !hole {
                let bytes = self.room_for(disc, range);
                return match self.take_buffer(disc, bytes) {
                    Some(buffer) => self.submit_read(id, buffer, range),
                    None => self.queue_read(id, bytes),
                };
            }
            if self.skip_hole(id, range) {
                return self.finish(id);
            }
        }
    }

    /// Tells the client that these bytes of a READ are zeroes. True when they were the last.
    fn skip_hole(&mut self, id: Token, range: ByteRange) -> bool {
        let Some(transfer) = self.transfers.get_mut(id) else { return false };
        transfer.done += range.length();
        let last = transfer.range().is_some_and(|whole| transfer.done == whole.length());
        let (connection, request) = (transfer.connection, transfer.request);
        let length = u32::try_from(range.length()).expect("a read is bounded");
        self.reply(connection, &request, |batch, answer| {
            answer.write_hole(batch.headers(), range.offset(), length, last);
        });
        last
    }

    /// Goes on with a TRIM, WRITE_ZEROES or CACHE.
    pub(super) fn continue_simple(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (token, Some(disc)) = (transfer.disc, self.discs.get(transfer.disc)) else { return };
        let cut = self.connections.get(transfer.connection).is_none_or(|c| c.state == State::Cut);
        let op = transfer.next_op(&disc.data);
        if let Some(Op::WriteZeroBytes { range, .. }) = op
            && disc.blocks_of(range).is_some_and(|blocks| blocks != range)
        {
            // The file system can make no zeroes itself, and these are no whole blocks. Until the disc is thawed or opened
            // the next time all goes through the page cache, still in whole blocks under their locks, since others
            // may be half-way through one.
            mode::end_direct(&disc.data);
        }
        // Who has a lock comes to his end: others wait for it.
        let may_stop = !cut && !transfer.locked;
        match op {
            // Past the page cache there is nothing to be read ahead into.
            Some(Op::Prefetch { .. }) if disc.block_bytes.is_some() => self.conclude(id),
            Some(_) if may_stop && self.suspend(id) => {}
            Some(ref op) if may_stop && self.brakes_step(id, op) => {}
            Some(op) if !cut => {
                if op.changes_file() && !self.lock_blocks(id) {
                    return;
                }
                if let Some(disc) = self.discs.get_mut(token) {
                    disc.changes_count += u32::from(op.changes_file());
                }
                self.outbox.push_back((Owner::Transfer(id), op));
            }
            _ => self.conclude(id),
        }
    }

    pub(super) fn handle_transfer(&mut self, id: Token, completion: Completion) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        self.current = Some(transfer.disc);
        let result = completion.result;
        if let Some(disc) = self.discs.get_mut(transfer.disc) {
            disc.changes_count -= u32::from(completion.op.changes_file());
            match &completion.op {
                Op::Write { range, .. } | Op::WritePages { range, .. } => disc.sparse.handle_written(*range),
                Op::Allocate { range, .. } => disc.sparse.handle_zeroed(*range),
                _ => {}
            }
            match &completion.op {
                Op::Write { range, .. } | Op::WritePages { range, .. } | Op::WriteZeroBytes { range, .. } => {
                    disc.note_written(self.now, *range, Some(&mut transfer.paid_bytes));
                }
                Op::Allocate { range, .. } => disc.note_written(self.now, *range, None),
                _ => {}
            }
        }
        match completion.op {
            Op::Read { file, buffer, start, range, .. } if transfer.reading.is_some() => {
                self.handle_direct_read(id, (file, buffer, start, range), result);
            }
            Op::Read { file, buffer, start, range, cold } => match progress(result, range) {
                Progress::Done => self.handle_read(id, buffer, start + range.length() as usize),
                Progress::Rest(rest) => {
                    let start = start + (range.length() - rest.length()) as usize;
                    self.outbox.push_back((Owner::Transfer(id), Op::Read { file, buffer, start, range: rest, cold }));
                }
                Progress::Failed(errno) => self.fail(id, errno),
            },
            Op::Write { file, buffer, start, range } => {
                let rest_op = |rest: ByteRange| {
                    let start = start + (range.length() - rest.length()) as usize;
                    Op::Write { file, buffer, start, range: rest }
                };
                self.handle_written(id, progress(result, range), rest_op);
            }
            Op::WritePages { file, mut pipe, range } => {
                pipe.handle_taken(result.unwrap_or(0) as usize);
                if let Some(disc) = self.discs.get_mut(transfer.disc) {
                    disc.handle_referred(range, progress(result, range).rest());
                }
                self.handle_written(id, progress(result, range), |rest| Op::WritePages { file, pipe, range: rest });
            }
            op => match transfer.handle_result(&op, result) {
                Ok(()) => self.continue_simple(id),
                Err(errno) => self.fail(id, errno),
            },
        }
    }

    /// A piece of a write has come so far; `rest_op` makes the operation for what is left of it.
    fn handle_written(&mut self, id: Token, progress: Progress, rest_op: impl FnOnce(ByteRange) -> Op) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        if let Progress::Rest(rest) = progress {
            if let Some(disc) = self.discs.get_mut(transfer.disc) {
                disc.changes_count += 1;
            }
            return self.outbox.push_back((Owner::Transfer(id), rest_op(rest)));
        }
        transfer.writes_count -= 1;
        drop(rest_op);
        if let Progress::Failed(errno) = progress {
            self.note_error(id, errno);
        }
        self.finish_write(id);
    }

    /// The bytes of a READ's first piece in a pipe, when they are in the page cache and this is cheaper than a copy.
    /// Clients that do not read their replies may keep all pipes; then the others' replies are copied.
    pub(super) fn find_pages(&mut self, disc: Token, range: ByteRange) -> Option<Pipe> {
        let pipes = self.pipes.as_ref()?;
        if !(PAGES_BYTES_MIN..=PIPE_BYTES as u64).contains(&range.length()) {
            return None;
        }
        let disc = self.discs.get_mut(disc).filter(|disc| disc.io == IoMode::Cached)?;
        if !disc.is_resident(range) {
            return None;
        }
        let pipe = pipes.fill(&disc.data, range);
        if pipe.is_none() && pipes.are_taken() {
            self.shortages.note(Limit::Pipes);
        }
        pipe
    }

    /// A piece has been read into a buffer.
    pub(super) fn handle_read(&mut self, id: Token, buffer: Buffer, length: usize) {
        self.answer_read(id, length as u64, |batch| batch.push_payload(buffer, length));
    }

    /// Answers the next `length` bytes of a READ with what `push` puts into the batch.
    pub(super) fn answer_read(&mut self, id: Token, length: u64, push: impl FnOnce(&mut Batch)) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let Command::Read { range, .. } = transfer.request.command else { unreachable!("a read") };
        let (connection, request, offset) = (transfer.connection, transfer.request, range.offset() + transfer.done);
        transfer.done += length;
        let last = transfer.done == range.length();
        self.reply(connection, &request, |batch, answer| {
            answer.write_data_header(batch.headers(), offset, length as u32, last);
            push(batch);
        });
        if last { self.finish(id) } else { self.continue_read(id) }
    }

    /// A write is answered when its payload is all there and nothing of it is in the kernel.
    pub(super) fn finish_write(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get(id) else { return };
        if !transfer.landing && transfer.writes_count == 0 {
            self.conclude(id);
        }
    }

    /// The work is done: sync if that is wanted, and answer.
    fn conclude(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.abandoned |= self.connections.get(transfer.connection).is_none_or(|c| c.state == State::Cut);
        if transfer.abandoned {
            return self.finish(id);
        }
        if transfer.error.is_none() && transfer.wants_sync() {
            return self.sync(id);
        }
        if transfer.error.is_some() {
            self.reply_error(id);
        } else {
            let (connection, request) = (transfer.connection, transfer.request);
            self.reply(connection, &request, |batch, answer| answer.write_done(batch.headers()));
        }
        self.finish(id);
    }

    pub(super) fn fail(&mut self, id: Token, errno: Errno) {
        self.note_error(id, errno);
        self.reply_error(id);
        self.finish(id);
    }

    pub(super) fn note_error(&mut self, id: Token, errno: Errno) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let error = reply::wire_error(&transfer.request.command, errno);
        transfer.error.get_or_insert(error);
        let number = self.discs.get(transfer.disc).map(|disc| disc.number);
        tracing::debug!(disc = ?number, %errno, command = ?transfer.request.command, "a request failed");
    }

    pub(super) fn reply_error(&mut self, id: Token) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (connection, request) = (transfer.connection, transfer.request);
        let error = transfer.error.unwrap_or(Error::Eio);
        self.reply(connection, &request, |batch, answer| answer.write_error(batch.headers(), error));
    }

    /// A request is over: its answer, if any, is in the batch.
    pub(super) fn finish(&mut self, id: Token) {
        let Some(transfer) = self.transfers.remove(id) else { return };
        if let Some(disc) = self.discs.get_mut(transfer.disc) {
            let (counters, bytes) = (&mut disc.counters, transfer.range().map_or(0, ByteRange::length));
            let timed = match (transfer.error, transfer.request.command) {
                _ if transfer.abandoned => None,
                (Some(error), _) => {
                    counters.errors.record(error);
                    None
                }
                (None, Command::Read { .. }) => {
                    counters.reads_count += 1;
                    counters.read_bytes += bytes;
                    Some(Timed::Read)
                }
                (None, Command::Write { .. }) => {
                    counters.writes_count += 1;
                    counters.written_bytes += bytes;
                    Some(Timed::Write)
                }
                (None, Command::Trim { .. } | Command::WriteZeroes { .. }) => {
                    counters.zeroes_count += 1;
                    Some(Timed::Zero)
                }
                (None, Command::Flush) => Some(Timed::Flush),
                (None, Command::BlockStatus { .. } | Command::Cache(_)) => None,
            };
            match timed {
                Some(of) if transfer.since == self.now => {
                    if disc.at_once.is_empty() {
                        self.at_once.push(transfer.disc);
                    }
                    disc.at_once.record(of);
                }
                Some(of) => counters.latency_us(of).record(self.now.microseconds_since(transfer.since)),
                None => {}
            }
            counters.flushes_count += u64::from(transfer.wants_sync() && !transfer.abandoned);
        }
        if let Some(connection) = self.connections.get_mut(transfer.connection) {
            connection.in_flight_count -= 1;
        }
        if transfer.locked {
            self.unlock_blocks(transfer.disc, Locker::Transfer(id));
        }
        self.touch(transfer.connection);
    }
}

/// Reads what is in the page cache, and no more: it never waits for a disk.
fn read_cached(file: &Handle, space: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    rustix::io::preadv2(file, &mut [IoSliceMut::new(space)], offset, ReadWriteFlags::NOWAIT)
}

/// The bytes of a piece of a write.
#[derive(Debug)]
pub enum Payload {
    /// In memory.
    Copied(Buffer),
    /// As they came from the network.
    Pages(Pipe),
}

impl Payload {
    /// How much memory it keeps, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Copied(buffer) => buffer.capacity(),
            Self::Pages(pipe) => pipe.left(),
        }
    }
}

/// How far a read or a write has come.
enum Progress {
    Done,
    Rest(ByteRange),
    Failed(Errno),
}

impl Progress {
    fn rest(&self) -> Option<ByteRange> {
        match self {
            Self::Rest(rest) => Some(*rest),
            Self::Done | Self::Failed(_) => None,
        }
    }
}

/// The one rule for short reads and writes: go on with the rest; no byte at all is an error, since a disc's file
/// is as long as the disc.
fn progress(result: Result<u32, Errno>, range: ByteRange) -> Progress {
    match result {
        Ok(0) => Progress::Failed(Errno(libc::EIO)),
        Ok(count) if u64::from(count) < range.length() => Progress::Rest(range.piece(count.into(), range.length())),
        Ok(_) => Progress::Done,
        Err(errno) if matches!(errno.0, libc::EINTR | libc::EAGAIN) => Progress::Rest(range),
        Err(errno) => Progress::Failed(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    #[test]
    fn a_short_transfer_goes_on_and_none_at_all_fails() {
        let range = DiscSize::from_bytes(1000).unwrap().range(100, 50).unwrap();
        assert!(matches!(progress(Ok(50), range), Progress::Done));
        let Progress::Rest(rest) = progress(Ok(20), range) else { panic!("a rest") };
        assert_eq!((rest.offset(), rest.length()), (120, 30));
        assert!(matches!(progress(Ok(0), range), Progress::Failed(Errno(libc::EIO))));
        assert!(matches!(progress(Err(Errno(libc::EINTR)), range), Progress::Rest(rest) if rest == range));
        assert!(matches!(progress(Err(Errno(libc::ENOSPC)), range), Progress::Failed(Errno(libc::ENOSPC))));
    }
}
