//! One disc as its shard sees it: a file, a listener, who may connect, and what is being done to it.
//!
//! ```text
//!   Serving ──resize──▶ Resizing ──last client gone, length set──▶ Serving
//!      │                                        (the listener accepts on; who asks meanwhile is told the new size)
//!      ├──freeze──▶ Freezing ──nothing in the kernel──▶ Frozen ──thaw──▶ Serving
//!      ├──close──▶ Closing ──last client gone──▶ last sync ──▶ gone
//!      └──our bug──▶ Panicked ──close──▶ Closing, which also waits for the orphans' I/O
//! ```
//!
//! The disc does not know NBD: [`barrier`] says what a sync covers, [`dirty`] what was written since it was copied, [`brake`] who has to wait
//! because that is too much, [`extents`] what is a hole, [`sparse`] which holes a read can leave out, [`mode`] how the file is read and written, [`locks`] what must not be changed at once,
//! and [`warmth`] which reads may be slow.

pub mod barrier;
pub mod brake;
pub mod dirty;
pub mod extents;
pub mod locks;
pub mod mode;
pub mod sparse;
pub mod warmth;

use crate::buffer::Holder;
use crate::geometry::{ByteRange, DiscSize};
use crate::limits::PIPE_BYTES;
use crate::mailbox::Reply;
use crate::metrics::{AtOnce, DiscCounters};
use crate::ring::op::Handle;
use crate::ring::slots::Token;
use crate::ring::uring::Window;
use crate::shard::{Access, Braked};
use crate::time::Instant;
use barrier::Barrier;
use brake::Brake;
use dirty::Dirty;
use locks::Locks;
use mode::IoMode;
use rustix::net::Shutdown;
use sparse::Sparse;
use spine::id::DiscNumber;
use std::net::IpAddr;
use warmth::Warmth;

/// A disc that is open.
#[derive(Debug)]
pub struct Disc {
    /// Its number.
    pub number: DiscNumber,
    /// The data file, with its lock.
    pub data: Handle,
    /// How it is read and written.
    pub io: IoMode,
    /// The listening socket, unless somebody else accepts its clients.
    pub listener: Option<Handle>,
    /// The size that clients are told.
    pub size: DiscSize,
    /// Who may use it.
    pub access: Access,
    /// The disc's own address.
    pub address: IpAddr,
    /// The tail's own address: a client that comes from the disc's address is this machine.
    pub own_address: IpAddr,
    /// What a FLUSH waits for: the requests that want a sync.
    pub barrier: Barrier<Token>,
    /// Operations in the kernel that change its file. They may hold the lock of the file while they wait for the device,
    /// and whoever looks for holes takes it.
    pub changes_count: u32,
    /// Where those of them write that have their payload in pipes. The kernel does not keep these in the order in which they
    /// were submitted, as it does with the others, so a change that overlaps one of them starts when that is over.
    pub referred: Vec<ByteRange>,
    /// What its file is read and written in, past the page cache, in bytes; none when it goes through it.
    pub block_bytes: Option<u64>,
    /// Changes past the page cache.
    pub locks: Locks<Locker>,
    /// What is known of the holes in its file.
    pub sparse: Sparse,
    /// What was written since it was copied, while it moves to another tail.
    pub dirty: Option<Box<Dirty>>,
    /// How much of that may be new in a second, while its clients outrun the copying.
    pub brake: Option<Box<Brake<Braked>>>,
    /// Its connections, negotiated or not.
    pub connections: Vec<Token>,
    /// Where it is in its life.
    pub state: State,
    /// An accept is in the kernel.
    pub accepting: bool,
    /// Changes of access that wait for the last I/O of those that lost their right.
    pub withdrawals: Vec<Withdrawal>,
    /// Requests that stopped between two operations because it is frozen.
    pub suspended: Vec<Token>,
    /// Since when nothing is begun for it, while it is frozen or being frozen by an order.
    pub frozen_at: Option<Instant>,
    /// Counts the buffers of all its connections.
    pub holder: Holder,
    /// The part of the data file that the last looks into the page cache were for.
    pub window: Option<Window>,
    /// Whether small reads find what they want in the page cache.
    pub warmth: Warmth,
    /// It has a file, not a device that is always ready.
    pub is_file: bool,
    /// Totals for the operator.
    pub counters: DiscCounters,
    /// Answers of the turn that is under way whose latency is not in the totals yet.
    pub at_once: AtOnce,
}

/// Who changes blocks past the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locker {
    /// A piece of a WRITE: a change.
    Change(Token),
    /// A TRIM or WRITE_ZEROES: a transfer.
    Transfer(Token),
}

/// See the picture at the top.
#[derive(Debug)]
pub enum State {
    /// It accepts and serves.
    Serving,
    /// Its clients are being closed so that its size can change.
    Resizing {
        /// The size to come.
        size: DiscSize,
        /// Data beyond it is no obstacle.
        cuts: bool,
        /// Who asked.
        reply: Reply,
    },
    /// Nothing new is begun, and what is in the kernel is waited for.
    Freezing {
        /// Who asked; `None` when all discs are being frozen.
        reply: Option<Reply>,
    },
    /// Nothing happens to it.
    Frozen,
    /// Its clients are being closed for good.
    Closing {
        /// Who asked; `None` when the shard stops.
        reply: Option<Reply>,
        /// The last sync is under way.
        syncing: bool,
        /// It panicked before, so that its I/O is counted by the shares of its file.
        orphans: bool,
    },
    /// Our code failed while it handled this disc.
    Panicked,
}

/// A change of access that is in force and not answered yet (safety rule 4).
#[derive(Debug)]
pub struct Withdrawal {
    /// Connections that were cut and are not gone.
    pub waiting_for: Vec<Token>,
    /// Who asked.
    pub reply: Reply,
}

impl Disc {
    /// Ends the accept that is in the kernel, if any.
    pub fn stop_listening(&self) {
        if let Some(listener) = &self.listener {
            // An error says that it was not listening.
            let _ = rustix::net::shutdown(listener, Shutdown::Both);
        }
    }

    /// True while whoever connects is welcome.
    pub fn is_accepting(&self) -> bool {
        matches!(self.state, State::Serving | State::Resizing { .. }) || self.is_frozen()
    }

    /// True when nothing may be begun for it: it is frozen, or being frozen.
    pub fn is_frozen(&self) -> bool {
        matches!(self.state, State::Freezing { .. } | State::Frozen)
    }

    /// How it is read and written, for the size that it has. What cannot be done directly is copied, which is told.
    pub fn set_mode(&mut self) {
        self.block_bytes = None;
        if self.io != IoMode::Direct {
            return mode::end_direct(&self.data);
        }
        match mode::begin_direct(&self.data, self.size.bytes()) {
            Ok(block_bytes) => self.block_bytes = Some(block_bytes),
            Err(error) => {
                mode::end_direct(&self.data);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(disc = %self.number, error, "io = direct is not possible; it goes through the page cache");
            }
        }
    }

    /// The blocks of a range, when they are read and written as a whole.
    pub fn blocks_of(&self, range: ByteRange) -> Option<ByteRange> {
        self.block_bytes.map(|block_bytes| range.widened_to(block_bytes))
    }

    /// True when the payload of the next write may go to the file by reference: see [`Disc::referred`].
    pub fn may_refer(&self) -> bool {
        let all_referred = self.changes_count as usize == self.referred.len();
        self.io == IoMode::Cached && self.brake.is_none() && all_referred
    }

    /// A write of a range whose payload was in a pipe is over, but for `rest`.
    pub fn handle_referred(&mut self, range: ByteRange, rest: Option<ByteRange>) {
        if let Some(place) = self.referred.iter().position(|referred| *referred == range) {
            self.referred.swap_remove(place);
        }
        self.referred.extend(rest);
    }

    /// True when all of a range is in the page cache. Ranges that no pipe holds count as absent.
    pub fn is_resident(&mut self, range: ByteRange) -> bool {
        if range.length() > PIPE_BYTES as u64 {
            return false;
        }
        if !self.window.as_ref().is_some_and(|window| window.covers(range.offset())) {
            // Refused, nothing is known.
            self.window = Window::open(&self.data, range.offset()).ok();
        }
        self.window.as_ref().is_some_and(|window| window.is_resident(range))
    }

    /// True when a read would have to wait for the device, as far as is known. Small ones are trusted while they are warm.
    pub fn expects_to_wait(&mut self, range: ByteRange, small: bool) -> bool {
        if !self.is_file || (small && self.warmth.is_trusted()) {
            return false;
        }
        let resident = self.is_resident(range);
        if small {
            self.warmth.handle_look(resident);
        }
        !resident
    }

    /// A connection is gone: takes it off all lists, and answers the withdrawals that waited for it only.
    pub fn forget_connection(&mut self, connection: Token) {
        self.connections.retain(|other| *other != connection);
        for withdrawal in &mut self.withdrawals {
            withdrawal.waiting_for.retain(|other| *other != connection);
        }
        for done in self.withdrawals.extract_if(.., |withdrawal| withdrawal.waiting_for.is_empty()) {
            // Nobody may be waiting for the answer any more.
            let _ = done.reply.send(Ok(()));
        }
    }
}
