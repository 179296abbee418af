//! Moving a disc to another tail while its clients use it (nbd.md section 3, safety rules 18–23; R130).
//!
//! ```text
//!   source                                                                target
//!     │ ── Hello(id, disc, generation, size) ──────────────────────────────▶ │ INCOMING(id)
//!     │ ◀──────────────────────────────────────────── Welcome, credit ────── │
//!     │ ── Data, Hole … PassEnd ───────────────────────────────────────────▶ │ writes, punches
//!     │ ◀────────────────────────────────────────── Credit … Synced ──────── │ fdatasync
//!     │      (again what clients wrote meanwhile, until the rest is short)   │
//!   freeze                                                                   │
//!     │ ── Data, Hole … Prepare(a, record) ────────────────────────────────▶ │ fdatasync, PREPARED(a)
//!     │ ◀─────────────────────────────────────────────── Prepared(a) ─────── │
//!   FENCED(a)  ◀── the commit point                                          │
//!     │ ── Commit(a) ──────────────────────────────────────────────────────▶ │ OWNER, listens, address up
//!     │ ◀─────────────────────────────────────────────────── Serving ─────── │
//!   closes its clients, removes the address, RETIRED
//! ```
//!
//! Versions: the source offers a range in `Hello`, the target chooses in `Welcome`; see [`wire`].
//!
//! | who ends when | source after its restart | target after its restart | the truth |
//! |---|---|---|---|
//! | either, before PREPARED | OWNER(g), serves | INCOMING | at the source; the move goes on |
//! | target after PREPARED | OWNER(g): the deadline passes, serves on | PREPARED, serves nobody | at the source |
//! | source before FENCED is durable | OWNER(g), serves | PREPARED, serves nobody | at the source |
//! | source after FENCED | FENCED, repeats Commit | PREPARED, then OWNER(g+1) | at the target |
//! | target after OWNER(g+1) | FENCED | OWNER(g+1), serves | at the target |
//! | the network, after FENCED | repeats Commit; the brain relays it | PREPARED | at the target; nobody is served meanwhile |
//! | source, for good | – | PREPARED, then promoted: OWNER(h) | at the target, without what only the source had |
//! | target, for good, after FENCED | FENCED, then taken back: OWNER(h) | – | at the source, without what only the target had |
//!
//! * [`wire`]: the frames; pure. [`link`]: the connection.
//! * [`converge`]: when to copy again and when to hand over; pure. [`pace`]: the limits; pure. [`budgets`]: who shares one.
//! * [`ledger`]: what the target has for certain; pure.
//! * [`patience`]: how long to wait for what holds a move up; pure.
//! * [`handover`]: who owns the disc; pure, and explored exhaustively.
//! * [`source`], [`target`]: the copying at both ends, on the jobs thread.
//! * [`compare`]: what the target has, compared with what the source has. [`digest`]: chunk by chunk. [`checked`]: with what
//!   result; pure.
//!
//! What a move means for the disc, its record and its clients is in [`crate::store`]: `depart`, `migrate`, `cede` and `receive`.
//!
//! Deliberately absent: see "What is not there yet" in `docs/migration.md`.

pub mod budgets;
pub mod checked;
pub mod compare;
pub mod converge;
pub mod digest;
pub mod handover;
pub mod ledger;
pub mod link;
pub mod pace;
pub mod patience;
pub mod source;
pub mod target;
pub mod wire;

use spine::resource::migration::{MigrationError, MigrationErrorKind};
use thiserror::Error;
use wire::{Control, Message};

/// Why a move ended without a hand-over, or what holds it up, in words for the other end, the brain and people.
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub struct Ended {
    /// For programs.
    pub kind: MigrationErrorKind,
    /// For people.
    pub message: String,
}

impl Ended {
    /// For this reason.
    pub fn new(kind: MigrationErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// True when it holds the move up and does not end it: what is copied stays, and it is tried again.
    pub fn holds_up(&self) -> bool {
        matches!(self.kind, MigrationErrorKind::Unreachable | MigrationErrorKind::NoSpace)
    }

    /// The other end said something that it should not have said now; or that it has given up.
    pub fn unexpected(message: Message) -> Self {
        let what = match message {
            Message::Control(Control::Failed { kind, message }) => return Self { kind, message },
            Message::Control(Control::Hello(_)) => "hello",
            Message::Control(_) => "a word",
            Message::Data { .. } => "data",
            Message::Hole { .. } => "a hole",
            Message::Space { .. } => "space",
            Message::Digests { .. } => "what it has",
        };
        Self::new(MigrationErrorKind::Protocol, format!("the other tail sent {what} out of turn"))
    }

    /// For the other end.
    pub fn to_control(&self) -> Control {
        Control::Failed { kind: self.kind, message: self.message.clone() }
    }

    /// For the brain.
    pub fn to_report(&self) -> MigrationError {
        MigrationError { kind: self.kind, message: self.message.clone() }
    }
}
