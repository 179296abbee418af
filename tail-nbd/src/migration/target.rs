//! The copying at the target: what comes over the link, into the data file.

use super::Ended;
use super::checked::CHUNK_BYTES_MIN;
use super::digest::Chunks;
use super::wire::Digest;
use crate::geometry::{ByteRange, DiscSize};
use crate::jobs::data::Data;
use crate::store::refusal::is_full;
use rustix::fs::{Advice, fadvise};
use spine::resource::migration::MigrationErrorKind;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt as _;

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
    data: Data,
    size: DiscSize,
    uncredited_bytes: u64,
    cached_bytes: u64,
    received_bytes: u64,
    lacking: Option<ByteRange>,
    is_spoilt: bool,
    /// Something was changed since the last sync.
    is_unsynced: bool,
    chunks: Chunks,
}

impl Receiver {
    /// Into this data file, which has that many bytes, holes included.
    ///
    /// # Errors
    /// When the system fails.
    pub fn new(file: File, size_bytes: u64) -> Result<Self, Ended> {
        let too_large = || Ended::new(MigrationErrorKind::Protocol, "the disc is larger than any file");
        let size = DiscSize::from_bytes(size_bytes).ok_or_else(too_large)?;
        let data = Data::of(&file).map_err(|error| unwritable(0, &error))?;
        let chunks = Chunks::new(&file).map_err(|error| unwritable(0, &error))?;
        Ok(Self {
            file,
            data,
            size,
            uncredited_bytes: 0,
            cached_bytes: 0,
            received_bytes: 0,
            lacking: None,
            is_spoilt: false,
            is_unsynced: true,
            chunks,
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

    /// Writes data. Returns how much credit the source is to get, when it is time for some.
    ///
    /// # Errors
    /// When it is outside the disc, or cannot be written.
    pub async fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Result<Option<u64>, Ended> {
        let length = bytes.len() as u64;
        let range = self.check(offset, length)?;
        self.is_unsynced = true;
        self.data.write_all(offset, bytes).await.map_err(|error| {
            self.lacking = is_full(&error).then_some(range);
            unwritable(offset, &error)
        })?;
        self.received_bytes += length;
        self.cached_bytes += length;
        if self.cached_bytes >= CACHED_BYTES_MAX {
            self.sync().await?;
        }
        self.uncredited_bytes += length;
        let due = self.uncredited_bytes >= CREDIT_STEP_BYTES;
        Ok(due.then(|| std::mem::take(&mut self.uncredited_bytes)))
    }

    /// Punches a hole: holes are those of the source (safety rule 22).
    ///
    /// # Errors
    /// When it is outside the disc, or cannot be done.
    pub async fn punch(&mut self, offset: u64, length: u64) -> Result<(), Ended> {
        self.check(offset, length)?;
        self.is_unsynced = true;
        self.data.punch(offset, length).await.map_err(|error| unwritable(offset, &error))
    }

    /// Takes space that nothing was ever written to: it takes as much as at the source (safety rule 22).
    ///
    /// # Errors
    /// When it is outside the disc, or cannot be done.
    pub async fn zero(&mut self, offset: u64, length: u64) -> Result<(), Ended> {
        let range = self.check(offset, length)?;
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

    /// Prepares the reading back of a range, chunk by chunk: what is in the page cache goes, so that it is the disk that
    /// answers.
    ///
    /// # Errors
    /// When the source may not ask so, or what was received cannot be made durable.
    pub async fn handle_compare(&mut self, offset: u64, length: u64, chunk_bytes: u64) -> Result<ByteRange, Ended> {
        let range = self.check(offset, length)?;
        let chunks_are_sound = chunk_bytes.is_power_of_two()
            && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes)
            && offset.is_multiple_of(chunk_bytes);
        if !chunks_are_sound || length == 0 {
            return Err(Ended::new(MigrationErrorKind::Protocol, "the other tail asks about chunks that are none"));
        }
        if self.is_unsynced {
            self.sync().await?;
        }
        self.forget(range);
        Ok(range)
    }

    /// The first chunk of the rest of that range that has anything in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn next_digest(&mut self, rest: ByteRange, chunk_bytes: u64) -> Result<Option<Digest>, Ended> {
        let at = rest.offset();
        let unreadable = |error| {
            let message = format!("the copy cannot be read back at byte {at} or behind: {error}");
            Ended::new(MigrationErrorKind::WriteError, message)
        };
        self.chunks.next(rest, chunk_bytes).await.map_err(unreadable)
    }

    /// Drops a range from the page cache.
    pub fn forget(&self, range: ByteRange) {
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

fn unwritable(at: u64, error: &io::Error) -> Ended {
    let kind = if is_full(error) { MigrationErrorKind::NoSpace } else { MigrationErrorKind::WriteError };
    Ended::new(kind, format!("the copy cannot be written at byte {at}: {error}"))
}
