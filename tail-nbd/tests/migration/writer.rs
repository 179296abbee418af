//! Clients that go on while their disc moves.

use crate::{KEY, SIZE, netns};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tail_nbd::nbd::{
    client::{Client, Reply},
    request::Header,
    wire::{command_flag, command_type, option_reply, option_type},
};

/// A client that connects again whenever it is cut off, and sends again what was not answered: as qemu does.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Written>,
}

/// What a writer has done.
pub struct Written {
    /// The last bytes that were acknowledged, by block of 4 KiB.
    pub blocks: std::collections::BTreeMap<u64, u64>,
    pub writes: u64,
    pub longest: Duration,
}

impl Writer {
    /// Writes, trims and zeroes blocks all over the disc, one after the other.
    pub fn start(namespace: String) -> Self {
        Self::paced(namespace, SIZE, Duration::ZERO)
    }

    /// Has each write made durable before it is acknowledged.
    pub fn careful(namespace: String) -> Self {
        Self::spawn(namespace, SIZE, Duration::from_millis(1), command_flag::FUA)
    }

    /// The same on a disc of `size` bytes, resting between two writes.
    pub fn paced(namespace: String, size: u64, rest: Duration) -> Self {
        Self::spawn(namespace, size, rest, 0)
    }

    fn spawn(namespace: String, size: u64, rest: Duration, flags: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let file = File::open(format!("/run/netns/{namespace}")).unwrap();
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
            write_until(&stopped, size, rest, flags)
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

fn write_until(stop: &AtomicBool, size: u64, rest: Duration, flags: u16) -> Written {
    let mut written = Written { blocks: Default::default(), writes: 0, longest: Duration::ZERO };
    let mut connection = None;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    while !stop.load(Ordering::Acquire) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // The first few are for others.
        let block = 8 + state % (size / 4096 - 8);
        // One in sixteen makes a hole; 0 stands for zeroes.
        let value = if state >> 60 == 0 { 0 } else { state | 1 };
        let began = Instant::now();
        loop {
            if connection.is_none() {
                connection = connect().ok();
            }
            if let Some(open) = &mut connection {
                if write_flagged(open, block, value, flags).is_ok() {
                    break;
                }
                connection = None;
            }
            assert!(began.elapsed() < netns::brain::DEADLINE, "no write gets through");
            std::thread::sleep(Duration::from_millis(1));
        }
        written.longest = written.longest.max(began.elapsed());
        written.writes += 1;
        written.blocks.insert(block, value);
        std::thread::sleep(rest);
    }
    written
}

pub type Connection = (TcpStream, Client, Vec<Reply>);

pub fn connect() -> std::io::Result<Connection> {
    let address: SocketAddr = "[fd00:b16:0:d::7]:10809".parse().unwrap();
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.set_nodelay(true)?;
    let (mut client, mut out) = (Client::new(), vec![]);
    client.write_flags(&mut out);
    client.write_go(&mut out, option_type::GO, KEY, &[]);
    socket.write_all(&out)?;
    let mut connection = (socket, client, vec![]);
    loop {
        match next(&mut connection)? {
            Reply::Option { option: option_type::GO, reply: option_reply::ACK, .. } => return Ok(connection),
            Reply::Option { option: option_type::GO, reply, .. } if reply >> 31 == 1 => {
                return Err(std::io::Error::other("refused"));
            }
            _ => {}
        }
    }
}

pub fn next((socket, client, replies): &mut Connection) -> std::io::Result<Reply> {
    let mut bytes = [0; 4096];
    while replies.is_empty() {
        match socket.read(&mut bytes)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                client.handle_bytes(&bytes[..count], replies).map_err(|e| std::io::Error::other(format!("{e:?}")))?
            }
        }
    }
    Ok(replies.remove(0))
}

pub fn write_block(connection: &mut Connection, block: u64, value: u64) -> std::io::Result<()> {
    write_flagged(connection, block, value, 0)
}

fn write_flagged(connection: &mut Connection, block: u64, value: u64, flags: u16) -> std::io::Result<()> {
    let (offset, length) = (block * 4096, 4096);
    let command = if value == 0 { command_type::WRITE_ZEROES } else { command_type::WRITE };
    let mut out = vec![];
    connection.1.write_request(&mut out, Header { flags, command, cookie: 7, offset, length });
    if value != 0 {
        out.extend((0..512u64).flat_map(|word| (value ^ word).to_le_bytes()));
    }
    connection.0.write_all(&out)?;
    let reply = next(connection)?;
    assert_eq!(reply.error(), 0, "a guest sees an error");
    Ok(())
}

/// Every acknowledged write is in the file.
pub fn check(written: &Written, file: &std::path::Path) {
    let file = File::open(file).unwrap();
    for (block, value) in &written.blocks {
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, block * 4096).unwrap();
        let wanted: Vec<u8> = match value {
            0 => vec![0; 4096],
            value => (0..512u64).flat_map(|word| (value ^ word).to_le_bytes()).collect(),
        };
        assert!(bytes[..] == wanted[..], "block {block} is not what was acknowledged last");
    }
}
