//! Numbers by magnitude.

use serde::{Deserialize, Serialize};

/// Buckets of a [`Histogram`]: one for each power of two up to 2^20, and one for what is above.
pub const BUCKETS_COUNT: usize = 22;

/// How often which magnitude was seen: bucket `i` counts what is at most 2^i and above the bucket before; the last one
/// counts all the rest. In microseconds that is from 1 µs to 1 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    buckets: [u64; BUCKETS_COUNT],
    sum: u64,
}

impl Histogram {
    /// Counts one number.
    pub fn record(&mut self, number: u64) {
        self.record_times(number, 1);
    }

    /// Counts a number that was seen so many times.
    pub fn record_times(&mut self, number: u64, count: u64) {
        let magnitude = (u64::BITS - number.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[magnitude.min(BUCKETS_COUNT - 1)] += count;
        self.sum = self.sum.saturating_add(number.saturating_mul(count));
    }

    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Upper bounds, the last of which is infinite, and how many numbers are in each bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.buckets.iter().enumerate().map(|(index, count)| {
            let bound = (index + 1 < BUCKETS_COUNT).then(|| 1 << index);
            (bound, *count)
        })
    }

    /// The bound below which `share` of the numbers are (0.99 for p99). `None` without numbers, and when it is
    /// above the highest bound.
    pub fn bound_of(&self, share: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(bound)
        })?
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(number: u64) -> usize {
        let mut histogram = Histogram::default();
        histogram.record(number);
        histogram.buckets().position(|(_, count)| count == 1).unwrap()
    }

    #[test]
    fn a_number_is_in_the_first_bucket_that_is_no_less() {
        for (number, bucket) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 20, 20), (u64::MAX, 21)] {
            assert_eq!(bucket_of(number), bucket, "{number}");
        }
        assert_eq!(bucket_of((1 << 20) + 1), 21);
    }

    #[test]
    fn sums_and_shares_are_of_all_that_was_counted() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        assert_eq!(one.bound_of(0.5), None);
        one.record_times(100, 99);
        other.record(5000);
        one.add(&other);
        assert_eq!((one.count(), one.sum()), (100, 99 * 100 + 5000));
        assert_eq!((one.bound_of(0.5), one.bound_of(0.99), one.bound_of(1.0)), (Some(128), Some(128), Some(8192)));
        one.record(u64::MAX);
        assert_eq!(one.bound_of(1.0), None);
    }
}
