//! Reading and writing past the page cache, in whole blocks.
//!
//! ```text
//!   a WRITE's piece    ......[=============].....      at any byte
//!   its blocks         |--------|--------|--------|
//!   the buffer         [head....|========|....tail][old head][old tail]
//! ```
//!
//! A READ reads the blocks that it is in. A piece of a WRITE that is whole blocks is written at once. Otherwise its first
//! and last block are read into the end of the same buffer, and their other bytes put around the payload.
//!
//! Why no byte of another request is lost: changes that share a block run one after another (`disc/locks.rs`), TRIM and
//! WRITE_ZEROES among them, since they too may change a part of a block. The lock is held from before the old bytes are
//! read until the blocks are written. A change keeps a share of the file from its beginning to its end, also while it
//! waits for its lock, so that a freeze waits for it.

use super::owner::Shard;
use crate::buffer::Buffer;
use crate::connection::State;
use crate::disc::Locker;
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::ring::op::{Completion, Handle, Op, Owner};
use crate::ring::slots::Token;
use std::rc::Rc;

/// A piece of a WRITE.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) disc: Token,
    transfer: Token,
    file: Handle,
    range: ByteRange,
    blocks: ByteRange,
    block_bytes: u64,
    step: Step,
    /// `None` while the kernel has it.
    buffer: Option<Buffer>,
}

/// Those whose turn it is, while they are being begun.
#[derive(Debug, Default)]
pub(super) struct Unlocked {
    lockers: Vec<Locker>,
    busy: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ReadHead,
    ReadTail,
    Write,
}

impl Change {
    /// True when the first block has bytes that stay.
    fn keeps_head(&self) -> bool {
        self.range.offset() > self.blocks.offset()
    }

    /// True when the last block has bytes that stay, behind the range.
    fn keeps_tail(&self) -> bool {
        self.range.end() < self.blocks.end()
    }

    /// The operation that comes next, which takes the buffer.
    fn next_op(&mut self) -> Op {
        if self.step == Step::ReadHead && !self.keeps_head() {
            self.step = Step::ReadTail;
        }
        if self.step == Step::ReadTail && !self.keeps_tail() {
            self.step = Step::Write;
        }
        let file = Rc::clone(&self.file);
        let buffer = self.buffer.take().expect("the kernel does not have it");
        let scratch = self.blocks.length() as usize;
        match self.step {
            Step::ReadHead => {
                let range = self.blocks.piece(0, self.block_bytes);
                Op::Read { file, buffer, start: scratch, range, cold: false }
            }
            Step::ReadTail => {
                let range = self.blocks.piece(self.blocks.length() - self.block_bytes, self.block_bytes);
                Op::Read { file, buffer, start: scratch + self.block_bytes as usize, range, cold: false }
            }
            Step::Write => Op::Write { file, buffer, start: 0, range: self.blocks },
        }
    }

    /// An old block has been read: puts the bytes that stay around the payload.
    fn keep(&mut self, mut buffer: Buffer) {
        let (scratch, block) = (self.blocks.length() as usize, self.block_bytes as usize);
        let bytes = buffer.bytes_mut();
        if self.step == Step::ReadHead {
            let head = (self.range.offset() - self.blocks.offset()) as usize;
            bytes.copy_within(scratch..scratch + head, 0);
            self.step = Step::ReadTail;
        } else {
            let tail = (self.blocks.end() - self.range.end()) as usize;
            let old = scratch + 2 * block;
            bytes.copy_within(old - tail..old, scratch - tail);
            self.step = Step::Write;
        }
        self.buffer = Some(buffer);
    }
}

impl Shard {
    /// Bytes of a buffer for a range of a disc: with what has to be around it.
    pub(super) fn room_for(&self, disc: Token, range: ByteRange) -> usize {
        let disc = self.discs.get(disc);
        let room = match disc.and_then(|disc| Some((disc.blocks_of(range)?, disc.block_bytes?))) {
            Some((blocks, block_bytes)) if blocks != range => blocks.length() + 2 * block_bytes,
            _ => range.length(),
        };
        room as usize
    }

    /// Reads the blocks of a range.
    pub(super) fn submit_direct_read(&mut self, id: Token, buffer: Buffer, range: ByteRange, blocks: ByteRange) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let Some(disc) = self.discs.get(transfer.disc) else { return };
        transfer.reading = Some(range);
        let file = Rc::clone(&disc.data);
        self.outbox.push_back((Owner::Transfer(id), Op::Read { file, buffer, start: 0, range: blocks, cold: false }));
    }

    /// A read of blocks is over: goes on with the rest, or answers with what was asked for.
    pub(super) fn handle_direct_read(
        &mut self,
        id: Token,
        (file, mut buffer, start, range): (Handle, Buffer, usize, ByteRange),
        result: Result<u32, Errno>,
    ) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let Some(wanted) = transfer.reading else { return };
        let Some(block_bytes) = self.discs.get(transfer.disc).and_then(|disc| disc.block_bytes) else { return };
        match progress(result, range, block_bytes) {
            Ok(None) => {
                transfer.reading = None;
                let (skipped, length) = ((wanted.offset() % block_bytes) as usize, wanted.length() as usize);
                if skipped > 0 {
                    buffer.bytes_mut().copy_within(skipped..skipped + length, 0);
                }
                self.handle_read(id, buffer, length);
            }
            Ok(Some(rest)) => {
                let start = start + (range.length() - rest.length()) as usize;
                let op = Op::Read { file, buffer, start, range: rest, cold: false };
                self.outbox.push_back((Owner::Transfer(id), op));
            }
            Err(errno) => self.fail(id, errno),
        }
    }

    /// Writes a piece whose payload is at the start of the buffer, when no other change is in its blocks any more.
    pub(super) fn submit_change(&mut self, id: Token, mut buffer: Buffer, range: ByteRange, blocks: ByteRange) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let token = transfer.disc;
        let Some(disc) = self.discs.get_mut(token) else { return };
        let Some(block_bytes) = disc.block_bytes else { return };
        let head = (range.offset() - blocks.offset()) as usize;
        if head > 0 {
            buffer.bytes_mut().copy_within(..range.length() as usize, head);
        }
        let change = Change {
            disc: token,
            transfer: id,
            file: Rc::clone(&disc.data),
            range,
            blocks,
            block_bytes,
            step: Step::ReadHead,
            buffer: Some(buffer),
        };
        let Ok(change) = self.changes.insert(change) else { return self.end_write(id, Err(Errno(libc::ENOMEM))) };
        if disc.locks.lock(blocks, Locker::Change(change)) {
            self.go_on_with(change);
        }
    }

    /// Submits the next operation of a change that has its lock.
    fn go_on_with(&mut self, id: Token) {
        let Some(change) = self.changes.get_mut(id) else { return };
        let connection = self.transfers.get(change.transfer).and_then(|t| self.connections.get(t.connection));
        // Nobody waits for it, and whoever comes next must not find it written later.
        if connection.is_none_or(|connection| connection.state == State::Cut) {
            return self.end_change(id, Ok(()));
        }
        let op = change.next_op();
        if let Some(disc) = self.discs.get_mut(change.disc) {
            disc.changes_count += u32::from(op.changes_file());
        }
        self.outbox.push_back((Owner::Change(id), op));
    }

    /// An operation of a change is over.
    pub(super) fn handle_change(&mut self, id: Token, completion: Completion) {
        let Some(change) = self.changes.get_mut(id) else { return };
        self.current = Some(change.disc);
        let Some(disc) = self.discs.get_mut(change.disc) else { return };
        let is_write = completion.op.changes_file();
        disc.changes_count -= u32::from(is_write);
        let (Op::Read { file, buffer, start, range, .. } | Op::Write { file, buffer, start, range }) = completion.op
        else {
            unreachable!("a change reads and writes")
        };
        if is_write {
            disc.sparse.handle_written(change.blocks);
            // Whatever the result is: some of it may be there.
            let paid_bytes = self.transfers.get_mut(change.transfer).map(|transfer| &mut transfer.paid_bytes);
            disc.note_written(self.now, change.range, paid_bytes);
        }
        match progress(completion.result, range, change.block_bytes) {
            Ok(None) if is_write => self.end_change(id, Ok(())),
            Ok(None) => {
                change.keep(buffer);
                self.go_on_with(id);
            }
            Ok(Some(rest)) => {
                let start = start + (range.length() - rest.length()) as usize;
                disc.changes_count += u32::from(is_write);
                let op = if is_write {
                    Op::Write { file, buffer, start, range: rest }
                } else {
                    Op::Read { file, buffer, start, range: rest, cold: false }
                };
                self.outbox.push_back((Owner::Change(id), op));
            }
            Err(errno) => {
                drop(buffer);
                self.end_change(id, Err(errno));
            }
        }
    }

    /// A change is over, well or badly: the next one in its blocks may begin.
    fn end_change(&mut self, id: Token, result: Result<(), Errno>) {
        let Some(Change { disc, transfer, .. }) = self.changes.remove(id) else { return };
        self.unlock_blocks(disc, Locker::Change(id));
        self.end_write(transfer, result);
    }

    fn end_write(&mut self, id: Token, result: Result<(), Errno>) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.writes_count -= 1;
        if let Err(errno) = result {
            self.note_error(id, errno);
        }
        self.finish_write(id);
    }

    /// Gets a TRIM or WRITE_ZEROES the lock of its blocks, if it needs one. False when it has to wait.
    pub(super) fn lock_blocks(&mut self, id: Token) -> bool {
        let Some(transfer) = self.transfers.get_mut(id) else { return false };
        let Some(disc) = self.discs.get_mut(transfer.disc) else { return false };
        let Some(blocks) = transfer.range().and_then(|range| disc.blocks_of(range)) else { return true };
        if transfer.locked {
            return true;
        }
        transfer.locked = true;
        let begins = disc.locks.lock(blocks, Locker::Transfer(id));
        if !begins {
            transfer.waiting = Some(Rc::clone(&disc.data));
        }
        begins
    }

    /// Gives a lock up, and lets those begin that waited for it.
    pub(super) fn unlock_blocks(&mut self, disc: Token, who: Locker) {
        if let Some(disc) = self.discs.get_mut(disc) {
            disc.locks.unlock(who, &mut self.unlocked.lockers);
        }
        // One that is over at once gives its lock up in here: it must not begin the next one inside of itself.
        if std::mem::replace(&mut self.unlocked.busy, true) {
            return;
        }
        while let Some(who) = self.unlocked.lockers.pop() {
            match who {
                Locker::Change(change) => self.go_on_with(change),
                Locker::Transfer(id) => {
                    if let Some(transfer) = self.transfers.get_mut(id) {
                        transfer.waiting = None;
                    }
                    self.continue_simple(id);
                }
            }
        }
        self.unlocked.busy = false;
    }
}

/// The rule for short reads and writes of blocks: goes on with the blocks that are left, `None` when there are none. Less
/// than a block is an error, since a disc's file is as long as the disc.
fn progress(result: Result<u32, Errno>, range: ByteRange, block_bytes: u64) -> Result<Option<ByteRange>, Errno> {
    match result {
        Ok(count) if u64::from(count) >= range.length() => Ok(None),
        Ok(count) if u64::from(count) < block_bytes => Err(Errno(libc::EIO)),
        Ok(count) => {
            let done = u64::from(count) / block_bytes * block_bytes;
            Ok(Some(range.piece(done, range.length())))
        }
        Err(errno) if matches!(errno.0, libc::EINTR | libc::EAGAIN) => Ok(Some(range)),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    #[test]
    fn blocks_go_on_with_whole_blocks() {
        let range = DiscSize::from_bytes(1 << 20).unwrap().range(1024, 2048).unwrap();
        assert_eq!(progress(Ok(2048), range, 512), Ok(None));
        assert_eq!(progress(Ok(1500), range, 512), Ok(Some(range.piece(1024, 1024))));
        assert_eq!(progress(Ok(511), range, 512), Err(Errno(libc::EIO)));
        assert_eq!(progress(Err(Errno(libc::EAGAIN)), range, 512), Ok(Some(range)));
        assert_eq!(progress(Err(Errno(libc::ENOSPC)), range, 512), Err(Errno(libc::ENOSPC)));
    }
}
