//! Large payloads go from the network to the file by reference, however they arrive, and nothing of that can be seen.

mod common;

use common::{MIB, PATIENCE, Peer, Served, Tail, pattern};
use rustix::net::{SendFlags, send};
use std::io::Write;
use std::time::{Duration, Instant};
use tail_nbd::disc::mode::IoMode;
use tail_nbd::nbd::client::Reply;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::command_type;
use tail_nbd::shard::Patience;

/// A client whose last request was a large write, so that the next payload is taken from the socket itself.
fn warmed(disc: &Served) -> Peer {
    let mut peer = disc.connect();
    peer.write(0, &pattern(1, 64 << 10));
    peer
}

fn write_request(peer: &mut Peer, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut out = vec![];
    let header = Header { flags: 0, command: command_type::WRITE, cookie, offset, length };
    peer.client.write_request(&mut out, header);
    out
}

fn expect_done(peer: &mut Peer, wanted: u64) {
    let reply = peer.next().expect("an answer");
    assert!(matches!(reply, Reply::Simple { cookie, error: 0, .. } if cookie == wanted), "{reply:?}");
}

/// Memory that is taken while half of a payload is there.
fn buffers_taken_for_half(io: IoMode) -> usize {
    let mut tail = Tail::start(1);
    tail.io = io;
    let disc = tail.serve(1, 8 * MIB);
    let mut peer = warmed(&disc);
    let payload = pattern(2, 200_000);
    let mut half = write_request(&mut peer, 7, 4096, payload.len() as u64);
    half.extend_from_slice(&payload[..100_000]);
    peer.socket.write_all(&half).unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    let mut taken_count = 0;
    while Instant::now() < deadline {
        let statuses = tail.runtime.block_on(tail.shards().status());
        taken_count = statuses.iter().map(|shard| shard.buffers_taken_count).max().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    peer.socket.write_all(&payload[100_000..]).unwrap();
    expect_done(&mut peer, 7);
    assert!(peer.read(4096, 200_000) == payload, "{io:?}");
    taken_count
}

#[test]
fn a_large_payload_takes_no_buffer_where_pages_may_be_referred_to() {
    assert_eq!(buffers_taken_for_half(IoMode::Cached), 0);
    assert_eq!(buffers_taken_for_half(IoMode::Copied), 1);
    assert_eq!(buffers_taken_for_half(IoMode::Direct), 1);
}

#[test]
fn a_payload_that_arrives_in_any_pieces_is_written_as_it_was_sent() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 16 * MIB);
    let mut peer = warmed(&disc);
    let lengths = [32 << 10, (32 << 10) + 1, 100_001, 256 << 10, (256 << 10) + 1, (1 << 20) - 1, (3 << 20) + 12_345];
    for (nth, length) in lengths.into_iter().enumerate() {
        for chunk in [length, 70_001, 1460] {
            let (payload, offset) = (pattern((nth * chunk) as u64 + 3, length), nth as u64 * 4099 + 1);
            let mut bytes = write_request(&mut peer, 7, offset, length as u64);
            bytes.extend_from_slice(&payload);
            // Behind it comes another request, which must not be taken for payload.
            bytes.extend_from_slice(&write_request(&mut peer, 8, 12 * MIB, 3));
            bytes.extend_from_slice(b"end");
            for (count, part) in bytes.chunks(chunk).enumerate() {
                peer.socket.write_all(part).unwrap();
                if count % 64 == 63 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            // In either order.
            let replies = [peer.next().expect("an answer"), peer.next().expect("another")];
            assert!(replies.iter().all(|reply| reply.error() == 0), "{replies:?}");
            assert!(peer.read(offset, length as u32) == payload, "{length} in chunks of {chunk}");
            assert_eq!(peer.read(12 * MIB, 3), b"end");
        }
    }
}

/// Who sends a payload a byte at a time is cut off in the time for one piece, and what the rest would be is nobody's.
#[test]
fn a_payload_that_drips_is_cut_off() {
    let tail = Tail::start_with(1, Patience { stall_seconds: 1, ..Patience::default() });
    let disc = tail.serve(1, 8 * MIB);
    let mut peer = warmed(&disc);
    let request = write_request(&mut peer, 7, 0, 100_000);
    peer.socket.write_all(&request).unwrap();
    let start = Instant::now();
    // Once it is cut off a send fails, the second after it at the latest.
    while peer.socket.write_all(b"x").is_ok() {
        assert!(start.elapsed() < PATIENCE, "it is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut other = disc.connect();
    assert!(other.read(0, 64 << 10) == pattern(1, 64 << 10), "nothing of it was written");
}

/// A byte that is sent as urgent cannot be moved into a pipe, and must not keep the shard looking for ever.
#[test]
fn urgent_bytes_in_a_payload_do_no_harm() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 8 * MIB);
    let mut peer = warmed(&disc);
    let payload = pattern(9, 150_000);
    let mut bytes = write_request(&mut peer, 7, 0, payload.len() as u64);
    bytes.extend_from_slice(&payload[..50_000]);
    peer.socket.write_all(&bytes).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    send(&peer.socket, b"!", SendFlags::OOB).unwrap();
    peer.socket.write_all(&payload[50_000..100_000]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let turns = |tail: &Tail| tail.runtime.block_on(tail.shards().status())[0].turns_count;
    let before = turns(&tail);
    std::thread::sleep(Duration::from_millis(100));
    assert!(turns(&tail) - before < 50, "it waits, and does not look for ever");
    peer.socket.write_all(&payload[100_000..]).unwrap();
    expect_done(&mut peer, 7);
    assert!(peer.read(0, 150_000) == payload, "the urgent byte is left out");
}

/// Nothing of a piece that does not come whole is written, and its pipe is not kept.
#[test]
fn who_leaves_in_the_middle_of_a_payload_is_closed() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 8 * MIB);
    for round in 0..100 {
        let mut peer = warmed(&disc);
        let mut bytes = write_request(&mut peer, 7, 0, 200_000);
        bytes.extend_from_slice(&pattern(round, 90_000));
        peer.socket.write_all(&bytes).unwrap();
        peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(peer.is_closed(), "round {round}");
    }
    tail.wait_for(disc.number, "all are gone", |status| status.clients.is_empty());
    assert!(disc.connect().read(0, 64 << 10) == pattern(1, 64 << 10), "nothing of it was written");
}

/// The protocol lets a server carry out overlapping writes in any order; this one has always kept to the order in which they came.
#[test]
fn what_a_client_writes_later_stays_though_it_did_not_wait() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 8 * MIB);
    let mut peer = warmed(&disc);
    let (mut bytes, mut wanted) = (vec![], pattern(1, 64 << 10));
    wanted.resize(512 << 10, 0);
    for round in 0..300u64 {
        // A large one behind another goes by reference, and has small ones in buffers before and behind it.
        let length = [4096, 512, 4096, 128 << 10, 100_001, 33_000, 4096][round as usize % 7];
        let offset = round * 7919 * 512 % (200 << 10);
        let payload = pattern(round + 2, length);
        bytes.extend_from_slice(&write_request(&mut peer, round, offset, length as u64));
        bytes.extend_from_slice(&payload);
        wanted[offset as usize..][..length].copy_from_slice(&payload);
    }
    peer.socket.write_all(&bytes).unwrap();
    for _ in 0..300 {
        assert_eq!(peer.next().expect("an answer").error(), 0);
    }
    let read = peer.read(0, 512 << 10);
    assert_eq!(read.iter().zip(&wanted).position(|(read, wanted)| read != wanted), None);
}
