//! What a data file has in a chunk, in so few bytes that two ends can be compared.

use super::wire::{DATA_BYTES_MAX, Digest};
use crate::geometry::ByteRange;
use crate::jobs::{data::Data, import::next_extent};
use std::collections::BTreeMap;
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
            let buffer = std::mem::take(&mut self.buffer);
            let length = usize::try_from(end - at).unwrap_or(DATA_BYTES_MAX).min(DATA_BYTES_MAX);
            let (read, buffer) = self.data.read(at, buffer, length).await;
            self.buffer = buffer;
            match read? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here")),
                read => {
                    hasher.update(&self.buffer);
                    at += read as u64;
                }
            }
        }
        Ok(Some(Digest { offset, allocated_bytes, hash: *hasher.finalize().as_bytes() }))
    }
}

/// What was sent of whole chunks, hashed as it went: so the target must have it, whatever clients have written since.
pub struct Sent {
    stretch: ByteRange,
    chunk_bytes: u64,
    /// Of chunks that have anything in them, by where they begin.
    hashes: BTreeMap<u64, Hash>,
    /// The chunk that is being sent, and up to where it is.
    current: Option<(u64, u64, blake3::Hasher)>,
}

/// BLAKE3 of a chunk; holes are zeroes.
pub type Hash = [u8; 32];

impl Sent {
    /// Of a stretch that begins with a chunk. The target has what is in `known` already.
    pub fn new(stretch: ByteRange, chunk_bytes: u64, known: BTreeMap<u64, Hash>) -> Self {
        Self { stretch, chunk_bytes, hashes: known, current: None }
    }

    /// What it is about.
    pub fn stretch(&self) -> ByteRange {
        self.stretch
    }

    /// These whole chunks are about to be sent, or sent again.
    pub fn handle_begun(&mut self, chunks: ByteRange) {
        let begun: Vec<u64> = self.hashes.range(chunks.offset()..chunks.end()).map(|(offset, _)| *offset).collect();
        for offset in begun {
            self.hashes.remove(&offset);
        }
    }

    /// These bytes are sent. They come in order, and what is left out is a hole.
    pub fn handle_data(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let chunk = at / self.chunk_bytes * self.chunk_bytes;
            let count =
                usize::try_from(chunk + self.chunk_bytes - at).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (first, rest) = bytes.split_at(count);
            let (_, end, mut hasher) = match self.current.take() {
                Some(current) if current.0 == chunk => current,
                other => {
                    self.current = other;
                    self.handle_ended();
                    (chunk, chunk, blake3::Hasher::new())
                }
            };
            hash_zeroes(&mut hasher, at - end);
            hasher.update(first);
            at += count as u64;
            self.current = Some((chunk, at, hasher));
            bytes = rest;
        }
    }

    /// All that was begun is sent.
    pub fn handle_ended(&mut self) {
        let Some((chunk, at, mut hasher)) = self.current.take() else { return };
        hash_zeroes(&mut hasher, (chunk + self.chunk_bytes).min(self.stretch.end()) - at);
        self.hashes.insert(chunk, *hasher.finalize().as_bytes());
    }

    /// What the target must have.
    pub fn hashes(&self) -> &BTreeMap<u64, Hash> {
        &self.hashes
    }
}

/// True when a chunk of `length` bytes reads the same at both ends: a hole reads as zeroes.
pub fn reads_alike(one: Option<&Hash>, other: Option<&Hash>, length: u64) -> bool {
    let hash_of_zeroes = || {
        let mut hasher = blake3::Hasher::new();
        hash_zeroes(&mut hasher, length);
        *hasher.finalize().as_bytes()
    };
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        (None, None) => true,
        (Some(only), None) | (None, Some(only)) => *only == hash_of_zeroes(),
    }
}

fn hash_zeroes(hasher: &mut blake3::Hasher, mut left_bytes: u64) {
    const ZEROES: [u8; 4096] = [0; 4096];
    while left_bytes > 0 {
        let piece = left_bytes.min(ZEROES.len() as u64);
        hasher.update(&ZEROES[..piece as usize]);
        left_bytes -= piece;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use std::os::unix::fs::FileExt as _;

    const CHUNK: u64 = 256 << 10;

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
        let [first, zeroes] = [&all[0].hash, &all[1].hash];
        assert!(reads_alike(None, Some(zeroes), CHUNK), "zeroes read as a hole does");
        assert!(!reads_alike(Some(first), None, CHUNK) && !reads_alike(Some(first), Some(zeroes), CHUNK));
        assert!(reads_alike(None, None, CHUNK));
        file.write_all_at(&[8], 2 * CHUNK - 1).unwrap();
        assert_ne!(digests(&file)[0].hash, all[0].hash);
        assert_eq!(digests(&file)[2], all[2], "the last chunk is shorter");
    }

    #[test]
    fn r130_what_was_sent_has_the_hashes_of_what_the_target_reads_back() {
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        let stretch = DiscSize::from_bytes(5 * CHUNK + 512).unwrap().range(0, 5 * CHUNK + 512).unwrap();
        file.set_len(stretch.length()).unwrap();
        let mut sent = Sent::new(stretch, CHUNK, BTreeMap::from([(4 * CHUNK, [1; 32])]));
        sent.handle_begun(stretch);
        // Within a chunk, over the edge of two, a hole between, and the short last one.
        for (at, length) in [(8192, 4096), (CHUNK - 512, 4096), (CHUNK + 8192, CHUNK), (5 * CHUNK, 512)] {
            let bytes: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8 + 1).collect();
            file.write_all_at(&bytes, at).unwrap();
            sent.handle_data(at, &bytes);
        }
        sent.handle_ended();
        let all: BTreeMap<u64, Hash> = digests(&file).into_iter().map(|digest| (digest.offset, digest.hash)).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(sent.hashes(), &all);
        // One chunk is sent again, with something else in it.
        let again = stretch.from(CHUNK).unwrap();
        file.write_all_at(&[9; 100], 2 * CHUNK - 100).unwrap();
        let mut bytes = vec![0; again.length() as usize];
        file.read_exact_at(&mut bytes, again.offset()).unwrap();
        sent.handle_begun(again);
        assert_eq!(sent.hashes().len(), 1);
        sent.handle_data(again.offset(), &bytes);
        sent.handle_ended();
        for digest in digests(&file) {
            assert_eq!(sent.hashes()[&digest.offset], digest.hash);
        }
    }
}
