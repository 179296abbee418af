//! Which bytes of a file are allocated, for BLOCK_STATUS.

use crate::geometry::ByteRange;
use crate::limits::EXTENTS_MAX;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// A run of bytes with the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How long, in bytes.
    pub length: u64,
    /// It is not allocated, and reads as zeroes.
    pub hole: bool,
}

/// The runs from the start of `range`, at most [`EXTENTS_MAX`] of them and at most up to its end. There is at least
/// one when the range is not empty. The file's offset is moved, which harms nobody who gives offsets.
///
/// # Errors
/// When the kernel cannot tell.
pub fn runs(file: impl AsFd, range: ByteRange, one: bool) -> Result<Vec<Run>, Errno> {
    let runs_max = if one { 1 } else { EXTENTS_MAX };
    let mut runs: Vec<Run> = Vec::new();
    let mut position = range.offset();
    while position < range.end() && runs.len() < runs_max {
        let (end, hole) = match seek(&file, SeekFrom::Data(position)) {
            Ok(data) if data > position => (data, true),
            Ok(_) => (seek(&file, SeekFrom::Hole(position))?, false),
            Err(Errno::NXIO) => (range.end(), true),
            // The file system does not know: all of it is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (range.end(), false),
            Err(error) => return Err(error),
        };
        // A hole that is filled while we look may give two runs of data, or one that does not move on.
        let end = end.clamp(position + 1, range.end());
        runs.push(Run { length: end - position, hole });
        position = end;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_and_holes_in_order() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 65_536], 131_072).unwrap();
        let size = DiscSize::from_bytes(1 << 20).unwrap();
        let all = runs(&file, size.range(0, 1 << 20).unwrap(), false).unwrap();
        let lengths: Vec<(u64, bool)> = all.iter().map(|run| (run.length, run.hole)).collect();
        assert_eq!(lengths, [(131_072, true), (65_536, false), ((1 << 20) - 196_608, true)]);
        let inside = runs(&file, size.range(140_000, 1000).unwrap(), false).unwrap();
        assert_eq!(inside, [Run { length: 1000, hole: false }]);
        let first = runs(&file, size.range(0, 1 << 20).unwrap(), true).unwrap();
        assert_eq!(first, [Run { length: 131_072, hole: true }]);
    }

    #[test]
    fn a_file_in_many_pieces_is_told_in_part() {
        let file = tempfile::tempfile().unwrap();
        let bytes = 131_072 * 400;
        file.set_len(bytes).unwrap();
        (0..400).for_each(|piece| file.write_all_at(&[1], piece * 131_072).unwrap());
        let range = DiscSize::from_bytes(bytes).unwrap().range(0, bytes).unwrap();
        assert_eq!(runs(&file, range, false).unwrap().len(), EXTENTS_MAX);
    }
}
