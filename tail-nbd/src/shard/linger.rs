//! Whether a shard that has nothing to do looks for news for a moment before it sleeps.
//!
//! To be woken takes longer than a small read: with one request at a time, half of what a client waits for. So a shard
//! whose clients came back soon lately, one request at a time, expects them soon again, and looks. It sleeps at once
//! when requests come in bunches, which are cheaper the larger they grow meanwhile; and while an operation on a file is
//! under way, for which a worker may need this very processor. One long silence ends it: an idle shard costs nothing.

use crate::limits::LINGER_US_MAX;
use std::time::Duration;

/// What the last turns were like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linger {
    /// The running mean of how long there was no news, in microseconds.
    silence_us: u64,
    /// The running mean of requests a turn, in eighths.
    requests_eighths: u64,
    /// Requests of the last turns, between which there was no silence.
    bunch_count: usize,
}

/// Longer silences count as this long, so that a shard learns quickly that it is busy again.
const SILENCE_US_MAX: u64 = 16 * LINGER_US_MAX;

/// Requests a turn, in eighths, from which they count as bunches.
const BUNCH_EIGHTHS: u64 = 16;

impl Default for Linger {
    fn default() -> Self {
        Self { silence_us: SILENCE_US_MAX, requests_eighths: 0, bunch_count: 0 }
    }
}

impl Linger {
    /// For how long to look before sleeping; `None` is not at all.
    pub(super) fn limit(&self) -> Option<Duration> {
        let looks = self.silence_us < LINGER_US_MAX && self.requests_eighths < BUNCH_EIGHTHS;
        looks.then_some(Duration::from_micros(LINGER_US_MAX))
    }

    /// A turn has started so many requests, and another follows at once: they are of one bunch.
    pub(super) fn handle_part(&mut self, requests_count: usize) {
        self.bunch_count = self.bunch_count.saturating_add(requests_count);
    }

    /// A turn began after such a silence. The turn before had started so many requests.
    pub(super) fn handle_turn(&mut self, silence: Duration, requests_count: usize) {
        let requests_count = requests_count.saturating_add(std::mem::take(&mut self.bunch_count));
        let silence_us = u64::try_from(silence.as_micros()).map_or(SILENCE_US_MAX, |us| us.min(SILENCE_US_MAX));
        self.silence_us = (7 * self.silence_us + silence_us) / 8;
        self.requests_eighths = self.requests_eighths * 7 / 8 + requests_count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(turns: impl IntoIterator<Item = (u64, usize)>) -> Option<Duration> {
        let mut linger = Linger::default();
        for (us, requests_count) in turns {
            linger.handle_turn(Duration::from_micros(us), requests_count);
        }
        linger.limit()
    }

    #[test]
    fn it_looks_where_clients_come_back_soon_one_at_a_time() {
        assert_eq!(after([]), None, "at the start nobody is there");
        let lively = || std::iter::repeat_n((20, 1), 100);
        assert!(after(lively()).is_some());
        assert_eq!(after(lively().chain([(1_000_000, 0)])), None, "one long silence ends it");
        assert_eq!(after(std::iter::repeat_n((200, 1), 100)), None, "they would not come in time");
        assert_eq!(after(std::iter::repeat_n((20, 30), 100)), None, "bunches may grow");
    }

    #[test]
    fn turns_that_follow_each_other_at_once_are_one_bunch() {
        let mut linger = Linger::default();
        for _ in 0..100 {
            (0..7).for_each(|_| linger.handle_part(1));
            linger.handle_turn(Duration::from_micros(20), 1);
        }
        assert_eq!(linger.limit(), None);
    }

    #[test]
    fn it_learns_within_some_dozens_of_turns() {
        assert!(after(std::iter::repeat_n((20, 1), 32)).is_some());
    }
}
