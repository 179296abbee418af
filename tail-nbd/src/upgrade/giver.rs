//! The old process's side: it starts the new one, gives it everything, and ends, or serves on.

use super::{
    FORMAT, FREEZE_DEADLINE, FREEZE_PAUSE, FREEZE_TRIES, GiverSaid, PREPARED_DEADLINE, READY_DEADLINE,
    SERVING_DEADLINE, TakerSaid, UNCARRIED_DEADLINE, UNCARRIED_PAUSE,
    channel::{Channel, DESCRIPTORS_MAX},
    state::{self, Contents},
};
use crate::{
    describe::describe,
    ring::probe::Mask,
    shard::{CarriedDisc, LentDisc, LentFacts, ShardError, Shards},
};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use spine::id::DiscNumber;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write as _},
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The program that is to take over.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
}

/// How an upgrade went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The process that serves now.
    pub pid: u32,
    /// Discs that it serves.
    pub discs_count: usize,
    /// Clients that did not notice.
    pub clients_count: usize,
    /// How long they waited, in microseconds.
    pub pause_us: u64,
}

/// Why nothing was handed over.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// The program could not be started.
    #[error("cannot start {}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It said why it cannot take over.
    #[error("the new program cannot take over: {0}")]
    Refused(String),
    /// It ended, or was silent, or said something that does not belong there.
    #[error("the new program {what}")]
    Silent {
        /// What it did not do.
        what: &'static str,
        /// What the channel says.
        source: io::Error,
    },
    /// Somebody changes a disc.
    #[error("{0}")]
    Busy(String),
    /// The discs do not come to rest.
    #[error("requests of the clients did not come to their end in {} ms, tried {FREEZE_TRIES} times", FREEZE_DEADLINE.as_millis())]
    Restless,
    /// A shard refused.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The state could not be written down.
    #[error("cannot hand over the state of the discs")]
    State(#[source] io::Error),
    /// The new process said that it serves when it was not believed any more, and is killed.
    #[error("the new program began to serve too late and was killed: this process ends, to be started again")]
    TooLate,
}

/// A process that can take over, and waits for the word.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    channel: Channel,
}

/// A process that has opened the discs, and waits for what has become of them.
#[derive(Debug)]
pub struct Heir {
    successor: Successor,
    lent: HashMap<DiscNumber, LentFacts>,
}

/// What is handed over besides the discs.
#[derive(Debug)]
pub struct Belongings {
    lock: File,
    metrics: Option<TcpListener>,
}

impl Belongings {
    /// The lock of the state directory, and where Prometheus asks. Both are copied.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn copy(lock: &File, metrics: Option<&TcpListener>) -> Result<Self, UpgradeError> {
        let copy = || Ok(Self { lock: lock.try_clone()?, metrics: metrics.map(TcpListener::try_clone).transpose()? });
        copy().map_err(UpgradeError::State)
    }
}

/// A successor that is ready, for the task that serves.
#[derive(Debug)]
pub struct Request {
    /// Who is to take over.
    pub successor: Successor,
    /// Who wants to know how it went.
    pub asker: Asker,
}

/// An operator who waits.
#[derive(Debug)]
pub struct Asker {
    outcome: oneshot::Sender<Result<Report, String>>,
    told: oneshot::Receiver<()>,
}

impl Asker {
    /// Tells how it went, and waits a moment until that was passed on: this process may end next.
    pub async fn tell(self, outcome: Result<Report, String>) {
        // An operator who is gone is told by the log.
        let _ = self.outcome.send(outcome);
        let _ = tokio::time::timeout(TELLING_DEADLINE, self.told).await;
    }
}

/// Makes successors, one at a time.
#[derive(Clone, Debug)]
pub struct Successors {
    mask: Mask,
    place: Arc<Semaphore>,
    requests: mpsc::Sender<Request>,
}

impl Successors {
    /// They leave alone what `mask` says; who serves reads the `requests`.
    pub fn new(mask: Mask, requests: mpsc::Sender<Request>) -> Self {
        Self { mask, place: Arc::new(Semaphore::new(1)), requests }
    }

    /// Has a program take over. What is sent by `told` says that the operator knows how it went.
    ///
    /// # Errors
    /// With a sentence for the operator, when it did not.
    pub async fn install(&self, order: Order, told: oneshot::Receiver<()>) -> Result<Report, String> {
        let Ok(_place) = self.place.try_acquire() else { return Err("another upgrade is under way".to_owned()) };
        let mask = self.mask;
        let successor = blocking(move || Successor::start(&order, mask)).await.map_err(|error| describe(&error))?;
        let (sender, outcome) = oneshot::channel();
        let request = Request { successor, asker: Asker { outcome: sender, told } };
        let stopping = || "the server is stopping".to_owned();
        self.requests.send(request).await.map_err(|_| stopping())?;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }
}

/// How long a process that has nothing else to do any more waits until an operator knows.
const TELLING_DEADLINE: Duration = Duration::from_secs(1);

impl Successor {
    /// Starts a program and waits until it says that it can take over. Blocks.
    ///
    /// # Errors
    /// When it does not say so; it is gone then.
    pub fn start(order: &Order, mask: Mask) -> Result<Self, UpgradeError> {
        let failed = |source| UpgradeError::Start { path: order.program.clone(), source };
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(&order.program);
        command.arg("run").arg("--config").arg(&order.config).args(["--features", mask.name()]);
        // A standard descriptor is inherited without any number to be agreed on.
        command.arg("--take-over").arg(FORMAT.to_string()).stdin(Stdio::from(theirs.into_socket()));
        let child = command.spawn().map_err(failed)?;
        drop(command);
        let successor = Self { child, channel };
        successor.expect(READY_DEADLINE, "did not become ready", |said| matches!(said, TakerSaid::Ready))?;
        Ok(successor)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it read all records, which do not change any more, and open the discs, which go on here. Blocks.
    ///
    /// # Errors
    /// When it does not; it is gone then.
    pub fn prepare(self, discs: Vec<LentDisc>, belongings: &Belongings) -> Result<Heir, UpgradeError> {
        let deadline = Instant::now() + PREPARED_DEADLINE;
        let state = write_down(|out| state::write_lent(&discs, out)).map_err(UpgradeError::State)?;
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![state.as_fd(), belongings.lock.as_fd()];
        descriptors.extend(belongings.metrics.as_ref().map(AsFd::as_fd));
        descriptors.extend(state::lent_descriptors(&discs));
        let contents = Contents { descriptors_count: descriptors.len(), metrics: belongings.metrics.is_some() };
        let what = "did not open the discs";
        let sent = self.send(GiverSaid::Lent(contents), &descriptors, deadline);
        sent.map_err(|source| UpgradeError::Silent { what, source })?;
        self.expect(PREPARED_DEADLINE, what, |said| matches!(said, TakerSaid::Prepared))?;
        let lent = discs.into_iter().map(|disc| (disc.facts.number, disc.facts)).collect();
        Ok(Heir { successor: self, lent })
    }

    /// Gives it what has become of the discs, and waits until it says that it serves. Blocks, for a short time.
    fn give(&self, discs: &[CarriedDisc]) -> Result<(), UpgradeError> {
        let deadline = Instant::now() + SERVING_DEADLINE;
        let state = write_down(|out| state::write(discs, out)).map_err(UpgradeError::State)?;
        let descriptors: Vec<BorrowedFd<'_>> = [state.as_fd()].into_iter().chain(state::descriptors(discs)).collect();
        let contents = Contents { descriptors_count: descriptors.len(), metrics: false };
        self.send(GiverSaid::State(contents), &descriptors, deadline).map_err(UpgradeError::State)?;
        self.expect(SERVING_DEADLINE, "did not begin to serve", |said| matches!(said, TakerSaid::Serving))
    }

    /// Sends a message with as many descriptors as there are.
    fn send(&self, mut message: GiverSaid, descriptors: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<()> {
        for some in descriptors.chunks(DESCRIPTORS_MAX) {
            self.channel.send(&message, some, deadline)?;
            message = GiverSaid::Descriptors;
        }
        Ok(())
    }

    /// Ends the process and waits for its end. True when it had said that it serves: then it may have done something
    /// for clients, whom nobody else may serve any more. Blocks.
    fn end(mut self) -> bool {
        self.kill();
        while let Ok((said, _)) = self.channel.receive::<TakerSaid>(Instant::now()) {
            if matches!(said, TakerSaid::Serving) {
                return true;
            }
        }
        false
    }

    fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        if let Err(error) = self.child.wait() {
            tracing::error!(%error, "cannot wait for the end of the new process");
        }
    }

    fn expect(
        &self,
        patience: Duration,
        what: &'static str,
        is_it: impl Fn(&TakerSaid) -> bool,
    ) -> Result<(), UpgradeError> {
        match self.channel.receive::<TakerSaid>(Instant::now() + patience) {
            Ok((said, _)) if is_it(&said) => Ok(()),
            Ok((TakerSaid::Failed(reason), _)) => Err(UpgradeError::Refused(reason)),
            Ok(_) => Err(UpgradeError::Silent { what, source: io::Error::other("it says something else") }),
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Err(UpgradeError::Silent { what, source: io::Error::other("it ended, and its log says why") })
            }
            Err(source) => Err(UpgradeError::Silent { what, source }),
        }
    }
}

/// Who is not wanted any more is ended, without a look at what it had to say: it was not told to serve anybody.
impl Drop for Successor {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Hands all discs of these shards over. With an error nothing has changed, but for [`UpgradeError::TooLate`].
///
/// # Errors
/// When the heir does not take over.
pub async fn hand_over(heir: Heir, shards: &Shards) -> Result<Report, UpgradeError> {
    let Heir { successor, lent } = heir;
    let pid = successor.pid();
    let deadline = Instant::now() + UNCARRIED_DEADLINE;
    while shards.drain_uncarried().await > 0 && Instant::now() < deadline {
        tokio::time::sleep(UNCARRIED_PAUSE).await;
    }
    let (mut discs, begun, frozen) = match freeze(shards).await {
        Ok(frozen) => frozen,
        Err(error) => {
            shards.thaw_all().await;
            return Err(error);
        }
    };
    // The clients wait: this thread has nothing better to do than to wait with them.
    let copied = begun.elapsed();
    for facts in discs.iter_mut().map(|disc| &mut disc.facts) {
        // What it has is not said again.
        facts.counters.take_if(|counters| lent.get(&facts.number).is_some_and(|lent| lent.counters == *counters));
    }
    let given = successor.give(&discs);
    let pause = begun.elapsed();
    let (frozen_us, copied_us, pause_us) = (frozen.as_micros(), copied.as_micros(), pause.as_micros());
    tracing::info!(frozen_us, copied_us, pause_us, "the discs stood still, were copied, and went on elsewhere or here");
    match given {
        Ok(()) => {
            let clients_count = discs.iter().map(|disc| disc.kept.len() + disc.clients.len()).sum();
            let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
            // It must not be ended now.
            std::mem::forget(successor);
            Ok(Report { pid, discs_count: discs.len(), clients_count, pause_us })
        }
        Err(error) => {
            if successor.end() {
                return Err(UpgradeError::TooLate);
            }
            shards.thaw_all().await;
            Err(error)
        }
    }
}

/// Freezes all discs and copies them. Returns them with the moment at which the clients' wait began, and how long it then
/// took until they stood still.
async fn freeze(shards: &Shards) -> Result<(Vec<CarriedDisc>, Instant, Duration), UpgradeError> {
    for _ in 0..FREEZE_TRIES {
        let begun = Instant::now();
        match tokio::time::timeout(FREEZE_DEADLINE, shards.freeze_all()).await {
            Ok(Ok(())) => {
                let frozen = begun.elapsed();
                return Ok((shards.carry_all().await?, begun, frozen));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => shards.thaw_all().await,
        }
        tokio::time::sleep(FREEZE_PAUSE).await;
    }
    Err(UpgradeError::Restless)
}

/// The state in memory that has a descriptor.
fn write_down(write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<File> {
    let mut out = BufWriter::with_capacity(1 << 20, File::from(memfd_create("tail-nbd", MemfdFlags::CLOEXEC)?));
    write(&mut out)?;
    out.flush()?;
    Ok(out.into_inner()?)
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
