//! What of a disc the target has for certain; no I/O.
//!
//! A link that breaks loses what was under way, nobody knows how much. So everything sent counts as lost with it, and is
//! sent again, until the target has said `Synced` behind it. In the first pass that is what lies behind `position`; in the
//! others, what is in `unacknowledged`. When the target has another copy than before nothing counts any more, and the first pass
//! begins anew. What may be at the target all the same is compared, and not just sent.

use crate::disc::dirty::Dirty;
use crate::geometry::{ByteRange, DiscSize};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Runs of what was lost that are taken at once.
const RUNS_MAX: usize = 1024;

/// How far a move is.
#[derive(Debug)]
pub struct Ledger {
    size: DiscSize,
    /// The first pass: everything in front of it is acknowledged.
    position: u64,
    /// The first pass: everything in front of it is sent.
    sent_to: u64,
    /// The first pass: behind this nothing was ever sent.
    begun_to: u64,
    /// The first pass: in front of this the target may have something already.
    compare_to: u64,
    /// How often the target has acknowledged something.
    acknowledged_count: u64,
    /// What is to be sent next, besides the first pass.
    pending: VecDeque<ByteRange>,
    /// What was pending, and is sent, or about to be.
    unacknowledged: Dirty,
    /// What went over a link that broke.
    lost: Dirty,
}

impl Ledger {
    /// Nothing is sent yet, to a target that has nothing, or something from before.
    pub fn new(size: DiscSize, is_empty: bool) -> Self {
        let compare_to = if is_empty { 0 } else { size.bytes() };
        let (unacknowledged, lost) = (Dirty::new(size), Dirty::new(size));
        Self {
            size,
            position: 0,
            sent_to: 0,
            begun_to: 0,
            compare_to,
            acknowledged_count: 0,
            pending: VecDeque::new(),
            unacknowledged,
            lost,
        }
    }

    /// Where the first pass goes on, in bytes.
    pub fn sent_to(&self) -> u64 {
        self.sent_to
    }

    /// True when the target may have something of what the first pass comes to next.
    pub fn compares(&self) -> bool {
        self.sent_to < self.compare_to
    }

    /// True when the target has acknowledged the whole first pass.
    pub fn has_walked(&self) -> bool {
        self.position == self.size.bytes()
    }

    /// How often the target has acknowledged something.
    pub fn acknowledged_count(&self) -> u64 {
        self.acknowledged_count
    }

    /// What is to be sent besides the first pass, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.lost.bytes() + self.pending.iter().map(|run| run.length()).sum::<u64>()
    }

    /// The first pass is about to be sent up to `end`.
    pub fn handle_begun(&mut self, end: u64) {
        self.begun_to = self.begun_to.max(end);
    }

    /// The first pass has been sent up to `end`.
    pub fn handle_walked(&mut self, end: u64) {
        self.sent_to = end;
    }

    /// These runs are to be sent.
    pub fn handle_taken(&mut self, runs: Vec<ByteRange>) {
        self.pending.extend(runs);
    }

    /// What is to be sent next; of what was lost about `bytes_max`. It stays the next until
    /// [`Self::handle_sent`].
    pub fn next_run(&mut self, bytes_max: u64) -> Option<ByteRange> {
        if self.pending.is_empty() {
            self.pending.extend(self.lost.take(bytes_max, RUNS_MAX));
        }
        let run = self.pending.front().copied()?;
        self.unacknowledged.mark(run);
        Some(run)
    }

    /// The next run is sent.
    pub fn handle_sent(&mut self) {
        self.pending.pop_front();
    }

    /// The target has said that it has the first pass up to `end`, which is sent.
    pub fn handle_read_back(&mut self, end: u64) {
        assert!((self.position..=self.sent_to).contains(&end), "it was sent before it was read back");
        self.position = end;
        self.acknowledged_count += 1;
    }

    /// The target has said that it has all that was sent.
    pub fn handle_synced(&mut self) {
        self.position = self.sent_to;
        if self.unacknowledged.bytes() > 0 {
            self.unacknowledged = Dirty::new(self.size);
        }
        self.acknowledged_count += 1;
    }

    /// The link broke, and there is another one, to what the target had or to another copy, which may be empty.
    pub fn handle_reopened(&mut self, is_same_copy: bool, is_empty: bool) {
        if is_same_copy {
            self.compare_to = self.compare_to.max(self.begun_to);
            for run in self.unacknowledged.take(u64::MAX, usize::MAX) {
                self.lost.mark(run);
            }
        } else {
            (self.unacknowledged, self.lost) = (Dirty::new(self.size), Dirty::new(self.size));
            self.pending.clear();
            (self.position, self.begun_to) = (0, 0);
            self.compare_to = if is_empty { 0 } else { self.size.bytes() };
        }
        self.sent_to = self.position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 64;

    /// A disc of numbered blocks, a link, and what the target has.
    struct World {
        ledger: Ledger,
        source: Vec<u32>,
        dirty: Vec<u64>,
        link: Vec<(u64, u32)>,
        /// How much of the link has arrived.
        arrived_count: usize,
        /// Stretches that are sent and not read back: their end, and what was on the link then.
        walked: VecDeque<(u64, usize)>,
        target: BTreeMap<u64, u32>,
        durable: BTreeMap<u64, u32>,
    }

    impl World {
        fn send(&mut self, range: ByteRange) {
            for block in range.offset() / BLOCK..range.end().div_ceil(BLOCK) {
                self.link.push((block, self.source[block as usize]));
            }
        }

        fn arrive(&mut self, count: usize) {
            let end = self.arrived_count.saturating_add(count).min(self.link.len());
            self.target.extend(self.link[self.arrived_count..end].iter().copied());
            self.arrived_count = end;
        }

        fn read_back(&mut self) {
            let Some((end, count)) = self.walked.pop_front() else { return };
            self.arrive(count.saturating_sub(self.arrived_count));
            self.durable = self.target.clone();
            self.ledger.handle_read_back(end);
        }

        fn lose_link(&mut self) {
            self.link.clear();
            self.walked.clear();
            self.arrived_count = 0;
        }

        fn sync(&mut self) {
            self.arrive(usize::MAX);
            self.durable = self.target.clone();
            self.walked.clear();
            self.ledger.handle_synced();
        }

        fn walk(&mut self, blocks: u64) {
            let (from, size) = (self.ledger.sent_to(), self.ledger.size);
            let end = (from + blocks * BLOCK).min(size.bytes());
            let compares = self.ledger.compares();
            self.ledger.handle_begun(end);
            if compares {
                self.arrive(usize::MAX);
            }
            for block in from / BLOCK..end / BLOCK {
                let theirs = self.target.get(&block).copied();
                assert!(compares || theirs.is_none(), "what is there is compared");
                if !compares || theirs != Some(self.source[block as usize]) {
                    self.send(size.range(block * BLOCK, BLOCK).unwrap());
                }
            }
            self.ledger.handle_walked(end);
            self.walked.push_back((end, self.link.len()));
        }

        fn pass(&mut self, runs: usize) {
            for _ in 0..runs {
                if self.ledger.next_run(3 * BLOCK).is_none() {
                    let size = self.ledger.size;
                    let taken = self.dirty.drain(..self.dirty.len().min(4));
                    let runs = taken.map(|block| size.range(block * BLOCK, BLOCK).unwrap()).collect();
                    self.ledger.handle_taken(runs);
                }
                let Some(run) = self.ledger.next_run(3 * BLOCK) else { return };
                self.send(run);
                self.ledger.handle_sent();
            }
        }
    }

    proptest! {
        #[test]
        fn r130_whatever_is_lost_on_the_way_is_sent_again(
            steps in proptest::collection::vec((0u8..16, 0usize..20), 1..300),
        ) {
            let size = DiscSize::from_bytes(BLOCKS * BLOCK).unwrap();
            let mut world = World {
                ledger: Ledger::new(size, true),
                source: vec![0; BLOCKS as usize],
                dirty: vec![],
                link: vec![],
                arrived_count: 0,
                walked: VecDeque::new(),
                target: BTreeMap::new(),
                durable: BTreeMap::new(),
            };
            for (step, count) in steps {
                match step {
                    0..5 => {
                        let block = count as u64 * 7 % BLOCKS;
                        world.source[block as usize] += 1;
                        world.dirty.push(block);
                    }
                    5..10 if world.ledger.has_walked() => world.pass(count),
                    5..10 => world.walk(count as u64),
                    10..12 => world.arrive(count),
                    12 => world.sync(),
                    13 => world.read_back(),
                    14 | 15 if count > 0 => {
                        world.lose_link();
                        world.ledger.handle_reopened(true, false);
                    }
                    _ => {
                        // The target's machine lost its power.
                        world.lose_link();
                        world.target = world.durable.clone();
                        world.ledger.handle_reopened(false, world.target.is_empty());
                    }
                }
            }
            world.walk(BLOCKS);
            world.sync();
            prop_assert!(world.ledger.has_walked());
            world.pass(usize::MAX);
            world.sync();
            prop_assert_eq!(world.ledger.held_bytes(), 0);
            for (block, value) in (0..).zip(&world.source) {
                prop_assert_eq!(world.target.get(&block), Some(value), "block {}", block);
            }
        }
    }
}
