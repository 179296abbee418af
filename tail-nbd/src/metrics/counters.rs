//! What is counted for a disc.

use super::histogram::Histogram;
use crate::nbd::wire::Error;
use serde::{Deserialize, Serialize};

/// Totals since the disc was opened. A latency is from when the request had arrived (a write: its header) until its
/// answer was ready to be sent, in microseconds; it has one number for each answer without an error. The shard's clock
/// stands still during a turn: what took longer than one is told to a turn, and what did not took the whole turn, since
/// its answer leaves at the end ([`AtOnce`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiscCounters {
    /// READ requests answered.
    pub reads_count: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// How long they took.
    pub read_latency_us: Histogram,
    /// WRITE requests answered.
    pub writes_count: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// How long they took.
    pub write_latency_us: Histogram,
    /// FLUSH requests answered, and writes with FUA.
    pub flushes_count: u64,
    /// How long the FLUSH requests took.
    pub flush_latency_us: Histogram,
    /// Calls of fdatasync, of which one serves all that wait for it.
    pub syncs_count: u64,
    /// TRIM and WRITE_ZEROES requests answered.
    pub zeroes_count: u64,
    /// How long they took.
    pub zero_latency_us: Histogram,
    /// Requests that were answered with an error, those too that were refused before they were started.
    pub errors: ErrorCounts,
    /// Clients refused by the access of the disc.
    pub refused_count: u64,
    /// Clients cut off because they did not take their replies.
    pub deaf_count: u64,
}

/// What can be said of a request by how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// TRIM and WRITE_ZEROES.
    Zero,
    /// FLUSH.
    Flush,
}

impl DiscCounters {
    /// The latencies of such requests.
    pub fn latency_us(&mut self, of: Timed) -> &mut Histogram {
        match of {
            Timed::Read => &mut self.read_latency_us,
            Timed::Write => &mut self.write_latency_us,
            Timed::Zero => &mut self.zero_latency_us,
            Timed::Flush => &mut self.flush_latency_us,
        }
    }
}

/// Requests that were answered in the turn in which they arrived, and whose latency is known when it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtOnce([u64; 4]);

impl AtOnce {
    const KINDS: [Timed; 4] = [Timed::Read, Timed::Write, Timed::Zero, Timed::Flush];

    /// Counts one.
    pub fn record(&mut self, of: Timed) {
        self.0[of as usize] += 1;
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The turn is over, and took so long: all of them did.
    pub fn settle(&mut self, took_us: u64, counters: &mut DiscCounters) {
        for (of, count) in Self::KINDS.into_iter().zip(core::mem::take(&mut self.0)) {
            if count > 0 {
                counters.latency_us(of).record_times(took_us, count);
            }
        }
    }
}

/// Errors by what the client was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCounts([u64; KINDS.len()]);

const KINDS: [(Error, &str); 8] = [
    (Error::Eperm, "EPERM"),
    (Error::Eio, "EIO"),
    (Error::Enomem, "ENOMEM"),
    (Error::Einval, "EINVAL"),
    (Error::Enospc, "ENOSPC"),
    (Error::Eoverflow, "EOVERFLOW"),
    (Error::Enotsup, "ENOTSUP"),
    (Error::Eshutdown, "ESHUTDOWN"),
];

impl ErrorCounts {
    /// Counts one.
    pub fn record(&mut self, error: Error) {
        let kind = KINDS.iter().position(|(kind, _)| *kind == error).expect("all kinds are in the table");
        self.0[kind] += 1;
    }

    /// All of them.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Names as the NBD protocol has them, and how many there were.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.iter().zip(self.0).map(|((_, name), count)| (*name, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_at_once_took_the_turn() {
        let (mut at_once, mut counters) = (AtOnce::default(), DiscCounters::default());
        counters.read_latency_us.record(1000);
        AtOnce::KINDS.into_iter().chain([Timed::Read]).for_each(|of| at_once.record(of));
        assert!(!at_once.is_empty());
        at_once.settle(30, &mut counters);
        at_once.settle(99, &mut counters);
        assert!(at_once.is_empty());
        let mut told = |of| (counters.latency_us(of).count(), counters.latency_us(of).sum());
        assert_eq!(AtOnce::KINDS.map(&mut told), [(3, 1060), (1, 30), (1, 30), (1, 30)]);
    }

    #[test]
    fn each_error_is_counted_by_its_name() {
        let mut errors = ErrorCounts::default();
        KINDS.iter().for_each(|(kind, _)| errors.record(*kind));
        errors.record(Error::Enospc);
        assert_eq!(errors.count(), 9);
        assert_eq!(errors.by_kind().find(|(name, _)| *name == "ENOSPC"), Some(("ENOSPC", 2)));
    }
}
