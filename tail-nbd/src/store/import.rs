//! Writing an image onto a disc: handing the job in, following it, and what its end means.

use super::{
    Store, blocking,
    disc::{Disc, Held, Phase, Running},
    refusal::Refusal,
};
use crate::{
    describe::describe,
    jobs::{
        Cancel, Job,
        import::{Image, Import, ImportError},
    },
    sidecar::Record,
};
use spine::id::ImageName;
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often progress is told.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// Opens the image `name` for the disc of `record`.
///
/// # Errors
/// When there is none, or it is larger than the disc.
pub async fn open_image(images_dir: &Path, name: &ImageName, record: &Record) -> Result<Image, Refusal> {
    let path = images_dir.join(format!("{name}.raw"));
    let opened = tokio::task::spawn_blocking(move || Image::open(&path)).await;
    let image = opened
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| Refusal::NoSuchImage { image: name.clone(), reason: error.to_string() })?;
    if image.size_bytes() > record.size_bytes {
        return Err(Refusal::TooBig {
            what: format!("the image {name}"),
            size_bytes: image.size_bytes(),
            largest_bytes: record.size_bytes,
            reason: "that is the size of the disc",
        });
    }
    Ok(image)
}

impl Store {
    /// Empties the disc's data and hands the import in. The caller holds the disc's lock, and no shard
    /// has the disc.
    pub(super) async fn start_import(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: &mut Held,
        image: Image,
    ) -> Result<(), Refusal> {
        let failed = |what| move |source| Refusal::Io { name: disc.name.clone(), what, source };
        let data = held
            .data
            .as_ref()
            .ok_or_else(|| Refusal::Unusable { name: disc.name.clone(), reason: "its data is not open".to_owned() })?;
        let size_bytes = held.record().size_bytes;
        let emptied = data.try_clone().map_err(failed("duplicate the descriptor of its data"))?;
        let emptied = tokio::task::spawn_blocking(move || {
            emptied.set_len(0)?;
            emptied.set_len(size_bytes)?;
            Ok(emptied)
        });
        let data =
            emptied.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed("empty its data"))?;
        let cancel = Cancel::default();
        let job = self.parts.jobs.import(Import { image, data }, cancel.clone()).await;
        let (ending, ended) = watch::channel(false);
        held.phase = Phase::Importing(Running { cancel, ended, progress: job.progress.clone() });
        let (store, disc) = (self.clone(), disc.clone());
        self.spawn(async move { store.follow_import(&disc, job, ending).await });
        Ok(())
    }

    /// Tells how far the job is until it ends.
    async fn follow_import(&self, disc: &Arc<Disc>, mut job: Job, ending: watch::Sender<bool>) {
        let mut tick = tokio::time::interval(PROGRESS_PAUSE);
        let outcome = loop {
            tokio::select! {
                outcome = &mut job.done => break outcome,
                _ = tick.tick() => {
                    let percent = *job.progress.borrow();
                    if disc.set_progress(percent) {
                        self.changed.mark(disc.name.number);
                    }
                }
            }
        };
        ending.send_replace(true);
        let outcome = outcome.map_err(|_| "the job ended without a word".to_owned());
        let outcome = outcome.and_then(|outcome| match outcome {
            // Whoever cancelled it knows what comes next.
            Err(ImportError::Cancelled) => Ok(false),
            Err(error) => Err(describe(&error)),
            Ok(()) => Ok(true),
        });
        match outcome {
            Ok(false) => {}
            Ok(true) => self.end_import(disc, None).await,
            Err(reason) => self.end_import(disc, Some(reason)).await,
        }
    }

    async fn end_import(&self, disc: &Arc<Disc>, failure: Option<String>) {
        let Some(held) = disc.held.clone() else { return };
        let held = held.lock_owned().await;
        if !matches!(held.phase, Phase::Importing(_)) {
            return;
        }
        if let Some(reason) = failure {
            tracing::error!(disc = %disc.name, reason, "an image could not be written onto a disc");
            let mut held = held;
            held.phase = Phase::Failed(format!("its image could not be written: {reason}"));
            return self.publish(disc, &held);
        }
        let (mut held, written) = blocking(held, |held| {
            let mut record = held.record().clone();
            record.importing = None;
            held.sidecar.write(record)
        })
        .await;
        let served = match written {
            Ok(()) => self.serve(&held).await,
            Err(error) => Err(error.into()),
        };
        held.phase = match served {
            Ok(()) => Phase::Serving,
            Err(refusal) => {
                tracing::error!(disc = %disc.name, reason = describe(&refusal), "a disc cannot be served after its import");
                Phase::Failed(describe(&refusal))
            }
        };
        self.publish(disc, &held);
    }
}
