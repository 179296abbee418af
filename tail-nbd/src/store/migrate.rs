//! A disc leaves for another tail: the copying (R130; safety rules 18–20, 23).
//!
//! What can go wrong before the source's record says FENCED leaves the disc here, served as before: every error, a
//! cancelled order, a stop, and a hand-over that takes too long. What can go wrong afterwards leaves it unserved here for
//! good, with Commit being repeated until the target says that it serves.
//!
//! The orders are in [`depart`](super::depart), and the hand-over is in [`cede`](super::cede).

use super::{
    Store,
    cede::{HandOver, SERVING_DEADLINE},
    disc::{Disc, Moving},
};
use crate::{
    describe::describe,
    geometry::DiscSize,
    jobs::Cancel,
    migration::{
        Ended,
        converge::{Convergence, Next, Pass},
        handover::Attempt,
        link::Network,
        pace::Pace,
        source::Copier,
        wire::{Hello, VERSION},
    },
};
use spine::resource::migration::{MigrationErrorKind, MigrationOrder, MigrationPhase};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a braked disc is let go, or held, at a time; eight of these are one round.
const BRAKE_STEP: Duration = Duration::from_millis(10);

/// One move, on the jobs thread.
pub(super) struct Move {
    pub(super) store: Arc<Store>,
    pub(super) disc: Arc<Disc>,
    pub(super) order: MigrationOrder,
    pub(super) network: Network,
    pub(super) cancel: Cancel,
}

impl Move {
    pub(super) async fn run(&self, file: std::fs::File, size_bytes: u64, stopping: Cancel) {
        let number = self.disc.name.number;
        let (disc, order) = (&self.disc.name, &self.order);
        tracing::info!(%disc, id = %order.id, target = %order.target, "a disc is being moved to another tail");
        let shards = self.store.shards();
        let ended = match self.copy_and_hand_over(file, size_bytes, &stopping).await {
            Ok(HandOver::Done) => return,
            Ok(HandOver::Undecided) => {
                return tracing::error!(%disc, "stopping before it is known whether the disc was handed over");
            }
            Ok(HandOver::CalledOff) => {
                Ended::new(MigrationErrorKind::Pause, "its clients would be paused for too long")
            }
            Err(ended) => ended,
        };
        // The disc is served on. An error says that it is not open any more.
        let _ = shards.thaw(number).await;
        let _ = shards.untrack(number).await;
        tracing::warn!(%disc, id = %order.id, kind = ?ended.kind, reason = %ended, "a disc was not moved; it is served here as before");
        self.tell(|moving| {
            moving.report.phase = MigrationPhase::Failed;
            moving.report.error = Some(ended.to_report());
            (moving.progress, moving.eta_s, moving.speed_mb_per_s) = (None, None, None);
        });
    }

    async fn copy_and_hand_over(
        &self,
        file: std::fs::File,
        size_bytes: u64,
        stopping: &Cancel,
    ) -> Result<HandOver, Ended> {
        let mut convergence = Convergence::new(self.order.pause_ms);
        let mut copier = self.unless_cancelled(stopping, self.first_pass(file, size_bytes, &mut convergence)).await?;
        let mut next = copier.1;
        let copier = &mut copier.0;
        loop {
            let outcome = match next {
                Next::Pass => self.unless_cancelled(stopping, self.pass(copier, &mut convergence)).await,
                Next::GiveUp => return Ok(HandOver::CalledOff),
                Next::HandOver => {
                    // From here on nothing is dropped half-way: it has its own deadlines.
                    match self.hand_over(copier, stopping).await {
                        Ok(HandOver::CalledOff) => Ok(convergence.handle_called_off()),
                        other => return other,
                    }
                }
            };
            match outcome {
                Ok(then) => next = then,
                Err(ended) => {
                    // The link may be what has failed.
                    let _ = tokio::time::timeout(SERVING_DEADLINE, copier.link.send(&ended.to_control())).await;
                    return Err(ended);
                }
            }
        }
    }

    /// Drops what is being done when somebody asks for its end.
    async fn unless_cancelled<T>(
        &self,
        stopping: &Cancel,
        work: impl Future<Output = Result<T, Ended>>,
    ) -> Result<T, Ended> {
        tokio::select! {
            outcome = work => outcome,
            () = self.cancel.asked() => Err(Ended::new(MigrationErrorKind::Cancelled, "it was cancelled")),
            () = stopping.asked() => Err(Ended::new(MigrationErrorKind::Stopped, "the source is stopping")),
        }
    }

    async fn first_pass(
        &self,
        file: std::fs::File,
        size_bytes: u64,
        convergence: &mut Convergence,
    ) -> Result<(Copier, Next), Ended> {
        let (number, order) = (self.disc.name.number, &self.order);
        let link = self.network.connect(order).await?;
        let pace = Pace::new(order.limit_mb_per_s.map(|limit| u64::from(limit) * 1_000_000));
        let mut copier = Copier::open(link, self.hello(size_bytes, None), file, pace).await?;
        let size = DiscSize::from_bytes(size_bytes).expect("it was served");
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        self.store.shards().track(number, size).await.map_err(closed)?;
        let total = copier.allocated_bytes()?;
        self.tell(|moving| (moving.report.phase, moving.report.pass) = (MigrationPhase::Copying, 1));
        let began = Instant::now();
        copier.send_all(&|copied| self.tell_copied(copied, total, began)).await?;
        let next = self.end_pass(&mut copier, convergence, began, 0).await?;
        Ok((copier, next))
    }

    /// Sends what was written since the last pass. Clients that outrun the wire are braked meanwhile.
    async fn pass(&self, copier: &mut Copier, convergence: &mut Convergence) -> Result<Next, Ended> {
        let (shards, number) = (self.store.shards(), self.disc.name.number);
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        let (began, before) = (Instant::now(), copier.copied_bytes());
        let left_bytes = shards.take_written(number, 0).await.map_err(closed)?.left_bytes;
        self.tell(|moving| {
            moving.report.phase = MigrationPhase::Converging;
            moving.report.pass = convergence.passes_count() + 1;
            moving.report.bytes_left = left_bytes;
        });
        let told = |copied: u64| self.tell_left(copied, left_bytes.saturating_sub(copied - before));
        let sending = copier.send_written(shards, left_bytes, &told);
        match convergence.brake_eighths() {
            0 => sending.await.map(drop)?,
            eighths => {
                let braked = tokio::select! {
                    sent = sending => sent.map(drop),
                    ended = self.brake(eighths) => Err(ended),
                };
                let _ = shards.thaw(number).await;
                braked?;
            }
        }
        self.end_pass(copier, convergence, began, before).await
    }

    /// Holds the disc for that part of the time, until it is dropped.
    async fn brake(&self, eighths: u32) -> Ended {
        let (shards, number) = (self.store.shards(), self.disc.name.number);
        loop {
            if let Err(error) = shards.freeze(number).await {
                return Ended::new(MigrationErrorKind::Stopped, describe(&error));
            }
            tokio::time::sleep(BRAKE_STEP * eighths).await;
            if let Err(error) = shards.thaw(number).await {
                return Ended::new(MigrationErrorKind::Stopped, describe(&error));
            }
            tokio::time::sleep(BRAKE_STEP * (8 - eighths)).await;
        }
    }

    async fn end_pass(
        &self,
        copier: &mut Copier,
        convergence: &mut Convergence,
        began: Instant,
        before: u64,
    ) -> Result<Next, Ended> {
        let sent = Instant::now();
        copier.sync(convergence.passes_count() + 1).await?;
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        let number = self.disc.name.number;
        let left_bytes = self.store.shards().take_written(number, 0).await.map_err(closed)?.left_bytes;
        let took = began.elapsed();
        let next = convergence.handle_pass(Pass {
            sent_bytes: copier.copied_bytes() - before,
            took_ms: ms(sent - began),
            sync_ms: ms(sent.elapsed()),
            left_bytes,
        });
        self.tell(|moving| {
            moving.report.bytes_left = left_bytes;
            moving.report.dirtied_bytes_per_s = Some(left_bytes.saturating_mul(1000) / ms(took).max(1));
            moving.report.expected_pause_ms = Some(convergence.expected_pause_ms(left_bytes));
        });
        Ok(next)
    }

    pub(super) fn hello(&self, size_bytes: u64, fenced: Option<Attempt>) -> Hello {
        Hello {
            version_oldest: VERSION,
            version_newest: VERSION,
            id: self.order.id,
            number: self.disc.name.number,
            generation: self.order.generation,
            size_bytes,
            fenced,
        }
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut Moving)) {
        self.disc.change_moving(change);
        self.store.changed.mark(self.disc.name.number);
    }

    fn tell_copied(&self, copied: u64, total: u64, began: Instant) {
        let speed = copied.saturating_mul(1000) / ms(began.elapsed()).max(1);
        let left = total.saturating_sub(copied);
        let percent = u8::try_from(copied.saturating_mul(100) / total.max(1)).unwrap_or(99).min(99);
        let news = self.disc.change_moving(|moving| {
            moving.report.bytes_copied = copied;
            moving.report.bytes_left = left;
            moving.speed_mb_per_s = Some(speed / 1_000_000);
            moving.eta_s = Some(left / speed.max(1));
            moving.progress.replace(percent) != Some(percent)
        });
        if news == Some(true) {
            self.store.changed.mark(self.disc.name.number);
        }
    }

    fn tell_left(&self, copied: u64, left: u64) {
        // The report follows at the end of the pass.
        self.disc.change_moving(|moving| (moving.report.bytes_copied, moving.report.bytes_left) = (copied, left));
    }
}

/// In whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
