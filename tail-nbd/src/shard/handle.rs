//! What the rest of the tail may ask of the shards. Everything here may be called from any thread.

use super::access::Access;
use super::driver;
use super::error::{ShardError, StartError};
use super::tracking::Taken;
use crate::connection::Transport;
use crate::disc::dirty::Dirty;
use crate::disc::mode::IoMode;
use crate::geometry::DiscSize;
use crate::limits::{
    DRAIN_SECONDS_MAX, GOODBYE_SECONDS_MAX, HANDSHAKE_SECONDS_MAX, SEND_SECONDS_MAX, SHARD_EVENTS_MAX,
    STALL_SECONDS_MAX, WHOLE_SECONDS_MAX,
};
use crate::mailbox::{self, Letter, MailboxSender, Reply};
use crate::memory::Memory;
use crate::metrics::{DiscCounters, Histogram, Shortages};
use crate::nbd::server::Server;
use crate::ring::probe::Mask;
use crate::tls::Front;
use crate::whole::Whole;
use spine::id::DiscNumber;
use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// How to start the shards.
#[derive(Clone, Debug, Default)]
pub struct ShardConfig {
    /// How many shard threads; `None` is one for each core that this process may use.
    pub shards_count: Option<usize>,
    /// Which features of the kernel are left alone.
    pub mask: Mask,
    /// Memory for requests; `None` is [`Memory::default_for`] so many shards.
    pub memory: Option<Memory>,
    /// Where clients of the discs' listeners that want TLS are handed over; `None` offers none.
    pub tls: Option<Front>,
}

/// How long clients may take. The default is what `limits.rs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the handshake, in seconds.
    pub handshake_seconds: u64,
    /// For the next byte of a request that has arrived in part, while we read, in seconds.
    pub stall_seconds: u64,
    /// For taking some of the replies that wait, in seconds.
    pub send_seconds: u64,
    /// For taking all of a long reply that cannot be cut, in seconds.
    pub whole_seconds: u64,
    /// For taking the last replies of a connection that is being closed, in seconds.
    pub drain_seconds: u64,
    /// For one more option of a handshake when the shard stops, in seconds.
    pub goodbye_seconds: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            handshake_seconds: HANDSHAKE_SECONDS_MAX,
            stall_seconds: STALL_SECONDS_MAX,
            send_seconds: SEND_SECONDS_MAX,
            whole_seconds: WHOLE_SECONDS_MAX,
            drain_seconds: DRAIN_SECONDS_MAX,
            goodbye_seconds: GOODBYE_SECONDS_MAX,
        }
    }
}

/// A disc to be served. The shard owns all of it until [`Shards::close`].
#[derive(Debug)]
pub struct OpenDisc {
    /// Its number; a number is open at most once.
    pub number: DiscNumber,
    /// The data file, open for reading and writing, and locked by the caller through this very open
    /// file description: its I/O holds the lock (safety rule 10). Its length must be `size_bytes`.
    pub data: File,
    /// How it is read and written.
    pub io: IoMode,
    /// The size that clients see, in bytes.
    pub size_bytes: u64,
    /// Bound and listening. The shard does all accepting, and shuts it down at the close. `None`: all clients
    /// come by [`Shards::adopt`].
    pub listener: Option<TcpListener>,
    /// Who may use the disc.
    pub access: Access,
    /// This tail's own storage address. A client whose source is the disc's own address is this
    /// machine, and counts as this address (safety rule 12).
    pub own_address: IpAddr,
    /// An fsync of this disc failed before and nobody has put it right: FLUSH and FUA answer EIO from
    /// the start (safety rule 17).
    pub sync_failed: bool,
}

/// A client whose handshake is over, for [`Shards::adopt`].
#[derive(Debug)]
pub struct Adopted {
    /// Its socket, in blocking mode. Nothing behind the handshake has been received, and all of the handshake sent.
    pub socket: OwnedFd,
    /// The protocol, with its agreement.
    pub server: Server,
    /// Where it connects from; a client without an address is this machine.
    pub peer: IpAddr,
    /// What the socket is.
    pub transport: Transport,
}

/// What the shards say unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// An fsync failed; FLUSH and FUA answer EIO until the disc is opened again with `sync_failed`
    /// false. It belongs into the sidecar (safety rule 17).
    SyncFailed {
        /// The disc.
        number: DiscNumber,
        /// The kernel's error number.
        errno: i32,
    },
    /// Our code panicked while it handled this disc. Its clients are cut off and it accepts none until
    /// it is closed, which waits for its I/O, and opened again.
    Panicked {
        /// The disc.
        number: DiscNumber,
        /// The panic's message.
        message: String,
    },
}

impl ShardEvent {
    /// The disc that it is about.
    pub fn number(&self) -> DiscNumber {
        match self {
            Self::SyncFailed { number, .. } | Self::Panicked { number, .. } => *number,
        }
    }
}

/// One client of a disc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    /// Where it connects from.
    pub peer: IpAddr,
    /// True when it has been let in: the negotiation is over.
    pub attached: bool,
    /// Requests being worked on now.
    pub requests_in_flight_count: u32,
}

/// A disc as its shard sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscStatus {
    /// Its number.
    pub number: DiscNumber,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its clients, negotiated or not.
    pub clients: Vec<ClientStatus>,
    /// What it has done.
    pub counters: DiscCounters,
    /// See [`ShardEvent::SyncFailed`].
    pub sync_failed: bool,
    /// See [`ShardEvent::Panicked`].
    pub panicked: bool,
}

/// A shard and its discs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Its discs, by number.
    pub discs: Vec<DiscStatus>,
    /// Turns of the loop since the start.
    pub turns_count: u64,
    /// Completions that a turn worked on, the idle ones left out.
    pub completions_per_turn: Histogram,
    /// Sends since the start, each with all replies of a connection that were ready.
    pub sends_count: u64,
    /// Data buffers that are not in the pool now.
    pub buffers_taken_count: usize,
    /// Requests and connections that wait for a buffer now.
    pub waiting_count: usize,
    /// Limits that were met since the start.
    pub shortages: Shortages,
}

/// The running shards. Dropping it stops them as [`Shards::stop`] does, without waiting.
#[derive(Debug)]
pub struct Shards {
    pub(super) shards: Vec<Running>,
    features: String,
    memory: Memory,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) mailbox: MailboxSender,
    thread: JoinHandle<()>,
}

impl Shards {
    /// Probes the kernel and starts one pinned thread with a ring of its own for each shard. The
    /// second value is where the shards say what nobody asked (the receiver may be dropped).
    ///
    /// # Errors
    /// When the kernel lacks a required feature (the error names it), the memory is too little, or a thread cannot be had.
    pub fn start(config: ShardConfig) -> Result<(Self, mpsc::Receiver<ShardEvent>), StartError> {
        Self::start_with(config, Patience::default())
    }

    /// As [`Shards::start`], with other deadlines for clients.
    ///
    /// # Errors
    /// As [`Shards::start`].
    pub fn start_with(
        config: ShardConfig,
        patience: Patience,
    ) -> Result<(Self, mpsc::Receiver<ShardEvent>), StartError> {
        let cores = driver::allowed_cores();
        let shards_count = config.shards_count.unwrap_or(cores.len()).max(1);
        let memory = config.memory.unwrap_or_else(|| Memory::default_for(shards_count));
        let (share, whole) = (memory.share(shards_count)?, Whole::new());
        let (events, receiver) = mpsc::channel(SHARD_EVENTS_MAX);
        let mut shards = Vec::with_capacity(shards_count);
        let mut features = String::new();
        for shard in 0..shards_count {
            let os = |what| move |source| StartError::Os { shard, what, source };
            let (mailbox, receiver) = mailbox::mailbox().map_err(os("cannot make its eventfd"))?;
            let core = cores.get(shard % cores.len().max(1)).copied();
            let (thread, found) =
                driver::spawn(shard, core, receiver, events.clone(), patience, &config, (share, whole.clone()))?;
            features = found;
            shards.push(Running { mailbox, thread });
        }
        Ok((Self { shards, features, memory }, receiver))
    }

    /// One shard without a thread: whoever has the mailbox does its work.
    #[cfg(test)]
    pub(crate) fn without_thread() -> std::io::Result<(Self, mailbox::MailboxReceiver)> {
        let (mailbox, receiver) = mailbox::mailbox()?;
        let shards = vec![Running { mailbox, thread: std::thread::Builder::new().spawn(|| ())? }];
        Ok((Self { shards, features: String::new(), memory: Memory::default_for(1) }, receiver))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// The memory that they have.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// What the probe found, as a line for the log and for `tail-nbd status`.
    pub fn features(&self) -> &str {
        &self.features
    }

    /// Starts serving a disc.
    ///
    /// # Errors
    /// When the number is open already, or a limit is reached.
    pub async fn open(&self, disc: OpenDisc) -> Result<(), ShardError> {
        let number = disc.number;
        self.ask(number, |reply| Letter::Open(Box::new(disc), reply)).await
    }

    /// Takes over a client that somebody else has let in. Its rights are the caller's decision, and last until the
    /// access of the disc is replaced or the disc is closed.
    ///
    /// # Errors
    /// When the disc is not open or busy, its size is not what the client was told, or a limit is reached. The
    /// client is cut off then.
    pub async fn adopt(&self, number: DiscNumber, client: Adopted) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Adopt(number, Box::new(client), reply)).await
    }

    /// Replaces the access of a disc. Clients that lost their right are cut off at once. Resolves when
    /// no I/O of theirs is in flight any more (safety rule 4).
    ///
    /// # Errors
    /// When the disc is not open.
    pub async fn set_access(&self, number: DiscNumber, access: Access) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::SetAccess(number, access, reply)).await
    }

    /// Gives the data file this length. The disc's connections are closed at a request boundary first;
    /// the listener stays and whoever connects again sees the new size (safety rule 15). Whether
    /// a smaller size loses data is for the caller to know.
    ///
    /// # Errors
    /// When the disc is not open or busy, or the file's length cannot be set: the size stays as it was.
    pub async fn resize(&self, number: DiscNumber, size_bytes: u64) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Resize(number, size_bytes, reply)).await
    }

    /// As [`Shards::resize`], but refuses to leave data beyond the size, and leaves the file as it is: the caller
    /// makes it longer before, or cuts it afterwards. Does nothing when the disc has that size.
    ///
    /// # Errors
    /// As [`Shards::resize`], and when there is data beyond the size, or the file is shorter.
    pub async fn resize_keeping_data(&self, number: DiscNumber, size_bytes: u64) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::ResizeKeepingData(number, size_bytes, reply)).await
    }

    /// Stops serving a disc: no more accepting, clients are closed at a request boundary, its I/O is
    /// waited for, the file is synced and given up (so is the lock, when nobody else holds it).
    ///
    /// # Errors
    /// When the disc is not open, or the last fdatasync failed (the disc is closed nevertheless).
    pub async fn close(&self, number: DiscNumber) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Close(number, reply)).await
    }

    /// Begins to note what is written to a disc. To be called before the first byte of it is copied.
    ///
    /// # Errors
    /// When the disc is not open or busy.
    pub async fn track(&self, number: DiscNumber, size: DiscSize) -> Result<(), ShardError> {
        // Made here: no client of another disc is to wait for it.
        let map = Some(Box::new(Dirty::new(size)));
        self.ask(number, |reply| Letter::Track(number, map, reply)).await
    }

    /// No longer notes what is written.
    ///
    /// # Errors
    /// When the disc is not open.
    pub async fn untrack(&self, number: DiscNumber) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Track(number, None, reply)).await
    }

    /// Has clients write no more than so many bytes a second that are not among what was written already, until the next
    /// call or [`Shards::untrack`]; `None` is as many as they want. Who has to wait does so a few seconds at most; reads
    /// never do.
    ///
    /// # Errors
    /// When it is not noted what is written, or the disc is not open.
    pub async fn brake(&self, number: DiscNumber, bytes_per_s: Option<u64>) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Brake(number, bytes_per_s, reply)).await
    }

    /// Takes about `bytes_max` bytes of what was written since [`Shards::track`] and not taken yet; 0 only asks how much
    /// there is.
    ///
    /// # Errors
    /// When that is not known any more: the disc was closed, or has panicked.
    pub async fn take_written(&self, number: DiscNumber, bytes_max: u64) -> Result<Taken, ShardError> {
        self.ask(number, |reply| Letter::TakeWritten(number, bytes_max, reply)).await
    }

    /// Freezes a disc: resolves when nothing of it is in the kernel, and until [`Shards::thaw`] nothing of it is
    /// accepted, received, carried out or sent. What was answered is in the file; no client is cut off. How long that
    /// may take is for the caller to bound, by a thaw. Withdrawals are obeyed meanwhile, and a close drops the clients.
    ///
    /// # Errors
    /// When the disc is not open, or busy with something else; then nothing has changed. When it is thawed or closed
    /// meanwhile.
    pub async fn freeze(&self, number: DiscNumber) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Freeze(number, reply)).await
    }

    /// Has a frozen disc go on where it was. Harmless when it is not frozen.
    ///
    /// # Errors
    /// When the disc is not open.
    pub async fn thaw(&self, number: DiscNumber) -> Result<(), ShardError> {
        self.ask(number, |reply| Letter::Thaw(number, reply)).await
    }

    /// Freezes all discs, as [`Shards::freeze`] does, or none when one of them is busy.
    ///
    /// # Errors
    /// When a disc is busy with something else; some may be frozen then, until [`Shards::thaw_all`].
    pub async fn freeze_all(&self) -> Result<(), ShardError> {
        self.ask_all(Letter::FreezeAll).await
    }

    /// Has all discs go on. Harmless when they do.
    pub async fn thaw_all(&self) {
        // A shard that has ended has no disc.
        let _ = self.ask_all(Letter::ThawAll).await;
    }

    /// What each shard has and has done. A shard that has stopped is left out.
    pub async fn status(&self) -> Vec<ShardStatus> {
        let mut statuses = Vec::with_capacity(self.shards.len());
        for running in &self.shards {
            let (sender, receiver) = oneshot::channel();
            if running.mailbox.send(Letter::Status(sender)).await.is_ok()
                && let Ok(status) = receiver.await
            {
                statuses.push(status);
            }
        }
        statuses
    }

    /// Closes every disc as [`Shards::close`] does and ends the threads.
    pub async fn stop(self) {
        let mut waiting = Vec::with_capacity(self.shards.len());
        for running in &self.shards {
            let (sender, receiver) = oneshot::channel();
            if running.mailbox.send(Letter::Stop(sender)).await.is_ok() {
                waiting.push(receiver);
            }
        }
        for receiver in waiting {
            // An error says that the thread has ended, which is what is wanted.
            let _ = receiver.await;
        }
        for running in self.shards {
            let joined = tokio::task::spawn_blocking(move || running.thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("a shard's thread ended with a panic");
            }
        }
    }

    /// The shard of a disc.
    pub(super) fn index_of(&self, number: DiscNumber) -> usize {
        usize::try_from(number.0 % self.shards.len() as u64).expect("it is less than a usize")
    }

    /// Asks all shards at once, and waits for all of them. The first error counts.
    pub(super) async fn ask_all(&self, mut letter: impl FnMut(Reply) -> Letter) -> Result<(), ShardError> {
        let mut receivers = Vec::with_capacity(self.shards.len());
        for running in &self.shards {
            let (sender, receiver) = oneshot::channel();
            if running.mailbox.send(letter(sender)).await.is_ok() {
                receivers.push(receiver);
            }
        }
        let mut outcome = Ok(());
        for receiver in receivers {
            outcome = outcome.and(receiver.await.unwrap_or(Err(ShardError::Stopped(DiscNumber(0)))));
        }
        outcome
    }

    async fn ask<T>(
        &self,
        number: DiscNumber,
        letter: impl FnOnce(oneshot::Sender<Result<T, ShardError>>) -> Letter,
    ) -> Result<T, ShardError> {
        let (sender, receiver) = oneshot::channel();
        let running = &self.shards[self.index_of(number)];
        running.mailbox.send(letter(sender)).await.map_err(|_| ShardError::Stopped(number))?;
        receiver.await.unwrap_or(Err(ShardError::Stopped(number)))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
