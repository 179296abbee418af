//! What a shard counts, and how it is told.
//!
//! ```text
//!   shard thread:   Counters, plain numbers in its own tables ──copy, when asked──▶ ShardStatus
//!   control side:   Status (JSON, table for people)  ◀──┬──  Prometheus text (metrics_listen)
//!                                                 ShardStatus
//! ```
//!
//! Invariants:
//! * counting is an addition to memory that the shard has at hand: no lock, no atomic, no allocation, and no clock
//!   but the one that is read once a turn;
//! * nobody is told unasked: whoever wants numbers sends a letter, and an idle tail does nothing;
//! * numbers only rise while a disc is open; rates are for the reader to work out.
//!
//! Deliberately absent: percentiles (they cannot be added up; histograms can), and anything per client.

mod counters;
mod histogram;
pub mod http;
mod shortages;
pub mod text;

pub use counters::{AtOnce, DiscCounters, ErrorCounts, Timed};
pub use histogram::{BUCKETS_COUNT, Histogram};
pub use shortages::{Limit, Shortages};
