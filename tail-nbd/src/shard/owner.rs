//! The owner of everything in a shard: applies completions and keeps the invariants.

use super::access::Grant;
use super::alarms::Alarms;
use super::direct::{Change, Unlocked};
use super::events::Events;
use super::handle::{Patience, ShardEvent, ShardStatus};
use super::portion::Portion;
use crate::buffer::{Buffer, Pool};
use crate::connection::parking::Parking;
use crate::connection::{Connection, State, transfer::Transfer};
use crate::disc::locks::Locks;
use crate::disc::{self, Disc};
use crate::limits::{CHANGES_MAX, CONNECTIONS_MAX, DISCS_MAX, HELD_BYTES_MAX, HELD_PART_MAX, TRANSFERS_MAX};
use crate::mailbox::Reply;
use crate::metrics::{Histogram, Limit, Shortages};
use crate::ring::batch::Batch;
use crate::ring::op::{Completion, Op, Owner};
use crate::ring::pipe::Pipes;
use crate::ring::slots::{Slots, Token};
use crate::time::Instant;
use crate::tls::Front;
use rustix::net::Shutdown;
use spine::id::DiscNumber;
use std::collections::{BTreeSet, HashMap, VecDeque};
use tokio::sync::{mpsc, oneshot};

/// A shard's discs and clients, and what is to be submitted for them.
pub(super) struct Shard {
    pub(super) discs: Slots<Disc>,
    pub(super) numbers: HashMap<DiscNumber, Token>,
    pub(super) connections: Slots<Connection>,
    pub(super) transfers: Slots<Transfer>,
    /// Pieces of writes that are written in whole blocks.
    pub(super) changes: Slots<Change>,
    pub(super) unlocked: Unlocked,
    pub(super) pool: Pool,
    /// What one disc may have of it, in bytes.
    pub(super) held_bytes_max: usize,
    /// For replies without a copy; `None` copies always.
    pub(super) pipes: Option<Pipes>,
    /// Where clients that want TLS are handed over; `None` offers none.
    pub(super) front: Option<Front>,
    /// Batches that nobody uses now.
    #[expect(clippy::vec_box, reason = "the box goes into the operation and comes back")]
    pub(super) batches: Vec<Box<Batch>>,
    /// What the driver is to submit at the end of the turn.
    pub(super) outbox: VecDeque<(Owner, Op)>,
    /// Who waits for a buffer.
    pub(super) waiting: VecDeque<Waiter>,
    /// Connections that found no receive buffer.
    starved: Vec<Token>,
    /// Connections to be looked at in this turn.
    touched: Vec<Token>,
    /// Discs that have answered requests in the turn in which they arrived.
    pub(super) at_once: Vec<Token>,
    /// Discs that have a brake.
    pub(super) braked: Vec<Token>,
    /// Discs that are being frozen.
    pub(super) freezing: Vec<Token>,
    /// Who waits until all of them are.
    pub(super) freezing_all: Option<Reply>,
    /// What is in the kernel for frozen discs and waits for others is to be cancelled.
    pub(super) cancels_due: bool,
    /// The disc that is being worked on, for the case that it panics.
    pub(super) current: Option<Token>,
    pub(super) now: Instant,
    /// Extents that were looked up in this turn.
    pub(super) extents_count: usize,
    /// Somebody waits for the next turn, and for nothing else.
    pub(super) hurried: bool,
    /// Of connections that have a deadline.
    pub(super) alarms: Alarms,
    /// Discs of which something is only seen by looking.
    again: BTreeSet<Token>,
    /// When they are looked at.
    again_at: Option<Instant>,
    turns_count: u64,
    /// What was started in the turn that is under way.
    pub(super) portion: Portion,
    /// Completions of the turn that is under way, and of those before.
    completions_count: u64,
    completions_per_turn: Histogram,
    pub(super) sends_count: u64,
    pub(super) shortages: Shortages,
    pub(super) events: Events,
    pub(super) patience: Patience,
    parking: Parking,
    pub(super) deaf_told_at: Option<Instant>,
    pub(super) stopping: Option<oneshot::Sender<()>>,
    #[cfg(test)]
    pub(super) panic_on_request: Option<DiscNumber>,
}

/// Who waits for a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A connection, to start a request or to take the next piece of a payload.
    Connection(Token),
    /// A READ, to go on with its next piece.
    Transfer(Token),
}

impl Shard {
    pub(super) fn new(events: mpsc::Sender<ShardEvent>, patience: Patience, pool: Pool) -> Self {
        Self {
            discs: Slots::new(DISCS_MAX),
            numbers: HashMap::new(),
            connections: Slots::new(CONNECTIONS_MAX),
            transfers: Slots::new(TRANSFERS_MAX),
            changes: Slots::new(CHANGES_MAX),
            unlocked: Unlocked::default(),
            held_bytes_max: HELD_BYTES_MAX.min(pool.own_bytes() / HELD_PART_MAX),
            pool,
            pipes: None,
            front: None,
            batches: Vec::new(),
            outbox: VecDeque::new(),
            waiting: VecDeque::new(),
            starved: Vec::new(),
            touched: Vec::new(),
            at_once: Vec::new(),
            braked: Vec::new(),
            freezing: Vec::new(),
            freezing_all: None,
            cancels_due: false,
            current: None,
            now: Instant::default(),
            extents_count: 0,
            hurried: false,
            alarms: Alarms::default(),
            again: BTreeSet::new(),
            again_at: None,
            turns_count: 0,
            portion: Portion::default(),
            completions_count: 0,
            completions_per_turn: Histogram::default(),
            sends_count: 0,
            shortages: Shortages::default(),
            events: Events::new(events),
            patience,
            parking: Parking::default(),
            deaf_told_at: None,
            stopping: None,
            #[cfg(test)]
            panic_on_request: None,
        }
    }

    /// A turn begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = now;
        self.turns_count += 1;
        self.portion.begin();
        self.extents_count = 0;
        self.hurried = false;
        if self.completions_count > 0 {
            self.completions_per_turn.record(std::mem::take(&mut self.completions_count));
        }
    }

    /// The turn is over: what was answered in it leaves now.
    pub(super) fn end(&mut self, now: Instant) {
        let took_us = now.microseconds_since(self.now);
        for token in self.at_once.drain(..) {
            if let Some(disc) = self.discs.get_mut(token) {
                disc.at_once.settle(took_us, &mut disc.counters);
            }
        }
    }

    /// When the driver is to take a turn though nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        if self.hurried {
            return Some(self.now);
        }
        self.alarms.next_at().into_iter().chain(self.again_at).chain(self.braked_until()).min()
    }

    /// True when there is nothing left to do for ever.
    pub(super) fn is_finished(&self) -> bool {
        self.stopping.is_some() && self.discs.is_empty()
    }

    /// One completion. Its owner may be gone: then what it carries is dropped.
    pub(super) fn apply(&mut self, completion: Completion) {
        self.completions_count += 1;
        match completion.owner {
            Owner::Mailbox => unreachable!("the driver reads the mailbox"),
            Owner::Listener(disc) => self.handle_accepted(disc, completion),
            Owner::Receive(connection) => self.handle_received(connection, completion),
            Owner::Transmit(connection) => self.handle_transmitted(connection, completion),
            Owner::Transfer(transfer) => self.handle_transfer(transfer, completion),
            Owner::Change(change) => self.handle_change(change, completion),
            Owner::Sync(disc) => {
                // Its share of the file is given up first: after the last sync the lock is promised to be free.
                drop(completion.op);
                self.handle_synced(disc, completion.result);
            }
        }
    }

    /// Everything is applied; appends who waited for a buffer, and looks at the clock. `has_receive_buffers` says
    /// whether those that found no receive buffer may try again.
    pub(super) fn take_waiters(&mut self, has_receive_buffers: bool, work: &mut Vec<Work>) {
        if has_receive_buffers {
            for connection in std::mem::take(&mut self.starved) {
                self.touch(connection);
            }
        }
        self.look_at_deadlines();
        if self.again_at.is_some_and(|at| at <= self.now) {
            self.look();
        }
        self.take_unbraked(work);
        work.extend(self.waiting.drain(..).map(Work::Waiter));
    }

    /// Appends the connections that something happened to. Working on them may touch more.
    pub(super) fn take_touched(&mut self, work: &mut Vec<Work>) {
        work.extend(self.touched.drain(..).map(Work::Connection));
    }

    /// Does one piece of work.
    pub(super) fn work(&mut self, work: Work) {
        match work {
            Work::Waiter(Waiter::Transfer(transfer)) => self.continue_read(transfer),
            Work::Waiter(Waiter::Connection(connection)) => {
                if let Some(waiting) = self.connections.get_mut(connection) {
                    waiting.queued = false;
                    self.advance(connection);
                }
            }
            Work::Braked(disc) => self.go_on_braked(disc),
            Work::Connection(connection) => {
                if let Some(touched) = self.connections.get_mut(connection) {
                    touched.touched = false;
                    self.advance(connection);
                }
            }
        }
    }

    /// Has a connection looked at before the turn ends.
    pub(super) fn touch(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(token);
        }
    }

    /// Has a connection go on in the next turn, which follows at once, behind those that wait already.
    pub(super) fn wait_for_turn(&mut self, token: Token) {
        self.hurried = true;
        self.wait_for_buffer(token);
    }

    /// Puts a connection into the queue for buffers.
    pub(super) fn wait_for_buffer(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && !connection.queued
        {
            connection.queued = true;
            self.waiting.push_back(Waiter::Connection(token));
        }
    }

    /// Has a connection try again when there are receive buffers.
    pub(super) fn starve(&mut self, token: Token) {
        self.shortages.note(Limit::Receive);
        self.starved.push(token);
    }

    /// Restores the invariants of a connection: everything that can go on goes on.
    fn advance(&mut self, token: Token) {
        if self.connections.get(token).is_some_and(|connection| connection.held && connection.state != State::Cut) {
            return;
        }
        self.process_input(token);
        self.transmit(token);
        self.secure(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        self.current = Some(connection.disc);
        if connection.has_left() || (connection.state == State::Draining && connection.is_drained()) {
            self.cut(token);
        }
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.invariants();
        if let Some(input) = &mut connection.input {
            input.park(&self.parking);
        }
        if let Some(op) = connection.next_receive() {
            let midway = connection.server.is_midway() && connection.deadline.is_none();
            self.outbox.push_back((Owner::Receive(token), op));
            if midway {
                self.set_deadline(token, self.patience.stall_seconds);
            }
        } else if connection.is_over() {
            self.free(token);
        }
    }

    /// Memory for `bytes` bytes of a disc's data; `None` when there is none, or none for this disc.
    pub(super) fn take_buffer(&self, disc: Token, bytes: usize) -> Option<Buffer> {
        let holder = &self.discs.get(disc)?.holder;
        let held_bytes = holder.held_bytes();
        if held_bytes > 0 && held_bytes + bytes > self.held_bytes_max { None } else { self.pool.take(bytes, holder) }
    }

    /// No more requests of this client; it is closed when all is answered.
    pub(super) fn drain(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !connection.is_reading() {
            return;
        }
        connection.state = State::Draining;
        self.stop_receiving(token);
        self.set_deadline(token, self.patience.drain_seconds);
        self.touch(token);
    }

    /// The tail stops: what the client has started is answered, and the rest refused. Who serves a machine's disc is
    /// only drained, because an error would reach the guest. Of those in their handshake strangers hold up no stop.
    pub(super) fn leave(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let negotiating = connection.server.is_negotiating();
        let told = match connection.grant {
            Some(Grant::Attachment(..)) => false,
            Some(_) => true,
            None => negotiating && connection.known,
        };
        if connection.state != State::Open || !told {
            return self.drain(token);
        }
        connection.state = State::Leaving;
        connection.server.handle_leaving();
        if negotiating {
            self.decide(token);
        }
        let seconds = if negotiating { self.patience.goodbye_seconds } else { self.patience.drain_seconds };
        self.set_deadline(token, seconds);
        self.touch(token);
    }

    /// Ends a connection now. It stays until its last operation is over.
    pub(super) fn cut(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.state == State::Cut {
            return self.touch(token);
        }
        connection.state = State::Cut;
        (connection.deadline, connection.send_deadline) = (None, None);
        // It wakes the receive and the send that are in the kernel. An error says that the peer was faster.
        let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
        for batch in [connection.unsent.take(), connection.filling.take()].into_iter().flatten() {
            self.recycle(batch);
        }
        self.stop_receiving(token);
        self.abandon_suspended(token);
        self.abandon_braked(token);
        self.touch(token);
    }

    fn stop_receiving(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.input = None;
        connection.pending = None;
        if let Some(landing) = connection.landing.take() {
            self.abandon_write(landing.transfer);
        }
    }

    fn free(&mut self, token: Token) {
        let Some(connection) = self.connections.remove(token) else { return };
        self.alarms.forget(token, connection.alarm);
        if let Some(disc) = self.discs.get_mut(connection.disc) {
            disc.forget_connection(token);
            self.progress(connection.disc);
        }
    }

    /// Has a disc looked at within a second: to accept again, or because its file is held by somebody who will not say
    /// when he gives it up.
    pub(super) fn look_again(&mut self, disc: Token) {
        self.again.insert(disc);
        self.look_soon();
    }

    /// Has what is only seen by looking looked at within a second.
    pub(super) fn look_soon(&mut self) {
        let soon = self.now.plus_seconds(1);
        self.again_at.get_or_insert(soon);
    }

    fn look(&mut self) {
        self.again_at = None;
        if self.events.offer() {
            self.look_soon();
        }
        for disc in std::mem::take(&mut self.again) {
            self.progress(disc);
            self.accept(disc);
        }
    }

    /// Our code panicked at the current disc: everything of it goes, its I/O ends on its own, and nobody
    /// gets an answer that says more than is known. False when no disc was being worked on.
    pub(super) fn bury(&mut self, message: String) -> bool {
        let Some(token) = self.current.take() else { return false };
        let connections: Vec<Token> =
            self.connections.iter().filter(|(_, c)| c.disc == token).map(|(token, _)| token).collect();
        for token in connections {
            let Some(connection) = self.connections.remove(token) else { continue };
            self.alarms.forget(token, connection.alarm);
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
        }
        let transfers: Vec<Token> =
            self.transfers.iter().filter(|(_, t)| t.disc == token).map(|(token, _)| token).collect();
        for transfer in transfers {
            self.transfers.remove(transfer);
        }
        let changes = self.changes.iter().filter(|(_, change)| change.disc == token);
        for change in changes.map(|(token, _)| token).collect::<Vec<_>>() {
            self.changes.remove(change);
        }
        let Some(disc) = self.discs.get_mut(token) else { return true };
        disc.locks = Locks::default();
        self.unlocked = Unlocked::default();
        tracing::error!(disc = %disc.number, message, "a panic; the disc is out of service");
        disc.stop_listening();
        disc.connections.clear();
        disc.withdrawals.clear();
        disc.suspended.clear();
        disc.brake = None;
        disc.barrier = disc::barrier::Barrier::new(disc.barrier.failed());
        let was = std::mem::replace(&mut disc.state, disc::State::Panicked);
        let number = disc.number;
        if let disc::State::Closing { reply, .. } = was {
            disc.state = disc::State::Closing { reply, syncing: false, orphans: true };
            self.look_again(token);
        }
        self.tell(ShardEvent::Panicked { number, message });
        true
    }

    /// Tells the control side, at the latest with one of the next looks.
    pub(super) fn tell(&mut self, event: ShardEvent) {
        if self.events.tell(event) {
            self.look_soon();
        }
    }

    pub(super) fn status(&self) -> ShardStatus {
        let mut discs: Vec<_> = self.discs.iter().map(|(_, disc)| self.disc_status(disc)).collect();
        discs.sort_by_key(|disc| disc.number);
        let waiting_count = self.waiting.len() + self.starved.len();
        ShardStatus {
            discs,
            turns_count: self.turns_count,
            completions_per_turn: self.completions_per_turn,
            sends_count: self.sends_count,
            buffers_taken_count: self.pool.taken_count(),
            waiting_count,
            shortages: self.shortages,
        }
    }
}

/// Something to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// It waited for a buffer.
    Waiter(Waiter),
    /// Some of what waited for its brake may go on.
    Braked(Token),
    /// Something happened to it.
    Connection(Token),
}
