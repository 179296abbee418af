//! The thread of a shard: the only place that knows both the shard and the kernel's ring.

use super::engine::Engine;
use super::error::StartError;
use super::handle::{Patience, ShardConfig, ShardEvent};
use super::linger::Linger;
use crate::buffer::Pool;
use crate::mailbox::{MailboxReceiver, Post};
use crate::memory::Share;
use crate::ring::op::{Completion, Handle, Op, Owner};
use crate::ring::pipe::Pipes;
use crate::ring::uring::Ring;
use crate::time::Instant;
use crate::whole::Whole;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
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
    config: &ShardConfig,
    (share, whole): (Share, Whole),
) -> Result<(JoinHandle<()>, String), StartError> {
    let os = |what| move |source| StartError::Os { shard, what, source };
    let wake = mailbox.wake_fd().map_err(os("cannot share its eventfd"))?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let (mask, tls) = (config.mask, config.tls.clone());
    let run = move || {
        pin(shard, core);
        let ring = match Ring::new(mask, share.receive_buffers_count) {
            Ok(ring) => ring,
            Err(error) => return drop(sender.send(Err(error))),
        };
        if sender.send(Ok(ring.features().to_owned())).is_ok() {
            let mut engine = Engine::new(events, patience, Pool::with_whole(&share.data_buffers, whole));
            engine.use_pipes(Pipes::default());
            engine.use_tls(tls);
            let (wake, linger, start) = (Rc::new(wake), Linger::default(), std::time::Instant::now());
            Driver { ring, engine, mailbox, wake, linger, start }.run();
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
    engine: Engine,
    mailbox: MailboxReceiver,
    wake: Handle,
    linger: Linger,
    start: std::time::Instant,
}

impl Driver {
    fn run(mut self) {
        let mut completions: Vec<Completion> = Vec::new();
        self.poll_mailbox();
        while !self.engine.is_finished() {
            self.submit();
            if self.engine.takes_cancels() {
                self.ring.cancel(|owner| self.engine.is_held(owner));
            }
            if let Err(error) = self.wait() {
                // Nothing can be done without the ring; the discs are closed by the end of the process.
                tracing::error!(%error, "the ring has failed; this shard ends");
                return;
            }
            self.ring.reap(&mut completions);
            let now = self.now();
            self.engine.begin(now);
            for completion in completions.drain(..) {
                if completion.owner == Owner::Mailbox {
                    self.read_mailbox();
                } else {
                    self.engine.apply(completion);
                }
            }
            self.engine.maintain(self.ring.has_receive_buffers());
        }
        self.engine.tell_the_rest();
        self.engine.finish();
    }

    fn wait(&mut self) -> io::Result<()> {
        let silent_since = std::time::Instant::now();
        self.engine.end(self.instant(silent_since));
        if self.engine.is_hurried() {
            self.linger.handle_part(self.engine.requests_count());
            return self.ring.wait(Some(Duration::ZERO));
        }
        if let Some(limit) = self.linger.limit()
            && self.engine.waits_for_clients_only()
        {
            self.ring.flush()?;
            while !self.ring.has_news() && silent_since.elapsed() < limit {
                std::hint::spin_loop();
            }
        }
        self.ring.wait(self.timeout())?;
        self.linger.handle_turn(silent_since.elapsed(), self.engine.requests_count());
        Ok(())
    }

    fn submit(&mut self) {
        while let Some((owner, op)) = self.engine.next_op() {
            if let Err((owner, op)) = self.ring.submit(owner, op) {
                return self.engine.put_back(owner, op);
            }
        }
    }

    fn poll_mailbox(&mut self) {
        let op = Op::Poll { file: Rc::clone(&self.wake) };
        if let Err((owner, op)) = self.ring.submit(Owner::Mailbox, op) {
            self.engine.put_back(owner, op);
        }
    }

    fn read_mailbox(&mut self) {
        self.mailbox.acknowledge();
        loop {
            match self.mailbox.take() {
                Post::Letter(letter) => self.engine.deliver(letter),
                Post::Empty => break,
                Post::Closed => return self.engine.desert(),
            }
        }
        self.poll_mailbox();
    }

    fn now(&self) -> Instant {
        self.instant(std::time::Instant::now())
    }

    /// A moment by the shard's clock.
    fn instant(&self, moment: std::time::Instant) -> Instant {
        Instant::from_nanoseconds(u64::try_from((moment - self.start).as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long the kernel may let us sleep.
    fn timeout(&self) -> Option<Duration> {
        let at = self.engine.wake_at()?;
        Some(at.since(self.now()))
    }
}
