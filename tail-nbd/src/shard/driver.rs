//! The thread of a shard: the only place that knows both the shard and the kernel's ring.

use super::handle::{Patience, ShardEvent, StartError};
use super::owner::{Shard, Work};
use crate::mailbox::{MailboxReceiver, Post};
use crate::ring::op::{Completion, Handle, Op, Owner};
use crate::ring::uring::Ring;
use crate::time::Instant;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// The cores that this process may use; none when the kernel does not say.
pub(super) fn allowed_cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Starts the thread of a shard on a core and waits until its ring works. Returns what the probe found.
pub(super) fn spawn(
    shard: usize,
    core: Option<usize>,
    mailbox: MailboxReceiver,
    events: mpsc::Sender<ShardEvent>,
    patience: Patience,
) -> Result<(JoinHandle<()>, String), StartError> {
    let os = |what| move |source| StartError::Os { shard, what, source };
    let wake = mailbox.wake_fd().map_err(os("cannot share its eventfd"))?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        pin(shard, core);
        let ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return drop(sender.send(Err(error))),
        };
        if sender.send(Ok(ring.features().to_owned())).is_ok() {
            Driver {
                ring,
                shard: Shard::new(events, patience),
                mailbox,
                wake: Rc::new(wake),
                start: std::time::Instant::now(),
            }
            .run();
        }
    };
    let thread = std::thread::Builder::new().name(format!("shard{shard}")).spawn(run);
    let thread = thread.map_err(os("cannot start its thread"))?;
    let gone = || StartError::Os { shard, what: "its thread ended at once", source: std::io::ErrorKind::Other.into() };
    let features = receiver.recv().map_err(|_| gone())??;
    Ok((thread, features))
}

fn pin(shard: usize, core: Option<usize>) {
    let Some(core) = core else { return };
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(shard, core, %error, "cannot pin the shard's thread; it runs wherever it is put");
    }
}

struct Driver {
    ring: Ring,
    shard: Shard,
    mailbox: MailboxReceiver,
    wake: Handle,
    start: std::time::Instant,
}

impl Driver {
    fn run(mut self) {
        let mut completions: Vec<Completion> = Vec::new();
        let mut work: Vec<Work> = Vec::new();
        self.poll_mailbox();
        while !self.shard.is_finished() {
            self.submit();
            if let Err(error) = self.ring.wait(self.timeout()) {
                // Nothing can be done without the ring; the discs are closed by the end of the process.
                tracing::error!(%error, "the ring has failed; this shard ends");
                return;
            }
            self.ring.reap(&mut completions);
            let now = self.now();
            self.shard.begin(now);
            for completion in completions.drain(..) {
                if completion.owner == Owner::Mailbox {
                    self.read_mailbox();
                } else {
                    self.guard(|shard| shard.apply(completion));
                }
            }
            self.maintain(&mut work);
        }
        if let Some(reply) = self.shard.stopping.take() {
            let _ = reply.send(());
        }
    }

    /// Works on everything that can go on, until nothing can.
    fn maintain(&mut self, work: &mut Vec<Work>) {
        let has_receive_buffers = self.ring.has_receive_buffers();
        self.guard(|shard| shard.take_waiters(has_receive_buffers, work));
        loop {
            self.shard.take_touched(work);
            if work.is_empty() {
                return;
            }
            for item in work.drain(..) {
                self.guard(|shard| shard.work(item));
            }
        }
    }

    /// Confines a panic to the disc that was being worked on.
    fn guard(&mut self, work: impl FnOnce(&mut Shard)) {
        let shard = &mut self.shard;
        shard.current = None;
        // The tables stay usable: whatever the disc had in them is removed, and tokens of it are dead.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(shard)))
            && !shard.bury(message(&*panic))
        {
            resume_unwind(panic);
        }
    }

    fn submit(&mut self) {
        while let Some((owner, op)) = self.shard.outbox.pop_front() {
            if let Err(back) = self.ring.submit(owner, op) {
                self.shard.outbox.push_front(back);
                return;
            }
        }
    }

    fn poll_mailbox(&mut self) {
        let file = Rc::clone(&self.wake);
        self.shard.outbox.push_back((Owner::Mailbox, Op::Poll { file }));
    }

    fn read_mailbox(&mut self) {
        self.mailbox.acknowledge();
        loop {
            match self.mailbox.take() {
                Post::Letter(letter) => self.guard(|shard| shard.handle_letter(letter)),
                Post::Empty => break,
                // The control side is gone without a word.
                Post::Closed if self.shard.stopping.is_none() => return self.guard(|shard| shard.stop(None)),
                Post::Closed => return,
            }
        }
        self.poll_mailbox();
    }

    fn now(&self) -> Instant {
        Instant::from_nanoseconds(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long the kernel may let us sleep.
    fn timeout(&self) -> Option<Duration> {
        let at = self.shard.wake_at()?;
        Some(at.since(self.now()))
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
