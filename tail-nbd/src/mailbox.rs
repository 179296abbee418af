//! The bounded queue from the control thread to a shard. A letter wakes the shard through an eventfd
//! that its ring polls, so a shard waits in one place only.

use crate::disc::dirty::Dirty;
use crate::limits::MAILBOX_LETTERS_MAX;
use crate::shard::{Access, Adopted, Borrowed, CarriedDisc, LentDisc, OpenDisc, ShardError, ShardStatus, Taken};
use rustix::event::{EventfdFlags, eventfd};
use spine::id::DiscNumber;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Where the answer to a letter goes.
pub type Reply = oneshot::Sender<Result<(), ShardError>>;

/// An order to a shard. See the methods of [`Shards`](crate::shard::Shards) of the same names.
#[derive(Debug)]
pub enum Letter {
    /// Serve this disc.
    Open(Box<OpenDisc>, Reply),
    /// Take a client over.
    Adopt(DiscNumber, Box<Adopted>, Reply),
    /// Replace its access.
    SetAccess(DiscNumber, Access, Reply),
    /// Change its size, in bytes.
    Resize(DiscNumber, u64, Reply),
    /// Change its size, in bytes, unless that cuts off data.
    ResizeKeepingData(DiscNumber, u64, Reply),
    /// Give it up.
    Close(DiscNumber, Reply),
    /// Note what is written to it from now on, or no longer.
    Track(DiscNumber, Option<Box<Dirty>>, Reply),
    /// Have no more than so many bytes a second be written that were not yet, while that is noted.
    Brake(DiscNumber, Option<u64>, Reply),
    /// Take about so many bytes of what was written.
    TakeWritten(DiscNumber, u64, oneshot::Sender<Result<Taken, ShardError>>),
    /// Freeze it.
    Freeze(DiscNumber, Reply),
    /// Let it go on.
    Thaw(DiscNumber, Reply),
    /// Freeze all discs.
    FreezeAll(Reply),
    /// Let all discs go on.
    ThawAll(Reply),
    /// Close the clients that cannot be carried to another process, and say how many are left.
    DrainUncarried(oneshot::Sender<usize>),
    /// Copy what another process needs to open the discs.
    LendAll(oneshot::Sender<Result<Vec<LentDisc>, ShardError>>),
    /// Open discs that another process serves, frozen.
    BorrowAll(Vec<Borrowed>, Reply),
    /// Copy what has become of all discs, which are frozen.
    CarryAll(oneshot::Sender<Result<Vec<CarriedDisc>, ShardError>>),
    /// Take over what has become of discs that were borrowed.
    InheritAll(Vec<CarriedDisc>, Reply),
    /// Say what there is.
    Status(oneshot::Sender<ShardStatus>),
    /// Close everything and end.
    Stop(oneshot::Sender<()>),
    /// Panic at the next request of this disc.
    #[cfg(test)]
    Panic(DiscNumber),
}

/// A new mailbox: the end for the control side, and the end for the shard.
///
/// # Errors
/// When the kernel gives no eventfd.
pub fn mailbox() -> io::Result<(MailboxSender, MailboxReceiver)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = mpsc::channel(MAILBOX_LETTERS_MAX);
    let waker = Arc::new(Waker(Arc::clone(&wake)));
    Ok((MailboxSender { letters: sender, waker }, MailboxReceiver { letters: receiver, wake }))
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct MailboxSender {
    // Declared before the waker: the last sender closes the channel, and then the shard is woken.
    letters: mpsc::Sender<Letter>,
    waker: Arc<Waker>,
}

#[derive(Debug)]
struct Waker(Arc<OwnedFd>);

impl Waker {
    fn wake(&self) {
        // The only possible error is a counter at its highest, which wakes the shard just as well.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.wake();
    }
}

impl MailboxSender {
    /// Puts a letter in, waiting while the box is full.
    ///
    /// # Errors
    /// With the letter, when the shard has ended.
    pub async fn send(&self, letter: Letter) -> Result<(), Box<Letter>> {
        self.letters.send(letter).await.map_err(|error| Box::new(error.0))?;
        self.waker.wake();
        Ok(())
    }
}

/// What a look into the mailbox finds.
#[derive(Debug)]
pub enum Post {
    /// A letter.
    Letter(Letter),
    /// Nothing now; there is a wake-up before there is more.
    Empty,
    /// Nobody can write any more.
    Closed,
}

/// The shard's end.
#[derive(Debug)]
pub struct MailboxReceiver {
    letters: mpsc::Receiver<Letter>,
    wake: Arc<OwnedFd>,
}

impl MailboxReceiver {
    /// The eventfd to poll.
    ///
    /// # Errors
    /// When the kernel gives no further descriptor.
    pub fn wake_fd(&self) -> io::Result<OwnedFd> {
        self.wake.try_clone()
    }

    /// Resets the wake-up. To be called before the letters are taken, so that none is missed.
    pub fn acknowledge(&self) {
        // An error says that there was no wake-up to reset.
        let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
    }

    /// Takes the next letter.
    pub fn take(&mut self) -> Post {
        match self.letters.try_recv() {
            Ok(letter) => Post::Letter(letter),
            Err(mpsc::error::TryRecvError::Empty) => Post::Empty,
            Err(mpsc::error::TryRecvError::Disconnected) => Post::Closed,
        }
    }
}
