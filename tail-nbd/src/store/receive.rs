//! A disc comes from another tail: the order, the connection, and the hand-over (R130; safety rules 5, 18).
//!
//! The copy is worth nothing before it is PREPARED. From then on it is neither changed nor dropped without the source's
//! word, and it is served only after Commit, which is the source's own record, from the source or relayed by the brain.

use super::{
    Store, blocking,
    create::{check_size_in, make_files},
    disc::{Copy, Disc, Held, Moving, Phase, Turn},
    refusal::Refusal,
};
use crate::{
    describe::describe,
    jobs::Cancel,
    migration::{
        Ended,
        handover::{Attempt, Step, Target, Word},
        link::{Link, Network},
        target::{CREDIT_BYTES, Receiver},
        wire::{Control, Hello, Message, VERSION, Welcome},
    },
    offload::offload,
    sidecar::{Owner, Record},
};
use spine::{
    id::DiscName,
    resource::{
        disc::{DiscOrder, DiscState},
        migration::{CommitOrder, IncomingOrder, MigrationErrorKind, MigrationPhase, MigrationReport, MigrationRole},
    },
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedMutexGuard, Semaphore, watch},
};

/// Connections of other tails, those that have said nothing yet included. One more is closed at once.
const CONNECTIONS_MAX: usize = 128;

/// How long whoever connects may take to say what it wants.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// How long a connection waits for the end of an older one about the same disc.
const OLDER_DEADLINE: Duration = Duration::from_secs(5);

/// What is wrong with accepting is not over at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

impl Store {
    /// Takes other tails' connections until it is dropped.
    pub async fn receive_discs(self: Arc<Self>, listener: TcpListener, network: Network) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the connection of another tail");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            // It goes to the runtime of the jobs thread.
            let Ok(stream) = stream.into_std() else { continue };
            let (store, network) = (self.clone(), network.clone());
            let task = move |stopping: Cancel| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
                Box::pin(async move {
                    tokio::select! {
                        biased;
                        () = store.serve_peer(stream, peer.ip().to_canonical(), network) => {}
                        () = stopping.asked() => {}
                    }
                    drop(place);
                })
            };
            self.parts.jobs.run(Box::new(task)).await;
        }
    }

    /// Makes room for a disc that comes from another tail. The same order again changes nothing.
    ///
    /// # Errors
    /// When it is refused; nothing is left over then.
    pub(super) async fn expect(self: &Arc<Self>, record: Record, incoming: &IncomingOrder) -> Result<(), Refusal> {
        if self.parts.network.is_none() {
            let reason = "this tail has no migration_listen, so no disc moves from or to it".into();
            return Err(Refusal::BadValue { attribute: "incoming", reason });
        }
        let pool = self.parts.pools.get(&record.pool).ok_or_else(|| Refusal::NoSuchPool(record.pool.clone()))?.clone();
        let generation = record.generation;
        let made = offload(move || {
            let failed = |source| Refusal::Io { name: record.name(), what: "ask how full its pool is", source };
            check_size_in(&record, pool.space().map_err(failed)?.size_bytes)?;
            make_files(&pool, &record)
        });
        let sidecar = made.await?;
        let held = Held { sidecar, data: None, phase: Phase::Receiving, panics_count: 0 };
        let disc = Arc::new(Disc::new(held));
        self.insert(disc.clone());
        let Some(held) = disc.held.clone() else { return Ok(()) };
        let mut held = held.lock_owned().await;
        match self.take_data(&held).await {
            Ok(data) => held.data = Some(data),
            Err(refusal) => held.phase = Phase::Failed(describe(&refusal)),
        }
        disc.set_moving(moving_of(incoming, generation));
        self.publish(&disc, &held);
        Ok(())
    }

    /// The brain relays that the source has given the disc up (safety rule 18).
    pub(super) async fn take_over(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: OwnedMutexGuard<Held>,
        order: CommitOrder,
    ) -> Result<(), Refusal> {
        let busy = |reason: &str| Refusal::Busy { name: disc.name.clone(), reason: reason.to_owned() };
        match &held.record().owner {
            Owner::Prepared(incoming, attempt)
                if incoming.id == order.id && held.record().generation == order.generation =>
            {
                let attempt = *attempt;
                self.become_owner(disc, held, attempt).await.map_err(|ended| busy(&ended.message))
            }
            Owner::Owner if held.record().generation >= order.generation => Ok(()),
            _ => Err(busy("it is not prepared for this migration")),
        }
    }

    async fn serve_peer(self: &Arc<Self>, stream: std::net::TcpStream, peer: IpAddr, network: Network) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        match network.accept(stream).await {
            Ok(link) => self.serve_link(link, peer).await,
            Err(error) => tracing::debug!(%peer, %error, "a connection that is no tail's"),
        }
    }

    /// Serves a connection from `peer` until it ends.
    pub(crate) async fn serve_link(self: &Arc<Self>, mut link: Link, peer: IpAddr) {
        let hello = match tokio::time::timeout(HELLO_DEADLINE, link.receive()).await {
            Ok(Ok(Message::Control(Control::Hello(hello)))) => hello,
            // Strangers and scanners: nothing here has changed, and nobody is answered.
            _ => return tracing::debug!(%peer, "a connection that does not say hello as a tail does"),
        };
        let number = hello.number;
        if let Err(ended) = self.receive(&mut link, hello, peer).await {
            tracing::info!(disc = %number, %peer, kind = ?ended.kind, reason = %ended, "a connection of another tail has ended");
            let _ = tokio::time::timeout(HELLO_DEADLINE, link.send(&ended.to_control())).await;
        }
    }

    async fn receive(self: &Arc<Self>, link: &mut Link, hello: Hello, peer: IpAddr) -> Result<(), Ended> {
        let refused = |why: &str| Ended::new(MigrationErrorKind::Refused, why);
        let not_ready = |why: &str| Ended::new(MigrationErrorKind::Unreachable, why);
        if !(hello.version_oldest..=hello.version_newest).contains(&VERSION) {
            return Err(Ended::new(MigrationErrorKind::Protocol, format!("this tail speaks version {VERSION} only")));
        }
        let disc = self.find_number(hello.number).ok_or_else(|| refused("no such disc is expected here"))?;
        let held = disc.held.clone().ok_or_else(|| refused("the disc's files are not understood here"))?;
        // Who has no business here must not end the connection of who has.
        check_hello(held.lock().await.record(), &hello, link, peer)?;
        let turn = disc.session.next_turn();
        let session = tokio::time::timeout(OLDER_DEADLINE, disc.session.lock.lock()).await;
        let _session = session.map_err(|_| not_ready("an older connection about this disc has not ended yet"))?;
        let (target, data) = {
            // Not waited for: who removes the disc has its lock, and waits for this connection.
            let held = held.try_lock().map_err(|_| not_ready("the disc is busy"))?;
            let target = check_hello(held.record(), &hello, link, peer)?;
            let data = held.data.as_ref().and_then(|data| data.try_clone().ok());
            (target, data)
        };
        let data = data.ok_or_else(|| not_ready("the disc's data is not open here"))?;
        let mut receiver = Receiver::new(data, hello.size_bytes)?;
        let copy = disc.session.copy();
        let outcome = Session { store: self, disc: &disc, link, target, hello, copy }.run(&mut receiver, turn).await;
        receiver.finish().await;
        let id = if receiver.is_spoilt() { Copy::default().id } else { copy.id };
        disc.session.set_copy(Copy { id, lacking: receiver.lacking() });
        if let Err(ended) = &outcome {
            self.tell_failed(&disc, ended);
        }
        outcome
    }

    fn tell_failed(&self, disc: &Disc, ended: &Ended) {
        disc.change_moving(|moving| {
            if moving.report.phase == MigrationPhase::Done {
                return;
            }
            if ended.holds_up() {
                moving.report.phase = MigrationPhase::Waiting;
                moving.report.waiting = Some(ended.to_report());
            } else {
                moving.report.phase = MigrationPhase::Failed;
                (moving.report.waiting, moving.report.error) = (None, Some(ended.to_report()));
            }
        });
        self.changed.mark(disc.name.number);
    }

    /// Serves the disc: durably its owner, listening, with its address up.
    async fn become_owner(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: OwnedMutexGuard<Held>,
        attempt: Attempt,
    ) -> Result<(), Ended> {
        let mut record = held.record().clone();
        let step = target_of(&record).and_then(|target| target.handle_word(Word::Commit(attempt)));
        let Some(Step { state: Target::Owner, .. }) = step else {
            return Err(Ended::new(MigrationErrorKind::Refused, "the disc is not prepared for this hand-over"));
        };
        record.owner = Owner::Owner;
        let (mut held, written) = blocking(held, move |held| held.sidecar.write(record)).await;
        let failed = |why: String| Ended::new(MigrationErrorKind::WriteError, why);
        written.map_err(|error| failed(describe(&error)))?;
        let address = held.record().address;
        let served = self.serve(&held).await;
        held.phase = match &served {
            Ok(()) => Phase::Serving,
            Err(refusal) => Phase::Failed(describe(refusal)),
        };
        self.publish(disc, &held);
        drop(held);
        served.map_err(|refusal| failed(describe(&refusal)))?;
        self.parts.addresses.add(address).await;
        disc.change_moving(|moving| {
            moving.report.phase = MigrationPhase::Done;
            moving.report.waiting = None;
            moving.progress = Some(100);
        });
        self.changed.mark(disc.name.number);
        tracing::info!(disc = %disc.name, "a disc was taken over from another tail");
        Ok(())
    }
}

/// One connection of a source that is expected.
struct Session<'a> {
    store: &'a Arc<Store>,
    disc: &'a Arc<Disc>,
    link: &'a mut Link,
    target: Target,
    hello: Hello,
    copy: Copy,
}

impl Session<'_> {
    async fn run(&mut self, receiver: &mut Receiver, mut turn: Turn) -> Result<(), Ended> {
        if let Some(range) = self.copy.lacking {
            receiver.make_room(range).await?;
        }
        let welcome = Welcome {
            version: VERSION,
            credit_bytes: CREDIT_BYTES,
            copy: self.copy.id,
            is_empty: receiver.allocated_bytes() == 0,
        };
        self.link.send(&Control::Welcome(welcome)).await?;
        if self.target.takes_data() {
            self.tell(|moving| {
                moving.report.phase = MigrationPhase::Copying;
                (moving.report.waiting, moving.report.error) = (None, None);
            });
        }
        loop {
            // A message that has come is worked on to its end: a hand-over must not be dropped half-way.
            let message = tokio::select! {
                biased;
                () = turn.over() => {
                    return Err(superseded());
                }
                found = receiver.read_back() => {
                    let (digests, is_last) = found?;
                    // They go out while more is received, which the source may be waiting for.
                    self.link.queue_digests(&digests, is_last);
                    self.tell(|moving| moving.report.bytes_copied = receiver.received_bytes());
                    continue;
                }
                message = self.link.receive() => message?,
            };
            match message {
                Message::Data { offset, bytes } if self.target.takes_data() => {
                    self.link.reuse(receiver.write(offset, bytes).await?);
                    if let Some(bytes) = receiver.take_credit() {
                        self.link.queue(&Control::Credit { bytes });
                    }
                }
                Message::Hole { offset, length } if self.target.takes_data() => receiver.punch(offset, length).await?,
                Message::Space { offset, length } if self.target.takes_data() => receiver.zero(offset, length).await?,
                Message::Control(Control::Compare { offset, length, chunk_bytes }) if self.target.takes_data() => {
                    receiver.handle_compare(offset, length, chunk_bytes).await?;
                }
                Message::Control(Control::PassEnd { .. } | Control::Prepare { .. } | Control::Commit { .. })
                    if receiver.is_reading_back() =>
                {
                    return Err(Ended::new(MigrationErrorKind::Protocol, "the source goes on without an answer"));
                }
                Message::Control(Control::PassEnd { pass }) => {
                    receiver.sync().await?;
                    self.tell(|moving| {
                        moving.report.pass = pass;
                        moving.report.bytes_copied = receiver.received_bytes();
                    });
                    let allocated_bytes = receiver.allocated_bytes();
                    self.link.send(&Control::Synced { pass, allocated_bytes }).await?;
                }
                Message::Control(Control::Prepare { attempt, record }) => {
                    // What is said to be whole must be so after a loss of power.
                    receiver.sync().await?;
                    self.hear(Word::Prepare(attempt), Some(*record), receiver).await?;
                }
                Message::Control(Control::Withdraw { attempt }) => {
                    self.hear(Word::Withdraw(attempt), None, receiver).await?;
                }
                Message::Control(Control::Commit { attempt }) => {
                    self.hear(Word::Commit(attempt), None, receiver).await?;
                }
                Message::Control(Control::Failed { kind, message }) => return Err(Ended { kind, message }),
                other => return Err(Ended::unexpected(other)),
            }
        }
    }

    /// A word of the hand-over: the new state is durable before it is answered.
    async fn hear(&mut self, word: Word, record: Option<Record>, receiver: &Receiver) -> Result<(), Ended> {
        let out_of_turn = || Ended::new(MigrationErrorKind::Protocol, "the source spoke out of turn");
        let step = self.target.handle_word(word).ok_or_else(out_of_turn)?;
        if step.state != self.target {
            // Not waited for: who removes the disc has its lock, and waits for this connection.
            let held = self.disc.held.clone().ok_or_else(out_of_turn)?.try_lock_owned();
            let held = held.map_err(|_| Ended::new(MigrationErrorKind::Stopped, "the disc is busy"))?;
            // An order may have come in between: what counts is the record.
            if target_of(held.record()) != Some(self.target) {
                return Err(Ended::new(MigrationErrorKind::Stopped, "the disc has changed meanwhile"));
            }
            match step.state {
                Target::Owner => {
                    let Word::Commit(attempt) = word else { return Err(out_of_turn()) };
                    self.store.become_owner(self.disc, held, attempt).await?;
                }
                state => self.record(held, state, record).await?,
            }
            self.target = step.state;
        }
        match step.say {
            Some(Word::Prepared(attempt)) => {
                let allocated_bytes = receiver.allocated_bytes();
                self.link.send(&Control::Prepared { attempt, allocated_bytes }).await?;
            }
            Some(Word::Serving) => {
                if self.disc.report().state != DiscState::Serving {
                    return Err(Ended::new(MigrationErrorKind::WriteError, "the disc is here, and cannot be served"));
                }
                self.link.send(&Control::Serving).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Records that the copy is whole, with what the source says of the disc; or that it is no longer so.
    async fn record(&self, held: OwnedMutexGuard<Held>, state: Target, theirs: Option<Record>) -> Result<(), Ended> {
        let own = held.record().clone();
        let (Owner::Incoming(incoming) | Owner::Prepared(incoming, _)) = own.owner.clone() else {
            return Err(Ended::new(MigrationErrorKind::Stopped, "the disc has changed meanwhile"));
        };
        let new = match (state, theirs) {
            (Target::Prepared(attempt), Some(theirs)) => {
                let mut new = adopt(&own, theirs, self.hello.size_bytes)?;
                new.owner = Owner::Prepared(incoming, attempt);
                new
            }
            _ => Record { owner: Owner::Incoming(incoming), ..own },
        };
        let (held, written) = blocking(held, move |held| held.sidecar.write(new)).await;
        self.store.publish(self.disc, &held);
        written.map_err(|error| Ended::new(MigrationErrorKind::WriteError, describe(&error)))
    }

    fn tell(&self, change: impl FnOnce(&mut Moving)) {
        self.disc.change_moving(change);
        self.store.changed.mark(self.disc.name.number);
    }
}

fn superseded() -> Ended {
    Ended::new(MigrationErrorKind::Refused, "a newer connection about this disc has come")
}

/// The record of a disc that came from another tail: theirs, but for what belongs to this place (safety rule 5).
fn adopt(own: &Record, theirs: Record, size_bytes: u64) -> Result<Record, Ended> {
    let wrong =
        |what: &str| Ended::new(MigrationErrorKind::Protocol, format!("the source's record will not do: {what}"));
    theirs.check().map_err(wrong)?;
    if theirs.number != own.number || theirs.size_bytes != size_bytes {
        return Err(wrong("it is of another disc or size"));
    }
    if theirs.generation >= own.generation {
        return Err(wrong("its generation is not lower"));
    }
    if theirs.flush_failed || theirs.importing.is_some() {
        return Err(wrong("its data is not sound"));
    }
    Ok(Record {
        grade: own.grade.clone(),
        pool: own.pool.clone(),
        owner: own.owner.clone(),
        generation: own.generation,
        address: own.address,
        ..theirs
    })
}

/// What this tail is to a disc, in the words of the hand-over; none when it takes no part in one.
fn target_of(record: &Record) -> Option<Target> {
    match &record.owner {
        Owner::Incoming(_) => Some(Target::Incoming),
        Owner::Prepared(_, attempt) => Some(Target::Prepared(*attempt)),
        Owner::Owner => Some(Target::Owner),
        Owner::Fenced(..) | Owner::Retired(_) | Owner::Superseded { .. } | Owner::Removed => None,
    }
}

/// Decides whether a source may talk to this tail about a disc.
fn check_hello(record: &Record, hello: &Hello, link: &Link, peer: IpAddr) -> Result<Target, Ended> {
    let refused = |why: &str| Ended::new(MigrationErrorKind::Refused, why);
    let target = target_of(record).ok_or_else(|| refused("the disc is not expected here"))?;
    match (&record.owner, hello.fenced) {
        (Owner::Incoming(order) | Owner::Prepared(order, _), _) => {
            if order.id != hello.id || record.generation != hello.generation {
                return Err(refused("another migration of this disc is expected here"));
            }
            if order.address.to_canonical() != peer || !link.may_be(&order.source) {
                return Err(refused("the disc is expected from another tail"));
            }
            if hello.fenced.is_none() && target != Target::Incoming {
                return Err(refused("the copy here is prepared, and waits for the word of an earlier hand-over"));
            }
        }
        // It asks again because it has not heard that this tail serves. There is nothing to be had by it.
        (Owner::Owner, Some(_)) if record.generation >= hello.generation => return Ok(target),
        _ => return Err(refused("the disc is served here and not expected")),
    }
    if hello.size_bytes != record.size_bytes {
        return Err(refused("the disc is expected with another size"));
    }
    Ok(target)
}

/// What there is to say of a disc that is expected.
pub(super) fn moving_of(incoming: &IncomingOrder, generation: spine::id::Generation) -> Moving {
    let report = MigrationReport::begun(incoming.id, MigrationRole::Target, incoming.source.clone(), generation);
    let ended = watch::channel(true).1;
    Moving { report, progress: None, eta_s: None, speed_mb_per_s: None, cancel: Cancel::default(), ended }
}

/// Refuses an order that has something in it that a disc from another tail must not be given.
pub(super) fn check_incoming(name: &DiscName, order: &DiscOrder) -> Result<(), Refusal> {
    let nobody = order.attachments.as_ref().is_none_or(Vec::is_empty) && order.access_control_list.is_none();
    if nobody && order.image.is_none() {
        return Ok(());
    }
    let reason = format!("disc {name} comes with its data and its attachments: it must be ordered without");
    Err(Refusal::BadValue { attribute: "incoming", reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::slots::tests::record;
    use spine::id::{Generation, MigrationId};

    fn own() -> Record {
        let mut own = record(7);
        own.pool = "ssd1".parse().unwrap();
        own.generation = Generation(2);
        own.attachments_version = spine::id::AttachmentsVersion(0);
        own.owner = Owner::Incoming(IncomingOrder {
            id: MigrationId(uuid::Uuid::from_u128(1)),
            source: "tail1".parse().unwrap(),
            address: "fd00::21".parse().unwrap(),
        });
        own
    }

    #[test]
    fn rule5_attachments_come_from_the_source_and_the_place_stays_ours() {
        let theirs = record(7);
        let adopted = adopt(&own(), theirs.clone(), theirs.size_bytes).unwrap();
        assert_eq!((&adopted.access, adopted.attachments_version), (&theirs.access, theirs.attachments_version));
        assert_eq!((adopted.pool, adopted.generation), (own().pool, Generation(2)));
    }

    #[test]
    fn a_source_that_says_something_else_is_refused() {
        let size_bytes = record(7).size_bytes;
        let refused = |change: &dyn Fn(&mut Record)| {
            let mut theirs = record(7);
            change(&mut theirs);
            adopt(&own(), theirs, size_bytes).unwrap_err().kind
        };
        for kind in [
            refused(&|theirs| theirs.number.0 = 8),
            refused(&|theirs| theirs.size_bytes *= 2),
            refused(&|theirs| theirs.generation = Generation(2)),
            refused(&|theirs| theirs.flush_failed = true),
            refused(&|theirs| theirs.importing = Some("tiny".parse().unwrap())),
        ] {
            assert_eq!(kind, MigrationErrorKind::Protocol);
        }
    }
}
