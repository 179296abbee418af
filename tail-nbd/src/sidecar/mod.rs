//! The sidecar: all that a tail must know to serve a disc, in a small file beside its data
//! (safety rules 1–3, 11, 17).
//!
//! ```text
//!   N.sidecar   ┌───────────── slot 0, 4 KiB ─────────────┬───────────── slot 1, 4 KiB ─────────────┐
//!               │ magic format length sequence hash │ JSON │ magic format length sequence hash │ JSON │
//!               └───────────────────────────────────┴──────┴───────────────────────────────────┴──────┘
//!                                 written in turn, in place, with O_DSYNC
//! ```
//!
//! Invariants:
//! * The file is made whole (temporary name, fsync, rename, fsync of the folder) and never grows
//!   afterwards, so that a withdrawal can be written when the pool is full (rule 3).
//! * A write touches only the slot that does *not* hold the current record. Torn at any byte, it
//!   leaves the current record readable.
//! * A file whose slots are both unreadable is refused by name. It is never guessed at.
//! * Keys are here as hashes only (rule 6).
//!
//! * [`record`]: what is kept.
//! * [`slots`]: a record to and from 8 KiB of bytes; pure.
//! * [`file`](mod@file): the file itself.
//!
//! Deliberately absent: how a disc's state follows from its record. That is the business of
//! [`crate::store`].

pub mod file;
pub mod record;
pub mod slots;

pub use file::{Sidecar, SidecarError};
pub use record::{Owner, Record, RecordedAccess};
pub use slots::fuzz_sidecar;
