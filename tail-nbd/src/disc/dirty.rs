//! Which parts of a disc were written since they were last copied.
//!
//! A granule of 64 KiB has a mask of sixteen blocks of 4 KiB, so that small random writes do not cost sixteen times
//! their size when they are sent again (safety rule 21). Discs that would need more granules than
//! [`GRANULES_MAX`](crate::limits::GRANULES_MAX) have larger ones. The map's size follows from the disc's alone: it is
//! no queue, and nothing a client does makes it grow.
//!
//! Who marks and who takes, so that no write is lost: a write is marked when it is over, whatever its result, and before
//! its answer. What is taken is clean from then on, and is read afterwards. So a write that lands behind that read is
//! marked behind it too, and is taken again.

use crate::geometry::{ByteRange, DiscSize};
use crate::limits::GRANULES_MAX;
use alloc::vec;
use alloc::vec::Vec;

/// Blocks of a granule: the bits of its mask.
const BLOCKS: u64 = 16;

/// The smallest block, in bytes: what filesystems and page caches count in.
const BLOCK_BYTES_MIN: u64 = 4096;

/// The map of one disc, while it is being copied.
#[derive(Debug)]
pub struct Dirty {
    size: DiscSize,
    block_bytes: u64,
    /// A bit a block.
    masks: Vec<u16>,
    /// A bit a granule that has a dirty block.
    summary: Vec<u64>,
    blocks_count: u64,
    /// The granule that is looked at next.
    next: usize,
}

impl Dirty {
    /// A map of a disc that is all clean.
    pub fn new(size: DiscSize) -> Self {
        let mut block_bytes = BLOCK_BYTES_MIN;
        while size.bytes().div_ceil(block_bytes * BLOCKS) > GRANULES_MAX as u64 {
            block_bytes *= 2;
        }
        let granules = usize::try_from(size.bytes().div_ceil(block_bytes * BLOCKS)).expect("it is bounded");
        Self {
            size,
            block_bytes,
            masks: vec![0; granules],
            summary: vec![0; granules.div_ceil(64)],
            blocks_count: 0,
            next: 0,
        }
    }

    /// How much is dirty, in bytes of whole blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks_count * self.block_bytes
    }

    /// Marks every block that the range touches. Returns how much of that was clean, in bytes of whole blocks.
    pub fn mark(&mut self, range: ByteRange) -> u64 {
        let before = self.blocks_count;
        for (granule, mask) in self.masks_of(range) {
            self.blocks_count += u64::from((mask & !self.masks[granule]).count_ones());
            self.masks[granule] |= mask;
            self.summary[granule / 64] |= 1 << (granule % 64);
        }
        (self.blocks_count - before) * self.block_bytes
    }

    /// What [`Dirty::mark`] would return.
    pub fn clean_bytes(&self, range: ByteRange) -> u64 {
        let clean = |(granule, mask): (usize, u16)| u64::from((mask & !self.masks[granule]).count_ones());
        self.masks_of(range).map(clean).sum::<u64>() * self.block_bytes
    }

    /// The granules that a range touches, each with the blocks of it that it touches.
    fn masks_of(&self, range: ByteRange) -> impl Iterator<Item = (usize, u16)> + use<> {
        let (first, end) = (range.offset() / self.block_bytes, range.end().div_ceil(self.block_bytes));
        let end = if range.length() == 0 { first } else { end };
        (first / BLOCKS..end.div_ceil(BLOCKS)).map(move |granule| {
            let from = first.saturating_sub(granule * BLOCKS);
            let to = (end - granule * BLOCKS).min(BLOCKS) - 1;
            (granule as usize, (u16::MAX << from) & (u16::MAX >> (BLOCKS - 1 - to)))
        })
    }

    /// Takes dirty blocks, as runs of neighbours, until they are `bytes_max` or more, or `runs_max` runs; they
    /// are clean then. Goes round the disc, so that one busy place does not keep the others waiting.
    pub fn take(&mut self, bytes_max: u64, runs_max: usize) -> Vec<ByteRange> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut taken_bytes = 0;
        while taken_bytes < bytes_max && runs.len() < runs_max {
            let Some(granule) = self.next_granule() else { break };
            let mask = core::mem::take(&mut self.masks[granule]);
            self.summary[granule / 64] &= !(1 << (granule % 64));
            self.next = granule + 1;
            for block in (0..BLOCKS).filter(|block| mask >> block & 1 == 1) {
                let start = (granule as u64 * BLOCKS + block) * self.block_bytes;
                match runs.last_mut() {
                    Some((_, end)) if *end == start => *end += self.block_bytes,
                    _ => runs.push((start, start + self.block_bytes)),
                }
            }
            self.blocks_count -= u64::from(mask.count_ones());
            taken_bytes += u64::from(mask.count_ones()) * self.block_bytes;
        }
        let inside = |(start, end): (u64, u64)| self.size.range(start, end.min(self.size.bytes()) - start);
        runs.into_iter().filter_map(inside).collect()
    }

    /// The next granule with a dirty block, from `next` on and round.
    fn next_granule(&self) -> Option<usize> {
        let from = self.next.min(self.masks.len());
        let word = from / 64;
        let behind = self.summary.get(word).map(|bits| bits & (u64::MAX << (from % 64))).filter(|bits| *bits != 0);
        let first_of = |word: usize, bits: u64| word * 64 + bits.trailing_zeros() as usize;
        if let Some(bits) = behind {
            return Some(first_of(word, bits));
        }
        let words = self.summary.len();
        let round = (word + 1..words).chain(0..words.min(word + 1));
        round
            .map(|word| (word, self.summary[word]))
            .find(|(_, bits)| *bits != 0)
            .map(|(word, bits)| first_of(word, bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const KIB: u64 = 1 << 10;

    fn size(bytes: u64) -> DiscSize {
        DiscSize::from_bytes(bytes).unwrap()
    }

    fn all(dirty: &mut Dirty) -> Vec<(u64, u64)> {
        let runs = dirty.take(u64::MAX, usize::MAX);
        assert_eq!(dirty.bytes(), 0);
        runs.iter().map(|run| (run.offset(), run.length())).collect()
    }

    #[test]
    fn rule21_a_small_write_costs_a_block_and_not_a_granule() {
        let disc = size(1 << 30);
        let mut dirty = Dirty::new(disc);
        dirty.mark(disc.range(5 * 4096 + 7, 1).unwrap());
        dirty.mark(disc.range(64 * KIB - 1, 2).unwrap());
        assert_eq!(dirty.bytes(), 3 * 4096);
        assert_eq!(all(&mut dirty), [(5 * 4096, 4096), (60 * KIB, 8192)], "neighbours are one run");
    }

    #[test]
    fn the_map_of_the_largest_disc_is_bounded_too() {
        let disc = size(crate::sidecar::record::DISC_BYTES_MAX);
        let mut dirty = Dirty::new(disc);
        assert!(dirty.masks.len() <= GRANULES_MAX);
        dirty.mark(disc.range(disc.bytes() - 1, 1).unwrap());
        let [(start, length)] = all(&mut dirty)[..] else { panic!("one run") };
        assert_eq!(start + length, disc.bytes());
    }

    #[test]
    fn taking_goes_round_so_that_a_busy_place_does_not_starve_the_rest() {
        let disc = size(1 << 20);
        let mut dirty = Dirty::new(disc);
        let (busy, far) = (disc.range(0, 4096).unwrap(), disc.range(512 * KIB, 4096).unwrap());
        dirty.mark(busy);
        dirty.mark(far);
        assert_eq!(dirty.take(1, 8), [busy]);
        dirty.mark(busy);
        assert_eq!(dirty.take(1, 8), [far]);
        assert_eq!(dirty.take(1, 8), [busy]);
        assert_eq!(dirty.take(1, 8), []);
    }

    proptest! {
        /// Against a plain set of blocks, on a disc whose end is no multiple of anything.
        #[test]
        fn what_is_marked_is_taken_once(
            steps in proptest::collection::vec((0u64..3_000_000, 0u64..300_000, proptest::option::of(1u64..400_000)), 1..40),
        ) {
            let disc = size(3_000_000 - 512);
            let mut dirty = Dirty::new(disc);
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for (offset, length, take) in steps {
                if let Some(range) = disc.range(offset, length) {
                    let (clean_bytes, before) = (dirty.clean_bytes(range), model.len());
                    model.extend((range.offset() / 4096..range.end().div_ceil(4096)).filter(|_| length > 0));
                    prop_assert_eq!(clean_bytes, (model.len() - before) as u64 * 4096);
                    prop_assert_eq!(dirty.mark(range), clean_bytes);
                }
                if let Some(bytes) = take {
                    for run in dirty.take(bytes, 3) {
                        prop_assert!(run.length() > 0 && run.end() <= disc.bytes());
                        for block in run.offset() / 4096..run.end().div_ceil(4096) {
                            prop_assert!(model.remove(&block), "a block that was not dirty, or was taken twice");
                        }
                    }
                }
                prop_assert_eq!(dirty.bytes(), model.len() as u64 * 4096);
            }
            for run in dirty.take(u64::MAX, usize::MAX) {
                (run.offset() / 4096..run.end().div_ceil(4096)).for_each(|block| assert!(model.remove(&block)));
            }
            prop_assert!(model.is_empty(), "lost: {model:?}");
        }
    }
}
