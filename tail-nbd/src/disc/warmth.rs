//! Whether reads of a disc are to be looked up in the page cache before they are submitted.
//!
//! A read of what is in the page cache is done within its submission. One that is not there starts the device's work
//! within it, and when the device's queue is full that waits: the shard's thread, and with it every other disc. So a
//! cold read goes to a worker of the kernel, which costs more and waits alone. To know which it is costs a system call,
//! a tenth of a warm read; so after enough warm reads in a row only some are looked up.

use crate::limits::{WARM_LOOKS_EVERY, WARM_READS_MIN};

/// What is known from the last reads. In the beginning nothing is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Warmth {
    /// Reads in a row that were found in the page cache, and those that were trusted to be.
    warm_count: u32,
}

impl Warmth {
    /// True when the next read is to be looked up; then call [`Warmth::handle_look`].
    pub fn wants_look(&mut self) -> bool {
        if self.warm_count < WARM_READS_MIN {
            return true;
        }
        self.warm_count += 1;
        if self.warm_count - WARM_READS_MIN < WARM_LOOKS_EVERY {
            return false;
        }
        self.warm_count = WARM_READS_MIN;
        true
    }

    /// The read that was looked up was there, or not.
    pub fn handle_look(&mut self, resident: bool) {
        self.warm_count = if resident { (self.warm_count + 1).min(WARM_READS_MIN) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many reads are looked up.
    fn looks(warmth: &mut Warmth, reads_count: u32, resident: bool) -> u32 {
        let mut looks_count = 0;
        for _ in 0..reads_count {
            if warmth.wants_look() {
                looks_count += 1;
                warmth.handle_look(resident);
            }
        }
        looks_count
    }

    #[test]
    fn warm_reads_are_trusted_and_one_cold_read_ends_that() {
        let mut warmth = Warmth::default();
        assert_eq!(looks(&mut warmth, WARM_READS_MIN, true), WARM_READS_MIN, "nothing is known");
        assert_eq!(looks(&mut warmth, 10 * WARM_LOOKS_EVERY, true), 10);
        assert_eq!(looks(&mut warmth, WARM_LOOKS_EVERY, false), 1, "found out");
        assert_eq!(looks(&mut warmth, 1000, false), 1000);
        assert_eq!(looks(&mut warmth, WARM_READS_MIN, true), WARM_READS_MIN);
        assert!(!warmth.wants_look());
    }
}
