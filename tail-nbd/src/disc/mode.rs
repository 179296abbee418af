//! How the data of a disc moves between its file and its clients. Clients cannot tell: what a disc offers does not depend
//! on it (safety rule 16).

use crate::limits::BLOCK_BYTES_MAX;
use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, fcntl_getfl, fcntl_setfl, statx};
use serde::Deserialize;
use std::os::fd::AsFd;
use std::str::FromStr;
use thiserror::Error;

/// How a pool's data files are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoMode {
    /// Through the page cache; large reads of what is in it go out as the cache's own pages, without a copy. A write that
    /// overlaps a read whose reply is still on its way may show in that reply.
    #[default]
    Cached,
    /// Through the page cache, and always copied: a reply is what the file held when it was read, whatever is written
    /// before the client has taken it.
    Copied,
    /// Past the page cache (O_DIRECT), for pools whose devices are as fast as memory, or whose machine has none to spare. A
    /// request that does not begin and end with a block of the device costs up to two reads more.
    Direct,
}

impl FromStr for IoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cached" => Ok(Self::Cached),
            "copied" => Ok(Self::Copied),
            "direct" => Ok(Self::Direct),
            _ => Err("it is cached, copied or direct".to_owned()),
        }
    }
}

/// Why a file is not read and written past the page cache.
#[derive(Debug, Error)]
pub enum NotDirect {
    /// The kernel refuses.
    #[error("{0}")]
    Os(&'static str, #[source] rustix::io::Errno),
    /// Its blocks do not suit.
    #[error("its blocks of {0} bytes are too large")]
    Block(u64),
    /// It does not end with a block.
    #[error("its {size_bytes} bytes are no whole number of blocks of {block_bytes}")]
    Size {
        /// The size of the disc.
        size_bytes: u64,
        /// What its file system reads and writes as a whole.
        block_bytes: u64,
    },
}

/// Has the file of a disc of this size read and written past the page cache, by everybody who shares its description.
/// Returns the size of the blocks that has to be done in, in bytes: a power of two.
///
/// # Errors
/// When that cannot be; then it goes through the page cache.
pub fn begin_direct(file: impl AsFd, size_bytes: u64) -> Result<u64, NotDirect> {
    let status = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .map_err(|errno| NotDirect::Os("its blocks are not known", errno))?;
    // Who does not say is taken to want whole pages.
    let told = u64::from(status.stx_dio_mem_align.max(status.stx_dio_offset_align));
    let block_bytes = if told == 0 { BLOCK_BYTES_MAX as u64 } else { told.next_power_of_two() };
    if block_bytes > BLOCK_BYTES_MAX as u64 {
        return Err(NotDirect::Block(block_bytes));
    }
    if !size_bytes.is_multiple_of(block_bytes) {
        return Err(NotDirect::Size { size_bytes, block_bytes });
    }
    // Without holes zeroes would have to be written, and not in blocks.
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, size_bytes, block_bytes)
        .map_err(|errno| NotDirect::Os("its file system cannot make holes", errno))?;
    set_direct(&file, true).map_err(|errno| NotDirect::Os("its file system always uses the page cache", errno))?;
    Ok(block_bytes)
}

/// Has a file read and written through the page cache again. Harmless when it is.
pub fn end_direct(file: impl AsFd) {
    // To clear the flag needs nothing that could be missing.
    let _ = set_direct(file, false);
}

/// Has a file read and written as before, after another process had its open file description and may have chosen otherwise.
pub fn restore(file: impl AsFd, direct: bool) {
    // The flag was set before, and to clear it needs nothing that could be missing.
    let _ = set_direct(file, direct);
}

fn set_direct(file: impl AsFd, direct: bool) -> rustix::io::Result<()> {
    let flags = fcntl_getfl(&file)?;
    if flags.contains(OFlags::DIRECT) == direct {
        return Ok(());
    }
    fcntl_setfl(&file, if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT })
}
