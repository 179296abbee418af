//! A client that holds its connection and asks for little.

use super::net;
use crate::load::handshake::{self, Stream};
use anyhow::{Context, Result, bail};
use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

/// What one read asks for.
pub const READ_BYTES: u32 = 4096;
/// No answer takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(2);

/// A connection to a disc, let in.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    number: u64,
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
        }
        Ok(Self { stream, number })
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
    pub fn read(&self) -> Result<()> {
        self.exchange().with_context(|| format!("disc {}", self.number))
    }

    fn exchange(&self) -> Result<()> {
        let mut stream = &self.stream;
        // NBD_CMD_READ at offset 0 (NBD protocol, "Request message").
        let mut request = [0; 28];
        request[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        request[8..16].copy_from_slice(&self.number.to_be_bytes());
        request[24..].copy_from_slice(&READ_BYTES.to_be_bytes());
        stream.write_all(&request).context("cannot send")?;
        let mut reply = [0; 16 + READ_BYTES as usize];
        stream.read_exact(&mut reply).context("no answer")?;
        if reply[..4] != 0x6744_6698u32.to_be_bytes() || reply[4..8] != [0; 4] || reply[8..16] != request[8..16] {
            bail!("this is no answer to a read: {:02x?}", &reply[..16]);
        }
        Ok(())
    }
}
