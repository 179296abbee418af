//! How long a move waits for what holds it up, and how often it tries again; no clock.

use crate::time::Instant;
use core::time::Duration;
use spine::resource::migration::MigrationErrorKind;

/// The first pause before a target is tried again that cannot be reached; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause: a target that is back, or has room again, is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a target may be out of reach without anything getting on before the move ends: longer than a machine
/// takes to start, shorter than a map of what was written should be kept for nobody.
pub const UNREACHABLE_MAX: Duration = Duration::from_secs(15 * 60);

/// What a move has waited for so far.
#[derive(Debug)]
pub struct Patience {
    /// When it last got on.
    got_on: Instant,
    tries_count: u32,
}

impl Patience {
    /// Nothing has held it up yet.
    pub fn new(now: Instant) -> Self {
        Self { got_on: now, tries_count: 0 }
    }

    /// The target has acknowledged something.
    pub fn handle_progress(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// Something holds it up: how long to wait before the next try. `None` when it is no use any more. Room at the
    /// target is waited for without end, since an operator is told and can cancel.
    pub fn handle_held_up(&mut self, now: Instant, kind: MigrationErrorKind) -> Option<Duration> {
        match kind {
            MigrationErrorKind::NoSpace => {
                // It was reached just now.
                self.handle_progress(now);
                Some(PAUSE_MAX)
            }
            MigrationErrorKind::Unreachable if now.since(self.got_on) < UNREACHABLE_MAX => {
                let pause = PAUSE_MIN.saturating_mul(1 << self.tries_count.min(8)).min(PAUSE_MAX);
                self.tries_count += 1;
                Some(pause)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MigrationErrorKind::{NoSpace, ReadError, Refused, Unreachable};

    fn at(seconds: u64) -> Instant {
        Instant::from_nanoseconds(seconds * 1_000_000_000)
    }

    #[test]
    fn a_target_that_is_away_is_tried_less_and_less_often_and_not_for_ever() {
        let mut patience = Patience::new(at(0));
        let pauses: Vec<u128> =
            (0..7).map(|_| patience.handle_held_up(at(1), Unreachable).unwrap().as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        patience.handle_progress(at(100));
        assert_eq!(patience.handle_held_up(at(100), Unreachable), Some(PAUSE_MIN));
        assert_eq!(patience.handle_held_up(at(100 + 899), Unreachable), Some(PAUSE_MIN * 2));
        assert_eq!(patience.handle_held_up(at(100 + 900), Unreachable), None);
    }

    #[test]
    fn room_is_waited_for_without_end_and_what_is_final_is_not_waited_for() {
        let mut patience = Patience::new(at(0));
        assert_eq!(patience.handle_held_up(at(1_000_000), NoSpace), Some(PAUSE_MAX));
        assert_eq!(patience.handle_held_up(at(1_000_001), Unreachable), Some(PAUSE_MIN), "it was there just now");
        for kind in [Refused, ReadError, MigrationErrorKind::Cancelled] {
            assert_eq!(patience.handle_held_up(at(0), kind), None);
        }
    }
}
