//! The copying at the target: what comes over the link, into the data file.
//!
//! One write, and one reading back with the sync in front of it, may go on while more is received. Nothing else begins before
//! that write is over, so what is sent twice is written in that order; and whoever gives a receiver up calls
//! [`Receiver::finish`] first, so that nothing lands on top of what the next connection brings.

use super::Ended;
use super::checked::CHUNK_BYTES_MIN;
use super::compare::CHUNKS_MAX;
use super::digest::Chunks;
use super::wire::{DIGESTS_MAX, Digest};
use crate::geometry::{ByteRange, DiscSize};
use crate::jobs::data::Data;
use crate::store::refusal::is_full;
use futures_util::poll;
use rustix::fs::{Advice, fadvise};
use spine::resource::migration::MigrationErrorKind;
use std::fs::File;
use std::future::{Future, pending};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// Bytes of data that may be on their way: enough for a fast and distant link, little enough to be written soon.
pub const CREDIT_BYTES: u64 = 32 << 20;

/// How much is written before the source hears of it, in bytes.
const CREDIT_STEP_BYTES: u64 = 4 << 20;

/// How much of the copy may be in the page cache, in bytes, before it is written out and dropped from there.
const CACHED_BYTES_MAX: u64 = 256 << 20;

/// The longest chunk that a source may ask about, in bytes.
const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// Takes a disc in.
pub struct Receiver {
    file: File,
    data: Rc<Data>,
    size: DiscSize,
    uncredited_bytes: u64,
    cached_bytes: u64,
    received_bytes: u64,
    lacking: Option<ByteRange>,
    is_spoilt: bool,
    /// Something was changed since the last sync.
    is_unsynced: bool,
    writing: Option<Writing>,
    reading_back: Option<ReadingBack>,
}

/// A write that goes on while more is received.
struct Writing {
    range: ByteRange,
    written: Local<(io::Result<()>, Vec<u8>)>,
}

/// What the source has asked about.
struct ReadingBack {
    range: ByteRange,
    chunk_bytes: u64,
    stage: Stage,
}

enum Stage {
    Syncing(Local<io::Result<()>>),
    Reading(Local<io::Result<Found>>),
}

/// Some of what there is in what the source has asked about.
struct Found {
    chunks: Chunks,
    digests: Vec<Digest>,
    rest: Option<ByteRange>,
}

type Local<T> = Pin<Box<dyn Future<Output = T>>>;

impl Receiver {
    /// Into this data file, which has that many bytes, holes included.
    ///
    /// # Errors
    /// When the system fails.
    pub fn new(file: File, size_bytes: u64) -> Result<Self, Ended> {
        let too_large = || Ended::new(MigrationErrorKind::Protocol, "the disc is larger than any file");
        let size = DiscSize::from_bytes(size_bytes).ok_or_else(too_large)?;
        let data = Data::of(&file).map_err(|error| unwritable(0, &error))?;
        Ok(Self {
            file,
            data: Rc::new(data),
            size,
            uncredited_bytes: 0,
            cached_bytes: 0,
            received_bytes: 0,
            lacking: None,
            is_spoilt: false,
            is_unsynced: true,
            writing: None,
            reading_back: None,
        })
    }

    /// Bytes of data received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Makes sure that there is room again for what there was none for before.
    ///
    /// # Errors
    /// When there is not.
    pub async fn make_room(&mut self, range: ByteRange) -> Result<(), Ended> {
        match self.data.reserve(range.offset(), range.length()).await {
            Err(error) if is_full(&error) => {
                self.lacking = Some(range);
                Err(unwritable(range.offset(), &error))
            }
            // It is written soon, which says whatever else there is to say.
            _ => Ok(()),
        }
    }

    /// What there was no room for.
    pub fn lacking(&self) -> Option<ByteRange> {
        self.lacking
    }

    /// True when what was received before may be missing now: a sync has failed, which Linux says once.
    pub fn is_spoilt(&self) -> bool {
        self.is_spoilt
    }

    /// Begins to write data, when the write before is over, and returns that one's buffer. Its error may come with what is
    /// asked for next.
    ///
    /// # Errors
    /// When it is outside the disc, or cannot be written.
    pub async fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Result<Vec<u8>, Ended> {
        let length = bytes.len() as u64;
        let range = self.check(offset, length)?;
        let buffer = self.end_write().await?;
        if self.cached_bytes >= CACHED_BYTES_MAX {
            self.sync().await?;
        }
        self.is_unsynced = true;
        self.received_bytes += length;
        self.cached_bytes += length;
        self.uncredited_bytes += length;
        let data = Rc::clone(&self.data);
        let mut written: Local<_> = Box::pin(async move { data.write_all(offset, bytes).await });
        match poll!(&mut written) {
            Poll::Ready(done) => self.note_written(range, done),
            Poll::Pending => {
                self.writing = Some(Writing { range, written });
                Ok(buffer)
            }
        }
    }

    /// How much credit the source is to get, in bytes, when it is time for some.
    pub fn take_credit(&mut self) -> Option<u64> {
        let is_due = self.uncredited_bytes >= CREDIT_STEP_BYTES;
        is_due.then(|| std::mem::take(&mut self.uncredited_bytes))
    }

    /// Waits for the write that goes on, if any, and returns its buffer.
    async fn end_write(&mut self) -> Result<Vec<u8>, Ended> {
        let Some(Writing { range, written }) = &mut self.writing else { return Ok(Vec::new()) };
        let (range, done) = (*range, written.await);
        self.writing = None;
        self.note_written(range, done)
    }

    fn note_written(&mut self, range: ByteRange, done: (io::Result<()>, Vec<u8>)) -> Result<Vec<u8>, Ended> {
        let (written, buffer) = done;
        written.map_err(|error| {
            self.lacking = is_full(&error).then_some(range);
            unwritable(range.offset(), &error)
        })?;
        Ok(buffer)
    }

    /// Waits until nothing goes on any more that changes the file, or whose result counts. What came of it is in
    /// [`Self::lacking`] and [`Self::is_spoilt`].
    pub async fn finish(&mut self) {
        // Whoever has given up has a reason already.
        let _ = self.end_write().await;
        if let Some(ReadingBack { stage: Stage::Syncing(synced), .. }) = &mut self.reading_back {
            self.is_spoilt |= synced.await.is_err();
        }
        self.reading_back = None;
    }

    /// Punches a hole: holes are those of the source (safety rule 22).
    ///
    /// # Errors
    /// When it is outside the disc, or cannot be done.
    pub async fn punch(&mut self, offset: u64, length: u64) -> Result<(), Ended> {
        self.check(offset, length)?;
        self.end_write().await?;
        self.is_unsynced = true;
        self.data.punch(offset, length).await.map_err(|error| unwritable(offset, &error))
    }

    /// Takes space that nothing was ever written to: it takes as much as at the source (safety rule 22).
    ///
    /// # Errors
    /// When it is outside the disc, or cannot be done.
    pub async fn zero(&mut self, offset: u64, length: u64) -> Result<(), Ended> {
        let range = self.check(offset, length)?;
        self.end_write().await?;
        self.is_unsynced = true;
        self.data.zero(offset, length).await.map_err(|error| {
            self.lacking = is_full(&error).then_some(range);
            unwritable(offset, &error)
        })
    }

    /// Makes everything durable, and drops from the page cache what no client here has asked for.
    ///
    /// # Errors
    /// When it fails: what was received cannot be trusted then.
    pub async fn sync(&mut self) -> Result<(), Ended> {
        self.end_write().await?;
        self.data.sync().await.map_err(|error| {
            self.is_spoilt = true;
            unwritable(0, &error)
        })?;
        self.is_unsynced = false;
        if std::mem::take(&mut self.cached_bytes) > 0 {
            // A refusal costs cache only.
            let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        }
        Ok(())
    }

    /// Begins to read a range back, chunk by chunk: what is in the page cache goes first, so that it is the disk that
    /// answers. [`Self::read_back`] has what is found.
    ///
    /// # Errors
    /// When the source may not ask so, or what was received cannot be written.
    pub async fn handle_compare(&mut self, offset: u64, length: u64, chunk_bytes: u64) -> Result<(), Ended> {
        let range = self.check(offset, length)?;
        let chunks_are_sound = chunk_bytes.is_power_of_two()
            && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes)
            && offset.is_multiple_of(chunk_bytes)
            && length.div_ceil(chunk_bytes) <= CHUNKS_MAX;
        if !chunks_are_sound || length == 0 || self.is_reading_back() {
            return Err(Ended::new(MigrationErrorKind::Protocol, "the other tail asks about chunks that are none"));
        }
        self.end_write().await?;
        let stage = if self.is_unsynced {
            // What is written from here on is not in this sync.
            (self.is_unsynced, self.cached_bytes) = (false, 0);
            let data = Rc::clone(&self.data);
            Stage::Syncing(Box::pin(async move { data.sync().await }))
        } else {
            self.begin_reading(range, chunk_bytes)?
        };
        self.reading_back = Some(ReadingBack { range, chunk_bytes, stage });
        Ok(())
    }

    /// True until all of what the source has asked about was found.
    pub fn is_reading_back(&self) -> bool {
        self.reading_back.is_some()
    }

    /// What there is next in what the source has asked about, chunk by chunk, and whether that is the last of it. Never ends
    /// when nothing was asked. May be dropped at any time, and goes on where it was.
    ///
    /// # Errors
    /// When it cannot be read, or what was received cannot be made durable.
    pub async fn read_back(&mut self) -> Result<(Vec<Digest>, bool), Ended> {
        loop {
            let Some(ReadingBack { range, chunk_bytes, stage }) = &mut self.reading_back else {
                return pending().await;
            };
            let (range, chunk_bytes) = (*range, *chunk_bytes);
            let stage = match stage {
                Stage::Syncing(synced) => {
                    let synced = synced.await;
                    self.reading_back = None;
                    synced.map_err(|error| {
                        self.is_spoilt = true;
                        unwritable(0, &error)
                    })?;
                    self.begin_reading(range, chunk_bytes)?
                }
                Stage::Reading(found) => {
                    let found = found.await;
                    self.reading_back = None;
                    let Found { chunks, digests, rest } = found.map_err(|error| unreadable(range, &error))?;
                    let Some(rest) = rest else {
                        self.forget(range);
                        return Ok((digests, true));
                    };
                    let stage = Stage::Reading(Box::pin(find(chunks, rest, chunk_bytes)));
                    self.reading_back = Some(ReadingBack { range, chunk_bytes, stage });
                    return Ok((digests, false));
                }
            };
            self.reading_back = Some(ReadingBack { range, chunk_bytes, stage });
        }
    }

    fn begin_reading(&self, range: ByteRange, chunk_bytes: u64) -> Result<Stage, Ended> {
        self.forget(range);
        let chunks = Chunks::new(&self.file).map_err(|error| unreadable(range, &error))?;
        Ok(Stage::Reading(Box::pin(find(chunks, range, chunk_bytes))))
    }

    /// Drops a range from the page cache.
    fn forget(&self, range: ByteRange) {
        // A refusal costs cache only, or has the cache answer.
        let _ = fadvise(&self.file, range.offset(), NonZeroU64::new(range.length()), Advice::DontNeed);
    }

    /// What the copy takes in its pool, in bytes.
    pub fn allocated_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
    }

    fn check(&self, offset: u64, length: u64) -> Result<ByteRange, Ended> {
        let outside = || Ended::new(MigrationErrorKind::Protocol, "the other tail sent bytes outside the disc");
        self.size.range(offset, length).ok_or_else(outside)
    }
}

/// The next chunks that have anything in them, as many as one frame holds.
async fn find(mut chunks: Chunks, range: ByteRange, chunk_bytes: u64) -> io::Result<Found> {
    let (mut rest, mut digests) = (Some(range), vec![]);
    while let Some(chunks_left) = rest.filter(|_| digests.len() < DIGESTS_MAX) {
        let digest = chunks.next(chunks_left, chunk_bytes).await?;
        rest = digest.as_ref().and_then(|digest| chunks_left.from(digest.offset + chunk_bytes));
        digests.extend(digest);
    }
    Ok(Found { chunks, digests, rest })
}

fn unreadable(range: ByteRange, error: &io::Error) -> Ended {
    let (at, end) = (range.offset(), range.end());
    let message = format!("the copy cannot be read back between byte {at} and {end}: {error}");
    Ended::new(MigrationErrorKind::WriteError, message)
}

fn unwritable(at: u64, error: &io::Error) -> Ended {
    let kind = if is_full(error) { MigrationErrorKind::NoSpace } else { MigrationErrorKind::WriteError };
    Ended::new(kind, format!("the copy cannot be written at byte {at}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    const CHUNK: u64 = 256 << 10;
    const SIZE: u64 = 8 * CHUNK;

    fn receiver() -> (Receiver, File) {
        // The build's directory: a real file system, with holes.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        file.set_len(SIZE).unwrap();
        (Receiver::new(file.try_clone().unwrap(), SIZE).unwrap(), file)
    }

    #[test]
    fn r130_what_is_sent_twice_is_written_in_that_order_and_nothing_goes_on_behind_the_end() {
        tokio_uring::start(async {
            let (mut receiver, file) = receiver();
            for byte in 1..=50 {
                receiver.write(CHUNK, vec![byte; CHUNK as usize]).await.unwrap();
            }
            receiver.finish().await;
            let mut bytes = vec![0; CHUNK as usize];
            file.read_exact_at(&mut bytes, CHUNK).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 50));
            receiver.write(0, vec![1; 4096]).await.unwrap();
            receiver.punch(0, CHUNK).await.unwrap();
            assert_eq!(file.read_at(&mut bytes[..1], 0).unwrap(), 1);
            assert_eq!(bytes[0], 0, "a hole comes behind what was sent before it");
        });
    }

    #[test]
    fn r130_one_stretch_is_read_back_while_the_next_is_written() {
        tokio_uring::start(async {
            let (mut receiver, _) = receiver();
            receiver.write(CHUNK, vec![1; CHUNK as usize]).await.unwrap();
            receiver.write(3 * CHUNK, vec![3; 4096]).await.unwrap();
            receiver.handle_compare(0, 4 * CHUNK, CHUNK).await.unwrap();
            for chunk in 4..8 {
                receiver.write(chunk * CHUNK, vec![chunk as u8; CHUNK as usize]).await.unwrap();
                assert!(receiver.is_reading_back());
                // Whoever waits for it may be called away.
                let _ = poll!(Box::pin(receiver.read_back()));
            }
            let (digests, is_last) = receiver.read_back().await.unwrap();
            let places: Vec<u64> = digests.iter().map(|digest| digest.offset / CHUNK).collect();
            assert_eq!((places, is_last), (vec![1, 3], true));
            assert_eq!(digests[0].hash, *blake3::hash(&vec![1; CHUNK as usize]).as_bytes());
            assert!(!receiver.is_reading_back());
            receiver.handle_compare(4 * CHUNK, 4 * CHUNK, CHUNK).await.unwrap();
            let (digests, _) = receiver.read_back().await.unwrap();
            assert_eq!(digests.len(), 4, "what was written meanwhile is there too");
            assert_eq!(digests[3].hash, *blake3::hash(&vec![7; CHUNK as usize]).as_bytes());
        });
    }

    #[test]
    fn a_source_asks_about_one_stretch_of_whole_chunks_at_a_time() {
        tokio_uring::start(async {
            let (mut receiver, file) = receiver();
            for (offset, length, chunk_bytes) in
                [(0, 0, CHUNK), (1, CHUNK, CHUNK), (0, CHUNK, CHUNK + 1), (0, SIZE, 512), (SIZE, CHUNK, CHUNK)]
            {
                let refused = receiver.handle_compare(offset, length, chunk_bytes).await.unwrap_err();
                assert_eq!(refused.kind, MigrationErrorKind::Protocol, "{offset} {length} {chunk_bytes}");
            }
            receiver.handle_compare(0, SIZE, CHUNK).await.unwrap();
            let refused = receiver.handle_compare(0, SIZE, CHUNK).await.unwrap_err();
            assert_eq!(refused.kind, MigrationErrorKind::Protocol);
            receiver.finish().await;
            let huge = (CHUNKS_MAX + 1) * CHUNK;
            file.set_len(huge).unwrap();
            let refused = Receiver::new(file, huge).unwrap().handle_compare(0, huge, CHUNK).await.unwrap_err();
            assert_eq!(refused.kind, MigrationErrorKind::Protocol, "its answer would take too much memory");
        });
    }
}
