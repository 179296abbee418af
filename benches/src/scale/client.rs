//! A client that waits for each answer. One that asks for nothing is idle.

use super::net;
use crate::load::handshake::{self, Stream};
use anyhow::{Context, Result, bail};
use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

/// What one look asks for.
pub const READ_BYTES: usize = 4096;
/// No answer takes longer on a machine that works, an upgrade of the tail included.
const DEADLINE: Duration = Duration::from_secs(20);
const TRY_EVERY: Duration = Duration::from_millis(2);
/// Commands, "Request types" of the NBD protocol.
const READ: u16 = 0;
const WRITE: u16 = 1;

/// A connection to a disc, let in.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    number: u64,
    cookie: u64,
}

impl Client {
    /// Connects to disc `number` with `key`.
    ///
    /// # Errors
    /// When the disc does not let it in.
    pub fn connect(number: u64, key: &str) -> Result<Self> {
        let (stream, _) = handshake::connect(&net::disc_address(number).to_string(), key)
            .with_context(|| format!("disc {number}"))?;
        if let Stream::Tcp(stream) = &stream {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_write_timeout(Some(DEADLINE))?;
        }
        Ok(Self { stream, number, cookie: 0 })
    }

    /// As [`Client::connect`], trying again until `deadline`, as qemu does.
    ///
    /// # Errors
    /// When it is not let in by then.
    pub fn connect_until(number: u64, key: &str, deadline: Instant) -> Result<Self> {
        loop {
            match Self::connect(number, key) {
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(TRY_EVERY),
                Ok(client) => return Ok(client),
            }
        }
    }

    /// Reads the first bytes of the disc.
    ///
    /// # Errors
    /// When they do not come.
    pub fn look(&mut self) -> Result<()> {
        self.read(0, &mut [0; READ_BYTES])
    }

    /// Reads so many bytes as `data` has room for.
    ///
    /// # Errors
    /// When they do not come.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<()> {
        let length = data.len();
        self.exchange(READ, offset, length, &[], data).with_context(|| format!("disc {}: a read", self.number))
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.exchange(WRITE, offset, data.len(), data, &mut [])
            .with_context(|| format!("disc {}: a write", self.number))
    }

    fn exchange(&mut self, command: u16, offset: u64, length: usize, sent: &[u8], received: &mut [u8]) -> Result<()> {
        let mut stream = &self.stream;
        self.cookie += 1;
        // "Request message" and "Simple reply message" of the NBD protocol.
        let mut request = Vec::with_capacity(28 + sent.len());
        request.extend(0x2560_9513u32.to_be_bytes());
        request.extend(0u16.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(u32::try_from(length)?.to_be_bytes());
        request.extend(sent);
        stream.write_all(&request).context("cannot send")?;
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).context("no answer")?;
        if reply[..4] != 0x6744_6698u32.to_be_bytes() || reply[4..8] != [0; 4] || reply[8..16] != request[8..16] {
            bail!("this is no answer to it: {reply:02x?}");
        }
        stream.read_exact(received).context("the answer is cut off")
    }
}
