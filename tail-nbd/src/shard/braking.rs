//! Writes to a disc that is being moved wait when they outrun the copying; see [`Brake`] for the rule.
//!
//! ```text
//!   a WRITE's piece is there ──▶ its blocks are dirty, or the brake admits it ──yes──▶ it is written
//!   a TRIM or WRITE_ZEROES   ──▶         "                                       no──▶ it waits ──its turn──▶ goes on
//! ```
//!
//! Reads and syncs pass by, also those that come behind a write on the same connection: the piece waits in its buffer. The
//! memory for that is bounded ([`BRAKE_HELD_PART_MAX`], [`BRAKE_SHARD_PART_MAX`]); beyond it the payload is not
//! received, and then what comes behind it has to wait too. No deadline of the client runs meanwhile (safety rule 25).
//!
//! What waits has no share of the disc's file, so a freeze does not wait for it, and it goes on after the thaw. The client
//! of a connection that is cut has nothing of this carried out (rule 4). When the disc is closed, or is tracked no
//! more, all goes on at once.

use super::error::ShardError;
use super::owner::{Shard, Work};
use super::transfers::Payload;
use crate::disc::brake::Brake;
use crate::disc::{Disc, State};
use crate::geometry::ByteRange;
use crate::limits::{BRAKE_HELD_PART_MAX, BRAKE_SHARD_PART_MAX};
use crate::ring::op::Op;
use crate::ring::slots::Token;
use crate::time::Instant;
use spine::id::DiscNumber;

/// What waits for the brake of its disc.
#[derive(Debug)]
pub enum Braked {
    /// A piece of a WRITE, with its payload.
    Piece {
        /// The request.
        transfer: Token,
        /// Its payload.
        payload: Payload,
        /// What it is written to.
        range: ByteRange,
    },
    /// The next step of a TRIM or WRITE_ZEROES.
    Step(Token),
}

impl Braked {
    fn transfer(&self) -> Token {
        match self {
            Self::Piece { transfer, .. } | Self::Step(transfer) => *transfer,
        }
    }
}

/// What a TRIM, or zeroes that the file system makes, count as, in bytes: they are sent as a word, however long.
const HOLE_BYTES: u64 = 4096;

impl Shard {
    /// Lets so many clean bytes of a disc be written in a second, as long as it is tracked; `None`: all.
    pub(super) fn brake(&mut self, number: DiscNumber, bytes_per_s: Option<u64>) -> Result<(), ShardError> {
        let token = self.find(number)?;
        let disc = self.discs.get_mut(token).filter(|disc| disc.dirty.is_some());
        let Some(disc) = disc else { return Err(ShardError::Busy(number)) };
        match (&mut disc.brake, bytes_per_s) {
            (Some(brake), Some(bytes_per_s)) => brake.set_rate(bytes_per_s),
            (Some(brake), None) => brake.forgive(),
            (None, None) => {}
            (None, Some(bytes_per_s)) => {
                disc.brake = Some(Box::new(Brake::new(bytes_per_s)));
                self.braked.push(token);
            }
        }
        Ok(())
    }

    /// True when a write of a disc would have to wait, and there is no memory to wait in: its payload is not received.
    /// Whoever was told so is looked at again in later turns.
    pub(super) fn refuses_payload(&mut self, token: Token, bytes: usize) -> bool {
        let others_bytes: usize = self.braked.iter().map(|disc| self.braked_bytes(*disc)).sum();
        let (disc_bytes_max, shard_bytes_max) = self.braked_bytes_max();
        let now = self.now;
        let Some(disc) = self.discs.get_mut(token) else { return false };
        let is_off = is_off(disc);
        let Some(brake) = disc.brake.as_mut().filter(|brake| !is_off && !brake.admits(now)) else { return false };
        let refuses = brake.held_bytes() > 0 && brake.held_bytes() + bytes > disc_bytes_max
            || others_bytes > 0 && others_bytes + bytes > shard_bytes_max;
        if refuses {
            brake.refuse();
        }
        refuses
    }

    /// Memory that may wait: of one disc, and of all.
    fn braked_bytes_max(&self) -> (usize, usize) {
        (self.held_bytes_max / BRAKE_HELD_PART_MAX, self.pool.own_bytes() / BRAKE_SHARD_PART_MAX)
    }

    fn braked_bytes(&self, disc: Token) -> usize {
        self.discs.get(disc).and_then(|disc| disc.brake.as_ref()).map_or(0, |brake| brake.held_bytes())
    }

    /// Begins a piece of a WRITE whose payload is whole, or has it wait.
    pub(super) fn brake_piece(&mut self, transfer: Token, payload: Payload, range: ByteRange) {
        let Some(disc) = self.transfers.get(transfer).map(|transfer| transfer.disc) else { return };
        if self.pay(disc, transfer, Price::Bytes(range), false) {
            return self.begin_write(transfer, payload, range);
        }
        let held_bytes = payload.held_bytes();
        self.wait_for_brake(disc, Braked::Piece { transfer, payload, range }, held_bytes);
    }

    /// True when the next step of a TRIM or WRITE_ZEROES has to wait; then it does.
    pub(super) fn brakes_step(&mut self, id: Token, op: &Op) -> bool {
        let Some(transfer) = self.transfers.get_mut(id) else { return false };
        let (disc, has_waited) = (transfer.disc, std::mem::take(&mut transfer.unbraked));
        let waits = Price::of(op).is_some_and(|price| !self.pay(disc, id, price, has_waited));
        if waits {
            self.wait_for_brake(disc, Braked::Step(id), 0);
        }
        waits
    }

    /// Has a request pay for what it is about to write, unless it has to wait and has not done so yet. True when it has paid.
    fn pay(&mut self, disc: Token, id: Token, price: Price, has_waited: bool) -> bool {
        let now = self.now;
        let (Some(disc), Some(transfer)) = (self.discs.get_mut(disc), self.transfers.get_mut(id)) else { return true };
        let (Some(brake), Some(dirty)) = (&mut disc.brake, &disc.dirty) else { return true };
        let bytes = match price {
            Price::Bytes(range) => dirty.clean_bytes(range),
            Price::Hole => HOLE_BYTES,
        };
        if bytes > 0 && !has_waited && !brake.admits(now) {
            return false;
        }
        brake.charge(now, bytes);
        transfer.paid_bytes += bytes;
        true
    }

    fn wait_for_brake(&mut self, disc: Token, who: Braked, held_bytes: usize) {
        let now = self.now;
        if let Some(brake) = self.discs.get_mut(disc).and_then(|disc| disc.brake.as_mut()) {
            brake.wait(now, who, held_bytes);
        }
    }

    /// When the first of those who wait may go on; nobody of a frozen disc may.
    pub(super) fn braked_until(&self) -> Option<Instant> {
        let discs = self.braked.iter().filter_map(|disc| self.discs.get(*disc)).filter(|disc| !disc.is_frozen());
        discs.filter_map(|disc| disc.brake.as_ref()?.due_at()).min()
    }

    /// Appends the discs some of whose writes may go on, and forgets those that have no brake any more.
    pub(super) fn take_unbraked(&mut self, work: &mut Vec<Work>) {
        let (discs, now) = (&mut self.discs, self.now);
        self.braked.retain(|token| {
            let Some(disc) = discs.get_mut(*token) else { return false };
            let is_off = is_off(disc);
            let Some(brake) = &disc.brake else { return false };
            if is_off && brake.is_idle() && disc.dirty.is_none() {
                disc.brake = None;
                return false;
            }
            if !disc.is_frozen() && (is_off || brake.due_at().is_some_and(|at| at <= now)) {
                work.push(Work::Braked(*token));
            }
            true
        });
    }

    /// Lets those go on who may.
    pub(super) fn go_on_braked(&mut self, token: Token) {
        self.current = Some(token);
        let now = self.now;
        loop {
            let Some(disc) = self.discs.get_mut(token).filter(|disc| !disc.is_frozen()) else { return };
            let is_off = is_off(disc);
            let Some(who) = disc.brake.as_mut().and_then(|brake| brake.take_due(now, is_off)) else { return };
            match who {
                Braked::Piece { transfer, payload, range } => {
                    self.pay(token, transfer, Price::Bytes(range), true);
                    self.begin_write(transfer, payload, range);
                }
                Braked::Step(id) => {
                    if let Some(transfer) = self.transfers.get_mut(id) {
                        transfer.unbraked = true;
                    }
                    self.continue_simple(id);
                }
            }
        }
    }

    /// A connection is cut: what waits of its requests is not carried out.
    pub(super) fn abandon_braked(&mut self, connection: Token) {
        let Some(disc) = self.connections.get(connection).map(|connection| connection.disc) else { return };
        let Some(brake) = self.discs.get_mut(disc).and_then(|disc| disc.brake.as_mut()) else { return };
        let transfers = &self.transfers;
        let is_its =
            |who: &Braked| transfers.get(who.transfer()).is_some_and(|transfer| transfer.connection == connection);
        for who in brake.take_if(is_its) {
            let Some(transfer) = self.transfers.get_mut(who.transfer()) else { continue };
            transfer.abandoned = true;
            match who {
                Braked::Piece { transfer: id, .. } => {
                    transfer.writes_count -= 1;
                    self.finish_write(id);
                }
                Braked::Step(id) => self.finish(id),
            }
        }
    }
}

impl Disc {
    /// An operation that changes its file is over: what it has touched is to be copied again. `paid_bytes` of its
    /// request were paid for; what else of it was clean, because it was copied meanwhile, is charged now. Holes are paid
    /// for in full.
    pub(crate) fn note_written(&mut self, now: Instant, range: ByteRange, paid_bytes: Option<&mut u64>) {
        let Some(dirty) = &mut self.dirty else { return };
        let dirtied_bytes = dirty.mark(range);
        if let (Some(brake), Some(paid_bytes)) = (&mut self.brake, paid_bytes) {
            let paid = dirtied_bytes.min(*paid_bytes);
            *paid_bytes -= paid;
            brake.charge(now, dirtied_bytes - paid);
        }
    }
}

/// The brake holds nobody any more: what it was for is over, or its clients are being closed.
fn is_off(disc: &Disc) -> bool {
    disc.dirty.is_none() || !(matches!(disc.state, State::Serving) || disc.is_frozen())
}

/// What an operation pays for.
#[derive(Clone, Copy)]
enum Price {
    /// What is clean of it.
    Bytes(ByteRange),
    /// A word.
    Hole,
}

impl Price {
    fn of(op: &Op) -> Option<Self> {
        match op {
            Op::WriteZeroBytes { range, .. } => Some(Self::Bytes(*range)),
            Op::Allocate { .. } => Some(Self::Hole),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "braking_tests.rs"]
mod tests;
