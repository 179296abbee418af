//! Time as the engine sees it: passed in by the driver, which alone reads the clock.

/// A moment, in nanoseconds since the shard started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(u64);

impl Instant {
    /// From nanoseconds since the shard's start.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// The moment this many seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }

    /// The moment so much later.
    #[must_use]
    pub fn plus(self, duration: core::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The first moment from this one on that is a whole number of seconds.
    #[must_use]
    pub fn rounded_up_to_seconds(self) -> Self {
        Self(self.0.checked_next_multiple_of(1_000_000_000).unwrap_or(u64::MAX))
    }

    /// How long after `earlier` it is; nothing when it is before.
    pub fn since(self, earlier: Self) -> core::time::Duration {
        core::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The same in whole microseconds.
    pub fn microseconds_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ordered_and_do_not_overflow() {
        let start = Instant::default();
        assert!(start < start.plus_seconds(1));
        assert_eq!(start.plus_seconds(2), Instant::from_nanoseconds(2_000_000_000));
        assert_eq!(start.rounded_up_to_seconds(), start);
        assert_eq!(Instant::from_nanoseconds(1).rounded_up_to_seconds(), start.plus_seconds(1));
        assert_eq!(Instant::from_nanoseconds(u64::MAX).rounded_up_to_seconds(), Instant::from_nanoseconds(u64::MAX));
        assert_eq!(Instant::from_nanoseconds(7_999).microseconds_since(start.plus_seconds(0)), 7);
        assert_eq!(start.microseconds_since(start.plus_seconds(1)), 0);
        assert_eq!(start.plus_seconds(u64::MAX).plus_seconds(1), Instant::from_nanoseconds(u64::MAX));
    }
}
