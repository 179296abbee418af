//! The brake in a shard without a kernel, where time is what the test says.

use super::super::crowd::{Crowd, DISC_BYTES, file};
use crate::buffer::Pool;
use crate::disc::dirty::Dirty;
use crate::geometry::DiscSize;
use crate::limits::BRAKE_SECONDS_MAX;
use crate::mailbox::Letter;
use crate::nbd::offer::Style;
use crate::nbd::request::Header;
use crate::nbd::wire::command_type;
use crate::ring::op::{Completion, Owner};
use crate::shard::{Access, ShardError};
use spine::id::DiscNumber;
use tokio::sync::oneshot;

const BLOCK: u64 = 4096;

/// The replies to a write, and to a read of a block.
const DONE_BYTES: u64 = 16;
const DATA_BYTES: u64 = 20 + 8 + BLOCK;

/// A crowd whose first disc is tracked, and may have a block made dirty each second.
fn braked(discs_count: u64, pool: Option<Pool>) -> Crowd {
    let mut crowd = match pool {
        Some(pool) => Crowd::with_pool(discs_count, file(), pool),
        None => Crowd::new(discs_count, file()),
    };
    let size = DiscSize::from_bytes(DISC_BYTES).unwrap();
    crowd.order(|reply| Letter::Track(DiscNumber(1), Some(Box::new(Dirty::new(size))), reply)).unwrap();
    crowd.order(|reply| Letter::Brake(DiscNumber(1), Some(BLOCK), reply)).unwrap();
    crowd
}

fn request(command: u16, block: u64) -> Vec<u8> {
    let (mut bytes, length) = (vec![], if command == command_type::FLUSH { 0 } else { BLOCK });
    Header { flags: 0, command, cookie: block, offset: block * BLOCK, length }.write(&mut bytes, Style::Structured);
    if command == command_type::WRITE {
        bytes.resize(bytes.len() + BLOCK as usize, 7);
    }
    bytes
}

fn write(block: u64) -> Vec<u8> {
    request(command_type::WRITE, block)
}

#[test]
fn r130_writes_that_outrun_the_copying_wait_and_nothing_else_does() {
    let mut crowd = braked(2, None);
    assert_eq!(crowd.send(0, &write(0)).sent_bytes, DONE_BYTES, "the first one may");
    assert_eq!(crowd.send(0, &write(1)).sent_bytes, 0, "the next one waits");
    assert_eq!(crowd.send(0, &request(command_type::TRIM, 2)).sent_bytes, 0);
    assert_eq!(crowd.send(0, &request(command_type::READ, 1)).sent_bytes, DATA_BYTES, "reads pass by");
    assert_eq!(crowd.send(0, &request(command_type::FLUSH, 0)).sent_bytes, DONE_BYTES);
    assert_eq!(crowd.send(0, &write(0)).sent_bytes, DONE_BYTES, "what is dirty may be written");
    assert_eq!(crowd.send(1, &write(1)).sent_bytes, DONE_BYTES, "other discs have no brake");
    let mut answered_bytes = vec![];
    for _ in 0..2 {
        crowd.now = crowd.engine.wake_at().expect("somebody waits");
        answered_bytes.push(crowd.run(vec![]).sent_bytes);
    }
    assert_eq!(answered_bytes, [DONE_BYTES; 2], "one after the other");
    assert_eq!(crowd.engine.shard.braked_until(), None);
}

#[test]
fn nobody_waits_for_ever() {
    let mut crowd = braked(1, None);
    crowd.order(|reply| Letter::Brake(DiscNumber(1), Some(1), reply)).unwrap();
    crowd.send(0, &write(0));
    for block in 1..10 {
        crowd.send(0, &write(block));
    }
    crowd.now = crowd.now.plus_seconds(BRAKE_SECONDS_MAX);
    assert_eq!(crowd.engine.wake_at(), Some(crowd.now));
    assert_eq!(crowd.run(vec![]).sent_bytes, 9 * DONE_BYTES);
}

#[test]
fn r130_it_is_off_while_the_move_waits_for_something_else() {
    let mut crowd = braked(1, None);
    (0..4)
        .for_each(|block| assert_eq!(crowd.send(0, &write(block)).sent_bytes, if block == 0 { DONE_BYTES } else { 0 }));
    crowd.engine.deliver(Letter::Brake(DiscNumber(1), None, oneshot::channel().0));
    assert_eq!(crowd.run(vec![]).sent_bytes, 3 * DONE_BYTES);
    assert_eq!(crowd.send(0, &write(9)).sent_bytes, DONE_BYTES);
    crowd.order(|reply| Letter::Brake(DiscNumber(1), Some(BLOCK), reply)).unwrap();
    assert_eq!([10, 11].map(|block| crowd.send(0, &write(block)).sent_bytes), [DONE_BYTES, 0], "and on again");
}

#[test]
fn r130_it_is_off_when_the_move_ends() {
    let mut crowd = braked(1, None);
    for block in 0..4 {
        crowd.send(0, &write(block));
    }
    crowd.engine.deliver(Letter::Track(DiscNumber(1), None, oneshot::channel().0));
    assert_eq!(crowd.run(vec![]).sent_bytes, 3 * DONE_BYTES);
    assert_eq!(crowd.send(0, &write(9)).sent_bytes, DONE_BYTES);
    assert!(matches!(crowd.order(|reply| Letter::Brake(DiscNumber(1), Some(1), reply)), Err(ShardError::Busy(_))));
}

#[test]
fn rule4_what_waits_of_a_client_that_lost_its_right_is_not_carried_out() {
    let mut crowd = braked(1, None);
    crowd.send(0, &write(0));
    crowd.send(0, &write(1));
    crowd.send(0, &request(command_type::TRIM, 2));
    let (reply, mut answer) = oneshot::channel();
    crowd.engine.deliver(Letter::SetAccess(DiscNumber(1), Access::Nobody, reply));
    let (owner, op) = crowd.armed.drain().map(|(client, op)| (Owner::Receive(client), op)).next().unwrap();
    let gone = Completion { owner, op, result: Ok(0), socket: None, received: None };
    let cost = crowd.run(vec![gone]);
    assert_eq!((cost.ops_count, crowd.engine.census().buffers_count), (0, 0));
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
}

#[test]
fn a_freeze_waits_for_nobody_who_waits_and_they_go_on_after_it() {
    let mut crowd = braked(1, None);
    crowd.send(0, &write(0));
    crowd.send(0, &write(1));
    let (reply, mut answer) = oneshot::channel();
    crowd.engine.deliver(Letter::Freeze(DiscNumber(1), reply));
    let (owner, op) = crowd.armed.drain().map(|(client, op)| (Owner::Receive(client), op)).next().unwrap();
    let cancelled = Err(crate::error::Errno(libc::ECANCELED));
    let held = Completion { owner, op, result: cancelled, socket: None, received: None };
    crowd.run(vec![held]);
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    assert_eq!(crowd.engine.shard.braked_until(), None, "nothing happens to a frozen disc");
    crowd.now = crowd.now.plus_seconds(60);
    assert_eq!(crowd.run(vec![]).ops_count, 0);
    crowd.order(|reply| Letter::Thaw(DiscNumber(1), reply)).unwrap();
    assert_eq!(crowd.run(vec![]).ops_count, 0, "it was answered in the turn of the thaw");
    assert_eq!(crowd.engine.census().transfers_count, 0);
}

/// With memory for four blocks to wait in, the rest is not received; and nobody is cut off for what is not received.
#[test]
fn rule25_fault18_what_waits_keeps_no_more_memory_than_it_may_and_no_deadline_runs() {
    let mut crowd = braked(1, Some(Pool::new(&[(8 << 10, 64)])));
    let writes: Vec<u8> = (0..12).flat_map(write).collect();
    let cost = crowd.send(0, &writes);
    assert_eq!(cost.sent_bytes, DONE_BYTES);
    assert_eq!(crowd.engine.census().buffers_count, 4, "two more would be in other clients' way");
    let mut answered_bytes = 0;
    while let Some(at) = crowd.engine.wake_at() {
        crowd.now = at;
        answered_bytes += crowd.run(vec![]).sent_bytes;
        assert!(crowd.engine.census().buffers_count <= 4);
    }
    assert_eq!(answered_bytes, 11 * DONE_BYTES);
    assert_eq!(crowd.engine.census().connections_count, 1);
}
