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
//! * At most [`JOBS_MAX`] run at a time; the others wait in the mailbox.
//!
//! Deliberately absent: what a finished import means for the disc; see [`crate::store`].

pub mod import;

use import::{Import, ImportError};
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Imports that run at a time: enough to use a RAID's disks, few enough to leave the guests some.
pub const JOBS_MAX: usize = 4;

/// Imports that wait. Beyond it the order itself waits.
const WAITING_MAX: usize = 256;

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

#[derive(Debug)]
struct Letter {
    import: Import,
    cancel: Cancel,
    progress: watch::Sender<u8>,
    done: oneshot::Sender<Result<(), ImportError>>,
}

/// Asks a job to end. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once somebody has asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
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
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let stopping = Cancel::default();
        let stop = stopping.clone();
        let handle =
            thread::Builder::new().name("jobs".into()).spawn(move || tokio_uring::start(run(receiver, stop)))?;
        Ok(Self { running: Mutex::new(Some(Thread { sender, handle })), stopping })
    }

    /// Hands in an import.
    pub async fn import(&self, import: Import, cancel: Cancel) -> Job {
        let (progress, progress_receiver) = watch::channel(0);
        let (done, done_receiver) = oneshot::channel();
        let sender = self.lock().as_ref().map(|thread| thread.sender.clone());
        // When the thread is gone `done` is dropped, which says so.
        if let Some(sender) = sender {
            let _ = sender.send(Letter { import, cancel, progress, done }).await;
        }
        Job { progress: progress_receiver, done: done_receiver }
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

async fn run(mut receiver: mpsc::Receiver<Letter>, stopping: Cancel) {
    let slots = Arc::new(Semaphore::new(JOBS_MAX));
    while let Some(letter) = receiver.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stopping = stopping.clone();
        tokio_uring::spawn(async move {
            let asked_to_end = || letter.cancel.is_cancelled() || stopping.is_cancelled();
            let outcome = letter.import.run(&letter.progress, asked_to_end).await;
            let _ = letter.done.send(outcome);
            drop(slot);
        });
    }
    // Closed: wait for those that run, since the ring must not go while the kernel has its buffers.
    let _ = slots.acquire_many(JOBS_MAX as u32).await;
}
