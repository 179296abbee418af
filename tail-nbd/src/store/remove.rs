//! `remove disc.GRADE.N`: deletes a disc for good (R091).

use super::{
    Store, blocking,
    disc::{Disc, Held, Phase},
    refusal::Refusal,
};
use crate::{describe::describe, offload::offload, shard::ShardError, sidecar::Owner};
use spine::id::{DiscName, Generation, MigrationId};
use std::sync::Arc;

/// Refuses to delete what is gone, another owner's, or may be the only good copy.
fn check_removable(held: &Held, generation: Generation, aborted: Option<MigrationId>) -> Result<(), Refusal> {
    let record = held.record();
    let (name, own) = (record.name(), record.generation);
    if matches!(held.phase, Phase::Gone) {
        return Err(Refusal::NotFound(name));
    }
    if generation < own {
        return Err(Refusal::StaleGeneration { name, own, given: generation });
    }
    match kept_because(&record.owner, generation, aborted) {
        Some(reason) => Err(Refusal::Busy { name, reason: reason.to_owned() }),
        None => Ok(()),
    }
}

/// Why a copy that takes part in a move must stay: it may be the only good one (safety rule 18).
fn kept_because(owner: &Owner, generation: Generation, aborted: Option<MigrationId>) -> Option<&'static str> {
    match owner {
        Owner::Prepared(order, _) if aborted != Some(order.id) => {
            Some("its copy here is whole, and only the word of its source says that it is not needed")
        }
        Owner::Fenced(order, _) if generation < order.generation => {
            Some("it was given to another tail that has not said that it serves it")
        }
        _ => None,
    }
}

impl Store {
    /// Deletes a disc, durably. From the moment that this is recorded, a restart carries on with it.
    ///
    /// A prepared copy of a disc that comes from another tail goes only when its source has `aborted` that migration.
    ///
    /// # Errors
    /// When it is refused, and then nothing was changed; or when deleting fails: the disc is `failed`
    /// then, and removing it again carries on.
    pub async fn remove(
        self: &Arc<Self>,
        name: &DiscName,
        generation: Generation,
        aborted: Option<MigrationId>,
    ) -> Result<(), Refusal> {
        let disc = self.find(name)?;
        let not_understood = || Refusal::Unusable {
            name: name.clone(),
            reason: "its files are not understood, so an operator must look at them and delete them".to_owned(),
        };
        let lock = disc.held.clone().ok_or_else(not_understood)?;
        let mut held = lock.clone().lock_owned().await;
        check_removable(&held, generation, aborted)?;
        // Behind the fence nothing of the data is touched any more, and who tells the target so sees that it is gone.
        if held.record().owner == Owner::Owner
            && let Some((cancel, mut ended)) = disc.running_move()
        {
            drop(held);
            cancel.cancel();
            // An error says that it has ended without a word.
            let _ = ended.wait_for(|ended| *ended).await;
            held = lock.lock_owned().await;
            check_removable(&held, generation, aborted)?;
        }
        let (mut held, recorded) = blocking(held, |held| {
            let mut record = held.record().clone();
            record.owner = Owner::Removed;
            held.sidecar.write(record)
        })
        .await;
        recorded?;
        self.end_use(&disc, &mut held.phase).await;
        // The last descriptor of ours: the space is free when the name is gone.
        held.data = None;
        let (pool, number) = (self.pool_of(&held).clone(), name.number);
        if let Err(source) = offload(move || pool.delete(number)).await {
            held.phase = Phase::Failed(format!("its deletion did not finish: {source}"));
            self.publish(&disc, &held);
            return Err(Refusal::Io { name: name.clone(), what: "delete its files", source });
        }
        held.phase = Phase::Gone;
        self.parts.addresses.remove(held.record().address).await;
        super::lock(&self.discs).remove(&name.number);
        self.changed.mark(name.number);
        Ok(())
    }

    /// Waits until neither a shard nor a job touches the disc's data.
    pub(super) async fn end_use(&self, disc: &Arc<Disc>, phase: &mut Phase) {
        let before = std::mem::replace(phase, Phase::Failed("its use is being ended".to_owned()));
        match before {
            Phase::Serving => match self.parts.shards.close(disc.name.number).await {
                // The disc is not this one any more: whether its last writes could be synced does not matter.
                Ok(()) | Err(ShardError::NotOpen(_)) => {}
                Err(error) => {
                    tracing::warn!(disc = %disc.name, error = describe(&error), "closing a disc that ends here");
                }
            },
            Phase::Importing(mut running) => {
                running.cancel.cancel();
                // An error says that whoever follows the job has ended, and the job with it.
                let _ = running.ended.wait_for(|ended| *ended).await;
            }
            Phase::Receiving => {
                // The connection that brings it ends before its files go.
                drop(disc.session.next_turn());
                drop(disc.session.lock.lock().await);
            }
            Phase::Moved | Phase::Failed(_) | Phase::Gone => {}
        }
    }
}
