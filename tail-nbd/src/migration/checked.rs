//! Which chunks of a disc were read back at the target and are the same there; no I/O.

use crate::geometry::{ByteRange, DiscSize};
use alloc::vec;
use alloc::vec::Vec;

/// The shortest chunk, in bytes: what is sent again when one byte of it differs. The small discs of the simulation have several.
pub const CHUNK_BYTES_MIN: u64 = if cfg!(test) { 4 << 10 } else { 256 << 10 };

/// Most chunks of a disc: larger discs have longer ones, so that the maps take 1 MiB at most.
const CHUNKS_MAX: u64 = 1 << 22;

/// Two bits for each chunk of a disc.
#[derive(Debug)]
pub struct Checked {
    size: DiscSize,
    chunk_bytes: u64,
    /// There is something in it.
    held: Vec<u64>,
    /// It was the same at the target, and nothing of it was sent since.
    same: Vec<u64>,
}

impl Checked {
    /// Nothing was compared yet.
    pub fn new(size: DiscSize) -> Self {
        let mut chunk_bytes = CHUNK_BYTES_MIN;
        while size.bytes().div_ceil(chunk_bytes) > CHUNKS_MAX {
            chunk_bytes *= 2;
        }
        let words = usize::try_from(size.bytes().div_ceil(chunk_bytes).div_ceil(64)).expect("it is bounded");
        Self { size, chunk_bytes, held: vec![0; words], same: vec![0; words] }
    }

    /// How long a chunk is, in bytes: a power of two.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The chunk that begins at `offset`; the last one ends with the disc.
    pub fn chunk(&self, offset: u64) -> Option<ByteRange> {
        let left_bytes = self.size.bytes().checked_sub(offset).filter(|left| *left > 0)?;
        self.size.range(offset, left_bytes.min(self.chunk_bytes))
    }

    /// The chunk at `offset` was compared: whether the source has anything in it, and whether the target has the same.
    pub fn handle_compared(&mut self, offset: u64, is_held: bool, is_same: bool) {
        let (word, bit) = self.place(offset);
        self.held[word] = self.held[word] & !bit | if is_held { bit } else { 0 };
        self.same[word] = self.same[word] & !bit | if is_same { bit } else { 0 };
    }

    /// Something of this range is sent: what was compared before says nothing any more.
    pub fn handle_sent(&mut self, range: ByteRange) {
        let mut offset = range.offset() / self.chunk_bytes * self.chunk_bytes;
        while offset < range.end() {
            let (word, bit) = self.place(offset);
            self.same[word] &= !bit;
            offset += self.chunk_bytes;
        }
    }

    /// How much was read back and is the same, in bytes of chunks that have something in them; and in percent of those.
    pub fn verified(&self) -> (u64, u8) {
        let count = |words: &mut dyn Iterator<Item = u64>| words.map(|word| u64::from(word.count_ones())).sum::<u64>();
        let held = count(&mut self.held.iter().copied());
        let both = count(&mut self.held.iter().zip(&self.same).map(|(held, same)| held & same));
        let percent = (both * 100).checked_div(held).unwrap_or(100);
        ((both * self.chunk_bytes).min(self.size.bytes()), u8::try_from(percent).expect("it is at most 100"))
    }

    fn place(&self, offset: u64) -> (usize, u64) {
        let chunk = offset / self.chunk_bytes;
        (usize::try_from(chunk / 64).expect("it is bounded"), 1 << (chunk % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_is_not_verified_any_more() {
        let size = DiscSize::from_bytes(10 * CHUNK_BYTES_MIN - 512).unwrap();
        let mut checked = Checked::new(size);
        assert_eq!(checked.verified(), (0, 100), "nothing is all of nothing");
        for chunk in 0..4 {
            checked.handle_compared(chunk * CHUNK_BYTES_MIN, chunk < 3, chunk != 2);
        }
        assert_eq!(checked.verified(), (2 * CHUNK_BYTES_MIN, 66));
        checked.handle_compared(2 * CHUNK_BYTES_MIN, true, true);
        assert_eq!(checked.verified(), (3 * CHUNK_BYTES_MIN, 100));
        checked.handle_sent(size.range(CHUNK_BYTES_MIN - 1, 2).unwrap());
        assert_eq!(checked.verified(), (CHUNK_BYTES_MIN, 33), "two chunks were touched");
        let last = checked.chunk(9 * CHUNK_BYTES_MIN).unwrap();
        assert_eq!(last.end(), size.bytes());
        assert_eq!(checked.chunk(10 * CHUNK_BYTES_MIN), None);
    }

    #[test]
    fn the_maps_of_the_largest_disc_are_bounded() {
        let largest = DiscSize::from_bytes(crate::sidecar::record::DISC_BYTES_MAX).unwrap();
        let checked = Checked::new(largest);
        assert!(checked.held.len() as u64 <= CHUNKS_MAX / 64 && checked.chunk_bytes().is_power_of_two());
    }
}
