//! One disc of the store.

use super::{lock, refusal::Refusal};
use crate::{
    geometry::ByteRange,
    jobs::Cancel,
    migration::wire::CopyId,
    shard::Access,
    sidecar::{Record, RecordedAccess, Sidecar},
};
use spine::{
    id::{AttachmentsVersion, DiscName, Generation, MigrationId, PoolName},
    resource::{
        disc::{DiscReport, DiscState},
        global::StoragePools,
        migration::{MigrationReport, MigrationRole, Ownership},
    },
};
use std::{
    fs::{self, File},
    net::Ipv6Addr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;
use uuid::Uuid;

/// A disc as the store lists it.
#[derive(Debug)]
pub struct Disc {
    /// What it is called.
    pub name: DiscName,
    /// The truth; none when its files cannot be understood.
    pub held: Option<Arc<tokio::sync::Mutex<Held>>>,
    report: Mutex<DiscReport>,
    moving: Mutex<Option<Moving>>,
    /// The connection of another tail that the disc comes over.
    pub session: Session,
}

/// A move that is under way, or the last one.
#[derive(Debug)]
pub struct Moving {
    /// What there is to say of it.
    pub report: MigrationReport,
    /// Percent done.
    pub progress: Option<u8>,
    /// Seconds to go.
    pub eta_s: Option<u64>,
    /// In 10⁶ bytes a second.
    pub speed_mb_per_s: Option<u64>,
    /// Ends it.
    pub cancel: Cancel,
    /// True when nothing is done for it any more.
    pub ended: watch::Receiver<bool>,
}

/// One connection at a time, and the newest counts: an older one may be dead without having noticed.
#[derive(Debug, Default)]
pub struct Session {
    /// Held while a connection is served.
    pub lock: tokio::sync::Mutex<()>,
    newest: watch::Sender<u64>,
    copy: Mutex<Copy>,
}

/// The copy that came over the connections so far.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// Which one it is.
    pub id: CopyId,
    /// What there was no room for.
    pub lacking: Option<ByteRange>,
}

impl Default for Copy {
    fn default() -> Self {
        Self { id: CopyId(Uuid::new_v4()), lacking: None }
    }
}

/// The turn of one connection.
#[derive(Debug)]
pub struct Turn {
    number: u64,
    newest: watch::Receiver<u64>,
}

impl Session {
    /// What has come so far.
    pub fn copy(&self) -> Copy {
        *lock(&self.copy)
    }

    /// Says what has become of it.
    pub fn set_copy(&self, copy: Copy) {
        *lock(&self.copy) = copy;
    }

    /// Takes the next turn, and so ends the one before.
    pub fn next_turn(&self) -> Turn {
        let mut number = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        Turn { number, newest: self.newest.subscribe() }
    }
}

impl Turn {
    /// True when somebody has taken the next turn.
    pub fn is_over(&self) -> bool {
        *self.newest.borrow() > self.number
    }

    /// Waits until somebody takes the next turn.
    pub async fn over(&mut self) {
        let number = self.number;
        // Without anybody who could take it there is nobody to wait for.
        let _ = self.newest.wait_for(|newest| *newest > number).await;
    }
}

/// A disc whose sidecar is readable.
#[derive(Debug)]
pub struct Held {
    /// The record on disc.
    pub sidecar: Sidecar,
    /// The data, locked through this open file description; none while it could not be opened.
    pub data: Option<File>,
    /// What it is doing.
    pub phase: Phase,
    /// Panics while it was served, since the start.
    pub panics_count: u32,
}

/// What a disc is doing.
#[derive(Debug)]
pub enum Phase {
    /// A shard has it.
    Serving,
    /// A job writes an image onto it.
    Importing(Running),
    /// It comes from another tail.
    Receiving,
    /// It went to another tail.
    Moved,
    /// Neither, because of this.
    Failed(String),
    /// It is deleted; whoever still waits for its lock finds this.
    Gone,
}

/// A running import.
#[derive(Debug)]
pub struct Running {
    /// Ends it.
    pub cancel: Cancel,
    /// True when the job no longer touches the data file.
    pub ended: watch::Receiver<bool>,
    /// Percent done.
    pub progress: watch::Receiver<u8>,
}

impl Disc {
    /// A disc that is understood.
    pub fn new(held: Held) -> Self {
        let report = Mutex::new(held.report());
        Self {
            name: held.record().name(),
            held: Some(Arc::new(tokio::sync::Mutex::new(held))),
            report,
            moving: Mutex::default(),
            session: Session::default(),
        }
    }

    /// Files that are not understood: reported, and left alone.
    pub fn refused(name: DiscName, pool: PoolName, address: Ipv6Addr, reason: String) -> Self {
        let report = DiscReport {
            size: 0,
            storage_pool: pool,
            generation: Generation(0),
            attachments_version: AttachmentsVersion(0),
            attachments: None,
            access_control_list: None,
            address,
            allocated: 0,
            state: DiscState::Failed,
            reason: Some(reason),
            progress: None,
            owner: Ownership::Owner,
            migration: None,
            migration_progress: None,
            migration_eta: None,
            migration_speed: None,
            extra: serde_json::Map::new(),
        };
        Self { name, held: None, report: Mutex::new(report), moving: Mutex::default(), session: Session::default() }
    }

    /// What there is to say of it.
    pub fn report(&self) -> DiscReport {
        let mut report = lock(&self.report).clone();
        if let Some(moving) = &*lock(&self.moving) {
            report.migration = Some(moving.report.clone());
            report.migration_progress = moving.progress;
            report.migration_eta = moving.eta_s;
            report.migration_speed = moving.speed_mb_per_s;
        }
        report
    }

    /// A move begins.
    pub fn set_moving(&self, moving: Moving) {
        *lock(&self.moving) = Some(moving);
    }

    /// There is nothing to say of a move any more: its outcome was forced.
    pub fn forget_moving(&self) {
        *lock(&self.moving) = None;
    }

    /// Says something new of the move, if there is one.
    pub fn change_moving<T>(&self, change: impl FnOnce(&mut Moving) -> T) -> Option<T> {
        lock(&self.moving).as_mut().map(change)
    }

    /// The last move of which this tail is the source, and whether it is under way.
    pub fn last_move(&self) -> Option<(MigrationId, bool)> {
        let moving = lock(&self.moving);
        let moving = moving.as_ref().filter(|moving| moving.report.role == MigrationRole::Source);
        moving.map(|moving| (moving.report.id, !*moving.ended.borrow()))
    }

    /// How to end the move that is under way, and to see its end.
    pub fn running_move(&self) -> Option<(Cancel, watch::Receiver<bool>)> {
        let moving = lock(&self.moving);
        moving
            .as_ref()
            .filter(|moving| !*moving.ended.borrow())
            .map(|moving| (moving.cancel.clone(), moving.ended.clone()))
    }

    /// The pool it is in.
    pub fn pool_name(&self) -> PoolName {
        lock(&self.report).storage_pool.clone()
    }

    /// Adds what it takes to its pool, if that is among `pools`.
    pub fn add_to(&self, pools: &mut StoragePools) {
        let report = lock(&self.report);
        if let Some(pool) = pools.get_mut(&report.storage_pool) {
            pool.allocated += report.allocated;
            pool.promised = pool.promised.saturating_add(report.size);
            pool.discs += 1;
        }
    }

    /// Says something new of it.
    pub fn set_report(&self, report: DiscReport) {
        *lock(&self.report) = report;
    }

    /// Says how far its import is; true when that is new.
    pub fn set_progress(&self, percent: u8) -> bool {
        let mut report = lock(&self.report);
        report.state == DiscState::Importing && report.progress.replace(percent) != Some(percent)
    }

    /// Looks how much of the data file at `path` is allocated; true when that is new. Blocks.
    pub fn refresh_allocated(&self, path: &Path) -> bool {
        let Ok(metadata) = fs::symlink_metadata(path) else { return false };
        let allocated = metadata.blocks() * BLOCK_BYTES;
        std::mem::replace(&mut lock(&self.report).allocated, allocated) != allocated
    }
}

impl Held {
    /// The record in force.
    pub fn record(&self) -> &Record {
        self.sidecar.record()
    }

    /// Its access in the words of the shards.
    pub fn access(&self) -> Access {
        match &self.record().access {
            access if access.is_nobody() => Access::Nobody,
            RecordedAccess::List(addresses) => Access::List(addresses.clone()),
            RecordedAccess::Attachments(attachments) => {
                Access::Attachments(attachments.iter().map(|one| (one.head, one.key_hash.clone())).collect())
            }
        }
    }

    /// What there is to say of it.
    pub fn report(&self) -> DiscReport {
        let record = self.record().clone();
        let (attachments, access_control_list) = match record.access {
            RecordedAccess::Attachments(attachments) => (Some(attachments), None),
            RecordedAccess::List(addresses) => (None, Some(addresses)),
        };
        let (state, reason, progress) = match &self.phase {
            Phase::Serving if record.flush_failed => (DiscState::Serving, Some(FLUSH_FAILED.to_owned()), None),
            Phase::Serving => (DiscState::Serving, None, None),
            Phase::Importing(running) => (DiscState::Importing, None, Some(*running.progress.borrow())),
            Phase::Receiving => (DiscState::Receiving, None, None),
            Phase::Moved => (DiscState::Moved, None, None),
            Phase::Failed(reason) => (DiscState::Failed, Some(reason.clone()), None),
            Phase::Gone => (DiscState::Failed, Some("it is deleted".to_owned()), None),
        };
        DiscReport {
            size: record.size_bytes,
            storage_pool: record.pool,
            generation: record.generation,
            attachments_version: record.attachments_version,
            attachments,
            access_control_list,
            address: record.address,
            allocated: self.allocated_bytes(),
            state,
            reason,
            progress,
            owner: record.owner.ownership(),
            migration: None,
            migration_progress: None,
            migration_eta: None,
            migration_speed: None,
            extra: record.extra,
        }
    }

    /// Cuts off what the data file has beyond the disc's end: a resize was interrupted. Blocks.
    ///
    /// # Errors
    /// When the system fails.
    pub fn cut_to_record(&self) -> Result<(), Refusal> {
        let (record, Some(data)) = (self.record(), &self.data) else { return Ok(()) };
        let cut = || {
            if data.metadata()?.len() > record.size_bytes {
                data.set_len(record.size_bytes)?;
                data.sync_all()?;
            }
            Ok(())
        };
        cut().map_err(|source| Refusal::Io { name: record.name(), what: "set the size of its data", source })
    }

    /// Bytes that the data file takes in its pool.
    pub fn allocated_bytes(&self) -> u64 {
        self.data.as_ref().and_then(|data| data.metadata().ok()).map_or(0, |metadata| metadata.blocks() * BLOCK_BYTES)
    }
}

/// The report with a reason for not being served, unless it has one.
pub fn failed_unless_worse(mut report: DiscReport, reason: String) -> DiscReport {
    if report.state == DiscState::Serving {
        report.state = DiscState::Failed;
        report.reason = Some(reason);
    }
    report
}

/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

const FLUSH_FAILED: &str =
    "a flush failed: writes acknowledged before it may be lost, and every flush fails until an operator has looked";
