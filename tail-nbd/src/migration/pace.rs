//! The most that one move sends in a while, and the most that all moves to one tail send together; no clock.
//!
//! A move has the next piece booked in both before it sends it, and no more than one: so moves that share a budget take
//! turns, and each gets its part of it, or what its own limit lets it use.

use crate::time::Instant;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// How long the wire may have been idle and still be caught up with.
const SLACK: Duration = Duration::from_millis(20);

/// How long one piece may take at a move's own limit, so that none is a burst, and at one that is shared, so that who sends
/// little does not wait long for his turn. In milliseconds.
const PIECES_MS: [u64; 2] = [10, 2];

/// Spreads what is sent over time. A copy of it is the same budget.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes_per_s: u64,
    /// When the next byte may go, in nanoseconds since the start of the clock.
    next_ns: Arc<AtomicU64>,
}

impl Budget {
    /// At most so many bytes a second.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), next_ns: Arc::default() }
    }

    /// How long so many bytes must wait, after which they are sent.
    fn handle_piece(&self, now: Instant, bytes: u64) -> Duration {
        let now_ns = ns(now.since(Instant::default()));
        let takes_ns = bytes.saturating_mul(1_000_000_000) / self.bytes_per_s;
        let start_of = |next_ns: u64| next_ns.max(now_ns.saturating_sub(ns(SLACK)));
        let book = |next_ns| Some(start_of(next_ns).saturating_add(takes_ns));
        // It always books.
        let (Ok(next_ns) | Err(next_ns)) = self.next_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, book);
        Duration::from_nanos(start_of(next_ns).saturating_sub(now_ns))
    }
}

/// What one move keeps to.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Its own, and the one that is shared.
    budgets: [Option<Budget>; 2],
}

impl Pace {
    /// At most so many bytes a second, and no more than a budget that others share; `None`: no limit.
    pub fn new(bytes_per_s: Option<u64>, shared: Option<Budget>) -> Self {
        Self { budgets: [bytes_per_s.map(Budget::new), shared] }
    }

    /// The longest piece to send at once, in bytes, and no longer than `most`.
    pub fn piece_bytes(&self, most: u64) -> u64 {
        let piece_of =
            |(budget, ms): (&Option<Budget>, u64)| Some(budget.as_ref()?.bytes_per_s.saturating_mul(ms) / 1000);
        let pieces = self.budgets.iter().zip(PIECES_MS).filter_map(piece_of);
        // Whole blocks, and at least one.
        (pieces.min().unwrap_or(most) & !4095).clamp(4096, most)
    }

    /// How long so many bytes must wait, after which they are sent. `now` is of a clock that all who share a budget have.
    pub fn handle_piece(&mut self, now: Instant, bytes: u64) -> Duration {
        self.budgets.iter().flatten().map(|budget| budget.handle_piece(now, bytes)).max().unwrap_or_default()
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;

    #[test]
    fn r130_a_limit_is_kept_within_five_percent_over_any_two_seconds() {
        const RATE: u64 = 50_000_000;
        let (mut pace, mut now_ns) = (Pace::new(Some(RATE), None), 0);
        let mut sent: Vec<(u64, u64)> = vec![];
        for turn in 0..2000u64 {
            let bytes = pace.piece_bytes(1 << 20);
            now_ns += ns(pace.handle_piece(Instant::from_nanoseconds(now_ns), bytes));
            sent.push((now_ns, bytes));
            if turn % 500 == 499 {
                // Whoever pauses must not catch up with all of it afterwards.
                now_ns += 3_000_000_000;
            }
        }
        for (index, (start, _)) in sent.iter().enumerate() {
            let within = sent[index..].iter().take_while(|(at, _)| *at < *start + 2_000_000_000);
            let bytes: u64 = within.map(|(_, bytes)| bytes).sum();
            assert!(bytes <= 2 * RATE * 105 / 100, "{bytes} bytes in two seconds");
        }
        let (first, took_ns) = (sent[..499].iter().map(|(_, bytes)| bytes).sum::<u64>(), sent[499].0 - sent[0].0);
        assert!(first >= RATE * took_ns / 1_000_000_000 * 95 / 100, "and it is used");
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut pace = Pace::new(None, None);
        assert_eq!(pace.handle_piece(Instant::default(), u64::MAX), Duration::ZERO);
        assert_eq!(pace.piece_bytes(1 << 20), 1 << 20);
        assert_eq!(Pace::new(Some(1), None).piece_bytes(1 << 20), 4096);
    }

    /// What each of some moves sends in ten seconds, in bytes, and all of them in any second at most.
    fn share(budget: u64, limits: &[Option<u64>]) -> (Vec<u64>, u64) {
        let shared = Budget::new(budget);
        let mut paces: Vec<Pace> = limits.iter().map(|limit| Pace::new(*limit, Some(shared.clone()))).collect();
        let mut due_ns = vec![1_000_000_000; paces.len()];
        let (mut sent, mut pieces) = (vec![0; paces.len()], VecDeque::new());
        let (mut second, mut most) = (0, 0);
        // Who is next sends what it has booked, and books again.
        while let Some((mover, now_ns)) = due_ns.iter().copied().enumerate().min_by_key(|(_, at)| *at)
            && now_ns < 11_000_000_000
        {
            let bytes = paces[mover].piece_bytes(1 << 20);
            sent[mover] += bytes;
            second += bytes;
            pieces.push_back((now_ns, bytes));
            while let Some((at, bytes)) = pieces.front().copied().filter(|(at, _)| at + 1_000_000_000 <= now_ns) {
                (second, _) = (second - bytes, at);
                pieces.pop_front();
            }
            most = most.max(second);
            due_ns[mover] += ns(paces[mover].handle_piece(Instant::from_nanoseconds(now_ns), bytes)).max(1000);
        }
        (sent, most)
    }

    #[test]
    fn r130_moves_to_one_tail_share_a_budget_and_keep_their_own_limits() {
        const MB: u64 = 1_000_000;
        let all = 100 * MB;
        for (limits, wanted_mb) in [
            (vec![None], vec![100]),
            (vec![None, None, None, None], vec![25; 4]),
            (vec![Some(10 * MB), None, None], vec![10, 45, 45]),
            (vec![Some(10 * MB), Some(20 * MB)], vec![10, 20]),
        ] {
            let (sent, most) = share(all, &limits);
            assert!(most <= all * 110 / 100, "{limits:?}: {most} bytes in a second");
            for (sent, wanted) in sent.iter().zip(wanted_mb) {
                let mb_per_s = sent / 10 / MB;
                assert!(
                    mb_per_s * 100 >= wanted * 75 && mb_per_s * 100 <= wanted * 130,
                    "{limits:?}: {mb_per_s} of {wanted}"
                );
            }
        }
    }
}
