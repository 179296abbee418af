//! `remove disc.GRADE.N`: deletes a disc for good (R091).

use super::{
    Store, blocking,
    disc::{Disc, Phase},
    refusal::Refusal,
};
use crate::{describe::describe, shard::ShardError, sidecar::Owner};
use spine::id::{DiscName, Generation};
use std::sync::Arc;

impl Store {
    /// Deletes a disc, durably. From the moment that this is recorded, a restart carries on with it.
    ///
    /// # Errors
    /// When it is refused, and then nothing was changed; or when deleting fails: the disc is `failed`
    /// then, and removing it again carries on.
    pub async fn remove(self: &Arc<Self>, name: &DiscName, generation: Generation) -> Result<(), Refusal> {
        let disc = self.find(name)?;
        let not_understood = || Refusal::Unusable {
            name: name.clone(),
            reason: "its files are not understood, so an operator must look at them and delete them".to_owned(),
        };
        let held = disc.held.clone().ok_or_else(not_understood)?.lock_owned().await;
        if matches!(held.phase, Phase::Gone) {
            return Err(Refusal::NotFound(name.clone()));
        }
        let own = held.record().generation;
        if generation < own {
            return Err(Refusal::StaleGeneration { name: name.clone(), own, given: generation });
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
        let deleted = tokio::task::spawn_blocking(move || pool.delete(number)).await;
        if let Err(source) = deleted.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
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
    async fn end_use(&self, disc: &Arc<Disc>, phase: &mut Phase) {
        let before = std::mem::replace(phase, Phase::Failed("it is being deleted".to_owned()));
        match before {
            Phase::Serving => match self.parts.shards.close(disc.name.number).await {
                // The data is going: whether its last writes could be synced does not matter.
                Ok(()) | Err(ShardError::NotOpen(_)) => {}
                Err(error) => {
                    tracing::warn!(disc = %disc.name, error = describe(&error), "closing a disc that is deleted");
                }
            },
            Phase::Importing(mut running) => {
                running.cancel.cancel();
                // An error says that whoever follows the job has ended, and the job with it.
                let _ = running.ended.wait_for(|ended| *ended).await;
            }
            Phase::Failed(_) | Phase::Gone => {}
        }
    }
}
