//! The output kept: a ring of bytes, each addressed by its offset since the start.

use std::collections::VecDeque;

/// The last bytes of an endless output.
///
/// Invariant: `end - ring.len()` is the offset of the ring's first byte.
#[derive(Debug)]
pub struct History {
    ring: VecDeque<u8>,
    bytes_max: usize,
    /// Offset one after the last byte.
    end: u64,
}

/// What lies at a position.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Bytes that were asked for and are not kept any more.
    pub missed: u64,
    /// The bytes; none when the position is the end.
    pub bytes: Vec<u8>,
    /// The position after them, to ask from next.
    pub next: u64,
}

impl History {
    /// An empty one, that keeps at most `bytes_max` bytes. Memory is taken as output comes.
    pub fn new(bytes_max: usize) -> Self {
        Self { ring: VecDeque::new(), bytes_max, end: 0 }
    }

    /// Takes output in; the oldest gives way.
    pub fn push(&mut self, output: &[u8]) {
        self.end += output.len() as u64;
        let kept = &output[output.len().saturating_sub(self.bytes_max)..];
        let excess = (self.ring.len() + kept.len()).saturating_sub(self.bytes_max);
        self.ring.drain(..excess);
        self.ring.extend(kept);
    }

    /// The position from which a new viewer sees the last `bytes_max` bytes.
    pub fn replay_from(&self, bytes_max: usize) -> u64 {
        self.end - self.ring.len().min(bytes_max) as u64
    }

    /// At most `bytes_max` bytes from `position` on. A position beyond the end is the end.
    pub fn read(&self, position: u64, bytes_max: usize) -> Excerpt {
        let start = self.end - self.ring.len() as u64;
        let from = position.clamp(start, self.end);
        let skip = (from - start) as usize;
        let count = (self.ring.len() - skip).min(bytes_max);
        let bytes: Vec<u8> = self.ring.range(skip..skip + count).copied().collect();
        Excerpt { missed: from.saturating_sub(position), next: from + bytes.len() as u64, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_history_has_nothing_to_show() {
        let history = History::new(8);
        assert_eq!(history.replay_from(4), 0);
        assert_eq!(history.read(0, 4), Excerpt { missed: 0, bytes: vec![], next: 0 });
    }

    #[test]
    fn the_oldest_gives_way_and_is_counted() {
        let mut history = History::new(8);
        history.push(b"0123456");
        history.push(b"789");
        assert_eq!(history.read(0, 100), Excerpt { missed: 2, bytes: b"23456789".to_vec(), next: 10 });
        assert_eq!(history.read(9, 100), Excerpt { missed: 0, bytes: b"9".to_vec(), next: 10 });
        assert_eq!(history.replay_from(3), 7);
        assert_eq!(history.replay_from(100), 2);
    }

    #[test]
    fn one_push_may_be_larger_than_the_ring() {
        let mut history = History::new(4);
        history.push(b"ab");
        history.push(b"0123456789");
        assert_eq!(history.read(1, 100), Excerpt { missed: 7, bytes: b"6789".to_vec(), next: 12 });
    }

    #[test]
    fn a_position_beyond_the_end_is_the_end() {
        let mut history = History::new(4);
        history.push(b"ab");
        assert_eq!(history.read(99, 100), Excerpt { missed: 0, bytes: vec![], next: 2 });
    }

    proptest! {
        /// Whatever is pushed and however it is read: what was read and what was missed add up to
        /// the output, in order.
        #[test]
        fn reading_has_no_gap_and_no_repeat(
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
            bytes_max in 1usize..64,
            chunk in 1usize..32,
        ) {
            let mut history = History::new(bytes_max);
            let (mut output, mut position) = (Vec::new(), 0u64);
            for (turn, push) in pushes.iter().enumerate() {
                history.push(push);
                output.extend_from_slice(push);
                if turn % 3 != 0 {
                    continue;
                }
                let excerpt = history.read(position, chunk);
                let from = (position + excerpt.missed) as usize;
                prop_assert_eq!(&output[from..excerpt.next as usize], &excerpt.bytes[..]);
                prop_assert!(excerpt.bytes.len() <= chunk);
                prop_assert!(excerpt.missed == 0 || from == output.len() - output.len().min(bytes_max));
                position = excerpt.next;
            }
        }
    }
}
