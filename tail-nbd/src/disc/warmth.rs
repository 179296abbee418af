//! Which reads of a disc would have to wait for its device.
//!
//! A read of what is in the page cache is done within its submission. One that is not there starts the device's work
//! within it, and when the device's queue is full that waits: the shard's thread, and with it every other disc. So a
//! cold read goes to a worker of the kernel, which costs more and waits alone. To look whether pages are there costs a
//! system call, a tenth of a small read; so a disc is trusted until a small read misses, and again after enough looks in
//! a row that found everything.

use crate::limits::WARM_READS_MIN;

/// What is known from the last small reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Warmth {
    /// Looks that are left until the disc is trusted again.
    doubts_count: u32,
}

impl Warmth {
    /// True when the next small read is expected to be in the page cache, without a look.
    pub fn is_trusted(self) -> bool {
        self.doubts_count == 0
    }

    /// A look found all of a read, or not.
    pub fn handle_look(&mut self, resident: bool) {
        self.doubts_count = if resident { self.doubts_count.saturating_sub(1) } else { WARM_READS_MIN };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_miss_ends_the_trust_and_many_hits_bring_it_back() {
        let mut warmth = Warmth::default();
        assert!(warmth.is_trusted());
        for misses_count in [1, 5] {
            (0..misses_count).for_each(|_| warmth.handle_look(false));
            (1..WARM_READS_MIN).for_each(|_| warmth.handle_look(true));
            assert!(!warmth.is_trusted());
            warmth.handle_look(true);
            assert!(warmth.is_trusted());
        }
    }
}
