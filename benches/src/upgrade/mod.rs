//! New processes that take a tail over while hundreds of clients are connected: how long each of them waits.
//!
//! ```text
//!   one disc for each client          in turn, `upgrades_count` times
//!   writers   a write always under way     ┌ nothing happens        the longest reply of each client
//!   readers   a read always under way      └ `tail-nbd upgrade`     the longest reply of each client
//!   the rest  a read every so often
//!                                     in the end: is everything there that was acknowledged?
//! ```
//!
//! A client of the third kind counts from when its read was due, so that it sees the whole wait though it was silent when
//! that began. The stretches in which nothing happens say what the machine itself makes clients wait.
//!
//! Network, tail and clients are those of [`crate::scale`]. Deliberately absent: heads, and clients that connect again.

mod crowd;
mod record;
mod run;

pub use record::Upgrades;
pub use run::{Config, run};
