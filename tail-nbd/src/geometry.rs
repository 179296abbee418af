//! Offsets and lengths of a disc. The only range check of the data plane is here.

use serde::{Deserialize, Serialize};

/// How large a disc is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct DiscSize(u64);

/// Bytes of a disc that are known to be inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

impl DiscSize {
    /// The kernel counts file offsets in an i64, so a disc is at most that large.
    pub const BYTES_MAX: u64 = i64::MAX as u64;

    /// A size in bytes; `None` when no file can be that large.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        (bytes <= Self::BYTES_MAX).then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// `length` bytes at `offset`, if all of them are inside the disc.
    pub fn range(self, offset: u64, length: u64) -> Option<ByteRange> {
        (offset.checked_add(length)? <= self.0).then_some(ByteRange { offset, length })
    }
}

impl TryFrom<u64> for DiscSize {
    type Error = &'static str;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        Self::from_bytes(bytes).ok_or("no file can be that large")
    }
}

impl From<DiscSize> for u64 {
    fn from(size: DiscSize) -> Self {
        size.bytes()
    }
}

impl ByteRange {
    /// The first byte.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// How many bytes.
    pub fn length(self) -> u64 {
        self.length
    }

    /// The byte behind the last one.
    pub fn end(self) -> u64 {
        self.offset + self.length
    }

    /// The whole blocks of this many bytes, a power of two, that the range is in.
    #[must_use]
    pub fn widened_to(self, block_bytes: u64) -> Self {
        let offset = self.offset & !(block_bytes - 1);
        Self { offset, length: ((self.end() + block_bytes - 1) & !(block_bytes - 1)) - offset }
    }

    /// True when the two have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// The part from the byte `start` on, which is not in front of it; `None` when there is none.
    #[must_use]
    pub fn from(self, start: u64) -> Option<Self> {
        let length = self.end().checked_sub(start).filter(|length| *length > 0)?;
        Some(Self { offset: start, length })
    }

    /// The piece that starts `done` bytes into the range and is at most `piece_bytes_max` long.
    ///
    /// # Panics
    /// When `done` is beyond the end, which is a bug of the caller.
    #[must_use]
    pub fn piece(self, done: u64, piece_bytes_max: u64) -> Self {
        assert!(done <= self.length);
        Self { offset: self.offset + done, length: (self.length - done).min(piece_bytes_max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_the_least_that_hold_a_range() {
        let size = DiscSize::from_bytes(1 << 20).unwrap();
        for (offset, length, wanted) in
            [(0, 512, (0, 512)), (1, 511, (0, 512)), (511, 2, (0, 1024)), (1024, 1, (1024, 512))]
        {
            let blocks = size.range(offset, length).unwrap().widened_to(512);
            assert_eq!((blocks.offset(), blocks.length()), wanted, "{length} at {offset}");
        }
        let (one, next) = (size.range(0, 512).unwrap(), size.range(512, 512).unwrap());
        assert!(!one.overlaps(next) && !next.overlaps(one) && one.overlaps(size.range(511, 2).unwrap()));
    }

    #[test]
    fn a_range_is_inside_or_is_not_made() {
        let size = DiscSize::from_bytes(100).unwrap();
        for (offset, length, inside) in [
            (0, 100, true),
            (0, 0, true),
            (100, 0, true),
            (99, 1, true),
            (99, 2, false),
            (100, 1, false),
            (101, 0, false),
            (u64::MAX, 1, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(size.range(offset, length).is_some(), inside, "{length} bytes at {offset}");
        }
        assert_eq!(DiscSize::from_bytes(u64::MAX), None);
    }

    #[test]
    fn pieces_cover_a_range_exactly() {
        let range = DiscSize::from_bytes(1000).unwrap().range(7, 250).unwrap();
        let (mut done, mut pieces) = (0, vec![]);
        while done < range.length() {
            let piece = range.piece(done, 100);
            pieces.push((piece.offset(), piece.length()));
            done += piece.length();
        }
        assert_eq!(pieces, [(7, 100), (107, 100), (207, 50)]);
    }
}
