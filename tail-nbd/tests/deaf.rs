//! Clients that ask and do not take their replies: what they hold is bounded, in size and in time, and nobody else notices.

mod common;

use common::{MIB, Peer, Served, Tail, pattern};
use std::os::unix::fs::FileExt;
use tail_nbd::limits::PAYLOAD_BYTES_MAX;
use tail_nbd::nbd::offer::Style;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{command_flag, command_type};

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
