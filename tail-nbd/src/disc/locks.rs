//! Changes of a file that is written in whole blocks: those that share a block run one after another, in the order they
//! came. A write of a part of a block reads the rest of it first; another change in between would be lost.

use crate::geometry::ByteRange;
use crate::limits::LOCKS_MAX;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The changes of one disc that run, and those that wait.
#[derive(Debug)]
pub struct Locks<T> {
    /// In the order they came. So few that to compare each with each is cheap.
    admitted: Vec<Lock<T>>,
    /// Those that came when there was no place.
    queue: VecDeque<(ByteRange, T)>,
}

#[derive(Debug)]
struct Lock<T> {
    range: ByteRange,
    who: T,
    runs: bool,
}

impl<T> Default for Locks<T> {
    fn default() -> Self {
        Self { admitted: Vec::new(), queue: VecDeque::new() }
    }
}

impl<T: Copy + PartialEq> Locks<T> {
    /// `who` wants to change whole blocks. True when it may begin; otherwise [`Locks::unlock`] says when.
    pub fn lock(&mut self, range: ByteRange, who: T) -> bool {
        if !self.queue.is_empty() || self.admitted.len() >= LOCKS_MAX {
            self.queue.push_back((range, who));
            return false;
        }
        self.admit(range, who)
    }

    /// `who`, which was let begin, is done. Appends those that may begin now.
    pub fn unlock(&mut self, who: T, started: &mut Vec<T>) {
        let Some(place) = self.admitted.iter().position(|lock| lock.runs && lock.who == who) else { return };
        let freed = self.admitted.remove(place).range;
        for place in place..self.admitted.len() {
            let (earlier, rest) = self.admitted.split_at_mut(place);
            let lock = &mut rest[0];
            let waits = !lock.runs && lock.range.overlaps(freed);
            if waits && !earlier.iter().any(|other| other.range.overlaps(lock.range)) {
                lock.runs = true;
                started.push(lock.who);
            }
        }
        while self.admitted.len() < LOCKS_MAX
            && let Some((range, who)) = self.queue.pop_front()
        {
            if self.admit(range, who) {
                started.push(who);
            }
        }
    }

    fn admit(&mut self, range: ByteRange, who: T) -> bool {
        let runs = !self.admitted.iter().any(|other| other.range.overlaps(range));
        self.admitted.push(Lock { range, who, runs });
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    fn blocks(first: u64, end: u64) -> ByteRange {
        DiscSize::from_bytes(1 << 40).unwrap().range(first * 512, (end - first) * 512).unwrap()
    }

    fn unlock(locks: &mut Locks<u32>, who: u32) -> Vec<u32> {
        let mut started = vec![];
        locks.unlock(who, &mut started);
        started
    }

    #[test]
    fn those_that_share_a_block_run_in_order_and_others_at_once() {
        let mut locks = Locks::default();
        assert!(locks.lock(blocks(0, 2), 1) && locks.lock(blocks(2, 4), 2));
        assert!(!locks.lock(blocks(1, 3), 3) && !locks.lock(blocks(0, 1), 4) && locks.lock(blocks(9, 10), 5));
        assert!(!locks.lock(blocks(2, 3), 6), "it may not overtake one that waits");
        assert_eq!(unlock(&mut locks, 1), [4], "3 waits for 2 as well");
        assert_eq!(unlock(&mut locks, 2), [3]);
        assert_eq!(unlock(&mut locks, 3), [6]);
        assert!(unlock(&mut locks, 6).is_empty() && locks.lock(blocks(2, 3), 7));
    }

    #[test]
    fn no_more_than_so_many_are_compared_and_all_have_their_turn() {
        let mut locks = Locks::default();
        let all = 3 * LOCKS_MAX as u32;
        let mut running: VecDeque<u32> = (0..all).filter(|who| locks.lock(blocks(0, 1), *who)).collect();
        let mut order = vec![];
        while let Some(who) = running.pop_front() {
            assert!(locks.admitted.len() <= LOCKS_MAX && running.is_empty());
            order.push(who);
            running.extend(unlock(&mut locks, who));
        }
        assert_eq!(order, (0..all).collect::<Vec<_>>());
    }
}
