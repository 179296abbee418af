//! What a data file has in a chunk, in so few bytes that two ends can be compared.

use super::wire::{DATA_BYTES_MAX, Digest};
use crate::geometry::ByteRange;
use crate::jobs::{data::Data, import::next_extent};
use std::fs::File;
use std::io;

/// Goes through a data file chunk by chunk.
pub struct Chunks {
    file: File,
    data: Data,
    buffer: Vec<u8>,
}

impl Chunks {
    /// Of this file.
    ///
    /// # Errors
    /// When the system fails.
    pub fn new(file: &File) -> io::Result<Self> {
        Ok(Self { file: file.try_clone()?, data: Data::of(file)?, buffer: Vec::new() })
    }

    /// The first chunk of the range that has anything in it; the range begins with a chunk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn next(&mut self, range: ByteRange, chunk_bytes: u64) -> io::Result<Option<Digest>> {
        let Some((start, _)) = next_extent(&self.file, range.offset(), range.end())? else { return Ok(None) };
        let offset = start / chunk_bytes * chunk_bytes;
        let end = (offset + chunk_bytes).min(range.end());
        let (mut at, mut allocated_bytes) = (offset, 0);
        while let Some((start, stop)) = next_extent(&self.file, at, end)? {
            (at, allocated_bytes) = (stop, allocated_bytes + (stop - start));
        }
        let (mut at, mut hasher) = (offset, blake3::Hasher::new());
        while at < end {
            // It is lost when this is dropped while the kernel has it.
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(DATA_BYTES_MAX, 0);
            let length = usize::try_from(end - at).unwrap_or(DATA_BYTES_MAX).min(DATA_BYTES_MAX);
            let (read, buffer) = self.data.read(at, buffer, length).await;
            self.buffer = buffer;
            match read? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here")),
                read => {
                    hasher.update(&self.buffer[..read]);
                    at += read as u64;
                }
            }
        }
        Ok(Some(Digest { offset, allocated_bytes, hash: *hasher.finalize().as_bytes() }))
    }
}

/// True when a chunk of `length` bytes reads the same at both ends: a hole reads as zeroes.
pub fn reads_alike(one: Option<&Digest>, other: Option<&Digest>, length: u64) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.hash == other.hash,
        (None, None) => true,
        (Some(only), None) | (None, Some(only)) => only.hash == hash_of_zeroes(length),
    }
}

fn hash_of_zeroes(length: u64) -> [u8; 32] {
    const ZEROES: [u8; 4096] = [0; 4096];
    let (mut left_bytes, mut hasher) = (length, blake3::Hasher::new());
    while left_bytes > 0 {
        let piece = left_bytes.min(ZEROES.len() as u64);
        hasher.update(&ZEROES[..piece as usize]);
        left_bytes -= piece;
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use crate::migration::checked::CHUNK_BYTES_MIN;
    use std::os::unix::fs::FileExt as _;

    const CHUNK: u64 = CHUNK_BYTES_MIN;

    fn digests(file: &File) -> Vec<Digest> {
        let size = DiscSize::from_bytes(file.metadata().unwrap().len()).unwrap();
        tokio_uring::start(async {
            let (mut chunks, mut all, mut at) = (Chunks::new(file).unwrap(), vec![], 0);
            while let Some(range) = size.range(at, size.bytes() - at)
                && let Some(digest) = chunks.next(range, CHUNK).await.unwrap()
            {
                at = (digest.offset + CHUNK).min(size.bytes());
                all.push(digest);
            }
            all
        })
    }

    #[test]
    fn r130_a_digest_tells_bytes_and_holes_apart() {
        // The build's directory: a real file system, with holes.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        let length = 5 * CHUNK + 512;
        file.set_len(length).unwrap();
        file.write_all_at(&[7; 4096], CHUNK + 8192).unwrap();
        file.write_all_at(&[0; 4096], 3 * CHUNK).unwrap();
        file.write_all_at(&[7; 512], 5 * CHUNK).unwrap();
        file.sync_all().unwrap();
        let all = digests(&file);
        let places: Vec<_> = all.iter().map(|digest| (digest.offset, digest.allocated_bytes)).collect();
        assert_eq!(places, [(CHUNK, 4096), (3 * CHUNK, 4096), (5 * CHUNK, 512)]);
        assert!(reads_alike(None, Some(&all[1]), CHUNK), "zeroes read as a hole does");
        assert!(!reads_alike(Some(&all[0]), None, CHUNK) && !reads_alike(Some(&all[0]), Some(&all[1]), CHUNK));
        assert!(reads_alike(None, None, CHUNK));
        file.write_all_at(&[8], 2 * CHUNK - 1).unwrap();
        assert_ne!(digests(&file)[0].hash, all[0].hash);
        assert_eq!(digests(&file)[2], all[2], "the last chunk is shorter");
    }
}
