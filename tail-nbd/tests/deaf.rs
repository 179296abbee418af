//! Clients that ask and do not take their replies: what they hold is bounded, in size and in time, and nobody else notices.

mod common;

use common::{MIB, Peer, Served, Tail, pattern};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tail_nbd::limits::PAYLOAD_BYTES_MAX;
use tail_nbd::nbd::offer::Style;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{command_flag, command_type};
use tail_nbd::shard::Patience;

fn read(cookie: u64, length: u64) -> Header {
    Header { flags: 0, command: command_type::READ, cookie, offset: 0, length }
}

/// A disc with data: holes would cost nothing.
fn disc(tail: &Tail, number: u64, mebibytes: u64) -> Served {
    let served = tail.serve(number, mebibytes * MIB);
    tail.file(number).write_all_at(&pattern(number, (mebibytes * MIB) as usize), 0).unwrap();
    served
}

/// Asks for the longest reply that cannot be cut, and takes nothing of it.
fn ask_for_a_whole_reply(disc: Served) -> Peer {
    let mut peer = disc.connect_with(Style::Simple);
    peer.send(read(1, PAYLOAD_BYTES_MAX.into()), &[]);
    peer
}

/// Has a connection answer nothing any more: it asks for more than its disc may have, and then for more again.
fn deafen(peer: &mut Peer) {
    let mut out = vec![];
    (0..1000).for_each(|cookie| peer.client.write_request(&mut out, read(cookie, MIB)));
    std::io::Write::write_all(&mut peer.socket, &out).unwrap();
}

#[test]
fn who_takes_nothing_keeps_nobody_waiting_and_is_cut_off() {
    let patience = Patience { send_seconds: 2, ..Patience::default() };
    let tail = Tail::start_with(1, patience);
    let discs: Vec<Served> = (1..=4).map(|number| disc(&tail, number, 1)).collect();
    let neighbour = disc(&tail, 5, 1);
    let mut deaf: Vec<Peer> = discs.iter().flat_map(|disc| (0..48).map(|_| disc.connect())).collect();
    deaf.iter_mut().for_each(deafen);
    let mut modest = neighbour.connect();
    for round in 0..100 {
        modest.write(round * 512, &pattern(round, 4096));
        assert_eq!(modest.read(round * 512, 4096), pattern(round, 4096));
    }
    // Those that have their disc's memory are cut off, and then others have it.
    for disc in &discs {
        tail.wait_for(disc.number, "they are cut off", |status| status.counters.deaf_count > 0);
    }
    assert_eq!((modest.read(0, 512).len(), tail.status(neighbour.number).counters.deaf_count), (512, 0));
}

#[test]
fn who_takes_little_at_a_time_is_not_cut_off_but_a_whole_reply_has_one_deadline() {
    let patience = Patience { send_seconds: 4, whole_seconds: 2, ..Patience::default() };
    let tail = Tail::start_with(1, patience);
    let disc = disc(&tail, 1, 64);
    let mut slow = disc.connect();
    (0..24).for_each(|cookie| slow.send(read(cookie, MIB), &[]));
    let whole = ask_for_a_whole_reply(disc);
    tail.wait_for(disc.number, "the whole reply took too long", |status| status.clients.len() == 1);
    let (mut taken, mut bytes) = (0, vec![0; 4 << 20]);
    // Six seconds for all of it, and less than four for each part.
    while taken < 24 << 20 {
        std::thread::sleep(Duration::from_millis(200));
        let count = std::io::Read::read(&mut slow.socket, &mut bytes).unwrap();
        assert!(count > 0, "cut off after {taken} bytes");
        taken += count;
    }
    assert_eq!(tail.status(disc.number).counters.deaf_count, 1);
    drop(whole);
}

#[test]
fn the_buffer_for_whole_replies_goes_from_shard_to_shard() {
    let tail = Tail::start(2);
    let (one, two) = (disc(&tail, 1, 64), disc(&tail, 2, 64));
    let deaf = ask_for_a_whole_reply(one);
    tail.wait_for(one.number, "it is being sent", |status| status.counters.reads_count == 1);
    // The other shard has to wait for it, and does nothing else meanwhile.
    let mut waiting = ask_for_a_whole_reply(two);
    tail.wait_for(two.number, "it has asked", |status| status.clients.len() == 1);
    let mut neighbour = two.connect();
    assert_eq!(neighbour.read(0, 1 << 20), pattern(2, 64 << 20)[..1 << 20], "others need no such buffer");
    assert_eq!(tail.status(two.number).counters.reads_count, 1);
    drop(deaf);
    assert!(waiting.next().is_some_and(|reply| reply.error() == 0));
    let (error, data) = neighbour.ask(command_type::READ, command_flag::DF, 0, PAYLOAD_BYTES_MAX.into(), &[]);
    assert!(error == 0 && data == pattern(2, 64 << 20));
}
