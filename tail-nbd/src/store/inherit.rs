//! Discs that change processes: nobody changes them meanwhile, and the next process takes them in.

use super::{
    Store,
    disc::{Disc, Held, Phase},
    lock,
    start::Scan,
};
use crate::{
    shard::{CarriedDisc, DiscFacts, Inherited, OpenDisc, ShardError, ShardEvent},
    sidecar::Sidecar,
};
use spine::{id::DiscNumber, limits::NBD_PORT};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};
use thiserror::Error;
use tokio::sync::OwnedMutexGuard;

/// Why discs are not taken in.
#[derive(Debug, Error)]
pub enum InheritError {
    /// One of them is not what its sidecar says.
    #[error("disc {number}: {reason}")]
    Differs {
        /// The disc.
        number: DiscNumber,
        /// In what.
        reason: String,
    },
    /// A shard refused.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// What is left to do after discs were taken in.
#[derive(Debug)]
pub struct Heirloom {
    scan: Scan,
    /// Discs of which a sync failed, which is in no record yet (safety rule 17).
    unrecorded: Vec<DiscNumber>,
}

/// While it lives no disc changes: no order about one is carried out, and no record is written.
#[derive(Debug)]
pub struct Quiet {
    _discs: Vec<OwnedMutexGuard<Held>>,
}

impl Store {
    /// Keeps all discs as they are. Nobody may be making new ones.
    ///
    /// # Errors
    /// When one of them is being changed or imported: the sentence says which.
    pub fn quiesce(&self) -> Result<Quiet, String> {
        let discs: Vec<_> = lock(&self.discs).values().cloned().collect();
        let mut guards = Vec::with_capacity(discs.len());
        for disc in discs {
            let Some(held) = &disc.held else { continue };
            let Ok(guard) = held.clone().try_lock_owned() else {
                return Err(format!("disc {} is being changed", disc.name));
            };
            match guard.phase {
                Phase::Serving if disc.running_move().is_some() => return Err(moves(&disc)),
                Phase::Receiving => return Err(moves(&disc)),
                Phase::Serving | Phase::Moved | Phase::Failed(_) | Phase::Gone => guards.push(guard),
                Phase::Importing(_) => {
                    let name = &disc.name;
                    return Err(format!("an image is being imported onto disc {name}: try again when that is done"));
                }
            }
        }
        Ok(Quiet { _discs: guards })
    }

    /// Takes in discs that another process has served until now, frozen:
    /// [`Shards::thaw_all`](crate::shard::Shards::thaw_all) has them go on, and then [`Store::begin`] is to be called.
    ///
    /// # Errors
    /// When a disc is not what its sidecar says. Then nothing of the store may be used.
    pub async fn inherit(&self, mut scan: Scan, carried: Vec<CarriedDisc>) -> Result<Heirloom, InheritError> {
        let mut sidecars: BTreeMap<DiscNumber, Sidecar> =
            scan.sidecars.into_iter().map(|sidecar| (sidecar.record().number, sidecar)).collect();
        let (mut inherited, mut unrecorded) = (Vec::with_capacity(carried.len()), Vec::new());
        for CarriedDisc { facts, data, listener, clients } in carried {
            let differs = |reason: String| InheritError::Differs { number: facts.number, reason };
            let unknown = || differs("it is being served, and this program cannot use its sidecar".to_owned());
            let sidecar = sidecars.remove(&facts.number).ok_or_else(unknown)?;
            let held = Held { sidecar, data: Some(data.into()), phase: Phase::Serving, panics_count: 0 };
            let disc = self.compare(&held, &facts, listener).map_err(differs)?;
            if facts.sync_failed && !held.record().flush_failed {
                unrecorded.push(facts.number);
            }
            inherited.push(Inherited { disc, counters: facts.counters, clients });
            self.insert(Arc::new(Disc::new(held)));
        }
        self.parts.shards.inherit(inherited).await?;
        scan.sidecars = sidecars.into_values().collect();
        Ok(Heirloom { scan, unrecorded })
    }

    /// Does what had to wait until this process is the one that serves: opens the discs that were not handed over, and
    /// records what the other process could not.
    pub async fn begin(self: &Arc<Self>, heirloom: Heirloom) {
        for number in heirloom.unrecorded {
            self.handle_shard_event(ShardEvent::SyncFailed { number, errno: libc::EIO });
        }
        self.start(heirloom.scan).await;
    }

    /// A disc for its shard, if it is what its sidecar says.
    fn compare(&self, held: &Held, facts: &DiscFacts, listener: TcpListener) -> Result<OpenDisc, String> {
        let (record, Some(data)) = (held.record(), &held.data) else { return Err("it has no data".to_owned()) };
        let path = self.pool_of(held).data_path(record.number);
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (served, there) = (data.metadata().map(identity), fs::symlink_metadata(&path).map(identity));
        if !matches!((served, there), (Ok(served), Ok(there)) if served == there) {
            return Err(format!("the file that is served is not {}", path.display()));
        }
        if record.size_bytes != facts.size_bytes {
            return Err(format!("{} bytes are served, and {} are recorded", facts.size_bytes, record.size_bytes));
        }
        let at = listener.local_addr().map_err(|error| format!("its listener has no address: {error}"))?;
        if at != SocketAddr::from((record.address, NBD_PORT)) {
            return Err(format!("it is served at {at}, and {} is recorded", record.address));
        }
        Ok(OpenDisc {
            number: record.number,
            data: data.try_clone().map_err(|error| format!("cannot copy the descriptor of its data: {error}"))?,
            size_bytes: record.size_bytes,
            listener: Some(listener),
            access: held.access(),
            own_address: IpAddr::V6(self.parts.own_address),
            sync_failed: record.flush_failed || facts.sync_failed,
            io: self.pool_of(held).io,
        })
    }
}

fn moves(disc: &Disc) -> String {
    format!("disc {} is being moved between tails: cancel that, or try again when it is done", disc.name)
}
