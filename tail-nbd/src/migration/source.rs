//! The copying at the source: extents and written runs of the data file, onto the link.
//!
//! What can be lost, and why it is not: a run that was taken from the map of written blocks is in the [`Ledger`] until the target
//! has acknowledged it, so a pass that is interrupted at any point sends it again. What is read may be older than what a
//! client writes meanwhile; that write is marked when it is over, and sent in a later pass.

use super::Ended;
use super::budgets::Budgets;
use super::checked::Checked;
use super::compare::{Asked, CHUNKS_MAX};
use super::digest::{Chunks, Sent};
use super::ledger::Ledger;
use super::link::Link;
use super::pace::Pace;
use super::wire::{Control, CopyId, DATA_BYTES_MAX, Hello, Message, VERSION, Welcome};
use crate::geometry::{ByteRange, DiscSize};
use crate::jobs::{data::Data, import::next_extent};
use crate::limits::WINDOW_BYTES;
use crate::ring::uring::{Window, next_unwritten};
use crate::shard::Shards;
use rustix::fs::{Advice, fadvise};
use spine::id::DiscNumber;
use spine::resource::migration::MigrationErrorKind;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

/// What is taken from the map of written blocks at once, in bytes.
const TAKE_BYTES: u64 = 8 << 20;

/// What is sent in the first pass before the target reads it back, in bytes, and in pieces of 10 ms where there is a limit:
/// two such stretches are compared again when the link breaks. The small discs of the simulation have several.
const STRETCH_BYTES: u64 = if cfg!(test) { 12 << 10 } else { 32 << 20 };
const STRETCH_PIECES: u64 = 100;

/// How much of what was read only to be sent may stay in the page cache, in bytes: it is given back in few calls.
const UNCACHED_BYTES_MAX: u64 = STRETCH_BYTES;

/// How far the space that the two files take may be apart besides a hundredth, in bytes: file systems keep their maps in it.
const ALIKE_BYTES: u64 = 1 << 20;

/// What came of reading the copy back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What is on the target's disk as it was sent, and was not sent again since, in bytes of whole chunks.
    pub bytes: u64,
    /// The same in percent of what has data in it.
    pub percent: u8,
    /// What was not, and was sent again, in bytes.
    pub mismatched_bytes: u64,
    /// Both files take as much space, within a hundredth; `None` when that cannot be told.
    pub allocation_equal: Option<bool>,
}

/// Sends a disc.
pub struct Copier {
    /// The connection.
    pub link: Link,
    pub(super) pace: Pace,
    pub(super) number: DiscNumber,
    pub(super) size: DiscSize,
    file: File,
    data: Data,
    buffer: Vec<u8>,
    pub(super) credit_bytes: u64,
    copied_bytes: u64,
    copy: CopyId,
    pub(super) ledger: Ledger,
    window: Option<Window>,
    /// For what is compared before it is sent.
    pub(super) chunks: Chunks,
    /// What is being sent of a stretch of the first pass.
    pub(super) sending: Option<Sent>,
    /// What the target reads back.
    pub(super) asked: Option<Asked>,
    pub(super) checked: Checked,
    pub(super) mismatched_bytes: u64,
    /// What the copy takes in its pool, when the target last said so.
    target_bytes: u64,
    /// What was read only to be sent, and is still in the page cache.
    uncached: Vec<(u64, u64)>,
    uncached_bytes: u64,
    pub(super) budgets: Arc<Budgets>,
}

impl Copier {
    /// Introduces the disc to the target. The pace is one of these budgets.
    ///
    /// # Errors
    /// When the target does not want it.
    pub async fn open(
        mut link: Link,
        hello: Hello,
        file: File,
        pace: Pace,
        budgets: Arc<Budgets>,
    ) -> Result<Self, Ended> {
        let (number, size_bytes) = (hello.number, hello.size_bytes);
        let too_large = || Ended::new(MigrationErrorKind::Protocol, "the disc is larger than any file");
        let size = DiscSize::from_bytes(size_bytes).ok_or_else(too_large)?;
        let welcome = introduce(&mut link, hello).await?;
        let unreadable = |error: io::Error| Ended::new(MigrationErrorKind::ReadError, error.to_string());
        let data = Data::of(&file).map_err(unreadable)?;
        let chunks = Chunks::new(&file).map_err(unreadable)?;
        Ok(Self {
            link,
            pace,
            number,
            size,
            file,
            data,
            buffer: Vec::new(),
            credit_bytes: welcome.credit_bytes,
            copied_bytes: 0,
            copy: welcome.copy,
            ledger: Ledger::new(size, welcome.is_empty),
            window: None,
            chunks,
            sending: None,
            asked: None,
            checked: Checked::new(size),
            mismatched_bytes: 0,
            target_bytes: 0,
            uncached: Vec::new(),
            uncached_bytes: 0,
            budgets,
        })
    }

    /// Goes on over another link, behind a break.
    ///
    /// # Errors
    /// When the target does not want it.
    pub async fn reopen(&mut self, mut link: Link, hello: Hello) -> Result<(), Ended> {
        let welcome = introduce(&mut link, hello).await?;
        (self.link, self.credit_bytes) = (link, welcome.credit_bytes);
        (self.sending, self.asked) = (None, None);
        let is_same_copy = std::mem::replace(&mut self.copy, welcome.copy) == welcome.copy;
        if !is_same_copy {
            self.checked = Checked::new(self.size);
        }
        self.ledger.handle_reopened(is_same_copy, welcome.is_empty);
        Ok(())
    }

    /// How far it is.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What was read back so far.
    pub fn verified(&self) -> Verified {
        let (bytes, percent) = self.checked.verified();
        let own_bytes = self.file.metadata().map(|metadata| metadata.blocks() * 512).ok();
        let is_alike = |own: u64| own.abs_diff(self.target_bytes) <= (own / 100).max(ALIKE_BYTES);
        let allocation_equal = own_bytes.map(is_alike);
        Verified { bytes, percent, mismatched_bytes: self.mismatched_bytes, allocation_equal }
    }

    /// The target has said how many bytes its whole copy takes. Until the next write [`Copier::verified`] says whether the
    /// disc takes as many here.
    pub fn handle_prepared(&mut self, allocated_bytes: u64) {
        self.target_bytes = allocated_bytes;
    }

    /// Bytes of data sent so far.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Bytes that the first pass has still to send: what is no hole.
    ///
    /// # Errors
    /// When the filesystem cannot tell.
    pub fn unsent_bytes(&self) -> Result<u64, Ended> {
        let (mut at, mut total) = (self.ledger.sent_to(), 0);
        while let Some((start, end)) =
            next_extent(&self.file, at, self.size.bytes()).map_err(|e| self.unreadable(at, e))?
        {
            (at, total) = (end, total + (end - start));
        }
        Ok(total)
    }

    /// What the first pass comes to next; `None` at its end.
    pub(super) fn next_stretch(&self) -> Result<Option<ByteRange>, Ended> {
        let (start, size_bytes) = (self.ledger.sent_to(), self.size.bytes());
        if start == size_bytes {
            return Ok(None);
        }
        let chunk_bytes = self.checked.chunk_bytes();
        let end_max = start.saturating_add(CHUNKS_MAX * chunk_bytes).min(size_bytes);
        let mut left_bytes = (self.pace.piece_bytes(STRETCH_BYTES) * STRETCH_PIECES).min(STRETCH_BYTES);
        let (mut at, mut end) = (start, end_max);
        while let Some((from, to)) = next_extent(&self.file, at, end_max).map_err(|error| self.unreadable(at, error))? {
            if to - from >= left_bytes {
                end = (from + left_bytes).next_multiple_of(chunk_bytes).min(end_max);
                break;
            }
            (at, left_bytes) = (to, left_bytes - (to - from));
        }
        Ok(self.size.range(start, end - start))
    }

    /// Sends what was written, about `bytes_max` of it, and returns how much is left.
    ///
    /// # Errors
    /// When it fails on either side, or it is not known any more what was written.
    pub async fn send_written(&mut self, shards: &Shards, bytes_max: u64, told: &dyn Fn(u64)) -> Result<u64, Ended> {
        let lost = |error| Ended::new(MigrationErrorKind::Stopped, format!("the disc was closed: {error}"));
        let mut sent_bytes = 0;
        loop {
            let wanted = |sent_bytes: u64| bytes_max.saturating_sub(sent_bytes).min(TAKE_BYTES);
            while let Some(run) = self.ledger.next_run(wanted(sent_bytes)) {
                self.send_range(run, told).await?;
                sent_bytes += run.length();
                self.ledger.handle_sent();
            }
            let taken = shards.take_written(self.number, wanted(sent_bytes)).await.map_err(lost)?;
            if taken.runs.is_empty() {
                return Ok(taken.left_bytes);
            }
            self.ledger.handle_taken(taken.runs);
        }
    }

    /// Ends a pass: returns when the target has it durably.
    ///
    /// # Errors
    /// When it fails on either side.
    pub async fn sync(&mut self, pass: u32) -> Result<(), Ended> {
        self.link.send(&Control::PassEnd { pass }).await?;
        loop {
            match self.hear_copying().await? {
                Some(Control::Synced { pass: done, allocated_bytes }) if done == pass => {
                    self.ledger.handle_synced();
                    self.forget_uncached();
                    self.target_bytes = allocated_bytes;
                    return Ok(());
                }
                Some(other) => return Err(Ended::unexpected(Message::Control(other))),
                None => {}
            }
        }
    }

    /// The target's next word; `None` when it was credit, or something of what it was asked about.
    ///
    /// # Errors
    /// When the link broke, or the target has given up.
    pub async fn hear(&mut self) -> Result<Option<Control>, Ended> {
        match self.link.receive().await? {
            Message::Control(Control::Credit { bytes }) => {
                self.credit_bytes = self.credit_bytes.saturating_add(bytes);
                Ok(None)
            }
            Message::Digests { digests, is_last } => {
                let why = "the other tail speaks of what it was not asked about";
                let asked = self.asked.as_mut().ok_or_else(|| Ended::new(MigrationErrorKind::Protocol, why))?;
                asked.handle_digests(digests, is_last)?;
                Ok(None)
            }
            Message::Control(Control::Failed { kind, message }) => Err(Ended { kind, message }),
            Message::Control(other) => Ok(Some(other)),
            other => Err(Ended::unexpected(other)),
        }
    }

    /// As [`Self::hear`], while no freeze waits for its answer: one that comes now is of a freeze that was called off, and
    /// means nothing (safety rule 18).
    pub(super) async fn hear_copying(&mut self) -> Result<Option<Control>, Ended> {
        Ok(self.hear().await?.filter(|word| !matches!(word, Control::Prepared { .. })))
    }

    pub(super) async fn send_range(&mut self, range: ByteRange, told: &dyn Fn(u64)) -> Result<(), Ended> {
        self.checked.handle_sent(range);
        if self.uncached_bytes > UNCACHED_BYTES_MAX {
            self.forget_uncached();
        }
        let mut at = range.offset();
        while at < range.end() {
            let extent = next_extent(&self.file, at, range.end()).map_err(|error| self.unreadable(at, error))?;
            let (start, end) = extent.unwrap_or((range.end(), range.end()));
            if start > at {
                self.send_empty(at, start).await?;
            }
            at = start;
            while at < end {
                at += self.send_piece(at, end).await?;
                told(self.copied_bytes);
            }
        }
        Ok(())
    }

    /// Sends a range that has nothing in it: holes, and space that nothing was ever written to.
    async fn send_empty(&mut self, mut at: u64, end: u64) -> Result<(), Ended> {
        while at < end {
            // A file system that cannot tell has holes only. What is written meanwhile is marked, and sent later.
            let space = next_unwritten(&self.file, at, end).unwrap_or_default();
            let (start, stop) = space.unwrap_or((end, end));
            if start > at {
                self.link.queue_hole(at, start - at);
            }
            if stop > start {
                self.link.queue_space(start, stop - start);
            }
            self.link.flush().await?;
            at = stop;
        }
        Ok(())
    }

    /// Sends the next bytes that are no hole.
    async fn send_piece(&mut self, at: u64, end: u64) -> Result<u64, Ended> {
        let length = (end - at).min(self.pace.piece_bytes(DATA_BYTES_MAX as u64));
        while self.credit_bytes < length {
            if let Some(other) = self.hear_copying().await? {
                return Err(Ended::unexpected(Message::Control(other)));
            }
        }
        let pause = self.pace.handle_piece(self.budgets.now(), length);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let was_cached = self.is_cached(at, length);
        // It is lost when this is dropped while the kernel has it.
        let buffer = std::mem::take(&mut self.buffer);
        let (read, buffer) = self.data.read(at, buffer, length as usize).await;
        let read = read.map_err(|error| self.unreadable(at, error))?;
        if read == 0 {
            return Err(self.unreadable(at, io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here")));
        }
        if !was_cached {
            self.uncached.push((at, length));
            self.uncached_bytes += length;
        }
        if let Some(sending) = &mut self.sending {
            sending.handle_data(at, &buffer);
        }
        self.credit_bytes -= read as u64;
        self.copied_bytes += read as u64;
        self.buffer = self.link.send_data(at, buffer).await?;
        Ok(read as u64)
    }

    /// What no client has asked for is not to push out what they have.
    pub(super) fn forget_uncached(&mut self) {
        self.uncached_bytes = 0;
        for (at, length) in self.uncached.drain(..) {
            // A refusal costs cache only.
            let _ = fadvise(&self.file, at, NonZeroU64::new(length), Advice::DontNeed);
        }
    }

    fn is_cached(&mut self, at: u64, length: u64) -> bool {
        if !self.window.as_ref().is_some_and(|window| window.covers(at)) {
            self.window = Window::open(&self.file, at / WINDOW_BYTES * WINDOW_BYTES).ok();
        }
        let (Some(window), Some(range)) = (&self.window, self.size.range(at, length)) else { return true };
        window.is_resident(range)
    }

    fn unreadable(&self, at: u64, error: io::Error) -> Ended {
        let message = format!("disc {} cannot be read at byte {at}: {error}", self.number);
        Ended::new(MigrationErrorKind::ReadError, message)
    }
}

async fn introduce(link: &mut Link, hello: Hello) -> Result<Welcome, Ended> {
    link.send(&Control::Hello(hello)).await?;
    match link.receive().await? {
        Message::Control(Control::Welcome(welcome)) if welcome.version == VERSION => Ok(welcome),
        other => Err(Ended::unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::handover::Attempt;
    use crate::migration::link::Network;
    use std::io::Write as _;
    use std::net::Ipv6Addr;

    const BYTES: u64 = 1 << 20;

    fn hello() -> Hello {
        let id = spine::id::MigrationId(uuid::Uuid::from_u128(42));
        let (number, generation) = (DiscNumber(7), spine::id::Generation(2));
        let (version_oldest, version_newest) = (VERSION, VERSION);
        Hello { version_oldest, version_newest, id, number, generation, size_bytes: BYTES, fenced: None }
    }

    #[test]
    fn rule18_a_late_answer_to_a_freeze_that_was_called_off_ends_no_pass() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; BYTES as usize]).unwrap();
        tokio_uring::start(async {
            let listener = tokio::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let network = Network {
                listen: address,
                own_address: Ipv6Addr::LOCALHOST,
                identity: None,
                budgets: Arc::new(Budgets::new(None)),
            };
            let order = serde_json::json!({"id": hello().id, "target": "tail2", "address": address, "generation": 2});
            let order = serde_json::from_value(order).unwrap();
            let late = Control::Prepared { attempt: Attempt(uuid::Uuid::from_u128(1)), allocated_bytes: 1 };
            let target = async {
                let mut link = network.accept(listener.accept().await.unwrap().0).await.unwrap();
                assert_eq!(link.receive().await.unwrap(), Message::Control(Control::Hello(hello())));
                let copy = CopyId(uuid::Uuid::from_u128(2));
                link.send(&Control::Welcome(Welcome { version: VERSION, credit_bytes: 0, copy, is_empty: true }))
                    .await
                    .unwrap();
                link.send(&late).await.unwrap();
                link.send(&Control::Credit { bytes: BYTES }).await.unwrap();
                while link.receive().await.unwrap() != Message::Control(Control::PassEnd { pass: 1 }) {}
                link.send(&late).await.unwrap();
                link.send(&Control::Synced { pass: 1, allocated_bytes: BYTES }).await.unwrap();
            };
            let source = async {
                let link = network.connect(&order).await.unwrap();
                let mut copier =
                    Copier::open(link, hello(), file, Pace::default(), Arc::clone(&network.budgets)).await.unwrap();
                let all = copier.size.range(0, BYTES).unwrap();
                copier.send_range(all, &|_| {}).await.unwrap();
                copier.sync(1).await.unwrap();
                assert_eq!(copier.copied_bytes(), BYTES);
            };
            tokio::join!(target, source);
        });
    }
}
