//! The source compares what the target has with what it has itself: the first pass, stretch by stretch.
//!
//! The target reads its file back, from the disk and not from its page cache, and says what it finds. A chunk that has come
//! just now must be the same (nbd.md section 3, point 11), unless a client has written to it since; and of what was there before
//! a restart only what differs is sent (safety rule 22: chunks that have anything at either end).

use super::Ended;
use super::digest::reads_alike;
use super::source::Copier;
use super::wire::{Control, Digest, Message};
use crate::geometry::ByteRange;
use crate::shard::Shards;
use spine::resource::migration::MigrationErrorKind;
use std::collections::{BTreeMap, BTreeSet};

/// Most chunks that are compared at once.
pub const CHUNKS_MAX: u64 = 16 << 10;

/// How often a chunk is sent that is something else at the target each time.
const TRIES_MAX: u32 = 3;

/// What two ends must have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Their bytes.
    Bytes,
    /// Their bytes, and how much of them is allocated.
    Everything,
}

impl Copier {
    /// Sends the rest of the first pass. It is acknowledged stretch by stretch, after it was read back. `told` hears after
    /// each piece how much was sent.
    ///
    /// # Errors
    /// When it fails on either side, or the target's file has something else than what was written to it.
    pub async fn send_all(&mut self, shards: &Shards, told: &dyn Fn(u64)) -> Result<(), Ended> {
        while let Some(stretch) = self.next_stretch()? {
            let compares = self.ledger.compares();
            self.ledger.handle_begun(stretch.end());
            let sends = if compares { self.compare(stretch, Wanted::Everything).await? } else { vec![stretch] };
            for range in &sends {
                self.send_range(*range, told).await?;
            }
            if !sends.is_empty() {
                self.verify(stretch, shards, told).await?;
            }
            self.ledger.handle_walked(stretch.end());
            // The target has said what is on its disk, so it has it.
            self.ledger.handle_synced();
            self.forget_uncached();
        }
        Ok(())
    }

    /// Makes sure that the target has what was sent. What differs is sent again.
    async fn verify(&mut self, stretch: ByteRange, shards: &Shards, told: &dyn Fn(u64)) -> Result<(), Ended> {
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, format!("the disc was closed: {error}"));
        let mut wrong: Vec<ByteRange> = vec![];
        for _ in 0..TRIES_MAX {
            let differing = self.compare(stretch, Wanted::Bytes).await?;
            // What a client has touched since is sent in a later pass, and says nothing.
            let touched = shards.touched(self.number, differing.clone()).await.map_err(closed)?;
            wrong =
                differing.into_iter().zip(touched).filter(|(_, touched)| !touched).map(|(chunk, _)| chunk).collect();
            for chunk in &wrong {
                let (disc, at) = (self.number, chunk.offset());
                tracing::error!(%disc, at, length = chunk.length(), "the target's disk has something else than what was written to it");
                self.mismatched_bytes += chunk.length();
                self.send_range(*chunk, told).await?;
            }
            if wrong.is_empty() {
                return Ok(());
            }
        }
        let at = wrong.first().map_or(stretch.offset(), |chunk| chunk.offset());
        let message = format!("the target's disk has something else at byte {at} than what was written there");
        Err(Ended::new(MigrationErrorKind::Mismatch, message))
    }

    /// The chunks of a stretch that are not the same at both ends.
    async fn compare(&mut self, stretch: ByteRange, wanted: Wanted) -> Result<Vec<ByteRange>, Ended> {
        let chunk_bytes = self.checked.chunk_bytes();
        let (offset, length) = (stretch.offset(), stretch.length());
        self.link.send(&Control::Compare { offset, length, chunk_bytes }).await?;
        // Both ends read at the same time.
        let Self { link, chunks, pace, budgets, number, .. } = self;
        let own = async {
            let mut own = BTreeMap::new();
            let mut chunks_left = Some(stretch);
            while let Some(rest) = chunks_left {
                let unreadable = |error| {
                    let message = format!("disc {number} cannot be read at byte {} or behind: {error}", rest.offset());
                    Ended::new(MigrationErrorKind::ReadError, message)
                };
                let Some(digest) = chunks.next(rest, chunk_bytes).await.map_err(unreadable)? else { break };
                // What is read back was sent just now, at the limit's pace. What may be there is read at that pace too.
                if wanted == Wanted::Everything {
                    tokio::time::sleep(pace.handle_piece(budgets.now(), digest.allocated_bytes)).await;
                }
                chunks_left = rest.from(digest.offset + chunk_bytes);
                own.insert(digest.offset, digest);
            }
            Ok::<_, Ended>(own)
        };
        let theirs = async {
            let mut theirs: BTreeMap<u64, Digest> = BTreeMap::new();
            let mut credit_bytes = 0u64;
            loop {
                match link.receive().await? {
                    Message::Control(Control::Credit { bytes }) => credit_bytes = credit_bytes.saturating_add(bytes),
                    Message::Digests { digests, is_last } => {
                        for digest in digests {
                            let at = digest.offset;
                            if at < offset || at >= stretch.end() || !(at - offset).is_multiple_of(chunk_bytes) {
                                let why = "the other tail speaks of a chunk that it was not asked about";
                                return Err(Ended::new(MigrationErrorKind::Protocol, why));
                            }
                            theirs.insert(at, digest);
                        }
                        if is_last {
                            return Ok((theirs, credit_bytes));
                        }
                    }
                    other => return Err(Ended::unexpected(other)),
                }
            }
        };
        let (own, (theirs, credit_bytes)) = tokio::try_join!(own, theirs)?;
        self.credit_bytes = self.credit_bytes.saturating_add(credit_bytes);
        let mut differing = vec![];
        for offset in own.keys().chain(theirs.keys()).copied().collect::<BTreeSet<u64>>() {
            let Some(chunk) = self.checked.chunk(offset) else { continue };
            let (own, theirs) = (own.get(&offset), theirs.get(&offset));
            let reads_alike = reads_alike(own, theirs, chunk.length());
            self.checked.handle_compared(offset, own.is_some(), reads_alike);
            if !reads_alike || (wanted == Wanted::Everything && own != theirs) {
                differing.push(chunk);
            }
        }
        Ok(differing)
    }
}
