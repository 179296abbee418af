//! How the data of a disc moves: what a pool's `io` changes, and what it must not change. The other tests of serving hold
//! in each mode: `scripts/test` runs them with TAIL_NBD_IO.
#![allow(clippy::print_stderr, reason = "a skipped test says why, and figures are for people")]

mod common;

use common::{LOOPBACK, MIB, PATIENCE, Peer, Tail, has, pattern};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tail_nbd::disc::mode::IoMode;
use tail_nbd::nbd::client::Reply;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{chunk_type, command_type};
use tail_nbd::shard::Access;

const MODES: [IoMode; 3] = [IoMode::Cached, IoMode::Copied, IoMode::Direct];

fn read(cookie: u64, offset: u64, length: u64) -> Header {
    Header { flags: 0, command: command_type::READ, cookie, offset, length }
}

/// Rule 24: only where pages go out by reference may a write show in a reply that was ready before it.
#[test]
fn a_copied_reply_is_what_was_read_whatever_is_written_before_it_is_taken() {
    let mut tail = Tail::start(1);
    tail.io = IoMode::Copied;
    let disc = tail.serve(1, 8 * MIB);
    let (mut reader, mut writer) = (disc.connect(), disc.connect());
    writer.write(0, &pattern(1, 4 << 20));
    for cookie in 0..4 {
        reader.send(read(cookie, cookie * MIB, MIB), &[]);
    }
    tail.wait_for(disc.number, "all is read", |status| status.counters.reads_count == 4);
    writer.write(0, &pattern(2, 4 << 20));
    let (mut arrived, wanted) = (vec![0; 4 << 20], pattern(1, 4 << 20));
    for _ in 0..4 {
        let Some(Reply::Chunk { kind: chunk_type::OFFSET_DATA, data, .. }) = reader.next() else { panic!("data") };
        let at = u64::from_be_bytes(data[..8].try_into().unwrap()) as usize;
        arrived[at..at + data.len() - 8].copy_from_slice(&data[8..]);
    }
    assert!(arrived == wanted, "the replies are of before the write");
}

/// Writes that share blocks, from many connections at once, and zeroes among them: no byte of one is lost to another.
#[test]
fn writes_of_parts_of_blocks_lose_nothing_to_each_other() {
    for io in MODES {
        let mut tail = Tail::start(1);
        tail.io = io;
        let disc = tail.serve(1, MIB);
        disc.connect().write(0, &pattern(9, 1 << 20));
        let mut wanted = pattern(9, 1 << 20);
        // Each writer has every eighth run of 100 to 300 bytes, so that each block has several.
        let runs: Vec<(usize, usize)> = (0..1500).map(|run| (run * 300, 100 + run * 37 % 200)).collect();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (mine, disc) = (runs.iter().skip(writer).step_by(8), &disc);
                scope.spawn(move || {
                    let (mut peer, mut out, mut count) = (disc.connect(), vec![], 0);
                    for (offset, length) in mine {
                        let zeroes = offset % 7 == 0;
                        let command = if zeroes { command_type::WRITE_ZEROES } else { command_type::WRITE };
                        let (offset, cookie, length) = (*offset as u64, *offset as u64, *length);
                        let header = Header { flags: 0, command, cookie, offset, length: length as u64 };
                        peer.client.write_request(&mut out, header);
                        if !zeroes {
                            out.extend(pattern(offset, length));
                        }
                        count += 1;
                    }
                    std::io::Write::write_all(&mut peer.socket, &out).unwrap();
                    (0..count).for_each(|_| assert_eq!(peer.next().expect("an answer").error(), 0));
                });
            }
        });
        for (offset, length) in runs {
            let bytes = if offset % 7 == 0 { vec![0; length] } else { pattern(offset as u64, length) };
            wanted[offset..offset + length].copy_from_slice(&bytes);
        }
        let mut peer = disc.connect();
        assert!(peer.read(0, 1 << 20) == wanted, "{io:?}");
        for (offset, length) in [(1, 511), (511, 2), (4095, 70_001), (77, 300_000)] {
            assert!(
                peer.read(offset, length) == wanted[offset as usize..][..length as usize],
                "{io:?}: {length} at {offset}"
            );
        }
        assert!(std::fs::read(tail.path(1)).unwrap() == wanted, "{io:?}: the file");
    }
}

#[test]
fn a_disc_that_is_no_whole_number_of_blocks_is_served_all_the_same() {
    let mut tail = Tail::start(1);
    tail.io = IoMode::Direct;
    let disc = tail.serve(1, MIB + 100);
    let mut peer = disc.connect();
    peer.write(MIB - 50, &pattern(1, 150));
    assert_eq!(peer.read(MIB - 50, 150), pattern(1, 150));
    assert_eq!(std::fs::metadata(tail.path(1)).unwrap().len(), MIB + 100, "the file does not grow");
}

/// A file of zeroes that another process has: stopped, it answers nothing, as a disk that hangs.
struct SlowFile {
    server: Child,
    folder: tempfile::TempDir,
}

impl SlowFile {
    /// `None` where there is no FUSE.
    fn start(size: &str) -> Option<Self> {
        if !has("nbdfuse") || !has("nbdkit") {
            return None;
        }
        if !std::path::Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: no FUSE here");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disc");
        // What fstat says stays known: to look for holes asks for it, and that is not what is to hang.
        let known = ["-o", "attr_timeout=3600"];
        let arguments = ["[", "nbdkit", "--exit-with-parent", "memory", size, "]"];
        let server =
            Command::new("nbdfuse").args(known).arg(&path).args(arguments).stderr(Stdio::null()).spawn().unwrap();
        let slow = Self { server, folder };
        let deadline = Instant::now() + PATIENCE;
        while !path.exists() {
            assert!(Instant::now() < deadline, "nbdfuse does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(slow)
    }

    fn open(&self) -> std::fs::File {
        std::fs::OpenOptions::new().read(true).write(true).open(self.folder.path().join("disc")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }

    /// Runs something while the file hangs, which is to tell of each step that it has made. A shard that hangs with it would
    /// answer no question of a test, so the file goes on when there is no step for too long.
    fn hang(&self, meanwhile: impl FnOnce(&dyn Fn())) {
        let (steps, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            self.signal(Signal::STOP);
            // It answers until all of its threads have stopped.
            let stopped = waitpid(Some(Pid::from_child(&self.server)), WaitOptions::UNTRACED).unwrap();
            assert!(stopped.is_some_and(|(_, status)| status.stopped()));
            scope.spawn(move || {
                while waiting.recv_timeout(PATIENCE).is_ok() {}
                self.signal(Signal::CONT);
            });
            meanwhile(&|| {
                // An error says that the file goes on already, which the caller sees.
                let _ = steps.send(());
            });
            drop(steps);
        });
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        // It unmounts.
        self.signal(Signal::TERM);
        let _ = self.server.wait();
    }
}

/// Some rounds of small and large requests: how long each took.
fn rounds(peer: &mut Peer, writes: bool, step: &dyn Fn()) -> Vec<Duration> {
    let bytes = pattern(3, 256 << 10);
    let mut took = vec![];
    for round in 0..30 {
        let at = round % 16 * 8192;
        let start = Instant::now();
        if writes {
            peer.write(at, &bytes[..4096]);
        }
        assert_eq!(peer.read(at, 4096), bytes[..4096]);
        peer.read(0, 256 << 10);
        assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, 0);
        took.push(start.elapsed());
        step();
    }
    took.sort_unstable();
    took
}

/// True when a write is answered soon. If not, the peer is of no use any more.
fn takes_writes(peer: &mut Peer) -> bool {
    peer.socket.set_read_timeout(Some(PATIENCE / 10)).unwrap();
    peer.send(
        Header { flags: 0, command: command_type::WRITE, cookie: 99, offset: 0, length: 4096 },
        &pattern(3, 4096),
    );
    let answered = peer.socket.peek(&mut [0]).is_ok_and(|count| count > 0);
    peer.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    answered && peer.next().is_some_and(|answer| answer.error() == 0)
}

/// Rule 24: nobody waits for another disc's file, however long that takes. But for this: the kernel carries out buffered
/// writes of a ring to the same file one after the other, and files that share one of its 64 places for that are the same to
/// it. So of several neighbours at least one has to be able to write; all of them read and flush.
#[test]
fn rule24_a_file_that_hangs_keeps_no_neighbour_waiting() {
    for io in MODES {
        let mut tail = Tail::start(1);
        tail.io = io;
        let mut neighbours: Vec<Peer> = (2..6).map(|number| tail.serve(number, 16 * MIB).connect()).collect();
        neighbours.iter_mut().for_each(|neighbour| neighbour.write(0, &pattern(3, 256 << 10)));
        for neighbour in &mut neighbours {
            (0..16).for_each(|place| neighbour.write(place * 8192, &pattern(3, 4096)));
        }
        let Some(slow) = SlowFile::start("64M") else { return };
        let disc = tail.serve_file(1, slow.open(), 64 * MIB, Access::List(vec![LOOPBACK]));
        let mut victim = disc.connect();
        victim.write(5, &pattern(4, 256 << 10));
        assert!(victim.read(5, 256 << 10) == pattern(4, 256 << 10));
        let before = rounds(&mut neighbours[0], true, &|| {});

        let mut victims = [victim, disc.connect()];
        slow.hang(|step| {
            for cookie in 0..8 {
                victims[0].send(read(cookie, (8 + 4 * cookie) * MIB, 128 << 10), &[]);
                victims[1].send(read(cookie, 60 * MIB + cookie * 4096, 4096), &[]);
            }
            let header = Header { flags: 0, command: command_type::WRITE, cookie: 8, offset: 50 * MIB, length: 8192 };
            victims[0].send(header, &pattern(5, 8192));
            tail.wait_for(disc.number, "they are under way", |status| {
                status.clients.iter().map(|client| client.requests_in_flight_count).sum::<u32>() == 17
            });
            for neighbour in &mut neighbours {
                rounds(neighbour, false, step);
            }
            let writer = neighbours.iter_mut().find_map(|peer| takes_writes(peer).then_some(peer));
            let meanwhile = rounds(writer.expect("a neighbour that can write"), true, step);
            let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
            eprintln!("{io:?}: p99 of the neighbour {:?} before, {:?} meanwhile", p99(&before), p99(&meanwhile));
            for victim in &mut victims {
                victim.socket.set_nonblocking(true).unwrap();
                let nothing = std::io::Read::read(&mut victim.socket, &mut [0]).unwrap_err();
                assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "the file did hang");
                victim.socket.set_nonblocking(false).unwrap();
            }
        });
        for (victim, replies_count) in victims.iter_mut().zip([9, 8]) {
            for _ in 0..replies_count {
                assert_eq!(victim.next().expect("an answer").error(), 0);
            }
        }
    }
}
