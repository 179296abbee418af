//! One disc in a temporary file, served on loopback by real shards, and what tests do to it.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use spine::id::DiscNumber;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tail_nbd::disc::mode::IoMode;
use tail_nbd::nbd::client::{Client, Reply};
use tail_nbd::nbd::offer::Style;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{EXTENDED_REQUEST_BYTES, chunk_type, command_type, option_reply, option_type};
use tail_nbd::ring::probe::Mask;
use tail_nbd::shard::{Access, DiscStatus, OpenDisc, Patience, ShardConfig, ShardEvent, Shards};
use tail_nbd::tls::Front;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const MIB: u64 = 1 << 20;

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Shards and the discs they serve.
pub struct Tail {
    pub runtime: Runtime,
    shards: Option<Shards>,
    pub events: mpsc::Receiver<ShardEvent>,
    /// How discs to come are read and written.
    pub io: IoMode,
    directory: tempfile::TempDir,
}

impl Tail {
    pub fn start(shards_count: usize) -> Self {
        Self::start_with(shards_count, Patience::default())
    }

    pub fn start_with(shards_count: usize, patience: Patience) -> Self {
        Self::start_secured(shards_count, patience, None)
    }

    pub fn start_secured(shards_count: usize, patience: Patience, tls: Option<Front>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Rule 28: all of these tests hold with what an older kernel has.
        let mask = std::env::var("TAIL_NBD_FEATURES").map_or(Mask::default(), |text| text.parse().unwrap());
        let config = ShardConfig { shards_count: Some(shards_count), mask, memory: None, tls };
        let (shards, events) = Shards::start_with(config, patience).unwrap();
        // The build's directory, not /tmp: it is a real file system with holes and fallocate.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Nothing that clients see depends on it.
        let io = std::env::var("TAIL_NBD_IO").map_or(IoMode::default(), |text| text.parse().unwrap());
        Self { runtime, shards: Some(shards), events, io, directory }
    }

    pub fn shards(&self) -> &Shards {
        self.shards.as_ref().unwrap()
    }

    /// Begins an orderly stop; it is over when the handle says so.
    pub fn begin_stop(&mut self) -> tokio::task::JoinHandle<()> {
        let shards = self.shards.take().expect("it runs");
        self.runtime.spawn(shards.stop())
    }

    pub fn path(&self, number: u64) -> PathBuf {
        self.directory.path().join(format!("disc{number}"))
    }

    pub fn file(&self, number: u64) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(number)).unwrap()
    }

    /// Serves a new sparse file to everybody on loopback.
    pub fn serve(&self, number: u64, size_bytes: u64) -> Served {
        let file = self.file(number);
        file.set_len(size_bytes).unwrap();
        self.serve_file(number, file, size_bytes, Access::List(vec![LOOPBACK]))
    }

    pub fn serve_file(&self, number: u64, data: File, size_bytes: u64, access: Access) -> Served {
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let number = DiscNumber(number);
        // The tail's own address differs from the disc's on purpose, except that on loopback both are clients'.
        let open = OpenDisc {
            number,
            data,
            io: self.io,
            size_bytes,
            listener: Some(listener),
            access,
            own_address: LOOPBACK,
            sync_failed: false,
        };
        self.runtime.block_on(self.shards().open(open)).unwrap();
        Served { number, address }
    }

    pub fn status(&self, number: DiscNumber) -> DiscStatus {
        let statuses = self.runtime.block_on(self.shards().status());
        statuses.into_iter().flat_map(|shard| shard.discs).find(|disc| disc.number == number).expect("it is open")
    }

    /// Waits until the status of a disc is as wanted.
    pub fn wait_for(&self, number: DiscNumber, what: &str, wanted: impl Fn(&DiscStatus) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.status(number)) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.status(number));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(shards) = self.shards.take() {
            self.runtime.block_on(shards.stop());
        }
    }
}

/// A disc that is served.
#[derive(Clone, Copy)]
pub struct Served {
    pub number: DiscNumber,
    pub address: SocketAddr,
}

impl Served {
    pub fn uri(&self) -> String {
        format!("nbd://{}", self.address)
    }

    pub fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// A client that is let in with the empty name.
    pub fn connect(&self) -> Peer {
        self.connect_with(Style::Structured)
    }

    /// A client that is let in with the empty name, and wants replies of this style.
    pub fn connect_with(&self, style: Style) -> Peer {
        self.connect_as("", style).expect("the export is there")
    }

    /// A client that asks for an export by GO; the error is the reply's type.
    pub fn connect_as(&self, name: &str, style: Style) -> Result<Peer, u32> {
        let mut peer = Peer { socket: self.socket(), client: Client::new(), replies: vec![] };
        let mut out = vec![];
        peer.client.write_flags(&mut out);
        if style.has_chunks() {
            let option = match style {
                Style::Extended => option_type::EXTENDED_HEADERS,
                _ => option_type::STRUCTURED_REPLY,
            };
            peer.client.write_option(&mut out, option, &[]);
            peer.client.write_contexts(&mut out, option_type::SET_META_CONTEXT, name, &["base:allocation"]);
        }
        peer.client.write_go(&mut out, option_type::GO, name, &[]);
        peer.socket.write_all(&out).unwrap();
        loop {
            match peer.next().expect("the server talks") {
                Reply::Option { option: option_type::GO, reply: option_reply::ACK, .. } => return Ok(peer),
                Reply::Option { option: option_type::GO, reply, .. } if reply >> 31 == 1 => return Err(reply),
                _ => {}
            }
        }
    }
}

/// A client with a blocking socket.
pub struct Peer {
    pub socket: TcpStream,
    pub client: Client,
    pub replies: Vec<Reply>,
}

impl Peer {
    /// The next reply; `None` when the server has closed the connection.
    pub fn next(&mut self) -> Option<Reply> {
        let mut bytes = vec![0; 1 << 16];
        while self.replies.is_empty() {
            let count = match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            };
            self.client.handle_bytes(&bytes[..count], &mut self.replies).unwrap();
        }
        Some(self.replies.remove(0))
    }

    /// Sends a request with its payload.
    pub fn send(&mut self, header: Header, payload: &[u8]) {
        let mut out = Vec::with_capacity(EXTENDED_REQUEST_BYTES + payload.len());
        self.client.write_request(&mut out, header);
        out.extend_from_slice(payload);
        self.socket.write_all(&out).unwrap();
    }

    /// One request after the other: the error, and the data of a read or of a block status.
    pub fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> (u32, Vec<u8>) {
        let cookie = 0x1234;
        self.send(Header { flags, command, cookie, offset, length }, payload);
        let (mut error, mut data) = (0, vec![]);
        loop {
            let reply = self.next().expect("an answer");
            error = error.max(reply.error());
            let last = !matches!(reply, Reply::Chunk { done: false, .. });
            match reply {
                Reply::Simple { data, .. } => return (error, data),
                Reply::Chunk { kind: chunk_type::OFFSET_HOLE, data: chunk, .. } => {
                    let at = u64::from_be_bytes(chunk[..8].try_into().unwrap()) - offset;
                    let hole = u32::from_be_bytes(chunk[8..].try_into().unwrap());
                    data.resize(data.len().max(at as usize + hole as usize), 0);
                }
                Reply::Chunk { kind: chunk_type::OFFSET_DATA, data: chunk, .. } => {
                    let at = u64::from_be_bytes(chunk[..8].try_into().unwrap()) - offset;
                    data.resize(data.len().max(at as usize + chunk.len() - 8), 0);
                    data[at as usize..at as usize + chunk.len() - 8].copy_from_slice(&chunk[8..]);
                }
                Reply::Chunk { kind: chunk_type::BLOCK_STATUS, data: chunk, .. } => data = chunk[4..].to_vec(),
                Reply::Chunk { kind: chunk_type::BLOCK_STATUS_EXT, data: chunk, .. } => data = chunk[8..].to_vec(),
                _ => {}
            }
            if last {
                return (error, data);
            }
        }
    }

    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let (error, data) = self.ask(command_type::READ, 0, offset, length.into(), &[]);
        assert_eq!(error, 0, "a read of {length} at {offset}");
        assert_eq!(data.len(), length as usize);
        data
    }

    pub fn write(&mut self, offset: u64, payload: &[u8]) {
        assert_eq!(self.try_write(offset, payload), 0, "a write of {} at {offset}", payload.len());
    }

    pub fn try_write(&mut self, offset: u64, payload: &[u8]) -> u32 {
        self.ask(command_type::WRITE, 0, offset, payload.len() as u64, payload).0
    }

    /// True when the server closes the connection before anything else comes.
    pub fn is_closed(&mut self) -> bool {
        self.next().is_none()
    }
}

/// Bytes that look like no others.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// True when a program is installed; a test that needs it says so and passes otherwise.
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Runs a program to its end, which must be a good one.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{program} {arguments:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}
