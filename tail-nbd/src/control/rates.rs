//! What happened between two looks at the same tail; no I/O.

use super::status::{Counters, Status};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What a disc did each second, on average.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rates {
    /// READ requests.
    pub reads: f64,
    /// Bytes of them.
    pub read_bytes: f64,
    /// WRITE requests.
    pub writes: f64,
    /// Bytes of them.
    pub written_bytes: f64,
    /// Flushes, and writes with FUA.
    pub flushes: f64,
    /// TRIM and WRITE_ZEROES requests.
    pub zeroes: f64,
    /// Requests answered with an error.
    pub errors: f64,
}

impl Rates {
    /// From what was counted before and after so many seconds.
    fn between(before: &Counters, after: &Counters, seconds: f64) -> Self {
        let rate = |count: fn(&Counters) -> u64| {
            let (before, after) = (count(before), count(after));
            // A disc that was opened again has begun again.
            after.checked_sub(before).unwrap_or(after) as f64 / seconds
        };
        Self {
            reads: rate(|counters| counters.reads_count),
            read_bytes: rate(|counters| counters.read_bytes),
            writes: rate(|counters| counters.writes_count),
            written_bytes: rate(|counters| counters.written_bytes),
            flushes: rate(|counters| counters.flushes_count),
            zeroes: rate(|counters| counters.zeroes_count),
            errors: rate(|counters| counters.errors_count),
        }
    }
}

/// Says of each disc in `after` what it did since `before`, `passed` ago. Discs that were not there have none.
pub fn tell(before: &Status, after: &mut Status, passed: Duration) {
    let seconds = passed.as_secs_f64();
    let before: BTreeMap<_, _> = before.discs.iter().map(|disc| (disc.number, &disc.counters)).collect();
    for disc in &mut after.discs {
        let earlier = before.get(&disc.number).filter(|_| seconds > 0.0);
        disc.rates = earlier.map(|earlier| Rates::between(earlier, &disc.counters, seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_was_added() {
        let before = Counters { reads_count: 10, read_bytes: 40_960, writes_count: 7, ..Counters::default() };
        let after = Counters { reads_count: 30, read_bytes: 122_880, writes_count: 2, ..Counters::default() };
        let rates = Rates::between(&before, &after, 2.0);
        assert_eq!((rates.reads, rates.read_bytes), (10.0, 40_960.0));
        assert_eq!(rates.writes, 1.0, "it was opened again meanwhile");
    }
}
