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
        patience::Patience,
        source::Copier,
        wire::{Hello, VERSION},
    },
};
use spine::resource::migration::{MigrationError, MigrationErrorKind, MigrationOrder, MigrationPhase};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

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
            Ok(HandOver::CalledOff) => too_long(),
            Err(ended) => ended,
        };
        // The disc is served on. An error says that it is not open any more.
        let _ = shards.thaw(number).await;
        let _ = shards.untrack(number).await;
        tracing::warn!(%disc, id = %order.id, kind = ?ended.kind, reason = %ended, "a disc was not moved; it is served here as before");
        self.tell(|moving| {
            moving.report.phase = MigrationPhase::Failed;
            moving.report.error = Some(ended.to_report());
            moving.report.waiting = None;
            (moving.progress, moving.eta_s, moving.speed_mb_per_s) = (None, None, None);
        });
    }

    async fn copy_and_hand_over(
        &self,
        file: std::fs::File,
        size_bytes: u64,
        stopping: &Cancel,
    ) -> Result<HandOver, Ended> {
        let clock = tokio::time::Instant::now();
        let now = || crate::time::Instant::default().plus(clock.elapsed());
        let mut convergence = Convergence::new(self.order.pause_ms);
        let mut patience = Patience::new(now());
        let mut copier: Option<Copier> = None;
        loop {
            let before = copier.as_ref().map_or(0, |copier| copier.ledger().acknowledged_count());
            let outcome = match self.unless_cancelled(stopping, self.open(&mut copier, &file, size_bytes)).await {
                Ok(()) => self.go_on(copier.as_mut().expect("it was opened"), &mut convergence, stopping).await,
                Err(ended) => Err(ended),
            };
            let ended = match outcome {
                Ok(hand_over) => return Ok(hand_over),
                Err(ended) => ended,
            };
            if copier.as_ref().is_some_and(|copier| copier.ledger().acknowledged_count() > before) {
                patience.handle_progress(now());
            }
            let Some(pause) = patience.handle_held_up(now(), ended.kind).filter(|_| ended.holds_up()) else {
                if let Some(copier) = &mut copier {
                    // The link may be what has failed.
                    let _ = tokio::time::timeout(SERVING_DEADLINE, copier.link.send(&ended.to_control())).await;
                }
                return Err(ended);
            };
            // Whatever this takes, clients do not wait for it. An error says that nothing is noted yet.
            let _ = self.store.shards().brake(self.disc.name.number, None).await;
            self.tell_held_up(ended);
            let pausing = async {
                tokio::time::sleep(pause).await;
                Ok(())
            };
            self.unless_cancelled(stopping, pausing).await?;
        }
    }

    /// Reaches the target, for the first time or again.
    async fn open(&self, copier: &mut Option<Copier>, file: &std::fs::File, size_bytes: u64) -> Result<(), Ended> {
        let order = &self.order;
        let link = self.network.connect(order).await?;
        let hello = self.hello(size_bytes, None);
        match copier {
            Some(copier) => copier.reopen(link, hello).await?,
            None => {
                let file =
                    file.try_clone().map_err(|error| Ended::new(MigrationErrorKind::ReadError, error.to_string()))?;
                let budgets = Arc::clone(&self.network.budgets);
                let pace = budgets.pace(&order.target, order.limit_mb_per_s);
                let opened = Copier::open(link, hello, file, pace, budgets).await?;
                let size = DiscSize::from_bytes(size_bytes).expect("it was served");
                let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
                self.store.shards().track(self.disc.name.number, size).await.map_err(closed)?;
                *copier = Some(opened);
            }
        }
        self.tell(|moving| moving.report.waiting = None);
        Ok(())
    }

    /// Copies, from wherever it was, and hands the disc over.
    async fn go_on(
        &self,
        copier: &mut Copier,
        convergence: &mut Convergence,
        stopping: &Cancel,
    ) -> Result<HandOver, Ended> {
        let mut next = Next::Pass;
        self.brake(convergence).await?;
        loop {
            next = match next {
                Next::Pass if copier.ledger().has_walked() => {
                    self.unless_cancelled(stopping, self.pass(copier, convergence)).await?
                }
                Next::Pass => self.unless_cancelled(stopping, self.first_pass(copier, convergence)).await?,
                Next::GiveUp => return Err(too_long()),
                Next::HandOver => {
                    let turn = async { Ok(self.network.budgets.turn().await) };
                    let (turn, has_waited) = self.unless_cancelled(stopping, turn).await?;
                    // Clients went on writing meanwhile.
                    if has_waited {
                        let still = self.unless_cancelled(stopping, self.pass(copier, convergence)).await?;
                        if still != Next::HandOver {
                            next = still;
                            continue;
                        }
                    }
                    // From here on nothing is dropped half-way: it has its own deadlines.
                    match self.hand_over(copier, stopping, turn).await {
                        Ok(HandOver::CalledOff) => convergence.handle_called_off(),
                        other => return other,
                    }
                }
            };
        }
    }

    /// Drops what is being done when somebody asks for its end.
    async fn unless_cancelled<T>(
        &self,
        stopping: &Cancel,
        work: impl Future<Output = Result<T, Ended>>,
    ) -> Result<T, Ended> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.cancel.asked() => Err(Ended::new(MigrationErrorKind::Cancelled, "it was cancelled")),
            () = stopping.asked() => Err(Ended::new(MigrationErrorKind::Stopped, "the source is stopping")),
        }
    }

    /// Sends all there is, from where it was.
    async fn first_pass(&self, copier: &mut Copier, convergence: &mut Convergence) -> Result<Next, Ended> {
        let (pass, before) = (convergence.passes_count() + 1, copier.copied_bytes());
        let total = copier.unsent_bytes()?;
        let phase = if copier.ledger().compares() { MigrationPhase::Verifying } else { MigrationPhase::Copying };
        self.tell(|moving| (moving.report.phase, moving.report.pass) = (phase, pass));
        let began = Instant::now();
        copier.send_all(&|copied| self.tell_copied(copied, before, total, began)).await?;
        self.end_pass(copier, convergence, began, before).await
    }

    /// Sends what was written since the last pass.
    async fn pass(&self, copier: &mut Copier, convergence: &mut Convergence) -> Result<Next, Ended> {
        let (shards, number) = (self.store.shards(), self.disc.name.number);
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        let (began, before) = (Instant::now(), copier.copied_bytes());
        let left_bytes =
            shards.take_written(number, 0).await.map_err(closed)?.left_bytes + copier.ledger().held_bytes();
        self.tell(|moving| {
            moving.report.phase = MigrationPhase::Converging;
            moving.report.pass = convergence.passes_count() + 1;
            moving.report.bytes_left = left_bytes;
        });
        let told = |copied: u64| self.tell_left(copied, left_bytes.saturating_sub(copied - before));
        copier.send_written(shards, left_bytes, &told).await?;
        self.end_pass(copier, convergence, began, before).await
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
        let written = self.store.shards().take_written(number, 0).await.map_err(closed)?;
        let left_bytes = written.left_bytes + copier.ledger().held_bytes();
        let took = began.elapsed();
        let next = convergence.handle_pass(Pass {
            sent_bytes: copier.copied_bytes() - before,
            took_ms: ms(sent - began),
            sync_ms: ms(sent.elapsed()),
            left_bytes,
        });
        self.brake(convergence).await?;
        let verified = copier.verified();
        self.tell(|moving| {
            moving.report.verified_percent = Some(verified.percent);
            moving.report.verified_bytes = verified.bytes;
            moving.report.mismatched_bytes = verified.mismatched_bytes;
            moving.report.allocation_equal = verified.allocation_equal;
            moving.report.bytes_left = left_bytes;
            moving.report.dirtied_bytes_per_s = Some(left_bytes.saturating_mul(1000) / ms(took).max(1));
            moving.report.expected_pause_ms = Some(convergence.expected_pause_ms(left_bytes));
        });
        Ok(next)
    }

    /// Slows down what clients write as far as that is necessary now. It ends with the noting of what is written.
    async fn brake(&self, convergence: &Convergence) -> Result<(), Ended> {
        let Some(bytes_per_s) = convergence.brake_bytes_per_s() else { return Ok(()) };
        tracing::debug!(disc = %self.disc.name, bytes_per_s, "what its clients write is slowed down");
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        self.store.shards().brake(self.disc.name.number, Some(bytes_per_s)).await.map_err(closed)
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

    /// Says what the move waits for.
    fn tell_held_up(&self, ended: Ended) {
        let (disc, target) = (&self.disc.name, &self.order.target);
        let message = match ended.kind {
            MigrationErrorKind::NoSpace => format!("no space at {target}: {ended}"),
            _ => ended.message,
        };
        let waiting = MigrationError { kind: ended.kind, message };
        let is_news = self.disc.change_moving(|moving| {
            moving.report.phase = MigrationPhase::Waiting;
            (moving.eta_s, moving.speed_mb_per_s) = (None, None);
            moving.report.waiting.replace(waiting.clone()).is_none_or(|before| before.kind != waiting.kind)
        });
        if is_news == Some(true) {
            tracing::warn!(%disc, %target, reason = waiting.message, "the move of a disc is held up, and goes on as soon as it can");
        }
        self.store.changed.mark(disc.number);
    }

    /// Says how far the first pass is: `copied` bytes were sent, `before` of them when there were `unsent` left.
    fn tell_copied(&self, copied: u64, before: u64, unsent: u64, began: Instant) {
        let (done, total) = (copied - before, unsent.saturating_add(before));
        let speed = done.saturating_mul(1000) / ms(began.elapsed()).max(1);
        let left = unsent.saturating_sub(done);
        let percent = u8::try_from((total - left).saturating_mul(100) / total.max(1)).unwrap_or(99).min(99);
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

fn too_long() -> Ended {
    Ended::new(MigrationErrorKind::Pause, "its clients would be paused for too long")
}

/// In whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
