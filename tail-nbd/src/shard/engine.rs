//! A turn of the loop without a ring: what the kernel's driver, the simulation and the benchmarks share.
//!
//! In each turn, in this order: [`Engine::begin`], [`Engine::apply`] for each completion and [`Engine::deliver`] for
//! each letter, [`Engine::maintain`], then [`Engine::next_op`] until it has none, and [`Engine::end`].

use super::handle::{Patience, ShardEvent};
use super::owner::{Shard, Work};
use crate::buffer::Pool;
#[cfg(test)]
use crate::disc::State;
use crate::mailbox::Letter;
use crate::ring::op::{Completion, Op, Owner};
use crate::ring::pipe::Pipes;
use crate::time::Instant;
use crate::tls::Front;
#[cfg(test)]
use spine::id::DiscNumber;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tokio::sync::mpsc;

/// A shard, and what keeps a panic inside the disc that it belongs to (safety rule 27).
pub struct Engine {
    pub(super) shard: Shard,
    work: Vec<Work>,
}

impl Engine {
    /// A shard without discs, whose data buffers come from `pool`.
    pub fn new(events: mpsc::Sender<ShardEvent>, patience: Patience, pool: Pool) -> Self {
        Self { shard: Shard::new(events, patience, pool), work: Vec::new() }
    }

    /// Has large reads of what is in the page cache answered without a copy.
    pub fn use_pipes(&mut self, pipes: Pipes) {
        self.shard.pipes = Some(pipes);
    }

    /// Offers TLS to clients.
    pub(crate) fn use_tls(&mut self, front: Option<Front>) {
        self.shard.front = front;
    }

    /// A turn begins.
    pub fn begin(&mut self, now: Instant) {
        self.shard.begin(now);
    }

    /// One completion.
    pub fn apply(&mut self, completion: Completion) {
        self.guard(|shard| shard.apply(completion));
    }

    /// One order.
    pub fn deliver(&mut self, letter: Letter) {
        self.guard(|shard| shard.handle_letter(letter));
    }

    /// The control side is gone without a word: stops, unless that is under way.
    pub fn desert(&mut self) {
        self.shard.forsake_frozen();
        if self.shard.stopping.is_none() {
            self.guard(|shard| shard.stop(None));
        }
    }

    /// Works on everything that can go on, until nothing can. `has_receive_buffers` says whether connections that
    /// found no receive buffer may try again.
    pub fn maintain(&mut self, has_receive_buffers: bool) {
        let mut work = std::mem::take(&mut self.work);
        self.guard(|shard| shard.take_waiters(has_receive_buffers, &mut work));
        loop {
            self.shard.take_touched(&mut work);
            if work.is_empty() {
                break;
            }
            for item in work.drain(..) {
                self.guard(|shard| shard.work(item));
            }
        }
        self.work = work;
        self.shard.settle_freezes();
    }

    /// The next operation to be submitted.
    pub fn next_op(&mut self) -> Option<(Owner, Op)> {
        self.shard.outbox.pop_front()
    }

    /// The turn is over: its operations are submitted, or will be next.
    pub fn end(&mut self, now: Instant) {
        self.shard.end(now);
    }

    /// The ring is full: the operation comes first in the next turn.
    pub fn put_back(&mut self, owner: Owner, op: Op) {
        self.shard.outbox.push_front((owner, op));
    }

    /// True when the operations of [`Engine::is_held`] are to be cancelled now. To be asked when there is no
    /// [`Engine::next_op`].
    pub fn takes_cancels(&mut self) -> bool {
        self.shard.outbox.is_empty() && std::mem::take(&mut self.shard.cancels_due)
    }

    /// True for an operation in the kernel whose disc is frozen, and that waits for others.
    pub fn is_held(&self, owner: Owner) -> bool {
        self.shard.is_held(owner)
    }

    /// When a turn is due though nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        self.shard.wake_at()
    }

    /// True when another turn is to follow at once.
    pub fn is_hurried(&self) -> bool {
        self.shard.hurried
    }

    /// True when no request is being carried out.
    pub fn waits_for_clients_only(&self) -> bool {
        self.shard.transfers.is_empty()
    }

    /// How many requests the turn has started.
    pub fn requests_count(&self) -> usize {
        self.shard.portion.requests_count()
    }

    /// True when there is nothing left to do for ever.
    pub fn is_finished(&self) -> bool {
        self.shard.is_finished()
    }

    /// Waits until the control side has taken what it was not told yet. For a thread that has nothing else to do.
    pub fn tell_the_rest(&mut self) {
        self.shard.events.finish();
    }

    /// Tells whoever ordered the stop that it is over.
    pub fn finish(&mut self) {
        if let Some(reply) = self.shard.stopping.take() {
            // Nobody may be waiting for it any more.
            let _ = reply.send(());
        }
    }

    /// What is in the tables and queues.
    #[cfg(test)]
    pub(crate) fn census(&self) -> Census {
        let shard = &self.shard;
        Census {
            discs_count: shard.discs.len(),
            connections_count: shard.connections.len(),
            transfers_count: shard.transfers.len(),
            queued_count: shard.outbox.len(),
            waiting_count: shard.status().waiting_count,
            batches_count: shard.batches.len(),
            buffers_count: shard.pool.taken_count(),
        }
    }

    /// True when clients of this disc may be answered.
    #[cfg(test)]
    pub(crate) fn answers(&self, number: DiscNumber) -> bool {
        let disc = self.shard.numbers.get(&number).and_then(|token| self.shard.discs.get(*token));
        disc.is_some_and(|disc| matches!(disc.state, State::Serving | State::Freezing { .. } | State::Resizing { .. }))
    }

    /// Confines a panic to the disc that was being worked on.
    fn guard(&mut self, work: impl FnOnce(&mut Shard)) {
        let shard = &mut self.shard;
        shard.current = None;
        // The tables stay usable: whatever the disc had in them is removed, and tokens of it are dead.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(shard)))
            && !shard.bury(message(&*panic))
        {
            resume_unwind(panic);
        }
    }
}

/// How much of everything a shard has now.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Discs that are open.
    pub(crate) discs_count: usize,
    /// Connections that are not over.
    pub(crate) connections_count: usize,
    /// Requests being carried out.
    pub(crate) transfers_count: usize,
    /// Operations that are not submitted.
    pub(crate) queued_count: usize,
    /// Connections and requests that wait for a buffer.
    pub(crate) waiting_count: usize,
    /// Batches that are kept for the next reply.
    pub(crate) batches_count: usize,
    /// Data buffers that are not in the pool.
    pub(crate) buffers_count: usize,
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
