//! One disc of the store.

use super::{lock, refusal::Refusal};
use crate::{
    jobs::Cancel,
    shard::Access,
    sidecar::{Record, RecordedAccess, Sidecar},
};
use spine::{
    id::{AttachmentsVersion, DiscName, Generation, PoolName},
    resource::{
        disc::{DiscReport, DiscState},
        global::StoragePools,
        migration::Ownership,
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

/// A disc as the store lists it.
#[derive(Debug)]
pub struct Disc {
    /// What it is called.
    pub name: DiscName,
    /// The truth; none when its files cannot be understood.
    pub held: Option<Arc<tokio::sync::Mutex<Held>>>,
    report: Mutex<DiscReport>,
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
        Self { name: held.record().name(), held: Some(Arc::new(tokio::sync::Mutex::new(held))), report }
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
        Self { name, held: None, report: Mutex::new(report) }
    }

    /// What there is to say of it.
    pub fn report(&self) -> DiscReport {
        lock(&self.report).clone()
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
            owner: Ownership::Owner,
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
