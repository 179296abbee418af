//! A brain that has one disc moved to and fro: it compares what both tails say with what it wants, as the real one does.

use super::super::chance::Chance;
use super::tail::Tail;
use crate::store::change::Changes;
use crate::store::refusal::Refusal;
use serde_json::{Value, json};
use spine::id::{DiscName, Generation, MigrationId};
use spine::resource::disc::DiscState;
use spine::resource::migration::{MigrationPhase, Ownership};
use std::cell::RefCell;
use std::rc::Rc;

/// What it knows, and has in its database.
pub(super) struct Brain {
    disc: DiscName,
    size_bytes: u64,
    /// The tail that has the disc, by index.
    pub(super) at: usize,
    generation: u64,
    last: u128,
    /// The move that is under way.
    pub(super) moving: Option<Moving>,
    leftover: Option<Leftover>,
    /// An order to each tail at a time.
    orders: [Option<Order>; 2],
    /// It begins no move any more.
    pub(super) is_tired: bool,
    /// The disc is changing hands.
    pub(super) is_critical: bool,
    pub(super) moved_count: u64,
    pub(super) undone_count: u64,
}

/// A move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moving {
    id: MigrationId,
    generation: u64,
    to: usize,
    limit_mb_per_s: Option<u32>,
    pause_ms: u32,
    /// It is no longer wanted.
    is_undone: bool,
}

/// A copy that is of no use any more.
#[derive(Clone, Copy, Debug)]
struct Leftover {
    at: usize,
    generation: u64,
    aborted: Option<MigrationId>,
}

struct Order {
    purpose: Purpose,
    outcome: Rc<RefCell<Option<Result<(), Refusal>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Receive,
    Send,
    Stop,
    Relay,
    Remove,
}

impl Brain {
    pub(super) fn new(disc: DiscName, size_bytes: u64) -> Self {
        Self {
            disc,
            size_bytes,
            at: 0,
            generation: 1,
            last: 0,
            moving: None,
            leftover: None,
            orders: [None, None],
            is_tired: true,
            is_critical: false,
            moved_count: 0,
            undone_count: 0,
        }
    }

    /// True when nothing is under way.
    pub(super) fn is_content(&self) -> bool {
        self.moving.is_none() && self.leftover.is_none()
    }

    /// What it waits for, for people.
    pub(super) fn describe(&self) -> String {
        let orders = self.orders.each_ref().map(|order| order.as_ref().map(|order| order.purpose));
        format!("move {:?}, leftover {:?}, orders {orders:?}", self.moving, self.leftover)
    }

    /// A tail was killed: what it was ordered is done or not.
    pub(super) fn forget_orders(&mut self, tail: usize) {
        self.orders[tail] = None;
    }

    /// The first order: the disc, on the first tail.
    pub(super) fn make(&mut self, tails: &mut [Tail; 2], head: &str, key: &str) {
        let attachments = json!([{"head": head, "key": key}]);
        let order = json!({"size": self.size_bytes, "storage_pool": "sata1", "generation": 1,
            "attachments": attachments, "attachments_version": 1});
        self.create(&mut tails[0], 0, order);
    }

    /// Looks at both tails, and orders the next step.
    pub(super) fn think(&mut self, tails: &mut [Tail; 2], chance: &mut Chance) {
        for tail in 0..2 {
            let outcome = self.orders[tail].as_ref().and_then(|order| order.outcome.borrow_mut().take());
            if let Some(outcome) = outcome {
                let order = self.orders[tail].take().expect("it was there");
                self.conclude(order.purpose, &outcome);
            }
        }
        if let Some(leftover) = self.leftover {
            self.remove(leftover, tails);
        } else if let Some(moving) = self.moving {
            if !moving.is_undone && chance.one_in(150) {
                self.moving = Some(Moving { is_undone: true, ..moving });
            }
            self.bring_on(moving, tails, chance);
        } else if !self.is_tired && chance.one_in(20) {
            self.begin(chance);
        }
    }

    fn begin(&mut self, chance: &mut Chance) {
        self.is_critical = false;
        self.last += 1;
        self.generation += 1;
        self.moving = Some(Moving {
            id: MigrationId(uuid::Uuid::from_u128(self.last)),
            generation: self.generation,
            to: 1 - self.at,
            limit_mb_per_s: chance.one_in(4).then_some(1),
            pause_ms: if chance.one_in(4) { chance.between(1, 20) as u32 } else { 100 },
            is_undone: false,
        });
    }

    fn conclude(&mut self, purpose: Purpose, outcome: &Result<(), Refusal>) {
        tracing::debug!(?purpose, ?outcome, "an order was answered");
        match (purpose, outcome, self.moving) {
            (Purpose::Stop, Ok(()), Some(moving)) if moving.is_undone => {
                self.leftover =
                    Some(Leftover { at: moving.to, generation: moving.generation, aborted: Some(moving.id) });
                self.moving = None;
                self.undone_count += 1;
            }
            (Purpose::Remove, Ok(()) | Err(Refusal::NotFound(_)), _) => self.leftover = None,
            _ => {}
        }
    }

    fn bring_on(&mut self, moving: Moving, tails: &mut [Tail; 2], chance: &mut Chance) {
        let (at, to) = (self.at, moving.to);
        self.is_critical = true;
        let target = tails[to].report();
        if target.as_ref().is_some_and(|report| {
            report.owner == Ownership::Owner && report.generation == Generation(moving.generation)
        }) {
            self.leftover = Some(Leftover { at, generation: moving.generation, aborted: None });
            (self.at, self.moving) = (to, None);
            self.moved_count += 1;
            return;
        }
        let Some(source) = tails[at].report() else { return };
        if source.owner != Ownership::Owner {
            let is_prepared = target.is_some_and(|report| report.owner == Ownership::Prepared);
            if is_prepared && chance.one_in(30) {
                let commit = json!({"commit": {"id": moving.id, "generation": moving.generation}});
                self.update(Purpose::Relay, &mut tails[to], to, commit);
            }
            return;
        }
        if moving.is_undone {
            return self.update(Purpose::Stop, &mut tails[at], at, json!({"migration": null}));
        }
        let undo = Moving { is_undone: true, ..moving };
        let own = source.migration.filter(|report| report.id == moving.id);
        self.is_critical = own.as_ref().is_some_and(|own| own.phase == MigrationPhase::Handover);
        if own.as_ref().is_some_and(|own| own.error.is_some() || own.phase == MigrationPhase::Failed) {
            self.moving = Some(undo);
            return;
        }
        if tails[to].process.is_none() {
            return;
        }
        let Some(target) = target else {
            if own.is_some() {
                self.moving = Some(undo);
                return;
            }
            let incoming = json!({"id": moving.id, "source": tails[at].name, "address": tails[at].address.ip()});
            let order = json!({"size": self.size_bytes, "storage_pool": "sata1", "generation": moving.generation,
                "incoming": incoming});
            return self.create(&mut tails[to], to, order);
        };
        if target.generation != Generation(moving.generation) {
            self.moving = Some(undo);
            return;
        }
        if own.is_none() {
            let order = json!({"migration": {"id": moving.id, "target": tails[to].name, "address": tails[to].address,
                "generation": moving.generation, "limit_mb_per_s": moving.limit_mb_per_s, "pause_ms": moving.pause_ms}});
            self.update(Purpose::Send, &mut tails[at], at, order);
        }
    }

    fn remove(&mut self, leftover: Leftover, tails: &mut [Tail; 2]) {
        let owner = tails[self.at].report();
        let is_served = owner.is_some_and(|report| {
            report.owner == Ownership::Owner
                && report.state == DiscState::Serving
                && report.generation >= Generation(leftover.generation)
        });
        if leftover.aborted.is_none() && !is_served {
            return;
        }
        let Some(process) = &tails[leftover.at].process else { return };
        let (store, disc) = (process.store.clone(), self.disc.clone());
        self.order(Purpose::Remove, &mut tails[leftover.at], leftover.at, async move {
            store.remove(&disc, Generation(leftover.generation), leftover.aborted).await
        });
    }

    fn create(&mut self, tail: &mut Tail, index: usize, order: Value) {
        let Some(process) = &tail.process else { return };
        let (store, disc) = (process.store.clone(), self.disc.clone());
        let order = serde_json::from_value(order).expect("an order");
        self.order(Purpose::Receive, tail, index, async move { store.create(disc, order).await.map(drop) });
    }

    fn update(&mut self, purpose: Purpose, tail: &mut Tail, index: usize, changes: Value) {
        let Some(process) = &tail.process else { return };
        let (store, disc) = (process.store.clone(), self.disc.clone());
        let changes: Changes = serde_json::from_value(changes).expect("an order");
        self.order(purpose, tail, index, async move { store.update(&disc, changes).await });
    }

    fn order(
        &mut self,
        purpose: Purpose,
        tail: &mut Tail,
        index: usize,
        work: impl Future<Output = Result<(), Refusal>> + 'static,
    ) {
        if self.orders[index].is_some() {
            return;
        }
        let outcome = Rc::new(RefCell::new(None));
        self.orders[index] = Some(Order { purpose, outcome: outcome.clone() });
        tracing::debug!(tail = %tail.name, ?purpose, "ordered");
        tail.work(async move {
            let done = work.await;
            *outcome.borrow_mut() = Some(done);
        });
    }
}
