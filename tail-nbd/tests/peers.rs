//! Misbehaving peers, by name: what each sends, and that it harms nobody but itself.
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod common;

use common::{LOOPBACK, MIB, PATIENCE, Peer, Served, Tail, pattern};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};
use tail_nbd::limits::{DRAIN_BYTES_MAX, NEGOTIATING_PER_DISC_MAX};
use tail_nbd::nbd::client::Client;
use tail_nbd::nbd::offer::Style;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{Error, REQUEST_BYTES, command_flag, command_type, option_type};
use tail_nbd::shard::{Access, Patience};

/// Client flags and what follows them.
fn handshake(rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    Client::new().write_flags(&mut bytes);
    bytes.extend_from_slice(rest);
    bytes
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    Client::new().write_option(&mut bytes, option, data);
    handshake(&bytes)
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = vec![];
    Header { flags: 0, command, cookie: 1, offset, length: length.into() }.write(&mut bytes, Style::Simple);
    bytes
}

/// True when the server ends the connection, after whatever it says.
fn is_closed(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 65_536];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn assert_serves(disc: Served, tail: &Tail, after: &str) {
    let mut peer = disc.connect();
    assert_eq!(peer.read(0, 5), b"whole", "after {after}");
    drop(peer);
    tail.wait_for(disc.number, &format!("everybody is gone after {after}"), |status| status.clients.is_empty());
}

#[test]
fn who_breaks_the_protocol_is_closed_and_nothing_else_happens() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, MIB);
    disc.connect().write(0, b"whole");
    let long_name = option(option_type::EXPORT_NAME, &[b'x'; 5000]);
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("a web browser", b"GET / HTTP/1.1\r\nHost: disc\r\n\r\n".to_vec()),
        ("client flags from the future", vec![0xff; 4]),
        ("bad option magic (fault 1)", handshake(&[7; 16])),
        ("an option of 4 GiB", handshake(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff")),
        ("a name of 5000 bytes (fault 14)", long_name),
        ("EXPORT_NAME with a name that is not there", option(option_type::EXPORT_NAME, b"nobody")),
        ("EXPORT_NAME with bytes that are no text", option(option_type::EXPORT_NAME, b"\xff\xfe")),
        ("65 options", handshake(&[&b"IHAVEOPT\0\0\x03\xe7\0\0\0\0"[..]; 65].concat())),
        ("bad request magic", [option(option_type::EXPORT_NAME, b""), vec![9; REQUEST_BYTES]].concat()),
        (
            "a write that is too long to drain (fault 11)",
            [&option(option_type::EXPORT_NAME, b"")[..], &request(command_type::WRITE, 0, DRAIN_BYTES_MAX + 1)]
                .concat(),
        ),
    ];
    for (what, bytes) in rows {
        let mut socket = disc.socket();
        socket.write_all(&bytes).unwrap();
        assert!(is_closed(&mut socket), "{what} is not closed");
        assert_serves(disc, &tail, what);
    }
}

#[test]
fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 16 * MIB);
    disc.connect().write(0, b"whole");
    let go = option(option_type::EXPORT_NAME, b"");
    let half_write = |offset: u64, length: u32| {
        let mut bytes = go.clone();
        bytes.extend_from_slice(&request(command_type::WRITE, offset, length));
        bytes.extend(pattern(1, length as usize / 2));
        bytes
    };
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("a connection without a word", vec![]),
        ("half a handshake", handshake(b"IHAVE")),
        ("a request header cut in the middle", [&go[..], &request(command_type::READ, 0, 1)[..9]].concat()),
        ("half a small write (fault 4)", half_write(MIB, 4096)),
        ("half a large write (fault 4)", half_write(4 * MIB, 8 << 20)),
        ("a read of which the answer is not taken", [&go[..], &request(command_type::READ, 0, 16 << 20)].concat()),
        ("a flush and away", [&go[..], &request(command_type::FLUSH, 0, 0)].concat()),
    ];
    for (what, bytes) in rows {
        let mut socket = disc.socket();
        socket.write_all(&bytes).unwrap();
        drop(socket);
        assert_serves(disc, &tail, what);
    }
    let mut peer = disc.connect();
    assert!(peer.read(MIB, 4096) == [0; 4096], "a small write that never came whole was not begun");
}

#[test]
fn fault14_silent_strangers_are_limited_in_number_and_time() {
    let patience = Patience { handshake_seconds: 2, ..Patience::default() };
    let tail = Tail::start_with(1, patience);
    let disc = tail.serve(1, MIB);
    disc.connect().write(0, b"whole");
    let mut silent: Vec<TcpStream> = (0..NEGOTIATING_PER_DISC_MAX).map(|_| disc.socket()).collect();
    tail.wait_for(disc.number, "they are all there", |status| status.clients.len() >= NEGOTIATING_PER_DISC_MAX);
    let mut one_more = disc.socket();
    assert!(is_closed(&mut one_more), "one more is not taken");
    let shortages = tail.runtime.block_on(tail.shards().status())[0].shortages;
    let met: Vec<_> = shortages.by_name().filter(|(_, count)| *count > 0).collect();
    assert_eq!(met, [("negotiating_per_disc_max", 1)], "an operator can see why");
    let start = Instant::now();
    assert!(silent.iter_mut().all(is_closed), "the silent ones are closed");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_serves(disc, &tail, "they are gone");
}

#[test]
fn fault15_who_stops_in_the_middle_of_a_request_is_cut_and_who_is_idle_is_not() {
    let patience = Patience { stall_seconds: 1, ..Patience::default() };
    let tail = Tail::start_with(1, patience);
    let disc = tail.serve(1, 16 * MIB);
    let mut idle = disc.connect();
    idle.write(0, b"whole");
    let header = request(command_type::WRITE, 0, 4096);
    for half in [&header[..10], &header[..]] {
        let mut stalled = disc.connect();
        stalled.socket.write_all(half).unwrap();
        assert!(stalled.is_closed(), "it is cut off");
    }
    assert_eq!(idle.read(0, 5), b"whole", "between requests a client may be silent for ever");
}

#[test]
fn faults_10_and_11_what_is_not_offered_is_refused_and_the_connection_lives() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, MIB);
    let mut peer = disc.connect();
    let einval = Error::Einval.code();
    // Every flag that a command has no use for, those of the future too (fault 10).
    for bit in 0..16 {
        let flag = 1 << bit;
        if flag & (command_flag::FUA | command_flag::NO_HOLE | command_flag::FAST_ZERO) == 0 {
            assert_eq!(peer.ask(command_type::WRITE_ZEROES, flag, 0, 4096, &[]).0, einval, "bit {bit} with zeroes");
        }
        if flag != command_flag::FUA {
            assert_eq!(peer.ask(command_type::WRITE, flag, 0, 3, b"abc").0, einval, "bit {bit} with a write");
        }
    }
    for style in [Style::Structured, Style::Extended] {
        let mut peer = disc.connect_with(style);
        assert_eq!(peer.try_write(0, &vec![7; 65 << 20]), einval, "65 MiB (fault 11)");
        assert_eq!(peer.ask(command_type::READ, 0, 0, 65 << 20, &[]).0, einval);
        assert_eq!(peer.read(0, 8), [0; 8]);
    }
}

/// A small file system of its own, which is gone at the end.
struct SmallPool(tempfile::TempDir);

impl SmallPool {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(directory.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(directory)),
            other => {
                eprintln!("skipped: cannot mount a tmpfs: {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the file system stays mounted");
    }
}

#[test]
fn fault3_a_full_pool_is_an_error_for_the_guest_and_not_the_end() {
    let Some(pool) = SmallPool::mount() else { return };
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(pool.0.path().join("d")).unwrap();
    file.set_len(8 * MIB).unwrap();
    let tail = Tail::start(1);
    let disc = tail.serve_file(1, file, 8 * MIB, Access::List(vec![LOOPBACK]));
    let mut peer = disc.connect();
    peer.write(0, &pattern(1, 1 << 20));
    assert_eq!(peer.try_write(MIB, &pattern(2, 4 << 20)), Error::Enospc.code());
    assert!(peer.read(0, 1 << 20) == pattern(1, 1 << 20), "what was there is whole");
    assert_eq!(peer.ask(command_type::TRIM, 0, MIB, 7 << 20, &[]).0, 0);
    peer.write(2 * MIB, &pattern(3, 1 << 19));
    assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, 0);
    // This file system has no ZERO_RANGE: zeroes are written.
    let no_hole = command_flag::NO_HOLE;
    assert_eq!(peer.ask(command_type::WRITE_ZEROES, no_hole, 2 * MIB + 1, (1 << 19) - 2, &[]).0, 0);
    // So it refuses to make them fast, and changes nothing.
    let fast = no_hole | command_flag::FAST_ZERO;
    assert_eq!(peer.ask(command_type::WRITE_ZEROES, fast, 2 * MIB, 1 << 19, &[]).0, Error::Enotsup.code());
    let mut wanted = vec![0; 1 << 19];
    wanted[0] = pattern(3, 1)[0];
    *wanted.last_mut().unwrap() = *pattern(3, 1 << 19).last().unwrap();
    assert!(peer.read(2 * MIB, 1 << 19) == wanted, "zeroes, and the bytes beside them whole");
}

#[test]
fn fault16_changes_to_one_disc_do_not_touch_another() {
    let tail = Tail::start(1);
    let (busy, other) = (tail.serve(1, MIB), tail.serve(2, MIB));
    let mut peer: Peer = busy.connect();
    let start = Instant::now();
    for round in 0..50u64 {
        peer.write(round * 512, &round.to_be_bytes());
        let access = if round % 2 == 0 { Access::Nobody } else { Access::List(vec![LOOPBACK]) };
        tail.runtime.block_on(tail.shards().set_access(other.number, access)).unwrap();
        tail.runtime.block_on(tail.shards().resize(other.number, MIB + round)).unwrap();
        assert_eq!(peer.read(round * 512, 8), round.to_be_bytes());
    }
    assert!(start.elapsed() < PATIENCE);
}
