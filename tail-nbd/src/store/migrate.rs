//! A disc leaves for another tail: the order, the copying, and the hand-over (R130; safety rules 18–20, 23).
//!
//! What can go wrong before the source's record says FENCED leaves the disc here, served as before: every error, a
//! cancelled order, a stop, and a hand-over that takes too long. What can go wrong afterwards leaves it unserved here for
//! good, with Commit being repeated until the target says that it serves.

use super::{
    Store, blocking,
    disc::{Disc, Held, Moving, Phase},
    refusal::Refusal,
};
use crate::{
    describe::describe,
    geometry::DiscSize,
    jobs::Cancel,
    migration::{
        Ended,
        converge::{Convergence, Next, Pass},
        handover::{Attempt, Source, Word},
        link::Network,
        pace::Pace,
        source::Copier,
        wire::{Control, Hello, Message, VERSION},
    },
    sidecar::{Owner, Record, slots::encode_slot},
};
use spine::{
    id::DiscName,
    resource::migration::{
        MigrationErrorKind, MigrationOrder, MigrationPhase, MigrationReport, MigrationRole, PAUSE_MS_MAX,
    },
};
use std::{
    os::fd::AsRawFd as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedMutexGuard, watch};
use uuid::Uuid;

/// How long the source waits for the target to serve before it closes its clients all the same (safety rule 18).
const SERVING_DEADLINE: Duration = Duration::from_millis(500);

/// Between two tries to reach a target that must hear Commit, and how long one may take.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a cancelled move may take to end, or to turn out to be over: a hand-over and what follows it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(3);

/// Between two tries to record FENCED.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// How long a braked disc is let go, or held, at a time; eight of these are one round.
const BRAKE_STEP: Duration = Duration::from_millis(10);

/// How a hand-over came out.
enum HandOver {
    /// The disc is the target's.
    Done,
    /// It took too long, and the disc is served on.
    CalledOff,
    /// It cannot be said whether FENCED is recorded: the disc is left alone until the next start.
    Undecided,
}

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
    let (Owner::Fenced(order, _) | Owner::Retired(order)) = &held.record().owner else { return None };
    Some(Refusal::Moved { name: name.clone(), target: order.target.clone(), generation: order.generation })
}

fn report_of(order: &MigrationOrder) -> MigrationReport {
    MigrationReport {
        id: order.id,
        role: MigrationRole::Source,
        peer: order.target.clone(),
        generation: order.generation,
        phase: MigrationPhase::Connecting,
        pass: 0,
        bytes_copied: 0,
        bytes_left: 0,
        dirtied_bytes_per_s: None,
        expected_pause_ms: None,
        pause_ms: None,
        verified_percent: None,
        error: None,
    }
}

/// One move, on the jobs thread.
struct Move {
    store: Arc<Store>,
    disc: Arc<Disc>,
    order: MigrationOrder,
    network: Network,
    cancel: Cancel,
}

impl Move {
    async fn run(&self, file: std::fs::File, size_bytes: u64, stopping: Cancel) {
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

    /// Pauses the clients, sends the rest, and gives the disc up once the target has all of it.
    async fn hand_over(&self, copier: &mut Copier, stopping: &Cancel) -> Result<HandOver, Ended> {
        let held = self.disc.held.clone().ok_or_else(|| Ended::new(MigrationErrorKind::Stopped, "it is gone"))?;
        let held = held.lock_owned().await;
        if self.cancel.is_cancelled() || stopping.is_cancelled() {
            return Err(Ended::new(MigrationErrorKind::Cancelled, "it was cancelled"));
        }
        if !matches!(held.phase, Phase::Serving) || held.record().owner != Owner::Owner {
            return Err(Ended::new(MigrationErrorKind::Stopped, "the disc is not served any more"));
        }
        if held.record().flush_failed {
            return Err(Ended::new(MigrationErrorKind::FlushFailed, "a flush of the disc failed"));
        }
        let attempt = Attempt(Uuid::new_v4());
        let fenced = self.fenced(&held, attempt);
        // Found out behind the freeze, the clients would wait for an operator.
        encode_slot(&fenced, u64::MAX).map_err(|error| Ended::new(MigrationErrorKind::Protocol, error.to_string()))?;
        self.tell(|moving| moving.report.phase = MigrationPhase::Handover);
        let began = Instant::now();
        let mut source = Source::Serving;
        let pause_max = Duration::from_millis(PAUSE_MS_MAX.into());
        let prepared = tokio::time::timeout(pause_max, self.prepare(copier, &held, attempt, &mut source)).await;
        let step = match prepared {
            Ok(Ok(step)) => step,
            failed => {
                if let Some(step) = source.handle_deadline() {
                    let withdraw = Control::Withdraw { attempt };
                    debug_assert_eq!(step.say, Some(Word::Withdraw(attempt)));
                    let _ = tokio::time::timeout(SERVING_DEADLINE, copier.link.send(&withdraw)).await;
                }
                let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
                self.store.shards().thaw(self.disc.name.number).await.map_err(closed)?;
                tracing::info!(disc = %self.disc.name, took_ms = ms(began.elapsed()), "a hand-over was called off");
                return failed.map_or(Ok(HandOver::CalledOff), |ended| ended.map(|_| HandOver::CalledOff));
            }
        };
        debug_assert_eq!(step.state, Source::Fenced(attempt));
        let Some(mut held) = self.fence(held, attempt, stopping).await else { return Ok(HandOver::Undecided) };
        self.store.parts.addresses.hush(held.record().address).await;
        let committed = self.commit(copier, attempt).await;
        let pause_ms = ms(began.elapsed());
        held.phase = Phase::Moved;
        self.leave().await;
        let (held, retired) = if committed.is_ok() { self.retire(held).await } else { (held, false) };
        self.tell(|moving| {
            moving.report.pause_ms = Some(pause_ms);
            moving.report.bytes_left = 0;
            (moving.progress, moving.eta_s) = (Some(100), Some(0));
            if retired {
                moving.report.phase = MigrationPhase::Done;
            }
        });
        if !retired {
            // What it says now is that the disc is fenced.
            self.store.publish(&self.disc, &held);
            drop(held);
            tokio::select! {
                () = self.commit_until_heard(attempt) => {}
                () = stopping.asked() => {}
            }
        }
        Ok(HandOver::Done)
    }

    /// Everything up to the target's word that it has all of it.
    async fn prepare(
        &self,
        copier: &mut Copier,
        held: &Held,
        attempt: Attempt,
        source: &mut Source,
    ) -> Result<crate::migration::handover::Step<Source>, Ended> {
        let (shards, number) = (self.store.shards(), self.disc.name.number);
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        shards.freeze(number).await.map_err(closed)?;
        copier.send_written(shards, u64::MAX, &|_| {}).await?;
        let not_serving = || Ended::new(MigrationErrorKind::Stopped, "the disc is not served any more");
        *source = source.handle_frozen(attempt).ok_or_else(not_serving)?.state;
        copier.link.send(&Control::Prepare { attempt, record: Box::new(held.record().clone()) }).await?;
        loop {
            match copier.hear().await? {
                Some(Control::Prepared { attempt }) => {
                    // Of an earlier freeze: it was called off.
                    if let Some(step) = source.handle_word(Word::Prepared(attempt)) {
                        return Ok(step);
                    }
                }
                Some(other) => return Err(Ended::unexpected(Message::Control(other))),
                None => {}
            }
        }
    }

    /// Records that the disc is given up: the commit point. A write that fails may have happened all the same, so it
    /// is repeated, and the disc is not served meanwhile (safety rule 18). `None`: the tail stops before it is known.
    async fn fence(
        &self,
        mut held: OwnedMutexGuard<Held>,
        attempt: Attempt,
        stopping: &Cancel,
    ) -> Option<OwnedMutexGuard<Held>> {
        let fenced = self.fenced(&held, attempt);
        loop {
            let record = fenced.clone();
            let (back, written) = blocking(held, move |held| held.sidecar.write(record)).await;
            held = back;
            match written {
                Ok(()) => return Some(held),
                Err(error) => {
                    tracing::error!(disc = %self.disc.name, error = describe(&error), "it cannot be recorded that the disc is given up; it is tried again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RECORD_PAUSE) => {}
                () = stopping.asked() => return None,
            }
        }
    }

    fn fenced(&self, held: &Held, attempt: Attempt) -> Record {
        Record { owner: Owner::Fenced(self.order.clone(), attempt), ..held.record().clone() }
    }

    /// Says that the disc is the target's, and waits for a moment until it serves.
    async fn commit(&self, copier: &mut Copier, attempt: Attempt) -> Result<(), Ended> {
        let telling = async {
            copier.link.send(&Control::Commit { attempt }).await?;
            loop {
                if let Some(Control::Serving) = copier.hear().await? {
                    return Ok(());
                }
            }
        };
        let late = |_| Ended::new(MigrationErrorKind::Unreachable, "the target does not say that it serves");
        tokio::time::timeout(SERVING_DEADLINE, telling).await.map_err(late)?
    }

    /// Closes the clients while the address is still here, so that they are told, and then takes the address away.
    async fn leave(&self) {
        let number = self.disc.name.number;
        if let Err(error) = self.store.shards().close(number).await {
            tracing::warn!(disc = %self.disc.name, error = describe(&error), "closing a disc that was handed over");
        }
        let address = self.disc.report().address;
        self.store.parts.addresses.remove(address).await;
    }

    /// Records that the target serves. True when it is recorded.
    async fn retire(&self, held: OwnedMutexGuard<Held>) -> (OwnedMutexGuard<Held>, bool) {
        let mut record = held.record().clone();
        record.owner = Owner::Retired(self.order.clone());
        let (held, written) = blocking(held, move |held| held.sidecar.write(record)).await;
        if let Err(error) = &written {
            tracing::error!(disc = %self.disc.name, error = describe(error), "it cannot be recorded that a disc was taken over");
        }
        self.store.publish(&self.disc, &held);
        tracing::info!(disc = %self.disc.name, id = %self.order.id, target = %self.order.target, "a disc was moved to another tail");
        (held, written.is_ok())
    }

    /// Repeats Commit until it is recorded that the target serves, or the disc is removed: a cancelled order is too late.
    async fn commit_until_heard(&self, attempt: Attempt) {
        let Some(lock) = self.disc.held.clone() else { return };
        loop {
            let heard = match tokio::time::timeout(COMMIT_DEADLINE, self.commit_once(attempt)).await {
                Ok(heard) => heard.inspect_err(|error| {
                    tracing::debug!(disc = %self.disc.name, %error, "the target has not said that it serves");
                }),
                Err(_) => Err(Ended::new(MigrationErrorKind::Unreachable, "the target does not answer")),
            };
            let held = lock.clone().lock_owned().await;
            let waits = matches!(&held.record().owner, Owner::Fenced(order, _) if order.id == self.order.id);
            if !waits || (heard.is_ok() && self.retire(held).await.1) {
                return self.tell(|moving| moving.report.phase = MigrationPhase::Done);
            }
            tokio::time::sleep(COMMIT_PAUSE).await;
        }
    }

    async fn commit_once(&self, attempt: Attempt) -> Result<(), Ended> {
        let size_bytes = self.disc.report().size;
        let mut link = self.network.connect(&self.order).await?;
        link.send(&Control::Hello(self.hello(size_bytes, Some(attempt)))).await?;
        match link.receive().await? {
            Message::Control(Control::Welcome(_)) => {}
            other => return Err(Ended::unexpected(other)),
        }
        link.send(&Control::Commit { attempt }).await?;
        match link.receive().await? {
            Message::Control(Control::Serving) => Ok(()),
            other => Err(Ended::unexpected(other)),
        }
    }

    fn hello(&self, size_bytes: u64, fenced: Option<Attempt>) -> Hello {
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

    fn tell(&self, change: impl FnOnce(&mut Moving)) {
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

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
