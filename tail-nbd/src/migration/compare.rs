//! The source compares what the target has with what it was sent: the first pass, stretch by stretch.
//!
//! ```text
//!   source   send 1 │ Compare 1 │ send 2            │ wait for 1 │ Compare 2 │ send 3 …
//!   target   write 1            │ sync, read back 1 │ digests 1  │
//!                               │ write 2 …
//! ```
//!
//! The target reads its file back, from the disk and not from its page cache, while the next stretch comes, and says what it
//! finds. A chunk that has come must be as it was sent (nbd.md section 3, point 11): the source has hashed it then, so it does not
//! matter what clients have written since, which is sent in a later pass. Of what was there before a restart only what differs is
//! sent (safety rule 22: chunks that have anything at either end).
//!
//! What keeps this sound: a stretch is acknowledged when it was read back and not before, and in order, so a link that breaks
//! loses at most two of them. One is asked about at a time, and nothing is when the pass ends: so not either when the disc is frozen.
//! What is sent behind the question is in other chunks, but for what is wrong, which is sent again while nothing is asked.

use super::Ended;
use super::digest::{Hash, Sent, reads_alike};
use super::source::Copier;
use super::wire::{Control, Digest, Message};
use crate::geometry::ByteRange;
use spine::resource::migration::MigrationErrorKind;
use std::collections::{BTreeMap, BTreeSet};

/// Most chunks that are compared at once.
pub const CHUNKS_MAX: u64 = 16 << 10;

/// How often a chunk is sent again that is something else at the target each time.
const TRIES_MAX: u32 = 3;

/// What the target was asked about, and what it has said of that.
pub struct Asked {
    stretch: ByteRange,
    chunk_bytes: u64,
    digests: BTreeMap<u64, Digest>,
    is_answered: bool,
}

impl Asked {
    /// The target has said more.
    ///
    /// # Errors
    /// When that is no answer.
    pub fn handle_digests(&mut self, digests: Vec<Digest>, is_last: bool) -> Result<(), Ended> {
        let (start, end) = (self.stretch.offset(), self.stretch.end());
        let is_asked = |at: u64| (start..end).contains(&at) && (at - start).is_multiple_of(self.chunk_bytes);
        if self.is_answered || !digests.iter().all(|digest| is_asked(digest.offset)) {
            let why = "the other tail speaks of a chunk that it was not asked about";
            return Err(Ended::new(MigrationErrorKind::Protocol, why));
        }
        self.digests.extend(digests.into_iter().map(|digest| (digest.offset, digest)));
        self.is_answered = is_last;
        Ok(())
    }
}

impl Copier {
    /// Sends the rest of the first pass. It is acknowledged stretch by stretch, after it was read back. `told` hears after
    /// each piece how much was sent.
    ///
    /// # Errors
    /// When it fails on either side, or the target's file has something else than what was written to it.
    pub async fn send_all(&mut self, told: &dyn Fn(u64)) -> Result<(), Ended> {
        let mut before: Option<Sent> = None;
        while let Some(stretch) = self.next_stretch()? {
            let compares = self.ledger.compares();
            self.ledger.handle_begun(stretch.end());
            let (mut sends, mut known) = (vec![stretch], BTreeMap::new());
            if compares {
                if let Some(before) = before.take() {
                    self.settle(before, told).await?;
                }
                (sends, known) = self.compare_all(stretch).await?;
            }
            let sent = self.send_chunks(Sent::new(stretch, self.checked.chunk_bytes(), known), &sends, told).await?;
            self.ledger.handle_walked(stretch.end());
            if let Some(before) = before.take() {
                self.settle(before, told).await?;
            }
            if sends.is_empty() {
                // It was read back before anything was sent.
                self.ledger.handle_read_back(stretch.end());
            } else {
                self.ask(stretch).await?;
                before = Some(sent);
            }
        }
        match before {
            Some(last) => self.settle(last, told).await,
            None => Ok(()),
        }
    }

    /// Sends chunks of a stretch, and hashes them.
    async fn send_chunks(&mut self, sent: Sent, chunks: &[ByteRange], told: &dyn Fn(u64)) -> Result<Sent, Ended> {
        let sending = self.sending.insert(sent);
        chunks.iter().for_each(|chunk| sending.handle_begun(*chunk));
        for chunk in chunks {
            self.send_range(*chunk, told).await?;
        }
        let mut sent = self.sending.take().expect("it was put there");
        sent.handle_ended();
        Ok(sent)
    }

    /// Makes sure that the target has what was sent of the stretch that it was asked about. What differs is sent again.
    async fn settle(&mut self, mut sent: Sent, told: &dyn Fn(u64)) -> Result<(), Ended> {
        let stretch = sent.stretch();
        for tries_count in 1.. {
            let theirs = self.answer().await?;
            let wrong = self.differing(sent.hashes(), &theirs);
            let Some(first) = wrong.first() else { break };
            for chunk in &wrong {
                let (disc, at) = (self.number, chunk.offset());
                tracing::error!(%disc, at, length = chunk.length(), "the target's disk has something else than what was written to it");
                self.mismatched_bytes += chunk.length();
            }
            if tries_count > TRIES_MAX {
                let at = first.offset();
                let message = format!("the target's disk has something else at byte {at} than what was written there");
                return Err(Ended::new(MigrationErrorKind::Mismatch, message));
            }
            sent = self.send_chunks(sent, &wrong, told).await?;
            self.ask(stretch).await?;
        }
        // What the target has said is on its disk.
        self.ledger.handle_read_back(stretch.end());
        self.forget_uncached();
        Ok(())
    }

    /// Compares a stretch of which the target may have something already. Returns what is to be sent, and what the target has
    /// of the rest.
    async fn compare_all(&mut self, stretch: ByteRange) -> Result<(Vec<ByteRange>, BTreeMap<u64, Hash>), Ended> {
        self.ask(stretch).await?;
        // Both ends read at the same time.
        let own = self.read_own(stretch).await?;
        let theirs = self.answer().await?;
        let hashes: BTreeMap<u64, Hash> = own.iter().map(|(at, digest)| (*at, digest.hash)).collect();
        let mut differing: BTreeSet<u64> =
            self.differing(&hashes, &theirs).iter().map(|chunk| chunk.offset()).collect();
        let offsets: BTreeSet<u64> = own.keys().chain(theirs.keys()).copied().collect();
        differing.extend(offsets.into_iter().filter(|at| own.get(at) != theirs.get(at)));
        let sends = differing.into_iter().filter_map(|at| self.checked.chunk(at)).collect();
        Ok((sends, hashes))
    }

    /// What there is here.
    async fn read_own(&mut self, stretch: ByteRange) -> Result<BTreeMap<u64, Digest>, Ended> {
        let chunk_bytes = self.checked.chunk_bytes();
        let Self { chunks, pace, budgets, number, .. } = self;
        let (mut own, mut chunks_left) = (BTreeMap::new(), Some(stretch));
        while let Some(rest) = chunks_left {
            let unreadable = |error| {
                let message = format!("disc {number} cannot be read at byte {} or behind: {error}", rest.offset());
                Ended::new(MigrationErrorKind::ReadError, message)
            };
            let Some(digest) = chunks.next(rest, chunk_bytes).await.map_err(unreadable)? else { break };
            // What was sent was so at the limit's pace. What may be there is read at that pace too.
            tokio::time::sleep(pace.handle_piece(budgets.now(), digest.allocated_bytes)).await;
            chunks_left = rest.from(digest.offset + chunk_bytes);
            own.insert(digest.offset, digest);
        }
        Ok(own)
    }

    /// Has the target read a stretch back.
    async fn ask(&mut self, stretch: ByteRange) -> Result<(), Ended> {
        let chunk_bytes = self.checked.chunk_bytes();
        self.asked = Some(Asked { stretch, chunk_bytes, digests: BTreeMap::new(), is_answered: false });
        let (offset, length) = (stretch.offset(), stretch.length());
        Ok(self.link.send(&Control::Compare { offset, length, chunk_bytes }).await?)
    }

    /// What the target has in the stretch that it was asked about.
    async fn answer(&mut self) -> Result<BTreeMap<u64, Digest>, Ended> {
        loop {
            if let Some(asked) = self.asked.take_if(|asked| asked.is_answered) {
                return Ok(asked.digests);
            }
            if let Some(other) = self.hear_copying().await? {
                return Err(Ended::unexpected(Message::Control(other)));
            }
        }
    }

    /// The chunks whose bytes are not the same.
    fn differing(&mut self, own: &BTreeMap<u64, Hash>, theirs: &BTreeMap<u64, Digest>) -> Vec<ByteRange> {
        let mut differing = vec![];
        for offset in own.keys().chain(theirs.keys()).copied().collect::<BTreeSet<u64>>() {
            let Some(chunk) = self.checked.chunk(offset) else { continue };
            let (own, theirs) = (own.get(&offset), theirs.get(&offset).map(|digest| &digest.hash));
            let reads_alike = reads_alike(own, theirs, chunk.length());
            self.checked.handle_compared(offset, own.is_some(), reads_alike);
            if !reads_alike {
                differing.push(chunk);
            }
        }
        differing
    }
}
