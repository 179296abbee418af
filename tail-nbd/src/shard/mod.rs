//! A shard: one thread, one ring, and the discs that belong to it.
//!
//! ```text
//!  control ── Letter ──▶ mailbox ─┐
//!                                 ▼
//!   driver:  wait ─▶ apply each completion ─▶ maintain ─▶ submit once ─┐
//!              ▲                                                       │
//!              └───────────────────────────────────────────────────────┘
//!   Shard:   discs ─▶ connections ─▶ transfers      (tables with tokens; no pointers between them)
//! ```
//!
//! Invariants:
//! * everything of a disc is touched by one thread only; there is no lock on the data path;
//! * a buffer is in the pool, in a connection, in a batch, in the kernel, or waits for a brake: it is moved, never shared;
//! * who finds no buffer waits in one queue and is served first in the next turn; nothing grows meanwhile, because
//!   what waits is not received from;
//! * a panic ends one disc: its clients are cut, its I/O ends, the others do not notice.
//!
//! Deliberately absent: rate limits. The place for them is the queue for buffers.

mod access;
mod alarms;
mod braking;
mod carry;
mod clients;
#[cfg(test)]
mod crowd;
mod deadlines;
mod direct;
pub mod driver;
pub mod engine;
mod error;
mod events;
mod freeze;
mod handle;
mod lend;
mod linger;
mod orders;
mod owner;
mod portion;
mod secure;
mod succession;
mod syncs;
mod tracking;
mod transfers;
mod transmit;

pub use access::{Access, Grant, Refusal};
pub use braking::Braked;
pub use carry::{CarriedClient, CarriedDisc, ClientFacts, DiscFacts, Suspended};
pub(crate) use clients::{configure, never_pace};
pub use error::{ShardError, StartError};
pub use handle::{Adopted, ClientStatus, DiscStatus, OpenDisc, Patience, ShardConfig, ShardEvent, ShardStatus, Shards};
pub use lend::{Borrowed, LentClient, LentClientFacts, LentDisc, LentFacts};
pub use tracking::Taken;
