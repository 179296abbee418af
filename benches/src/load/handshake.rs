//! The client's half of the fixed newstyle handshake (NBD protocol, "Fixed newstyle negotiation").

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x3_e889_0455_65a9;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
/// Longest option reply that is read: servers add descriptions.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// A connected socket of either family.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).read(bytes),
            Stream::Unix(stream) => (&*stream).read(bytes),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).write(bytes),
            Stream::Unix(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the server said of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// Connects, and asks for `export` with simple replies. The socket is left non-blocking.
///
/// # Errors
/// When the server cannot be reached within five seconds, or does not give the export.
pub fn connect(target: &str, export: &str) -> Result<(Stream, Export)> {
    let deadline = Some(Duration::from_secs(5));
    let stream = match target.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {path}"))?;
            stream.set_read_timeout(deadline)?;
            Stream::Unix(stream)
        }
        None => {
            let stream = TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(deadline)?;
            Stream::Tcp(stream)
        }
    };
    let export = negotiate(&stream, export)?;
    match &stream {
        Stream::Tcp(stream) => stream.set_nonblocking(true)?,
        Stream::Unix(stream) => stream.set_nonblocking(true)?,
    }
    Ok((stream, export))
}

/// The bytes exchanged. Apart from the socket so that a test can play the server.
fn negotiate(mut stream: impl Read + Write, name: &str) -> Result<Export> {
    let mut greeting = [0u8; 18];
    stream.read_exact(&mut greeting).context("no greeting")?;
    if be64(&greeting[..8]) != GREETING || be64(&greeting[8..16]) != OPTION {
        bail!("the server does not speak fixed newstyle NBD");
    }
    // Fixed newstyle, no zeroes after EXPORT_NAME: the two flags every server has.
    let mut hello = 3u32.to_be_bytes().to_vec();
    let payload_bytes = u32::try_from(4 + name.len() + 2).context("the export's name is too long")?;
    hello.extend(OPTION.to_be_bytes());
    hello.extend(OPT_GO.to_be_bytes());
    hello.extend(payload_bytes.to_be_bytes());
    hello.extend((payload_bytes - 6).to_be_bytes());
    hello.extend(name.as_bytes());
    hello.extend(0u16.to_be_bytes());
    stream.write_all(&hello)?;
    let mut export = None;
    loop {
        let mut header = [0u8; 20];
        stream.read_exact(&mut header).context("the server hung up on the export's name")?;
        let (magic, kind, length) = (be64(&header[..8]), be32(&header[12..16]), be32(&header[16..20]) as usize);
        if magic != OPTION_REPLY || length > REPLY_BYTES_MAX {
            bail!("the server's option reply is malformed");
        }
        let mut payload = vec![0u8; length];
        stream.read_exact(&mut payload)?;
        match kind {
            REP_ACK => break,
            REP_INFO if length >= 12 && be16(&payload[..2]) == INFO_EXPORT => {
                export = Some(Export { size_bytes: be64(&payload[2..10]), flags: be16(&payload[10..12]) });
            }
            REP_INFO => {}
            error => bail!("the server refuses the export: error {error:#x} {}", String::from_utf8_lossy(&payload)),
        }
    }
    export.context("the server did not say how big the export is")
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(bytes.try_into().expect("two bytes"))
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A server whose answers are fixed, and that keeps what it was sent.
    struct Script {
        answers: Cursor<Vec<u8>>,
        sent: Vec<u8>,
    }

    impl Read for &mut Script {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            self.answers.read(bytes)
        }
    }

    impl Write for &mut Script {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.sent.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn reply(kind: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
        bytes.extend(OPT_GO.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn script(replies: &[Vec<u8>]) -> Script {
        let mut answers = GREETING.to_be_bytes().to_vec();
        answers.extend(OPTION.to_be_bytes());
        answers.extend(3u16.to_be_bytes());
        answers.extend(replies.concat());
        Script { answers: Cursor::new(answers), sent: vec![] }
    }

    #[test]
    fn an_export_is_agreed_on() {
        let info = [&0u16.to_be_bytes()[..], &(1u64 << 30).to_be_bytes(), &0x6du16.to_be_bytes()].concat();
        let mut server = script(&[reply(REP_INFO, &info), reply(REP_ACK, &[])]);
        let export = negotiate(&mut server, "key").unwrap();
        assert_eq!(export, Export { size_bytes: 1 << 30, flags: 0x6d });
        assert!(server.sent.windows(3).any(|window| window == b"key"));
    }

    #[test]
    fn a_refusal_says_why() {
        let mut server = script(&[reply(0x8000_0006, b"unknown export")]);
        let error = negotiate(&mut server, "key").unwrap_err().to_string();
        assert!(error.contains("unknown export"), "{error}");
        assert!(negotiate(&mut script(&[]), "key").is_err());
        assert!(negotiate(&mut script(&[reply(REP_ACK, &[])]), "key").is_err(), "no size");
    }
}
