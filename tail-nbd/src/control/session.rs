//! The task that owns the spine link.

use super::{
    command::Order,
    epoch::Seen,
    facts::{self, Facts},
    lanes::Lanes,
    reported::Reported,
};
use crate::{
    describe::describe,
    shard::ShardEvent,
    store::{Store, refusal::Refusal},
};
use serde_json::{Value, json};
use spine::{
    id::{DiscNumber, ResourceName},
    message::{Answer, Command, Refusal as SpineRefusal, Welcome},
    resource::{Attributes, disc::DiscReport, to_attributes},
    transport::{NodeEvent, NodeLink, Ticket},
};
use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

/// How long orders may take to end once the tail is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How soon it is tried again to keep an epoch that could not be written.
const KEEP_PAUSE: Duration = Duration::from_secs(2);

/// What the spine is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// There is a brain.
    Connected,
    /// There is none, because of this.
    Disconnected(String),
}

/// What a tail has to do with its brain, for as long as the tail lives or until another process has taken it over.
#[derive(Debug)]
pub struct Session {
    /// The link to the brain.
    link: NodeLink,
    /// The discs.
    store: Arc<Store>,
    /// Where the epoch is kept.
    state_dir: PathBuf,
    /// What was kept of it.
    seen: Seen,
    /// What the shards say unasked.
    shard_events: mpsc::Receiver<ShardEvent>,
    /// Told how the connection is.
    connection: watch::Sender<Connection>,
    lanes: Lanes<Ticket>,
    /// What the brain was told; none while it has not been told everything.
    reported: Option<Reported>,
    /// A welcome whose epoch is not durable yet: nothing is dumped before it is.
    unkept: Option<Welcome>,
}

/// A session that runs.
struct Talk<'a> {
    session: &'a mut Session,
    facts: watch::Receiver<Facts>,
    poke: Arc<Notify>,
}

impl Session {
    /// The brain is at the other end of `link`, and `seen` is what was kept of it in `state_dir`. How the connection is,
    /// is told by `connection`.
    pub fn new(
        link: NodeLink,
        store: Arc<Store>,
        state_dir: PathBuf,
        seen: Seen,
        shard_events: mpsc::Receiver<ShardEvent>,
        connection: watch::Sender<Connection>,
    ) -> Self {
        let (lanes, reported, unkept) = (Lanes::default(), None, None);
        Self { link, store, state_dir, seen, shard_events, connection, lanes, reported, unkept }
    }

    /// Obeys the brain until `stop` is true, then lets the orders at hand end. True when they have ended. The connection
    /// stays: what the brain orders from then on waits, and is obeyed when this is called again.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) -> bool {
        let store = self.store.clone();
        let first = tokio::task::spawn_blocking(move || Facts::look(&store)).await.unwrap_or_default();
        let (sender, facts) = watch::channel(first);
        let poke = Arc::new(Notify::new());
        let mut background = JoinSet::new();
        background.spawn(facts::keep_looking(self.store.clone(), poke.clone(), sender));
        let mut talk = Talk { session: self, facts, poke };
        // What has changed since the last time.
        talk.tell_facts();
        while !*stop.borrow() {
            talk.turn(&mut stop).await;
        }
        let orders_ended = talk.drain().await;
        background.shutdown().await;
        orders_ended
    }

    /// Ends the connection. Returns what the shards say from now on.
    pub fn end(self) -> mpsc::Receiver<ShardEvent> {
        self.shard_events
    }
}

impl Talk<'_> {
    async fn turn(&mut self, stop: &mut watch::Receiver<bool>) {
        let run = run_on(&self.session.store);
        tokio::select! {
            // An error says that nobody is left who could tell: stop as well.
            _ = stop.changed() => {}
            event = self.session.link.next() => self.handle(event).await,
            (number, ticket, answer) = self.session.lanes.next(run) => self.finish(number, ticket, answer),
            numbers = self.session.store.changed().take() => {
                for number in numbers {
                    self.tell_disc(number);
                }
                self.poke.notify_one();
            }
            Ok(()) = self.facts.changed() => self.tell_facts(),
            Some(event) = self.session.shard_events.recv() => self.session.store.handle_shard_event(event),
            () = tokio::time::sleep(KEEP_PAUSE), if self.session.unkept.is_some() => self.keep().await,
        }
    }

    async fn handle(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Welcomed(welcome) => {
                self.session.unkept = Some(welcome);
                self.keep().await;
            }
            NodeEvent::Command { ticket, command } => self.obey(ticket, &command),
            NodeEvent::Disconnected { reason } => {
                let now = Connection::Disconnected(reason.clone());
                if self.session.connection.send_replace(now.clone()) != now {
                    tracing::warn!(reason, "no brain is connected; the discs are served all the same");
                }
                (self.session.reported, self.session.unkept) = (None, None);
            }
        }
    }

    /// Keeps the brain's epoch, and then tells it everything.
    async fn keep(&mut self) {
        let Some(welcome) = self.session.unkept else { return };
        let seen = match self.session.seen.after(&welcome) {
            Ok(seen) => seen,
            // The transport refuses such a brain; what is kept here must not depend on that.
            Err(foreign) => {
                tracing::error!(reason = %foreign, "this brain is not obeyed");
                self.session.unkept = None;
                return;
            }
        };
        if seen != self.session.seen {
            let state_dir = self.session.state_dir.clone();
            let kept = tokio::task::spawn_blocking(move || seen.store(&state_dir)).await;
            match kept {
                Ok(Ok(())) => self.session.seen = seen,
                Ok(Err(error)) => {
                    return tracing::error!(error = describe(&error), "the brain's epoch could not be kept");
                }
                Err(error) => return tracing::error!(%error, "keeping the brain's epoch panicked"),
            }
        }
        self.session.unkept = None;
        self.dump(&welcome);
    }

    fn dump(&mut self, welcome: &Welcome) {
        let facts = self.facts.borrow_and_update().resources();
        let discs = self.session.store.reports();
        let discs = discs.into_iter().map(|(name, report)| (ResourceName::Disc(name), value_of(&report)));
        let dump: Vec<_> = facts.into_iter().chain(discs).collect();
        tracing::info!(epoch = %welcome.epoch, resources_count = dump.len(), "a brain is connected");
        self.session.reported = Some(Reported::new(&dump));
        self.session.link.dump(dump);
        self.session.connection.send_replace(Connection::Connected);
    }

    fn obey(&mut self, ticket: Ticket, command: &Command) {
        if self.session.reported.is_none() {
            return self.session.link.answer(ticket, refuse("busy", "this tail is not ready yet".to_owned()));
        }
        let order = match Order::parse(command) {
            Ok(order) => order,
            Err(answer) => return self.session.link.answer(ticket, answer),
        };
        let run = run_on(&self.session.store);
        if let Err(ticket) = self.session.lanes.push(ticket, order, run) {
            self.session.link.answer(ticket, refuse("busy", "too many orders wait already".to_owned()));
        }
    }

    /// Tells what an order changed, and then answers it.
    fn finish(&mut self, number: DiscNumber, ticket: Ticket, answer: Result<Answer, String>) {
        self.tell_disc(number);
        let answer = answer.unwrap_or_else(|panic| {
            tracing::error!(disc = %number, panic, "an order panicked");
            refuse("io-error", format!("the tail panicked while it worked on disc {number}"))
        });
        if let Answer::No(refusal) = &answer {
            tracing::info!(disc = %number, error = refusal.error, message = refusal.message, "an order was refused");
        }
        self.session.link.answer(ticket, answer);
        self.poke.notify_one();
    }

    fn tell_disc(&mut self, number: DiscNumber) {
        let Some(reported) = &mut self.session.reported else { return };
        let notice = match self.session.store.report(number) {
            Some((name, report)) => reported.tell(ResourceName::Disc(name), Some(value_of(&report))),
            None => reported.tell_gone(number),
        };
        if let Some(notice) = notice {
            self.session.link.notify(notice);
        }
    }

    fn tell_facts(&mut self) {
        let facts = self.facts.borrow_and_update().resources();
        let Some(reported) = &mut self.session.reported else { return };
        for (name, value) in facts {
            if let Some(notice) = reported.tell(name, Some(value)) {
                self.session.link.notify(notice);
            }
        }
    }

    /// Lets the orders at hand end, and answers them. True when they have ended.
    async fn drain(&mut self) -> bool {
        let orders_end = async {
            while !self.session.lanes.is_empty() {
                let run = run_on(&self.session.store);
                let (number, ticket, answer) = self.session.lanes.next(run).await;
                self.finish(number, ticket, answer);
            }
        };
        let ended = tokio::time::timeout(STOP_DEADLINE, orders_end).await.is_ok();
        if !ended {
            tracing::warn!("stopping although some orders have not ended");
        }
        ended
    }
}

/// How an order is carried out.
fn run_on(store: &Arc<Store>) -> impl FnOnce(Order) -> std::pin::Pin<Box<dyn Future<Output = Answer> + Send>> + use<> {
    let store = store.clone();
    move |order| Box::pin(carry_out(store, order))
}

async fn carry_out(store: Arc<Store>, order: Order) -> Answer {
    let outcome = match order {
        Order::Create(name, order) => {
            store.create(name, *order).await.map(|address| to_attributes(&json!({ "address": address })))
        }
        Order::Update(name, changes) => store.update(&name, *changes).await.map(|()| Attributes::new()),
        Order::Remove(name, generation, aborted) => {
            store.remove(&name, generation, aborted).await.map(|()| Attributes::new())
        }
    };
    match outcome {
        Ok(attributes) => Answer::Ok(attributes),
        Err(refusal) => Answer::No(Refusal::to_spine(&refusal)),
    }
}

fn refuse(error: &str, message: String) -> Answer {
    Answer::No(SpineRefusal { error: error.to_owned(), message })
}

fn value_of(report: &DiscReport) -> Value {
    Value::Object(to_attributes(report))
}
