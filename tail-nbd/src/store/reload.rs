//! An operator's order to open a disc again: after a failed flush, or when what stood in its way is mended.

use super::{Store, blocking, disc::Phase, refusal::Refusal};
use crate::describe::describe;
use spine::id::DiscNumber;
use std::{io, sync::Arc};
use tokio::sync::oneshot;

impl Store {
    /// Closes a disc, opens it again from its files, and forgets that a flush of it failed (safety rule 17).
    /// Its clients connect again. Whether its data is what it should be is for the operator to know.
    ///
    /// # Errors
    /// When there is no such disc, it is being imported, or it cannot be opened; then it is `failed`, and a
    /// failed flush stays recorded. A flush that fails only while it is closed stays recorded too.
    pub async fn reload_for_operator(self: &Arc<Self>, number: DiscNumber) -> Result<(), Refusal> {
        let (done, outcome) = oneshot::channel();
        let store = self.clone();
        // Half a reload would leave the disc closed: it goes on when the operator's program ends.
        self.spawn(async move {
            let _ = done.send(store.reload_now(number).await);
        });
        let stopping = |_| Refusal::BadValue { attribute: "disc", reason: "the tail is stopping".to_owned() };
        outcome.await.map_err(stopping)?
    }

    async fn reload_now(self: &Arc<Self>, number: DiscNumber) -> Result<(), Refusal> {
        let disc = self.find_number(number).ok_or(Refusal::NoSuchNumber(number))?;
        let Some(held) = disc.held.clone() else {
            let reason = "its files are not understood: put them right and start the tail again".to_owned();
            return Err(Refusal::Unusable { name: disc.name.clone(), reason });
        };
        let mut held = held.lock_owned().await;
        // Of no other failure has the operator heard.
        let forgives = held.record().flush_failed;
        match &held.phase {
            Phase::Serving => {
                let closed;
                (held, closed) = self.close_for_reload(&disc, held).await;
                if let Err(refusal) = closed {
                    held.phase = Phase::Failed(describe(&refusal));
                    self.publish(&disc, &held);
                    return Err(refusal);
                }
            }
            Phase::Failed(_) => {}
            Phase::Receiving | Phase::Moved => {
                let reason = "it moves between tails".to_owned();
                return Err(Refusal::Busy { name: disc.name.clone(), reason });
            }
            Phase::Importing(_) => {
                let reason = "an image is being imported".to_owned();
                return Err(Refusal::Busy { name: disc.name.clone(), reason });
            }
            Phase::Gone => return Err(Refusal::NoSuchNumber(number)),
        }
        tracing::warn!(disc = %disc.name, flush_failed = held.record().flush_failed, "an operator has a disc loaded again");
        // The lock goes with the last descriptor, and is taken again with the next.
        held.data = None;
        held.panics_count = 0;
        held.phase = Phase::Failed("it is being loaded again".to_owned());
        self.publish(&disc, &held);
        let data = match self.take_data(&held).await {
            Ok(data) => data,
            Err(refusal) => {
                held.phase = Phase::Failed(describe(&refusal));
                self.publish(&disc, &held);
                return Err(refusal);
            }
        };
        let name = disc.name.clone();
        let (mut held, synced) = blocking(held, move |held| {
            // A device that still fails says so now.
            data.sync_all().map_err(|source| Refusal::Io { name, what: "flush its data", source })?;
            let mut record = held.record().clone();
            if forgives {
                record.flush_failed = false;
                held.sidecar.write(record)?;
            }
            Ok(data)
        })
        .await;
        let loaded = match synced {
            Ok(data) => self.put_to_work(&disc, &mut held, data).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &loaded {
            held.phase = Phase::Failed(describe(refusal));
        }
        self.publish(&disc, &held);
        loaded?;
        if held.record().flush_failed {
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(Refusal::Io { name: disc.name.clone(), what: "flush what was written until now", source });
        }
        Ok(())
    }
}
