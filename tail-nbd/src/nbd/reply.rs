//! Answers on the wire, and the one table from the kernel's errors to NBD's.

use super::request::Command;
use super::wire::{BASE_ALLOCATION_ID, CHUNK_DONE, CHUNK_MAGIC, Error, SIMPLE_REPLY_MAGIC, chunk_type};
use crate::error::Errno;
use alloc::vec::Vec;

/// A run of bytes with the same state, for BLOCK_STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long, in bytes.
    pub length: u32,
    /// [`STATE_HOLE`](super::wire::STATE_HOLE) and [`STATE_ZERO`](super::wire::STATE_ZERO), or 0.
    pub state: u32,
}

/// Appends the reply of a request that went well and returns no data. A simple reply is right for every
/// command but READ and BLOCK_STATUS, whatever was negotiated.
pub fn write_done(out: &mut Vec<u8>, cookie: u64) {
    write_simple(out, 0, cookie);
}

/// Appends the reply of a request that failed. With structured replies it is the last chunk.
pub fn write_error(out: &mut Vec<u8>, structured: bool, cookie: u64, error: Error) {
    if !structured {
        return write_simple(out, error.code(), cookie);
    }
    let text = error.text().as_bytes();
    let text_bytes = u16::try_from(text.len()).expect("the texts are short");
    write_chunk(out, CHUNK_DONE, chunk_type::ERROR, cookie, 6 + u32::from(text_bytes));
    out.extend_from_slice(&error.code().to_be_bytes());
    out.extend_from_slice(&text_bytes.to_be_bytes());
    out.extend_from_slice(text);
}

/// Appends what goes before `length` bytes of data that were read at `offset`. With simple replies these
/// are all the bytes of the request; with structured ones, `last` says whether more chunks follow.
pub fn write_data_header(out: &mut Vec<u8>, structured: bool, cookie: u64, offset: u64, length: u32, last: bool) {
    if !structured {
        assert!(last, "a simple reply has one piece");
        return write_simple(out, 0, cookie);
    }
    if length == 0 {
        return write_chunk(out, CHUNK_DONE, chunk_type::NONE, cookie, 0);
    }
    let flags = if last { CHUNK_DONE } else { 0 };
    write_chunk(out, flags, chunk_type::OFFSET_DATA, cookie, 8 + length);
    out.extend_from_slice(&offset.to_be_bytes());
}

/// Appends the reply to BLOCK_STATUS.
pub fn write_block_status(out: &mut Vec<u8>, cookie: u64, extents: &[Extent]) {
    assert!(!extents.is_empty(), "there is at least one extent");
    let length = u32::try_from(4 + 8 * extents.len()).expect("extents are bounded");
    write_chunk(out, CHUNK_DONE, chunk_type::BLOCK_STATUS, cookie, length);
    out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
    for extent in extents {
        out.extend_from_slice(&extent.length.to_be_bytes());
        out.extend_from_slice(&extent.state.to_be_bytes());
    }
}

/// What a client gets to see of an error of the kernel.
pub fn wire_error(command: &Command, errno: Errno) -> Error {
    let writes = matches!(command, Command::Write { .. } | Command::WriteZeroes { .. } | Command::Trim { .. });
    match errno.0 {
        EPERM | EACCES | EROFS => Error::Eperm,
        ENOMEM => Error::Enomem,
        ENOSPC | EDQUOT | EFBIG if writes => Error::Enospc,
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
const EDQUOT: i32 = 122;

fn write_simple(out: &mut Vec<u8>, error: u32, cookie: u64) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

fn write_chunk(out: &mut Vec<u8>, flags: u16, kind: u16, cookie: u64, length: u32) {
    out.extend_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    #[test]
    fn each_row_of_the_errno_table() {
        let range = DiscSize::from_bytes(1).unwrap().range(0, 1).unwrap();
        let read = Command::Read { range, whole: false };
        let write = Command::Write { range, fua: false };
        let zero = Command::WriteZeroes { range, no_hole: false, fua: false };
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
        ] {
            assert_eq!(wire_error(&command, Errno(errno)), wanted, "{command:?} with errno {errno}");
        }
    }
}
