//! The most that one move sends in a while; no clock.

use crate::time::Instant;
use core::time::Duration;

/// How long the wire may have been idle and still be caught up with.
const SLACK: Duration = Duration::from_millis(50);

/// How long one piece may take at the limit, so that none is a burst.
const PIECE_MS: u64 = 10;

/// Spreads what is sent over time.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: Option<u64>,
    /// When the next byte may go, in nanoseconds since the start of the clock.
    next_ns: u64,
}

impl Pace {
    /// At most so many bytes a second; `None`: no limit.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s: bytes_per_s.map(|rate| rate.max(1)), next_ns: 0 }
    }

    /// The longest piece to send at once, in bytes, and no longer than `most`.
    pub fn piece_bytes(&self, most: u64) -> u64 {
        let piece = self.bytes_per_s.map_or(most, |rate| rate.saturating_mul(PIECE_MS) / 1000);
        // Whole blocks, and at least one.
        (piece & !4095).clamp(4096, most)
    }

    /// How long so many bytes must wait, after which they are sent.
    pub fn handle_piece(&mut self, now: Instant, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_s else { return Duration::ZERO };
        let now_ns = ns(now.since(Instant::default()));
        let takes_ns = bytes.saturating_mul(1_000_000_000) / rate;
        let start_ns = self.next_ns.max(now_ns.saturating_sub(ns(SLACK)));
        self.next_ns = start_ns.saturating_add(takes_ns);
        Duration::from_nanos(start_ns.saturating_sub(now_ns))
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r130_a_limit_is_kept_within_five_percent_over_any_two_seconds() {
        const RATE: u64 = 50_000_000;
        let (mut pace, mut now_ns) = (Pace::new(Some(RATE)), 0);
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
        let mut pace = Pace::new(None);
        assert_eq!(pace.handle_piece(Instant::default(), u64::MAX), Duration::ZERO);
        assert_eq!(pace.piece_bytes(1 << 20), 1 << 20);
        assert_eq!(Pace::new(Some(1)).piece_bytes(1 << 20), 4096);
    }
}
