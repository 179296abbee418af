//! Long work on data files, on a thread of its own with tokio-uring: image import.
//!
//! ```text
//!   store ── Import ──▶ mailbox ──▶ jobs thread (one ring) ── reads image, writes data file
//!      ◀─ progress (watch), done (oneshot) ─┘
//! ```
//!
//! Invariants:
//! * A job works through the disc's own open file description, so that its writes hold the disc's
//!   lock (safety rule 10), and on a disc that no shard has open.
//! * A job ends: it is cancelled between two pieces, and whoever cancels can wait for the end.
//! * At most [`JOBS_MAX`] run at a time. The others wait, one a disc at most, and end at once when they are cancelled.
//!
//! [`data`]: a data file for the jobs that move discs; [`import`]: images.
//!
//! Deliberately absent: what a finished import means for the disc; see [`crate::store`].

pub(crate) mod data;
pub mod import;

use import::{Import, ImportError};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

/// Imports that run at a time: enough to use a RAID's disks, few enough to leave the guests some.
pub const JOBS_MAX: usize = 4;

/// Orders on their way to the thread, which takes them at once.
const LETTERS_MAX: usize = 16;

/// The jobs thread.
#[derive(Debug)]
pub struct Jobs {
    running: Mutex<Option<Thread>>,
    stopping: Cancel,
}

#[derive(Debug)]
struct Thread {
    sender: mpsc::Sender<Letter>,
    handle: thread::JoinHandle<()>,
}

enum Letter {
    Import {
        import: Import,
        cancel: Cancel,
        progress: watch::Sender<u8>,
        done: oneshot::Sender<Result<(), ImportError>>,
    },
    Task(Task),
}

/// Work that begins on the jobs thread. It ends soon when what it is given says that somebody asks.
pub type Task = Box<dyn FnOnce(Cancel) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Asks a job to end. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Cancel(watch::Sender<bool>);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// True once somebody has asked.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        // The sender is this one: it is not gone.
        let _ = self.0.subscribe().wait_for(|asked| *asked).await;
    }
}

/// A job that was handed in.
#[derive(Debug)]
pub struct Job {
    /// Percent done.
    pub progress: watch::Receiver<u8>,
    /// How it ended. A dropped sender says that the job panicked.
    pub done: oneshot::Receiver<Result<(), ImportError>>,
}

impl Jobs {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start() -> io::Result<Self> {
        Self::start_with(JOBS_MAX)
    }

    fn start_with(jobs_max: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(LETTERS_MAX);
        let stopping = Cancel::default();
        let stop = stopping.clone();
        let thread = move || tokio_uring::start(run(receiver, stop, jobs_max));
        let handle = thread::Builder::new().name("jobs".into()).spawn(thread)?;
        Ok(Self { running: Mutex::new(Some(Thread { sender, handle })), stopping })
    }

    /// Without a thread: whoever has the second value does the jobs, and the third asks them to end.
    #[cfg(test)]
    pub(crate) fn without_thread() -> io::Result<(Self, impl Future<Output = ()>, Cancel)> {
        let (sender, receiver) = mpsc::channel(LETTERS_MAX);
        let (stopping, handle) = (Cancel::default(), thread::Builder::new().spawn(|| ())?);
        let jobs = Self { running: Mutex::new(Some(Thread { sender, handle })), stopping: stopping.clone() };
        Ok((jobs, run(receiver, stopping.clone(), JOBS_MAX), stopping))
    }

    /// Hands in an import.
    pub async fn import(&self, import: Import, cancel: Cancel) -> Job {
        let (progress, progress_receiver) = watch::channel(0);
        let (done, done_receiver) = oneshot::channel();
        let sender = self.lock().as_ref().map(|thread| thread.sender.clone());
        // When the thread is gone `done` is dropped, which says so.
        if let Some(sender) = sender {
            let _ = sender.send(Letter::Import { import, cancel, progress, done }).await;
        }
        Job { progress: progress_receiver, done: done_receiver }
    }

    /// Hands in other work, which begins at once. When the thread is gone it is dropped.
    pub async fn run(&self, task: Task) {
        let sender = self.lock().as_ref().map(|thread| thread.sender.clone());
        if let Some(sender) = sender {
            let _ = sender.send(Letter::Task(task)).await;
        }
    }

    /// Cancels all jobs and waits for their ends; later ones end at once. Blocks.
    pub fn stop(&self) {
        self.stopping.cancel();
        let Some(Thread { sender, handle }) = self.lock().take() else { return };
        drop(sender);
        if handle.join().is_err() {
            tracing::error!("the jobs thread ended with a panic");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Thread>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(mut receiver: mpsc::Receiver<Letter>, stopping: Cancel, jobs_max: usize) {
    let slots = Arc::new(Semaphore::new(jobs_max));
    let mut jobs = JoinSet::new();
    while let Some(letter) = receiver.recv().await {
        jobs.spawn_local(work(letter, slots.clone(), stopping.clone()));
        while jobs.try_join_next().is_some() {}
    }
    // Closed: wait for those that run, since the ring must not go while the kernel has its buffers.
    while jobs.join_next().await.is_some() {}
}

async fn work(letter: Letter, slots: Arc<Semaphore>, stopping: Cancel) {
    let (import, cancel, progress, done) = match letter {
        Letter::Import { import, cancel, progress, done } => (import, cancel, progress, done),
        Letter::Task(task) => return task(stopping).await,
    };
    let slot = tokio::select! {
        biased;
        slot = slots.acquire() => slot.ok(),
        () = cancel.asked() => None,
        () = stopping.asked() => None,
    };
    let outcome = match slot {
        Some(_slot) => import.run(&progress, || cancel.is_cancelled() || stopping.is_cancelled()).await,
        None => {
            drop(import);
            Err(ImportError::Cancelled)
        }
    };
    // Nobody may be waiting for it.
    let _ = done.send(outcome);
}
