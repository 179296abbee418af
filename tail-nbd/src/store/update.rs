//! `update disc.GRADE.N`: access, size, generation, image (R086–R088, R115; safety rules 1, 2, 4, 15).

use super::{
    Store, blocking,
    change::Changes,
    create::check_size_in,
    disc::{Disc, Held, Phase},
    import::open_image,
    refusal::Refusal,
};
use crate::{
    describe::describe,
    jobs::import::{Image, next_extent},
    pool::Pool,
    sidecar::{Owner, Record},
};
use spine::id::DiscName;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

impl Store {
    /// Changes what is named: first durably, then in force. When this returns, no I/O of a withdrawn
    /// attachment is in flight any more.
    ///
    /// # Errors
    /// When it is refused, and then nothing was changed; or when the shard fails, and then the change is
    /// recorded and comes into force with the next start.
    pub async fn update(self: &Arc<Self>, name: &DiscName, changes: Changes) -> Result<(), Refusal> {
        let disc = self.find(name)?;
        let held = disc.held.clone().ok_or_else(|| unusable(&disc))?.lock_owned().await;
        if matches!(held.phase, Phase::Gone) {
            return Err(Refusal::NotFound(name.clone()));
        }
        if held.record().owner == Owner::Removed {
            return Err(unusable(&disc));
        }
        let new = changes.apply(held.record())?;
        let image = self.check_phase(&disc, &held, &new, &changes).await?;
        let old_size_bytes = held.record().size_bytes;
        let new_size_bytes = new.size_bytes;
        let pool = self.pool_of(&held).clone();
        let (mut held, recorded) = blocking(held, move |held| record_change(held, &pool, new, changes.force)).await;
        recorded?;
        let applied = self.apply(&disc, &mut held, image, changes_size(old_size_bytes, new_size_bytes)).await;
        self.publish(&disc, &held);
        applied
    }

    /// Refuses what cannot be done in the phase that the disc is in. Opens the image that is wanted.
    async fn check_phase(
        &self,
        disc: &Disc,
        held: &Held,
        new: &Record,
        changes: &Changes,
    ) -> Result<Option<Image>, Refusal> {
        let resizes = new.size_bytes != held.record().size_bytes;
        match &held.phase {
            Phase::Importing(_) if resizes || changes.image.is_some() => {
                Err(Refusal::Busy { name: disc.name.clone(), reason: "its image is being written".to_owned() })
            }
            Phase::Failed(reason) if resizes => {
                Err(Refusal::Unusable { name: disc.name.clone(), reason: reason.clone() })
            }
            _ => match &changes.image {
                Some(image) => open_image(&self.parts.images_dir, image, new).await.map(Some),
                None => Ok(None),
            },
        }
    }

    /// Brings what was recorded into force.
    async fn apply(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: &mut OwnedMutexGuard<Held>,
        image: Option<Image>,
        new_size_bytes: Option<u64>,
    ) -> Result<(), Refusal> {
        let number = disc.name.number;
        if matches!(held.phase, Phase::Serving) {
            // Also when the record is as before: an earlier try may have got no further than the record.
            self.parts.shards.set_access(number, held.access()).await?;
            if let Some(size_bytes) = new_size_bytes {
                self.parts.shards.resize(number, size_bytes).await?;
            }
            if image.is_some() {
                self.parts.shards.close(number).await?;
            }
        }
        let Some(image) = image else { return Ok(()) };
        let started = self.start_import(disc, held, image).await;
        if let Err(refusal) = &started {
            held.phase = Phase::Failed(describe(refusal));
        }
        started
    }
}

fn changes_size(old_bytes: u64, new_bytes: u64) -> Option<u64> {
    (old_bytes != new_bytes).then_some(new_bytes)
}

fn unusable(disc: &Disc) -> Refusal {
    let reason = disc.report().reason.unwrap_or_else(|| "its files are not understood".to_owned());
    Refusal::Unusable { name: disc.name.clone(), reason }
}

/// Writes the change into the sidecar. A growing file is made longer before, so that the record never
/// promises what is not there; a shrinking one is cut afterwards, by its shard. Blocks.
fn record_change(held: &mut Held, pool: &Pool, new: Record, force: bool) -> Result<(), Refusal> {
    let old = held.record();
    if new == *old {
        return Ok(());
    }
    let failed = |what| {
        let name = new.name();
        move |source| Refusal::Io { name, what, source }
    };
    if new.size_bytes != old.size_bytes {
        let data = held
            .data
            .as_ref()
            .ok_or_else(|| Refusal::Unusable { name: new.name(), reason: "its data is not open".to_owned() })?;
        if new.size_bytes > old.size_bytes {
            check_size_in(&new, pool.space().map_err(failed("ask how full its pool is"))?.size_bytes)?;
            data.set_len(new.size_bytes)
                .and_then(|()| data.sync_all())
                .map_err(|source| Refusal::making(&new.name(), &pool.name, "grow the data file", source))?;
        } else if !force {
            let beyond = next_extent(data, new.size_bytes, old.size_bytes).map_err(failed("look for data in it"))?;
            if let Some((at, _)) = beyond {
                return Err(Refusal::WouldLoseData { name: new.name(), size_bytes: new.size_bytes, at });
            }
        }
    }
    Ok(held.sidecar.write(new)?)
}
