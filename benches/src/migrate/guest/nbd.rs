//! The little of NBD that the measurements speak themselves, with simple replies.

use crate::{
    load::handshake::{self, Stream},
    migrate::{cluster::KEY, net},
};
use anyhow::{Context, Result, ensure};
use std::{
    fmt,
    io::{Read as _, Write as _},
    time::Duration,
};

/// What one request of a guest covers.
pub const BLOCK_BYTES: usize = 4096;
/// NBD protocol, "Request types".
pub const READ: u16 = 0;
/// As above.
pub const WRITE: u16 = 1;
/// As above.
pub const FLUSH: u16 = 3;
/// As above.
pub const TRIM: u16 = 4;
/// As above.
pub const WRITE_ZEROES: u16 = 6;
/// How each simple reply begins.
pub const SIMPLE_REPLY: [u8; 4] = 0x6744_6698u32.to_be_bytes();
const REQUEST: [u8; 4] = 0x2560_9513u32.to_be_bytes();
/// A disc that is away longer has not moved but is lost.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Blocks that one write of [`fill`] covers.
const FILL_BLOCKS: u64 = 256;

/// Where an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Address and port.
    pub target: String,
    /// Its name.
    pub export: String,
}

impl Place {
    /// Where a disc of the cluster is.
    pub fn disc(number: u64) -> Self {
        Self { target: net::disc_address(number).to_string(), export: KEY.to_owned() }
    }

    /// Connects, to block until answers come.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn connect(&self) -> Result<Stream> {
        let (stream, _) = handshake::connect(&self.target, &self.export).with_context(|| self.to_string())?;
        if let Stream::Tcp(stream) = &stream {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(DEADLINE))?;
        }
        Ok(stream)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target)
    }
}

/// Writes a distinct number into each of the first blocks of a disc.
///
/// # Errors
/// When the disc does not take them.
pub fn fill(place: &Place, blocks_count: u64) -> Result<()> {
    let stream = place.connect()?;
    for first in (0..blocks_count).step_by(FILL_BLOCKS as usize) {
        let blocks = first..(first + FILL_BLOCKS).min(blocks_count);
        write(&stream, first * BLOCK_BYTES as u64, &blocks.flat_map(filling).collect::<Vec<u8>>())?;
    }
    Ok(())
}

/// What [`fill`] puts into a block.
pub fn filling(block: u64) -> Vec<u8> {
    (u64::MAX - block).to_be_bytes().repeat(BLOCK_BYTES / 8)
}

/// Writes, and waits for the answer.
///
/// # Errors
/// When it is refused, or does not come.
pub fn write(mut stream: &Stream, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
    stream.write_all(&request(WRITE, 0, offset_bytes, bytes.len()))?;
    stream.write_all(bytes)?;
    answer(stream, 0).map(drop)
}

/// Reads so many blocks.
///
/// # Errors
/// When that is refused, or they do not come.
pub fn read(mut stream: &Stream, first: u64, count: u64) -> Result<Vec<u8>> {
    let length = count as usize * BLOCK_BYTES;
    stream.write_all(&request(READ, first, first * BLOCK_BYTES as u64, length))?;
    answer(stream, length)
}

/// Asks for everything to be durable.
///
/// # Errors
/// When that is refused.
pub fn flush(mut stream: &Stream) -> Result<()> {
    stream.write_all(&request(FLUSH, 0, 0, 0))?;
    answer(stream, 0).map(drop)
}

fn answer(mut stream: &Stream, payload_bytes: usize) -> Result<Vec<u8>> {
    let mut reply = vec![0; 16 + payload_bytes];
    stream.read_exact(&mut reply[..16])?;
    ensure!(reply[..4] == SIMPLE_REPLY && reply[4..8] == [0; 4], "the disc refuses a request");
    stream.read_exact(&mut reply[16..])?;
    Ok(reply.split_off(16))
}

/// NBD protocol, "Request message".
pub fn request(command: u16, cookie: u64, offset_bytes: u64, length_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28 + length_bytes);
    bytes.extend(REQUEST);
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset_bytes.to_be_bytes());
    bytes.extend((length_bytes as u32).to_be_bytes());
    bytes
}
