//! The source gives a disc up: freeze, Prepare, the FENCED record, Commit, and the repeats of it (safety rules 18–20, 23).

use super::{
    blocking,
    disc::{Held, Phase},
    migrate::{Move, ms},
};
use crate::{
    describe::describe,
    jobs::Cancel,
    migration::{
        Ended,
        budgets::Turn,
        handover::{Attempt, Source, Step, Word},
        source::Copier,
        wire::{Control, Message},
    },
    sidecar::{Owner, Record, slots::encode_slot},
};
use spine::resource::migration::{MigrationErrorKind, MigrationPhase, PAUSE_MS_MAX};
use std::time::Duration;
use tokio::{sync::OwnedMutexGuard, time::Instant};
use uuid::Uuid;

/// How long the source waits for the target to serve before it closes its clients all the same (safety rule 18).
pub(super) const SERVING_DEADLINE: Duration = Duration::from_millis(500);

/// Between two tries to reach a target that must hear Commit, and how long one may take.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// Between two tries to record FENCED.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// How a hand-over came out.
pub(super) enum HandOver {
    /// The disc is the target's.
    Done,
    /// It took too long, and the disc is served on.
    CalledOff,
    /// It cannot be said whether FENCED is recorded: the disc is left alone until the next start.
    Undecided,
}

impl Move {
    /// Pauses the clients, sends the rest, and gives the disc up once the target has all of it. The turn is for the next
    /// disc as soon as this one has clients no more, or has to wait for who knows how long.
    pub(super) async fn hand_over(
        &self,
        copier: &mut Copier,
        stopping: &Cancel,
        turn: Turn,
    ) -> Result<HandOver, Ended> {
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
        let mut turn = Some(turn);
        let fenced = self.fence(held, attempt, stopping, &mut turn).await;
        let Some(mut held) = fenced else { return Ok(HandOver::Undecided) };
        self.store.parts.addresses.hush(held.record().address).await;
        let committed = self.commit(copier, attempt).await;
        let pause_ms = ms(began.elapsed());
        held.phase = Phase::Moved;
        self.leave().await;
        drop(turn);
        let (held, retired) = if committed.is_ok() { self.retire(held).await } else { (held, false) };
        // Before, clients may have written more than the target had heard of.
        let allocation_equal = copier.verified().allocation_equal;
        self.tell(|moving| {
            moving.report.allocation_equal = allocation_equal;
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
                biased;
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
    ) -> Result<Step<Source>, Ended> {
        let (shards, number) = (self.store.shards(), self.disc.name.number);
        let closed = |error| Ended::new(MigrationErrorKind::Stopped, describe(&error));
        shards.freeze(number).await.map_err(closed)?;
        copier.send_written(shards, u64::MAX, &|_| {}).await?;
        let not_serving = || Ended::new(MigrationErrorKind::Stopped, "the disc is not served any more");
        *source = source.handle_frozen(attempt).ok_or_else(not_serving)?.state;
        copier.link.send(&Control::Prepare { attempt, record: Box::new(held.record().clone()) }).await?;
        loop {
            match copier.hear().await? {
                Some(Control::Prepared { attempt, allocated_bytes }) => {
                    // Of an earlier freeze: it was called off.
                    if let Some(step) = source.handle_word(Word::Prepared(attempt)) {
                        copier.handle_prepared(allocated_bytes);
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
        turn: &mut Option<Turn>,
    ) -> Option<OwnedMutexGuard<Held>> {
        let fenced = self.fenced(&held, attempt);
        loop {
            let record = fenced.clone();
            let (back, written) = blocking(held, move |held| held.sidecar.write(record)).await;
            held = back;
            match written {
                Ok(()) => return Some(held),
                Err(error) => {
                    drop(turn.take());
                    tracing::error!(disc = %self.disc.name, error = describe(&error), "it cannot be recorded that the disc is given up; it is tried again");
                }
            }
            tokio::select! {
                biased;
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
    pub(super) async fn commit_until_heard(&self, attempt: Attempt) {
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
}
