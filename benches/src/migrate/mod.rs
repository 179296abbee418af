//! Live moves of discs between two tails: what clients notice, what goes over the wire, whether a byte is lost.
//!
//! ```text
//!   "head" namespace: this process           bridge           "tail1", "tail2" namespaces: a tail each
//!      brain ──── spine ──────────────────────┬┴┬────────────── storage0
//!      guests ─── NBD, a disc's address ──────┘ └── the same address, before and after the move
//! ```
//!
//! A [`guest`] writes all the time and knows for each block what may be there; after the last move every block is read
//! back. It reconnects as qemu does, so the pause that it sees is a guest's. [`watch`] sees a move from outside.
//!
//! Each kind of questions is a file of its own, [`run`] asks them in turn, and [`page`] makes the report of the answers.
//!
//! * [`pauses`], [`limited`], [`many`]: what moves cost those who write meanwhile.
//! * [`verify`], [`filesystems`]: whether a byte is wrong, or a hole filled.
//! * [`machine`]: what a booted machine notices.
//! * [`compare`]: how fast other [`ways`] are.
//!
//! Everything is in network namespaces of the measurement's own, and gone at the end.
//!
//! Deliberately absent: a network slower than loopback.

mod cluster;
mod compare;
mod filesystems;
mod guest;
mod limited;
mod machine;
mod many;
mod net;
pub mod page;
mod pauses;
mod qmp;
mod record;
mod run;
mod verify;
mod watch;
mod ways;

pub use record::Moves;
pub use run::{Config, question_names, run};
