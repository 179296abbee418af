//! The orders about a disc that leaves for another tail: begin, end, and go on with telling the target (R130).

use super::{
    Store,
    disc::{Disc, Held, Moving, Phase},
    migrate::Move,
    refusal::Refusal,
};
use crate::{jobs::Cancel, migration::handover::Attempt, sidecar::Owner};
use spine::{
    id::DiscName,
    resource::migration::{MigrationOrder, MigrationPhase, MigrationReport, MigrationRole, PAUSE_MS_MAX},
};
use std::{os::fd::AsRawFd as _, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long a cancelled move may take to end, or to turn out to be over: a hand-over and what follows it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(3);

impl Store {
    /// Starts a move. The same order again changes nothing.
    ///
    /// # Errors
    /// When the disc cannot be moved now.
    pub(super) async fn start_move(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: &Held,
        order: MigrationOrder,
    ) -> Result<(), Refusal> {
        let name = &disc.name;
        let busy = |reason: &str| Refusal::Busy { name: name.clone(), reason: reason.to_owned() };
        let bad = |attribute, reason: String| Refusal::BadValue { attribute, reason };
        if let Some((id, running)) = disc.last_move() {
            match (id == order.id, running) {
                (true, _) => return Ok(()),
                (false, true) => return Err(busy("it is being moved already")),
                (false, false) => {}
            }
        }
        let Some(network) = self.parts.network.clone() else {
            return Err(bad("migration", "this tail has no migration_listen, so no disc moves from or to it".into()));
        };
        if order.generation <= held.record().generation {
            let (own, given) = (held.record().generation, order.generation);
            return Err(Refusal::StaleGeneration { name: name.clone(), own, given });
        }
        if !(1..=PAUSE_MS_MAX).contains(&order.pause_ms) {
            return Err(bad("migration", format!("pause_ms must be 1 to {PAUSE_MS_MAX}")));
        }
        if !matches!(held.phase, Phase::Serving) {
            return Err(busy("it is not being served"));
        }
        if held.record().flush_failed {
            return Err(busy("a flush of it failed, and an operator must look at it first"));
        }
        let data = held.data.as_ref().ok_or_else(|| busy("its data is not open"))?;
        // A description of its own: what serves the disc may read whole blocks only (io = direct).
        let file = std::fs::File::open(format!("/proc/self/fd/{}", data.as_raw_fd()))
            .map_err(|source| Refusal::Io { name: name.clone(), what: "open its data for copying", source })?;
        let (ending, ended) = watch::channel(false);
        let cancel = Cancel::default();
        disc.set_moving(Moving {
            report: report_of(&order),
            progress: Some(0),
            eta_s: None,
            speed_mb_per_s: None,
            cancel: cancel.clone(),
            ended,
        });
        self.changed.mark(name.number);
        let job = Move { store: self.clone(), disc: disc.clone(), order, network, cancel };
        let size_bytes = held.record().size_bytes;
        let task = move |stopping: Cancel| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move {
                job.run(file, size_bytes, stopping).await;
                ending.send_replace(true);
            })
        };
        self.parts.jobs.run(Box::new(task)).await;
        Ok(())
    }

    /// Ends a move, if one is under way, and waits until it has ended.
    ///
    /// # Errors
    /// When it is too late: the disc is the target's.
    pub(super) async fn cancel_move(&self, disc: &Disc) -> Result<(), Refusal> {
        let Some(held) = &disc.held else { return Ok(()) };
        if let Some(too_late) = moved(&disc.name, &*held.lock().await) {
            return Err(too_late);
        }
        if let Some((cancel, mut ended)) = disc.running_move() {
            cancel.cancel();
            let over = async {
                // An error says that it has ended without a word.
                let _ = ended.wait_for(|ended| *ended).await;
            };
            // Behind the fence it does not end before the target is heard.
            tokio::select! {
                biased;
                () = over => {}
                () = tokio::time::sleep(CANCEL_PATIENCE) => {}
            }
        }
        moved(&disc.name, &*held.lock().await).map_or(Ok(()), Err)
    }

    /// Tells the target again and again that the disc is its own, until it says that it serves.
    pub(super) async fn repeat_commit(self: &Arc<Self>, disc: &Arc<Disc>, order: MigrationOrder, attempt: Attempt) {
        let Some(network) = self.parts.network.clone() else {
            return tracing::error!(disc = %disc.name, "it was handed over, and without migration_listen its target cannot be told so");
        };
        let (ending, ended) = watch::channel(false);
        let cancel = Cancel::default();
        let mut report = report_of(&order);
        report.phase = MigrationPhase::Handover;
        disc.set_moving(Moving {
            report,
            progress: None,
            eta_s: None,
            speed_mb_per_s: None,
            cancel: cancel.clone(),
            ended,
        });
        let job = Move { store: self.clone(), disc: disc.clone(), order, network, cancel };
        let task = move |stopping: Cancel| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move {
                tokio::select! {
                    biased;
                    () = job.commit_until_heard(attempt) => {}
                    () = stopping.asked() => {}
                }
                ending.send_replace(true);
            })
        };
        self.parts.jobs.run(Box::new(task)).await;
    }
}

/// The refusal of an order that came too late.
pub(super) fn moved(name: &DiscName, held: &Held) -> Option<Refusal> {
    let (target, generation) = match &held.record().owner {
        Owner::Fenced(order, _) | Owner::Retired(order) => (order.target.clone(), order.generation),
        Owner::Superseded { order, .. } => (order.owner.clone(), order.generation),
        Owner::Owner | Owner::Incoming(_) | Owner::Prepared(..) | Owner::Removed => return None,
    };
    Some(Refusal::Moved { name: name.clone(), target, generation })
}

fn report_of(order: &MigrationOrder) -> MigrationReport {
    MigrationReport::begun(order.id, MigrationRole::Source, order.target.clone(), order.generation)
}
