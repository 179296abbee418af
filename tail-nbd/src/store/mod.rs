//! The set of discs of a tail, and the orders about them.
//!
//! ```text
//!   control ── create, update, remove ──▶ Store ──▶ pool, sidecar   what survives a crash
//!      ▲                                    ├─────▶ shards          who serves clients
//!      │                                    ├─────▶ jobs            who imports images
//!      └──── changed, report ───────────────┴─────▶ addresses       who answers for the address
//! ```
//!
//! A disc is in one of these phases:
//!
//! ```text
//!            create, start                    remove
//!                 │                             ▲
//!        image?   ▼      done, sidecar written  │
//!     ┌───── Importing ───────────────▶ Serving ┤
//!     │           ▲ ▲                      │    │
//!     │     retry │ └── update {"image"} ──┘    │
//!     └────▶ Failed ◀── whatever cannot be done ┘
//! ```
//!
//! Invariants:
//! * What was answered is in the sidecar (safety rule 2); a restart finds the same discs, serves them
//!   without the brain, and starts an unfinished import again from nothing.
//! * A data file is served or written only through the open file description that has its lock
//!   (safety rule 10).
//! * The truth about a disc is behind its own lock; its report is a copy for readers who do not wait.
//! * Two orders about one number never run at the same time: [`crate::control`] sees to it.
//! * Files that cannot be understood are reported as `failed` and are never deleted.
//!
//! * [`change`]: orders and the records that follow from them; pure.
//! * [`disc`]: one disc. [`start`], [`create`], [`update`], [`remove`], [`import`],
//!   [`reload`], [`depart`], [`migrate`], [`cede`], [`receive`], [`force`]: what is done to it. [`unused`]: announces those
//!   that wait for a client.
//! * [`inherit`]: discs that change processes.
//! * [`refusal`]: why something was not done.
//!
//! Deliberately absent: who may order what (the brain's business) and the order of the commands.

pub mod cede;
pub mod change;
pub mod create;
pub mod depart;
pub mod disc;
pub mod force;
pub mod import;
pub mod inherit;
pub mod migrate;
pub mod receive;
pub mod refusal;
pub mod reload;
pub mod remove;
pub mod start;
pub mod unused;
pub mod update;

use crate::{
    address::Addresses,
    describe::describe,
    jobs::Jobs,
    migration::link::Network,
    offload::offload,
    pool::Pool,
    shard::{ShardError, ShardEvent, Shards},
    sidecar::SidecarError,
    sole,
};
use disc::{Disc, Held, Phase};
use refusal::Refusal;
use spine::{
    address::StoragePrefix,
    id::{DiscName, DiscNumber, PoolName},
    resource::{disc::DiscReport, global},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::Ipv6Addr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedMutexGuard, mpsc},
    task::JoinSet,
};

/// The discs of a tail. See the module's page.
#[derive(Debug)]
pub struct Store {
    parts: Parts,
    discs: Mutex<BTreeMap<DiscNumber, Arc<Disc>>>,
    changed: Arc<Changed>,
    tasks: Mutex<JoinSet<()>>,
    /// The disc whose turn it is to be looked at.
    next_look: Mutex<DiscNumber>,
}

/// What a store is made of.
#[derive(Debug)]
pub struct Parts {
    /// The discs' addresses.
    pub prefix: StoragePrefix,
    /// The tail's own.
    pub own_address: Ipv6Addr,
    /// Where images are.
    pub images_dir: PathBuf,
    /// The pools, open.
    pub pools: BTreeMap<PoolName, Pool>,
    /// Who serves.
    pub shards: Shards,
    /// Who imports, and copies between tails.
    pub jobs: Jobs,
    /// How other tails are reached; none: no disc moves from or to here.
    pub network: Option<Network>,
    /// Who puts addresses up.
    pub addresses: Addresses,
}

/// The numbers of discs whose report may have changed. It cannot overflow: it has each number once.
#[derive(Debug, Default)]
pub struct Changed {
    numbers: Mutex<BTreeSet<DiscNumber>>,
    notify: Notify,
}

impl Changed {
    /// Says that a disc may have changed.
    pub fn mark(&self, number: DiscNumber) {
        lock(&self.numbers).insert(number);
        self.notify.notify_one();
    }

    /// Waits until something was marked, and takes it.
    pub async fn take(&self) -> BTreeSet<DiscNumber> {
        loop {
            let numbers = std::mem::take(&mut *lock(&self.numbers));
            if !numbers.is_empty() {
                return numbers;
            }
            self.notify.notified().await;
        }
    }
}

impl Store {
    /// An empty one. `changed` is marked for each disc whose report changes.
    pub fn new(parts: Parts, changed: Arc<Changed>) -> Arc<Self> {
        Arc::new(Self {
            parts,
            discs: Mutex::default(),
            changed,
            tasks: Mutex::default(),
            next_look: Mutex::new(DiscNumber(0)),
        })
    }

    /// Where changes are marked.
    pub fn changed(&self) -> &Arc<Changed> {
        &self.changed
    }

    /// How other tails are reached, if discs move at all.
    pub fn network(&self) -> Option<&Network> {
        self.parts.network.as_ref()
    }

    /// The shards, for their status.
    pub fn shards(&self) -> &Shards {
        &self.parts.shards
    }

    /// What there is to say of a disc now; none when it is not here.
    pub fn report(&self, number: DiscNumber) -> Option<(DiscName, DiscReport)> {
        let disc = lock(&self.discs).get(&number).cloned()?;
        Some((disc.name.clone(), self.with_address_state(disc.report())))
    }

    /// What there is to say of all discs.
    pub fn reports(&self) -> Vec<(DiscName, DiscReport)> {
        let discs: Vec<_> = lock(&self.discs).values().cloned().collect();
        discs.iter().map(|disc| (disc.name.clone(), self.with_address_state(disc.report()))).collect()
    }

    /// The pools and how full they are; a pool whose filesystem does not answer is left out, with a
    /// line in the log. Blocks.
    pub fn pools(&self) -> global::StoragePools {
        let mut pools = global::StoragePools::new();
        for (name, pool) in &self.parts.pools {
            let space = match pool.space() {
                Ok(space) => space,
                Err(error) => {
                    tracing::error!(pool = %name, %error, "cannot ask how full a storage pool is");
                    continue;
                }
            };
            let report = global::Pool {
                grade: pool.grade.clone(),
                size: space.size_bytes,
                free: space.free_bytes,
                allocated: 0,
                promised: 0,
                discs: 0,
                note: pool.note.clone(),
                extra: serde_json::Map::new(),
            };
            pools.insert(name.clone(), report);
        }
        for disc in lock(&self.discs).values() {
            disc.add_to(&mut pools);
        }
        pools
    }

    /// Looks again how much of each disc is allocated, of at most [`LOOKS_MAX`] discs in turn. Blocks.
    pub fn refresh_allocated(&self) {
        let discs: Vec<_> = {
            let (discs, mut next) = (lock(&self.discs), lock(&self.next_look));
            let from_there = discs.range(*next..).chain(discs.range(..*next));
            let chosen: Vec<_> = from_there.take(LOOKS_MAX).map(|(_, disc)| disc.clone()).collect();
            if let Some(last) = chosen.last() {
                *next = DiscNumber(last.name.number.0.saturating_add(1));
            }
            chosen
        };
        for disc in discs {
            let pool = self.parts.pools.get(&disc.pool_name());
            if pool.is_some_and(|pool| disc.refresh_allocated(&pool.data_path(disc.name.number))) {
                self.changed.mark(disc.name.number);
            }
        }
    }

    /// Acts on what a shard says unasked. It goes on when this returns, and a stop waits for it.
    pub fn handle_shard_event(self: &Arc<Self>, event: ShardEvent) {
        let store = self.clone();
        self.spawn(async move {
            match event {
                ShardEvent::SyncFailed { number, errno } => store.latch_sync_failure(number, errno).await,
                ShardEvent::Panicked { number, message } => store.reload(number, &message).await,
            }
        });
    }

    /// Ends imports and closes all discs; addresses stay. Nobody else may hold the store any more, but for
    /// what is about to end. What the last syncs tell through `shard_events` is recorded. False when somebody holds it
    /// all the same: then the discs are left to the end of the process.
    #[must_use]
    pub async fn stop(self: Arc<Self>, mut shard_events: mpsc::Receiver<ShardEvent>) -> bool {
        let jobs = self.clone();
        if tokio::task::spawn_blocking(move || jobs.parts.jobs.stop()).await.is_err() {
            tracing::error!("stopping the jobs thread panicked");
        }
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_DEADLINE, all).await.is_err() {
            // Discs that still wait for their lock: that can be done by the next start.
            tasks.shutdown().await;
        }
        // A look at the pools cannot be cut short, and ends soon unless a filesystem hangs.
        let Some(Self { parts, discs, .. }) = sole::take(self, STOP_DEADLINE).await else { return false };
        let discs = discs.into_inner().unwrap_or_else(PoisonError::into_inner);
        // It ends with the last shard.
        let recording = async {
            while let Some(event) = shard_events.recv().await {
                if let ShardEvent::SyncFailed { number, errno } = event
                    && let Some(disc) = discs.get(&number)
                    && let Some(held) = disc.held.clone()
                {
                    // It has told already that it could not.
                    let _ = record_sync_failure(disc, held.lock_owned().await, errno).await;
                }
            }
        };
        tokio::join!(parts.shards.stop(), recording);
        true
    }

    fn find_number(&self, number: DiscNumber) -> Option<Arc<Disc>> {
        lock(&self.discs).get(&number).cloned()
    }

    fn find(&self, name: &DiscName) -> Result<Arc<Disc>, Refusal> {
        let disc = self.find_number(name.number).filter(|disc| disc.name == *name);
        disc.ok_or_else(|| Refusal::NotFound(name.clone()))
    }

    fn pool_of(&self, held: &Held) -> &Pool {
        // A record with an unknown pool is refused at start.
        &self.parts.pools[&held.record().pool]
    }

    /// Makes the report of `disc` agree with `held`, and says that it changed.
    fn publish(&self, disc: &Disc, held: &Held) {
        disc.set_report(held.report());
        self.changed.mark(disc.name.number);
    }

    /// A disc whose address is not up is not served, whatever its shard thinks.
    fn with_address_state(&self, report: DiscReport) -> DiscReport {
        match self.parts.addresses.trouble(report.address) {
            Some(reason) => disc::failed_unless_worse(report, reason),
            None => report,
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Forgets what is under way, as the end of the process would.
    #[cfg(test)]
    pub(crate) fn abandon(&self) {
        lock(&self.tasks).abort_all();
    }

    async fn latch_sync_failure(&self, number: DiscNumber, errno: i32) {
        let Some((disc, held)) = self.lock_disc(number).await else { return };
        if matches!(held.phase, Phase::Importing(_) | Phase::Moved | Phase::Gone) {
            // What could not be synced is not there any more.
            return;
        }
        let (held, _) = record_sync_failure(&disc, held, errno).await;
        self.publish(&disc, &held);
    }

    /// Opens a disc again after a panic: closing it waits for its old incarnation (safety rule 10).
    async fn reload(self: &Arc<Self>, number: DiscNumber, message: &str) {
        let Some((disc, held)) = self.lock_disc(number).await else { return };
        tracing::error!(disc = %disc.name, message, "a panic while serving a disc: opening it again");
        if !matches!(held.phase, Phase::Serving) {
            return;
        }
        let (held, closed) = self.close_for_reload(&disc, held).await;
        let (mut held, cut) = blocking(held, |held| held.cut_to_record()).await;
        if let Err(refusal) = closed.and(cut) {
            held.phase = Phase::Failed(describe(&refusal));
            return self.publish(&disc, &held);
        }
        held.panics_count += 1;
        held.phase = if held.panics_count > PANICS_MAX {
            Phase::Failed(format!(
                "the tail panicked {PANICS_MAX} times while serving it, the last time with: {message}"
            ))
        } else {
            match self.serve(&held).await {
                Ok(()) => Phase::Serving,
                Err(refusal) => Phase::Failed(describe(&refusal)),
            }
        };
        self.publish(&disc, &held);
    }

    /// Closes a disc that is to be opened again. That its last sync failed is recorded first: the next one would
    /// not tell it (safety rule 17).
    async fn close_for_reload(
        &self,
        disc: &Disc,
        held: OwnedMutexGuard<Held>,
    ) -> (OwnedMutexGuard<Held>, Result<(), Refusal>) {
        match self.parts.shards.close(disc.name.number).await {
            Err(ShardError::Os { source, .. }) => {
                let (held, recorded) =
                    record_sync_failure(disc, held, source.raw_os_error().unwrap_or(libc::EIO)).await;
                (held, recorded.map_err(Refusal::from))
            }
            Err(error) => {
                tracing::warn!(disc = %disc.name, error = describe(&error), "closing a disc to open it again");
                (held, Ok(()))
            }
            Ok(()) => (held, Ok(())),
        }
    }

    async fn lock_disc(&self, number: DiscNumber) -> Option<(Arc<Disc>, OwnedMutexGuard<Held>)> {
        let disc = self.find_number(number)?;
        let held = disc.held.clone()?.lock_owned().await;
        Some((disc, held))
    }
}

/// Discs that one look asks the filesystem about: a tail with thousands of idle discs is to stay idle itself, and a
/// figure for people may be some looks old.
const LOOKS_MAX: usize = 512;

/// How long a stop waits for what still looks at the discs.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Panics after which a disc is no longer opened again, so that a client cannot keep a tail busy with
/// them.
const PANICS_MAX: u32 = 3;

/// Keeps it over restarts that a sync failed.
async fn record_sync_failure(
    disc: &Disc,
    held: OwnedMutexGuard<Held>,
    errno: i32,
) -> (OwnedMutexGuard<Held>, Result<(), SidecarError>) {
    let error = std::io::Error::from_raw_os_error(errno);
    tracing::error!(disc = %disc.name, %error, "a flush failed: writes acknowledged before may be lost; every flush fails from now on");
    let (held, written) = blocking(held, |held| {
        let mut record = held.record().clone();
        if record.flush_failed {
            return Ok(());
        }
        record.flush_failed = true;
        held.sidecar.write(record)
    })
    .await;
    if let Err(error) = &written {
        tracing::error!(disc = %disc.name, error = describe(error), "the failed flush could not be recorded");
    }
    (held, written)
}

/// Runs `work` where it may block. The lock goes with it: even if the caller is dropped, nobody else
/// sees the disc half-changed.
async fn blocking<R: Send + 'static>(
    mut held: OwnedMutexGuard<Held>,
    work: impl FnOnce(&mut Held) -> R + Send + 'static,
) -> (OwnedMutexGuard<Held>, R) {
    offload(move || {
        let result = work(&mut held);
        (held, result)
    })
    .await
}

/// The store's short locks guard plain values that are whole at every moment, so a panic elsewhere
/// does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
