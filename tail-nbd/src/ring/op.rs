//! What the kernel is asked to do, and what it says.

use super::batch::Batch;
use super::pipe::Pipe;
use super::slots::Token;
use crate::buffer::Buffer;
use crate::error::Errno;
use crate::geometry::ByteRange;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A descriptor. Each operation has a share of it, so it is closed only after the last of them.
pub type Handle = Rc<OwnedFd>;

/// An operation, which owns what the kernel works on.
#[derive(Debug)]
pub enum Op {
    /// Take the next connection.
    Accept {
        /// The listening socket.
        listener: Handle,
    },
    /// Say when it can be read.
    Poll {
        /// The file.
        file: Handle,
    },
    /// Receive into a buffer that the kernel picks when there is something to receive, so that a waiting
    /// connection holds none.
    Receive {
        /// The socket.
        socket: Handle,
        /// At most so many bytes.
        bytes_max: u32,
    },
    /// Receive into this buffer until it is filled up to `wanted`.
    ReceiveInto {
        /// The socket.
        socket: Handle,
        /// Where to.
        buffer: Buffer,
        /// Bytes that are there already.
        filled: usize,
        /// Bytes that are wanted in all.
        wanted: usize,
    },
    /// Send what is unsent of a batch.
    Transmit {
        /// The socket.
        socket: Handle,
        /// What to send.
        batch: Box<Batch>,
    },
    /// Read `range` of a file to `start` in the buffer.
    Read {
        /// The file.
        file: Handle,
        /// Where to.
        buffer: Buffer,
        /// Where in the buffer.
        start: usize,
        /// What.
        range: ByteRange,
        /// It may have to wait for the device, and must not do so within its submission.
        cold: bool,
    },
    /// Write to `range` of a file what is at `start` in the buffer.
    Write {
        /// The file.
        file: Handle,
        /// What.
        buffer: Buffer,
        /// Where in the buffer.
        start: usize,
        /// Where to.
        range: ByteRange,
    },
    /// Write to `range` of a file what is in a pipe.
    WritePages {
        /// The file.
        file: Handle,
        /// What: as many bytes as the range has.
        pipe: Pipe,
        /// Where to.
        range: ByteRange,
    },
    /// Write zeroes, at most [`ZEROES_BYTES`](super::uring::ZEROES_BYTES) of them.
    WriteZeroBytes {
        /// The file.
        file: Handle,
        /// Where.
        range: ByteRange,
    },
    /// fdatasync.
    Sync {
        /// The file.
        file: Handle,
    },
    /// fallocate.
    Allocate {
        /// The file.
        file: Handle,
        /// How.
        mode: Allocate,
        /// Where.
        range: ByteRange,
    },
    /// Start reading into the page cache.
    Prefetch {
        /// The file.
        file: Handle,
        /// Where.
        range: ByteRange,
    },
}

impl Op {
    /// True for operations that change a file.
    pub fn changes_file(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::WritePages { .. } | Self::WriteZeroBytes { .. } | Self::Allocate { .. }
        )
    }
}

/// What fallocate is to do. The size of the file never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Make a hole.
    Punch,
    /// Make zeroes that stay allocated.
    Zero,
}

/// Where a completion goes. A token whose value is gone makes the completion an orphan: what it carries
/// is dropped, and that is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The mailbox of the shard.
    Mailbox,
    /// The listener of a disc.
    Listener(Token),
    /// The receiving side of a connection.
    Receive(Token),
    /// The sending side of a connection.
    Transmit(Token),
    /// A request.
    Transfer(Token),
    /// The barrier of a disc.
    Sync(Token),
    /// A piece of a write that is written in whole blocks.
    Change(Token),
}

/// An operation that is over.
#[derive(Debug)]
pub struct Completion {
    /// Where it goes.
    pub owner: Owner,
    /// The operation, with its buffers.
    pub op: Op,
    /// What the kernel says: a count of bytes, mostly.
    pub result: Result<u32, Errno>,
    /// The new socket of an [`Op::Accept`].
    pub socket: Option<OwnedFd>,
    /// The buffer of an [`Op::Receive`].
    pub received: Option<Buffer>,
}

/// The only place where the kernel's result becomes ours: it is a count, or an error number below zero.
pub fn decode(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno(-result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_positive() {
        assert_eq!(decode(0), Ok(0));
        assert_eq!(decode(17), Ok(17));
        assert_eq!(decode(-libc::ENOSPC), Err(Errno(libc::ENOSPC)));
    }
}
