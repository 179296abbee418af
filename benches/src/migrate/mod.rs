//! Live moves of discs between two tails: what clients notice, what goes over the wire, whether a byte is lost.
//!
//! ```text
//!   "head" namespace: this process           bridge           "tail1", "tail2" namespaces: a tail each
//!      brain ──── spine ──────────────────────┬┴┬────────────── storage0
//!      guests ─── NBD, a disc's address ──────┘ └── the same address, before and after the move
//! ```
//!
//! A [`guest`] writes all the time and knows for each block what may be there; after the last move every block is read
//! back. It reconnects as qemu does, so the pause that it sees is a guest's.
//!
//! Everything is in network namespaces of the measurement's own, and gone at the end.
//!
//! Deliberately absent: a network slower than loopback, and qemu itself (`lab/tests` has that).

mod cluster;
mod guest;
mod net;
mod record;
mod run;

pub use record::Moves;
pub use run::{Config, run};
