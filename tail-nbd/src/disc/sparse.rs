//! What of a read is a hole and need not be read: the client is told so instead (OFFSET_HOLE).
//!
//! To look costs one or two `lseek`s, and on a file in many pieces they may be long. So the last run that was
//! found is remembered, short reads are not looked at, and a piece of a read is looked at only a few times.
//!
//! Why a hole that is remembered cannot hide a write that was answered: whatever the result of a write is,
//! [`Sparse::handle_written`] is called when it is over and before its answer. A hole found while the write was still
//! under way is forgotten there, and one found later was looked for with the bytes in the file. A read that
//! runs beside a write may see either, as on any disc.

use crate::geometry::ByteRange;
use crate::limits::{SPARSE_BYTES_MIN, SPARSE_LOOKS_MAX};
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// What one disc's shard knows of the holes in its file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sparse {
    known: Option<Known>,
}

/// Bytes from `start` up to `end` that are one hole, or all data. Data may have become a hole meanwhile.
#[derive(Clone, Copy, Debug)]
struct Known {
    start: u64,
    end: u64,
    hole: bool,
}

/// The next part of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which bytes.
    pub range: ByteRange,
    /// They are zeroes that need not be read.
    pub hole: bool,
}

impl Sparse {
    /// The first part of what is left of a read: a hole of any length, or data of at most `data_bytes_max`.
    ///
    /// # Panics
    /// When nothing is left, which is a bug of the caller.
    pub fn next_part(&mut self, file: impl AsFd, rest: ByteRange, data_bytes_max: u64) -> Part {
        assert!(rest.length() > 0);
        let mut data_bytes = 0;
        for _ in 0..SPARSE_LOOKS_MAX {
            let left = rest.piece(data_bytes, rest.length());
            if left.length() < SPARSE_BYTES_MIN || data_bytes >= data_bytes_max {
                break;
            }
            let known = self.look(&file, left);
            let run = left.piece(0, known.end - left.offset());
            if known.hole && run.length() >= SPARSE_BYTES_MIN {
                if data_bytes == 0 {
                    return Part { range: run, hole: true };
                }
                return Part { range: rest.piece(0, data_bytes.min(data_bytes_max)), hole: false };
            }
            data_bytes += run.length();
        }
        Part { range: rest.piece(0, data_bytes_max), hole: false }
    }

    /// A write to these bytes is over, well or badly.
    pub fn handle_written(&mut self, range: ByteRange) {
        self.forget(range, true);
    }

    /// These bytes may have become a hole.
    pub fn handle_zeroed(&mut self, range: ByteRange) {
        self.forget(range, false);
    }

    fn forget(&mut self, range: ByteRange, hole: bool) {
        if self.known.is_some_and(|known| known.hole == hole && known.start < range.end() && range.offset() < known.end)
        {
            self.known = None;
        }
    }

    /// What is at the start of a range. When the kernel cannot tell it is data: the read will say more.
    fn look(&mut self, file: impl AsFd, range: ByteRange) -> Known {
        let start = range.offset();
        if let Some(known) = self.known
            && known.start <= start
            && start < known.end
        {
            return known;
        }
        let (end, hole) = match seek(&file, SeekFrom::Data(start)) {
            Ok(data) if data > start => (data, true),
            Ok(_) => (seek(&file, SeekFrom::Hole(start)).unwrap_or(range.end()), false),
            // No data up to the end of the file, which must be as long as the disc: zeroes are not made up.
            Err(Errno::NXIO) => match fstat(&file) {
                Ok(status) if status.st_size as u64 >= range.end() => (status.st_size as u64, true),
                _ => (range.end(), false),
            },
            Err(_) => (range.end(), false),
        };
        // Both calls look at a file that may change between them.
        let known = Known { start, end: end.max(start + 1), hole };
        self.known = Some(known);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn file(data: &[(u64, u64)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * MIB).unwrap();
        for (offset, length) in data {
            file.write_all_at(&vec![1; *length as usize], *offset).unwrap();
        }
        file
    }

    fn range(offset: u64, length: u64) -> ByteRange {
        DiscSize::from_bytes(64 * MIB).unwrap().range(offset, length).unwrap()
    }

    /// The parts of a read: where each ends, and whether it is a hole.
    fn parts(sparse: &mut Sparse, file: &File, read: ByteRange) -> Vec<(u64, bool)> {
        let (mut done, mut parts) = (0, vec![]);
        while done < read.length() {
            let part = sparse.next_part(file, read.piece(done, read.length()), MIB);
            assert_eq!(part.range.offset(), read.offset() + done);
            assert!(part.range.length() > 0 && part.range.end() <= read.end());
            assert!(part.hole || part.range.length() <= MIB, "data is cut into pieces");
            done += part.range.length();
            parts.push((part.range.end(), part.hole));
        }
        parts
    }

    #[test]
    fn holes_and_data_come_in_order() {
        let file = file(&[(MIB, 2 * MIB + 512 * KIB), (8 * MIB, 64 * KIB)]);
        let sparse = &mut Sparse::default();
        let all = parts(sparse, &file, range(0, 64 * MIB));
        let wanted = [
            (MIB, true),
            (2 * MIB, false),
            (3 * MIB, false),
            (3 * MIB + 512 * KIB, false),
            (8 * MIB, true),
            (8 * MIB + 64 * KIB, false),
            (64 * MIB, true),
        ];
        assert_eq!(all, wanted);
        assert_eq!(parts(sparse, &file, range(5 * MIB + 7, 100_001)), [(5 * MIB + 100_008, true)], "odd offsets");
        assert_eq!(parts(sparse, &file, range(64 * MIB - 4096, 4096)), [(64 * MIB, false)], "short ones are read");
    }

    #[test]
    fn many_small_holes_are_read_through() {
        let data: Vec<(u64, u64)> = (0..256).map(|piece| (piece * 8 * KIB, 4 * KIB)).collect();
        let file = file(&data);
        assert_eq!(parts(&mut Sparse::default(), &file, range(0, MIB)), [(MIB, false)]);
    }

    #[test]
    fn a_write_is_never_hidden_by_a_hole_that_is_remembered() {
        let file = file(&[]);
        let mut sparse = Sparse::default();
        assert_eq!(parts(&mut sparse, &file, range(0, MIB)), [(MIB, true)]);
        file.write_all_at(&[1; 4096], 512 * KIB).unwrap();
        sparse.handle_written(range(512 * KIB, 4096));
        let wanted = [(512 * KIB, true), (516 * KIB, false), (MIB, true)];
        assert_eq!(parts(&mut sparse, &file, range(0, MIB)), wanted);
        sparse.handle_written(range(512 * KIB, 4096));
        assert_eq!(parts(&mut sparse, &file, range(0, MIB)), wanted);
    }

    #[test]
    fn what_was_punched_is_looked_for_again() {
        let file = file(&[(0, MIB)]);
        let mut sparse = Sparse::default();
        assert_eq!(parts(&mut sparse, &file, range(0, MIB)), [(MIB, false)]);
        let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, mode, 0, MIB).unwrap();
        sparse.handle_zeroed(range(0, MIB));
        assert_eq!(parts(&mut sparse, &file, range(0, MIB)), [(MIB, true)]);
    }

    #[test]
    fn behind_the_end_of_the_file_nothing_is_made_up() {
        let file = file(&[(0, MIB)]);
        file.set_len(2 * MIB).unwrap();
        let mut sparse = Sparse::default();
        assert_eq!(parts(&mut sparse, &file, range(4 * MIB, MIB)), [(5 * MIB, false)]);
        assert_eq!(parts(&mut sparse, &file, range(MIB + 512 * KIB, MIB)), [(2 * MIB + 512 * KIB, false)]);
    }
}
