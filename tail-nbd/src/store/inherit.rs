//! Discs that change processes: nobody changes them meanwhile, and the next process takes them in.

use super::{
    Store,
    disc::{Disc, Held, Phase},
    lock,
    start::Scan,
};
use crate::{
    shard::{Borrowed, CarriedDisc, LentDisc, LentFacts, OpenDisc, ShardError, ShardEvent},
    sidecar::Sidecar,
};
use spine::{id::DiscNumber, limits::NBD_PORT};
use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Discs that another process still serves, and that are opened here.
#[derive(Debug)]
pub struct Loan {
    scan: Scan,
    discs: BTreeMap<DiscNumber, Lent>,
}

#[derive(Debug)]
struct Lent {
    facts: LentFacts,
    /// Its record says that a sync failed.
    flush_failed: bool,
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

    /// Opens discs that another process serves. Nothing is done with them before [`Store::inherit`].
    ///
    /// # Errors
    /// When a disc is not what its sidecar says. Then nothing of the store may be used.
    pub async fn borrow_discs(&self, mut scan: Scan, lent: Vec<LentDisc>) -> Result<Loan, InheritError> {
        let mut sidecars: BTreeMap<DiscNumber, Sidecar> =
            scan.sidecars.into_iter().map(|sidecar| (sidecar.record().number, sidecar)).collect();
        let (mut discs, mut borrowed) = (BTreeMap::new(), Vec::with_capacity(lent.len()));
        for LentDisc { facts, data, listener, clients } in lent {
            let differs = |reason: String| InheritError::Differs { number: facts.number, reason };
            let unknown = || differs("it is being served, and this program cannot use its sidecar".to_owned());
            let sidecar = sidecars.remove(&facts.number).ok_or_else(unknown)?;
            let held = Held { sidecar, data: Some(data.into()), phase: Phase::Serving, panics_count: 0 };
            let disc = self.compare(&held, &facts, listener).map_err(differs)?;
            borrowed.push(Borrowed { disc, counters: facts.counters, clients });
            discs.insert(facts.number, Lent { facts, flush_failed: held.record().flush_failed });
            self.insert(Arc::new(Disc::new(held)));
        }
        self.parts.shards.borrow_all(borrowed).await?;
        scan.sidecars = sidecars.into_values().collect();
        Ok(Loan { scan, discs })
    }

    /// Takes over what has become of borrowed discs, which nobody serves now: they are frozen until
    /// [`Shards::thaw_all`](crate::shard::Shards::thaw_all), and then [`Store::begin`] is to be called.
    ///
    /// # Errors
    /// When they are not the discs that were borrowed. Then nothing of the store may be used.
    pub async fn inherit(&self, loan: Loan, carried: Vec<CarriedDisc>) -> Result<Heirloom, InheritError> {
        let unrecorded = loan.settle(&carried)?;
        self.parts.shards.inherit(carried).await?;
        Ok(Heirloom { scan: loan.scan, unrecorded })
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
    fn compare(&self, held: &Held, facts: &LentFacts, listener: TcpListener) -> Result<OpenDisc, String> {
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
            sync_failed: record.flush_failed,
            io: self.pool_of(held).io,
        })
    }
}

impl Loan {
    /// Checks that these are the discs that were lent, each of them once. Returns those of which a sync has failed and
    /// no record says so.
    fn settle(&self, carried: &[CarriedDisc]) -> Result<Vec<DiscNumber>, InheritError> {
        let (mut missing, mut unrecorded) = (self.discs.keys().collect::<BTreeSet<_>>(), Vec::new());
        let differs = |number, reason: &str| InheritError::Differs { number, reason: reason.to_owned() };
        for CarriedDisc { facts, .. } in carried {
            let lent = self.discs.get(&facts.number).filter(|lent| lent.facts.is_of(facts));
            let lent = lent.ok_or_else(|| differs(facts.number, "it is not as it was before the clients waited"))?;
            if !missing.remove(&facts.number) {
                return Err(differs(facts.number, "it was handed over twice"));
            }
            if facts.sync_failed && !lent.flush_failed {
                unrecorded.push(facts.number);
            }
        }
        match missing.first() {
            Some(number) => Err(differs(**number, "it was served before the clients waited, and is not any more")),
            None => Ok(unrecorded),
        }
    }
}

fn moves(disc: &Disc) -> String {
    format!("disc {} is being moved between tails: cancel that, or try again when it is done", disc.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::DiscCounters, shard::DiscFacts};

    const MIB: u64 = 1 << 20;

    fn lent(number: u64, flush_failed: bool) -> (DiscNumber, Lent) {
        let number = DiscNumber(number);
        let facts = LentFacts { number, incarnation: 7, size_bytes: MIB, counters: DiscCounters::default() };
        (number, Lent { facts, flush_failed })
    }

    fn carried(number: u64, incarnation: u64, size_bytes: u64, sync_failed: bool) -> CarriedDisc {
        let facts = DiscFacts { number: DiscNumber(number), incarnation, size_bytes, sync_failed, counters: None };
        CarriedDisc { facts, kept: vec![], clients: vec![] }
    }

    #[test]
    fn rule10_only_the_discs_that_were_lent_are_taken_over() {
        let loan = Loan { scan: Scan::default(), discs: BTreeMap::from([lent(1, false), lent(2, true)]) };
        let settle = |discs: &[CarriedDisc]| loan.settle(discs).map_err(|error| error.to_string());
        let both = |sync_failed| [carried(1, 7, MIB, sync_failed), carried(2, 7, MIB, sync_failed)];
        assert_eq!(settle(&both(false)), Ok(vec![]));
        assert_eq!(settle(&both(true)), Ok(vec![DiscNumber(1)]), "the other one is recorded already");
        let first = || carried(1, 7, MIB, false);
        for (what, second, reason) in [
            (
                "made meanwhile",
                vec![carried(2, 7, MIB, false), carried(3, 7, MIB, false)],
                "disc 3: it is not as it was",
            ),
            ("removed", vec![], "disc 2: it was served before"),
            ("closed and opened again", vec![carried(2, 8, MIB, false)], "disc 2: it is not as it was"),
            ("resized", vec![carried(2, 7, 2 * MIB, false)], "disc 2: it is not as it was"),
            ("told twice", vec![carried(2, 7, MIB, false), first()], "disc 1: it was handed over twice"),
        ] {
            let discs: Vec<_> = [first()].into_iter().chain(second).collect();
            let error = settle(&discs).unwrap_err();
            assert!(error.starts_with(reason), "{what}: {error}");
        }
    }
}
