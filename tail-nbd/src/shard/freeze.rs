//! Stopping discs with everything in its place: what is frozen goes on later as if nothing had been, here or in
//! another process.
//!
//! ```text
//!   Serving ──freeze──▶ Freezing ──nothing of it in the kernel──▶ Frozen ──thaw──▶ Serving
//!                          └──thaw, close──▶ (the freeze is answered with an error)
//! ```
//!
//! From the order on nothing is accepted, received, started or sent: accepts, receives and sends that are in the kernel
//! are cancelled, and what has arrived or is left to send stays with its connection. Reads, writes and syncs that are in
//! the kernel come to their end; a request that would go on with another one is suspended. Once frozen, the shard leaves
//! the disc, its file and its sockets alone until somebody orders something: the deadlines of its clients rest too.
//!
//! A client that loses its right while its disc is frozen is cut off at once, and a disc that is closed drops its clients;
//! what was suspended for them is never carried out.

use super::error::ShardError;
use super::owner::Shard;
use crate::connection;
use crate::disc::{Disc, State, mode};
use crate::mailbox::Reply;
use crate::nbd::request::Command;
use crate::ring::op::Owner;
use crate::ring::slots::Token;
use spine::id::DiscNumber;
use std::rc::Rc;

impl Shard {
    /// Freezes a disc; [`Shard::settle_freezes`] answers.
    pub(super) fn freeze(&mut self, number: DiscNumber, reply: Reply) {
        match self.find(number).and_then(|token| self.check_freezable(token).map(|()| token)) {
            Ok(token) => self.begin_freeze(token, Some(reply)),
            // Nobody may be waiting for an answer any more, here and below.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Freezes all discs, or none when one of them is busy; [`Shard::settle_freezes`] answers.
    pub(super) fn freeze_all(&mut self, reply: Reply) {
        let discs: Vec<Token> = self.discs.iter().map(|(token, _)| token).collect();
        if let Some(error) = discs.iter().find_map(|token| self.check_freezable(*token).err()) {
            return drop(reply.send(Err(error)));
        }
        for token in discs {
            self.begin_freeze(token, None);
        }
        self.freezing_all = Some(reply);
    }

    fn check_freezable(&self, token: Token) -> Result<(), ShardError> {
        match self.discs.get(token) {
            Some(disc) if !matches!(disc.state, State::Serving) => Err(ShardError::Busy(disc.number)),
            _ => Ok(()),
        }
    }

    fn begin_freeze(&mut self, token: Token, reply: Option<Reply>) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        disc.state = State::Freezing { reply };
        disc.frozen_at = Some(self.now);
        for id in disc.connections.clone() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.held = true;
            // Nobody waits for its answers, and the disc may be closed before it goes on.
            if connection.state == connection::State::Cut {
                self.abandon_suspended(id);
            }
        }
        self.freezing.push(token);
        self.cancels_due = true;
    }

    /// Answers the freezes that have come to their end. Harmless when spurious.
    pub(super) fn settle_freezes(&mut self) {
        for token in std::mem::take(&mut self.freezing) {
            if !self.is_still(token) {
                self.freezing.push(token);
                continue;
            }
            let Some(disc) = self.discs.get_mut(token) else { continue };
            if let State::Freezing { reply } = &mut disc.state {
                let reply = reply.take();
                disc.state = State::Frozen;
                drop(reply.map(|reply| reply.send(Ok(()))));
            }
        }
        if self.freezing.is_empty()
            && let Some(reply) = self.freezing_all.take()
        {
            let frozen = self.discs.iter().find(|(_, disc)| !matches!(disc.state, State::Frozen));
            drop(reply.send(frozen.map_or(Ok(()), |(_, disc)| Err(ShardError::Busy(disc.number)))));
        }
    }

    /// True when nothing of the disc is in the kernel, or on its way there: each operation has a share of its file.
    fn is_still(&self, token: Token) -> bool {
        let Some(disc) = self.discs.get(token) else { return true };
        if !matches!(disc.state, State::Freezing { .. }) {
            return true;
        }
        let mut connections = disc.connections.iter().filter_map(|id| self.connections.get(*id));
        !disc.accepting
            && Rc::strong_count(&disc.data) == 1
            && connections.all(|connection| !connection.receiving && !connection.sending)
    }

    /// Lets a disc that is frozen, or being frozen, go on. Harmless when it is neither.
    pub(super) fn thaw(&mut self, number: DiscNumber) -> Result<(), ShardError> {
        self.find(number).map(|token| self.go_on(token))
    }

    /// Lets all discs go on.
    pub(super) fn thaw_all(&mut self) {
        self.freezing_all = None;
        let discs: Vec<Token> = self.discs.iter().map(|(token, _)| token).collect();
        for token in discs {
            self.go_on(token);
        }
    }

    fn go_on(&mut self, token: Token) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        if !disc.is_frozen() {
            return;
        }
        self.current = Some(token);
        mode::restore(&disc.data, disc.block_bytes.is_some());
        let (number, suspended) = (disc.number, std::mem::take(&mut disc.suspended));
        let connections = disc.connections.clone();
        let rested = disc.frozen_at.take().map(|at| self.now.since(at)).unwrap_or_default();
        if let State::Freezing { reply: Some(reply) } = std::mem::replace(&mut disc.state, State::Serving) {
            let _ = reply.send(Err(ShardError::Busy(number)));
        }
        for id in connections {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.held = false;
                connection.put_off_deadlines(rested);
            }
            self.set_alarm(id);
            self.touch(id);
        }
        for id in suspended {
            self.resume(id);
        }
        self.start_sync(token);
        self.accept(token);
    }

    /// Goes on with a request where it was suspended.
    pub(super) fn resume(&mut self, id: Token) {
        match self.transfers.get(id).map(|transfer| transfer.request.command) {
            Some(Command::Read { .. }) => self.continue_read(id),
            Some(Command::Trim { .. } | Command::WriteZeroes { .. } | Command::Cache(_)) => self.continue_simple(id),
            Some(Command::Write { .. } | Command::Flush | Command::BlockStatus { .. }) | None => {}
        }
    }

    /// Suspends a request before its next operation, when its disc is frozen or being frozen. True when it did.
    pub(super) fn suspend(&mut self, id: Token) -> bool {
        let Some(transfer) = self.transfers.get(id) else { return false };
        let Some(disc) = self.discs.get_mut(transfer.disc) else { return false };
        let suspends = disc.is_frozen();
        if suspends {
            disc.suspended.push(id);
        }
        suspends
    }

    /// A client of a frozen disc is cut off: what was suspended for it is not carried out, and answered to nobody.
    pub(super) fn abandon_suspended(&mut self, connection: Token) {
        let Some(held) = self.connections.get(connection).filter(|connection| connection.held) else { return };
        let Some(disc) = self.discs.get_mut(held.disc) else { return };
        let transfers = &self.transfers;
        let is_its = |id: &Token| transfers.get(*id).is_some_and(|transfer| transfer.connection == connection);
        let mut abandoned: Vec<Token> = disc.suspended.extract_if(.., |id| is_its(id)).collect();
        abandoned.extend(disc.barrier.take_waiting_if(is_its));
        for id in abandoned {
            if let Some(transfer) = self.transfers.get_mut(id) {
                transfer.abandoned = true;
            }
            self.finish(id);
        }
    }

    /// Forgets the discs that are frozen, without a word to their clients: another process may have them.
    pub(super) fn forsake_frozen(&mut self) {
        let frozen = self.discs.iter().filter(|(_, disc)| matches!(disc.state, State::Frozen)).map(|(token, _)| token);
        for token in frozen.collect::<Vec<_>>() {
            let Some(disc) = self.discs.remove(token) else { continue };
            self.numbers.remove(&disc.number);
            for connection in disc.connections {
                self.connections.remove(connection);
            }
            let its = self.transfers.iter().filter(|(_, transfer)| transfer.disc == token).map(|(id, _)| id);
            for transfer in its.collect::<Vec<_>>() {
                self.transfers.remove(transfer);
            }
        }
    }

    /// True for an operation that is to be cancelled: its disc is frozen, or being frozen.
    pub(super) fn is_held(&self, owner: Owner) -> bool {
        match owner {
            Owner::Listener(disc) => self.discs.get(disc).is_some_and(Disc::is_frozen),
            Owner::Receive(connection) | Owner::Transmit(connection) => {
                self.connections.get(connection).is_some_and(|connection| connection.held)
            }
            Owner::Mailbox | Owner::Transfer(_) | Owner::Change(_) | Owner::Sync(_) => false,
        }
    }
}
