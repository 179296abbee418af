//! Answers on the wire, and the one table from the kernel's errors to NBD's.

use super::offer::Style;
use super::request::{Command, Request};
use super::wire::{
    BASE_ALLOCATION_ID, CHUNK_DONE, CHUNK_MAGIC, EXTENDED_CHUNK_MAGIC, Error, SIMPLE_REPLY_MAGIC, chunk_type,
};
use crate::error::Errno;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A run of bytes with the same state, for BLOCK_STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long, in bytes.
    pub length: u64,
    /// [`STATE_HOLE`](super::wire::STATE_HOLE) and [`STATE_ZERO`](super::wire::STATE_ZERO), or 0.
    pub state: u32,
}

/// The answer to one request: what its headers need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// How replies look on this connection.
    pub style: Style,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset, as it came: an extended header repeats it.
    pub offset: u64,
}

impl Answer {
    /// The answer to a request of a connection with this style.
    pub fn new(style: Style, request: &Request) -> Self {
        Self { style, cookie: request.cookie, offset: request.offset }
    }

    /// Appends the reply of a request that went well and returns no data. A simple reply is right for every
    /// command but READ and BLOCK_STATUS, unless headers are extended.
    pub fn write_done(self, out: &mut Vec<u8>) {
        if self.style == Style::Extended {
            return self.write_chunk(out, CHUNK_DONE, chunk_type::NONE, 0);
        }
        self.write_simple(out, 0);
    }

    /// Appends the reply of a request that failed. In chunks it is the last one.
    pub fn write_error(self, out: &mut Vec<u8>, error: Error) {
        if self.style == Style::Simple {
            return self.write_simple(out, error.code());
        }
        let text = error.text().as_bytes();
        let text_bytes = u16::try_from(text.len()).expect("the texts are short");
        self.write_chunk(out, CHUNK_DONE, chunk_type::ERROR, 6 + u32::from(text_bytes));
        out.extend_from_slice(&error.code().to_be_bytes());
        out.extend_from_slice(&text_bytes.to_be_bytes());
        out.extend_from_slice(text);
    }

    /// Appends what goes before `length` bytes of data that were read at `offset`. With simple replies these
    /// are all the bytes of the request; in chunks, `last` says whether more of them follow.
    pub fn write_data_header(self, out: &mut Vec<u8>, offset: u64, length: u32, last: bool) {
        if self.style == Style::Simple {
            assert!(last, "a simple reply has one piece");
            return self.write_simple(out, 0);
        }
        if length == 0 {
            return self.write_chunk(out, CHUNK_DONE, chunk_type::NONE, 0);
        }
        self.write_chunk(out, done(last), chunk_type::OFFSET_DATA, 8 + length);
        out.extend_from_slice(&offset.to_be_bytes());
    }

    /// Appends the chunk that says that `length` bytes at `offset` read as zeroes.
    ///
    /// # Panics
    /// With simple replies, which have no chunks, and for a hole without a length: bugs of the caller.
    pub fn write_hole(self, out: &mut Vec<u8>, offset: u64, length: u32, last: bool) {
        assert!(self.style.has_chunks() && length > 0);
        self.write_chunk(out, done(last), chunk_type::OFFSET_HOLE, 12);
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
    }

    /// Appends the reply to BLOCK_STATUS.
    ///
    /// # Panics
    /// Without extents, and when a compact reply is to have one of 4 GiB or more: bugs of the caller.
    pub fn write_block_status(self, out: &mut Vec<u8>, extents: &[Extent]) {
        assert!(!extents.is_empty(), "there is at least one extent");
        let count = u32::try_from(extents.len()).expect("extents are bounded");
        if self.style == Style::Extended {
            self.write_chunk(out, CHUNK_DONE, chunk_type::BLOCK_STATUS_EXT, 8 + 16 * count);
            out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            for extent in extents {
                out.extend_from_slice(&extent.length.to_be_bytes());
                out.extend_from_slice(&u64::from(extent.state).to_be_bytes());
            }
            return;
        }
        self.write_chunk(out, CHUNK_DONE, chunk_type::BLOCK_STATUS, 4 + 8 * count);
        out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
        for extent in extents {
            let length = u32::try_from(extent.length).expect("a compact request is below 4 GiB");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&extent.state.to_be_bytes());
        }
    }

    fn write_simple(self, out: &mut Vec<u8>, error: u32) {
        assert!(self.style != Style::Extended, "extended headers know no simple replies");
        out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&error.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
    }

    fn write_chunk(self, out: &mut Vec<u8>, flags: u16, kind: u16, length: u32) {
        let extended = self.style == Style::Extended;
        let magic = if extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.offset.to_be_bytes());
            out.extend_from_slice(&u64::from(length).to_be_bytes());
        } else {
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

fn done(last: bool) -> u16 {
    if last { CHUNK_DONE } else { 0 }
}

/// What a client gets to see of an error of the kernel.
pub fn wire_error(command: &Command, errno: Errno) -> Error {
    let writes = matches!(command, Command::Write { .. } | Command::WriteZeroes { .. } | Command::Trim { .. });
    let fast = matches!(command, Command::WriteZeroes { fast: true, .. });
    match errno.0 {
        EPERM | EACCES | EROFS => Error::Eperm,
        ENOMEM => Error::Enomem,
        ENOSPC | EDQUOT | EFBIG if writes => Error::Enospc,
        // Nothing else may be answered with it (NBD protocol, "Error values").
        EOPNOTSUPP if fast => Error::Enotsup,
        _ => Error::Eio,
    }
}

// The numbers of Linux, the same on every architecture that it runs on here.
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EOPNOTSUPP: i32 = 95;
const EDQUOT: i32 = 122;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    #[test]
    fn each_row_of_the_errno_table() {
        let range = DiscSize::from_bytes(1).unwrap().range(0, 1).unwrap();
        let read = Command::Read { range, whole: false };
        let write = Command::Write { range, fua: false };
        let zero = Command::WriteZeroes { range, no_hole: false, fast: false, fua: false };
        let fast = Command::WriteZeroes { range, no_hole: false, fast: true, fua: false };
        let trim = Command::Trim { range, fua: false };
        for (command, errno, wanted) in [
            (read, libc::EPERM, Error::Eperm),
            (write, libc::EACCES, Error::Eperm),
            (write, libc::EROFS, Error::Eperm),
            (read, libc::ENOMEM, Error::Enomem),
            (write, libc::ENOSPC, Error::Enospc),
            (write, libc::EDQUOT, Error::Enospc),
            (write, libc::EFBIG, Error::Enospc),
            (zero, libc::ENOSPC, Error::Enospc),
            (trim, libc::ENOSPC, Error::Enospc),
            (read, libc::ENOSPC, Error::Eio),
            (Command::Flush, libc::ENOSPC, Error::Eio),
            (Command::Flush, libc::EIO, Error::Eio),
            (read, libc::EINVAL, Error::Eio),
            (write, libc::EOPNOTSUPP, Error::Eio),
            (zero, libc::EOPNOTSUPP, Error::Eio),
            (fast, libc::EOPNOTSUPP, Error::Enotsup),
            (fast, libc::ENOSPC, Error::Enospc),
        ] {
            assert_eq!(wire_error(&command, Errno(errno)), wanted, "{command:?} with errno {errno}");
        }
    }

    /// The layouts of proto.md, byte by byte.
    #[test]
    fn an_extended_reply_has_32_bytes_and_repeats_the_offset() {
        let answer = Answer { style: Style::Extended, cookie: 0x0102_0304_0506_0708, offset: 0x1000 };
        let header = |flags_kind: [u8; 4], length: u8| {
            let mut bytes = alloc::vec![0x6e, 0x8a, 0x27, 0x8c];
            bytes.extend_from_slice(&flags_kind);
            bytes.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0x10, 0]);
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, length]);
            bytes
        };
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        assert_eq!(written(&|out| answer.write_done(out)), header([0, 1, 0, 0], 0));
        let mut data = header([0, 0, 0, 1], 13);
        data.extend_from_slice(&0x1200u64.to_be_bytes());
        assert_eq!(written(&|out| answer.write_data_header(out, 0x1200, 5, false)), data);
        let mut hole = header([0, 1, 0, 2], 12);
        hole.extend_from_slice(&0x2000u64.to_be_bytes());
        hole.extend_from_slice(&512u32.to_be_bytes());
        assert_eq!(written(&|out| answer.write_hole(out, 0x2000, 512, true)), hole);
        let mut status = header([0, 1, 0, 6], 24);
        status.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        status.extend_from_slice(&(1u64 << 40).to_be_bytes());
        status.extend_from_slice(&3u64.to_be_bytes());
        let extents = [Extent { length: 1 << 40, state: 3 }];
        assert_eq!(written(&|out| answer.write_block_status(out, &extents)), status);
        let error = written(&|out| answer.write_error(out, Error::Einval));
        assert_eq!(error[..8], [0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0x80, 1]);
        assert_eq!(error[32..36], [0, 0, 0, 22]);
        assert_eq!(usize::from(error[31]) + 32, error.len());
    }
}
