//! `update disc.GRADE.N`: access, size, generation, image (R086–R088, R115; safety rules 1, 2, 4, 15).

use super::{
    Store, blocking,
    change::Changes,
    create::check_size_in,
    depart::moved,
    disc::{Disc, Held, Phase},
    import::open_image,
    refusal::Refusal,
};
use crate::{
    describe::describe,
    jobs::import::{Image, next_extent},
    pool::Pool,
    shard::ShardError,
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
        if let Some(order) = changes.retire {
            return self.retire(&disc, order).await;
        }
        if let Some(order) = changes.promote {
            return self.promote(&disc, order).await;
        }
        let held = disc.held.clone().ok_or_else(|| unusable(&disc))?.lock_owned().await;
        if matches!(held.phase, Phase::Gone) {
            return Err(Refusal::NotFound(name.clone()));
        }
        if held.record().owner == Owner::Removed {
            return Err(unusable(&disc));
        }
        if let Some(refusal) = moved(name, &held) {
            return Err(refusal);
        }
        if let Some(order) = changes.commit {
            return self.take_over(&disc, held, order).await;
        }
        match changes.migration.clone() {
            Some(Some(order)) => return self.start_move(&disc, &held, order).await,
            Some(None) => {
                drop(held);
                return self.cancel_move(&disc).await;
            }
            None => {}
        }
        if held.record().owner != Owner::Owner {
            let reason = "it is on its way from another tail, whose it is".to_owned();
            return Err(Refusal::Busy { name: name.clone(), reason });
        }
        let resizes = changes.size.is_some_and(|size_bytes| size_bytes != held.record().size_bytes);
        if disc.running_move().is_some() && (resizes || changes.image.is_some()) {
            return Err(Refusal::Busy { name: name.clone(), reason: "it is being moved to another tail".to_owned() });
        }
        let new = changes.apply(held.record())?;
        let image = self.check_phase(&disc, &held, &new, &changes).await?;
        // Also when the record has that size already: an earlier try may have got no further.
        let resize = changes.size.map(|size_bytes| Resize { size_bytes, cuts: changes.force });
        // Data may be written where there was none until the clients are gone: such a size is recorded last.
        let keeps = image.is_none() && !changes.force && changes.size.is_some();
        let pool = self.pool_of(&held).clone();
        let (mut held, recorded) =
            blocking(held, move |held| record_change(held, &pool, new, changes.force, keeps)).await;
        recorded?;
        let mut applied = self.apply(&disc, &mut held, image, resize).await;
        if let (Ok(()), true, Some(Resize { size_bytes, .. })) = (&applied, keeps, resize) {
            (held, applied) = blocking(held, move |held| finish_resize(held, size_bytes)).await;
        }
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
        resize: Option<Resize>,
    ) -> Result<(), Refusal> {
        let number = disc.name.number;
        let Some(image) = image else {
            if matches!(held.phase, Phase::Serving) {
                // Also when the record is as before: an earlier try may have got no further than the record.
                self.parts.shards.set_access(number, held.access()).await?;
                if let Some(resize) = resize {
                    self.resize(disc, resize).await?;
                }
            }
            return Ok(());
        };
        if matches!(held.phase, Phase::Serving) {
            // It cuts the clients off. A disc that panicked refuses it, and has none.
            let _ = self.parts.shards.set_access(number, held.access()).await;
            match self.parts.shards.close(number).await {
                Ok(()) | Err(ShardError::NotOpen(_)) => {}
                // It is closed. The data is going: whether its last writes could be synced does not matter.
                Err(error @ ShardError::Os { .. }) => {
                    tracing::warn!(disc = %disc.name, error = describe(&error), "closing a disc that gets an image");
                }
                Err(error) => {
                    held.phase = Phase::Failed(describe(&error));
                    return Err(error.into());
                }
            }
        }
        let started = self.start_import(disc, held, image).await;
        if let Err(refusal) = &started {
            held.phase = Phase::Failed(describe(refusal));
        }
        started
    }

    async fn resize(&self, disc: &Disc, Resize { size_bytes, cuts }: Resize) -> Result<(), Refusal> {
        let (shards, number) = (&self.parts.shards, disc.name.number);
        if cuts {
            return Ok(shards.resize(number, size_bytes).await?);
        }
        shards.resize_keeping_data(number, size_bytes).await.map_err(|error| match error {
            ShardError::WouldLoseData { at, .. } => Refusal::WouldLoseData { name: disc.name.clone(), size_bytes, at },
            error => error.into(),
        })
    }
}

/// A size that was ordered.
#[derive(Clone, Copy, Debug)]
struct Resize {
    size_bytes: u64,
    /// Data beyond it is no obstacle.
    cuts: bool,
}

pub(super) fn unusable(disc: &Disc) -> Refusal {
    let reason = disc.report().reason.unwrap_or_else(|| "its files are not understood".to_owned());
    Refusal::Unusable { name: disc.name.clone(), reason }
}

/// Writes the change into the sidecar. A growing file is made longer before, so that the record never
/// promises what is not there; a shrinking one is cut afterwards. When it `keeps` its data, the smaller size is
/// left to [`finish_resize`]. Blocks.
fn record_change(held: &mut Held, pool: &Pool, mut new: Record, force: bool, keeps: bool) -> Result<(), Refusal> {
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
    if keeps {
        new.size_bytes = new.size_bytes.max(old.size_bytes);
    }
    Ok(held.sidecar.write(new)?)
}

/// Records the size that the shard has found to be large enough, and cuts the file to it. Blocks.
fn finish_resize(held: &mut Held, size_bytes: u64) -> Result<(), Refusal> {
    if held.record().size_bytes != size_bytes {
        let mut record = held.record().clone();
        record.size_bytes = size_bytes;
        held.sidecar.write(record)?;
    }
    held.cut_to_record()
}
