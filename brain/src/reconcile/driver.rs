//! Carries plans out: which VMs are looked at when, and the loop for one of them.

use super::{
    Poke,
    conclude::conclude,
    gate::{Gate, Kind},
    memory::{Hold, Memory},
    observed::Observed,
    plan::{Action, Ask, Plan, Purpose, Situation},
    resource::Surroundings,
    short::Short,
    strays::Strays,
};
use crate::{
    config::{Config, LimitsConfig, PlacementConfig},
    fleet::{FleetError, Registry, registry::Presence},
    limits::{
        RECONCILER_CONNECTIONS_MAX, ROUNDS_MAX, SWEEP_INTERVAL, SWEEP_INTERVAL_MIN, SWEEP_VMS_MAX, VMS_AT_ONCE_MAX,
    },
    model::{
        change::Change,
        placement::{choose_head, choose_pool},
        work::{Status, Work},
    },
    store::{Client, Store, StoreError, places, purge, work as rows},
};
use spine::{
    id::{DiscNumber, NodeName},
    secret::Secret,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::Instant,
};
use tokio_postgres::IsolationLevel;
use tracing::{debug, error, info, warn};

/// What the reconciler is told of the configuration.
#[derive(Clone, Debug)]
pub struct ReconcilerConfig {
    /// What goes into VMs' resources.
    pub surroundings: Surroundings,
    /// How places are chosen.
    pub placement: PlacementConfig,
    /// How much it may do in a while.
    pub limits: LimitsConfig,
    /// How long a deleted VM may be brought back (R051).
    pub purge_after: Duration,
}

impl ReconcilerConfig {
    /// The part of a configuration that matters here.
    pub fn of(config: &Config) -> Self {
        Self {
            surroundings: Surroundings::of(config),
            placement: config.placement,
            limits: config.limits,
            purge_after: config.purge_after(),
        }
    }
}

/// Makes the world match the rows, for as long as [`Reconciler::run`] is polled.
#[derive(Debug)]
pub struct Reconciler {
    worker: Arc<Worker>,
    poke: Poke,
    memories: HashMap<i64, Memory>,
    /// VMs to be looked at, as soon as there is room.
    waiting: BTreeSet<i64>,
    /// VMs that are being worked on, and whether to look again afterwards.
    busy: HashMap<i64, bool>,
    tasks: HashMap<tokio::task::Id, i64>,
    disc_owners: HashMap<DiscNumber, i64>,
    strays: Strays,
    short: Short,
}

/// What the work on one VM needs.
#[derive(Debug)]
pub(super) struct Worker {
    store: Store,
    pub(super) registry: Registry,
    pub(super) config: ReconcilerConfig,
    gate: Mutex<Gate>,
    connections: Semaphore,
    started: OffsetDateTime,
    poke: Poke,
}

impl Reconciler {
    /// A reconciler that has not looked at anything.
    pub fn new(store: Store, registry: Registry, poke: Poke, config: ReconcilerConfig) -> Self {
        let gate = Mutex::new(Gate::new(config.limits));
        let connections = Semaphore::new(RECONCILER_CONNECTIONS_MAX);
        let started = OffsetDateTime::now_utc();
        let worker = Worker { store, registry, config, gate, connections, started, poke: poke.clone() };
        Self {
            worker: Arc::new(worker),
            poke,
            memories: HashMap::new(),
            waiting: BTreeSet::new(),
            busy: HashMap::new(),
            tasks: HashMap::new(),
            disc_owners: HashMap::new(),
            strays: Strays::default(),
            short: Short::default(),
        }
    }

    /// Works for ever. Dropping it at any point is harmless: all that counts is in the database.
    pub async fn run(mut self) {
        let mut tasks: JoinSet<Memory> = JoinSet::new();
        let mut next_sweep = Instant::now();
        let mut last_sweep: Option<Instant> = None;
        let poke = self.poke.clone();
        loop {
            self.launch(&mut tasks);
            tokio::select! {
                asked = poke.asked() => {
                    let discs = asked.discs.iter().filter_map(|disc| self.disc_owners.get(disc));
                    self.waiting.extend(discs.copied().chain(asked.vms));
                    if asked.all {
                        let earliest = last_sweep.map_or_else(Instant::now, |last| last + SWEEP_INTERVAL_MIN);
                        next_sweep = next_sweep.min(earliest.max(Instant::now()));
                    }
                }
                () = tokio::time::sleep_until(next_sweep) => {
                    if let Err(error) = self.sweep().await {
                        error!(%error, "a sweep over all VMs failed");
                    }
                    last_sweep = Some(Instant::now());
                    next_sweep = Instant::now() + SWEEP_INTERVAL;
                }
                Some(ended) = tasks.join_next_with_id() => match ended {
                    Ok((task, memory)) => self.finished(task, memory),
                    Err(error) => {
                        error!(%error, "the work on a VM broke off; the next sweep goes on");
                        self.finished(error.id(), Memory::default());
                    }
                },
            }
        }
    }

    fn launch(&mut self, tasks: &mut JoinSet<Memory>) {
        for vm_id in std::mem::take(&mut self.waiting) {
            if let Some(again) = self.busy.get_mut(&vm_id) {
                *again = true;
            } else if tasks.len() >= VMS_AT_ONCE_MAX {
                self.waiting.insert(vm_id);
            } else {
                self.busy.insert(vm_id, false);
                let memory = self.memories.remove(&vm_id).unwrap_or_default();
                let worker = Arc::clone(&self.worker);
                let task = tasks.spawn(async move { worker.work_on(vm_id, memory).await });
                self.tasks.insert(task.id(), vm_id);
            }
        }
    }

    fn finished(&mut self, task: tokio::task::Id, memory: Memory) {
        let Some(vm_id) = self.tasks.remove(&task) else { return };
        if self.busy.remove(&vm_id) == Some(true) {
            self.waiting.insert(vm_id);
        }
        let now = OffsetDateTime::now_utc();
        if let Some(at) = memory.wakes_at(now) {
            let poke = self.poke.clone();
            let pause = Duration::try_from(at - now).unwrap_or_default();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                poke.vm(vm_id);
            });
        }
        if memory != Memory::default() {
            self.memories.insert(vm_id, memory);
        }
    }

    /// Looks at every VM, and queues those that need something.
    async fn sweep(&mut self) -> Result<(), StoreError> {
        let now = OffsetDateTime::now_utc();
        self.worker.purge_due(now).await?;
        self.look_at_moves(now).await;
        let mut owners = HashMap::new();
        let mut seen = HashSet::new();
        let mut behind = 0;
        loop {
            let works = self.worker.load_after(behind).await?;
            let Some(last) = works.last() else { break };
            behind = last.vm.id;
            for work in &works {
                seen.insert(work.vm.id);
                owners.extend(work.discs.iter().map(|disc| (disc.number, work.vm.id)));
                if !self.busy.contains_key(&work.vm.id) && self.needs_work(work, now) {
                    self.waiting.insert(work.vm.id);
                }
            }
        }
        self.disc_owners = owners;
        self.memories.retain(|vm_id, _| seen.contains(vm_id));
        self.strays.look(&self.worker.store, &self.worker.registry, now).await
    }

    /// What goes wrong with moves keeps no VM waiting.
    async fn look_at_moves(&mut self, now: OffsetDateTime) {
        let policy = self.worker.config.placement.discs;
        if let Err(error) = self.short.look(&self.worker.store, &self.worker.registry, policy, now).await {
            error!(%error, "looking for storage pools that are short failed");
        }
        if let Err(error) = self.worker.begin_moves().await {
            error!(%error, "beginning queued disc moves failed");
        }
    }

    fn needs_work(&self, work: &Work, now: OffsetDateTime) -> bool {
        let nothing = Memory::default();
        let memory = self.memories.get(&work.vm.id).unwrap_or(&nothing);
        let plan = self.worker.plan(work, memory, now);
        !plan.actions.is_empty() || !new_statuses(work, &plan).is_empty()
    }
}

/// The statuses that are not what the rows say: the VM's is under none.
fn new_statuses<'a>(work: &'a Work, plan: &'a Plan) -> Vec<(Option<DiscNumber>, &'a Status)> {
    // The row of a VM has no progress: its discs' rows have.
    let same = work.vm.status.state == plan.status.state && work.vm.status.reason == plan.status.reason;
    let vm = (!same).then_some((None, &plan.status));
    let discs = work.discs.iter().filter_map(|disc| {
        let status = plan.disc_statuses.get(&disc.number)?;
        (*status != disc.status).then_some((Some(disc.number), status))
    });
    vm.into_iter().chain(discs).collect()
}

impl Worker {
    /// A database connection, once it is this work's turn to have one.
    pub(super) async fn client(&self) -> Result<(SemaphorePermit<'_>, Client), StoreError> {
        let turn = self.connections.acquire().await.expect("the semaphore is never closed");
        Ok((turn, self.store.client().await?))
    }

    fn plan(&self, work: &Work, memory: &Memory, now: OffsetDateTime) -> Plan {
        let observed = Observed::look(&self.registry, work, self.started);
        let surroundings = &self.config.surroundings;
        Situation { work, observed: &observed, memory, surroundings, now }.plan()
    }

    /// Does what can be done for one VM now. Returns what is to be remembered.
    async fn work_on(&self, vm_id: i64, mut memory: Memory) -> Memory {
        for _ in 0..ROUNDS_MAX {
            match self.round(vm_id, &mut memory).await {
                Ok(true) => {}
                Ok(false) => return memory,
                Err(error) => {
                    error!(vm = vm_id, %error, "the work on a VM failed");
                    memory.hold_vm(error.to_string(), OffsetDateTime::now_utc());
                    return memory;
                }
            }
        }
        warn!(vm = vm_id, rounds = ROUNDS_MAX, "the work on a VM does not come to an end; the next sweep goes on");
        memory
    }

    /// One look and all steps that follow from it. False when there were none.
    async fn round(&self, vm_id: i64, memory: &mut Memory) -> Result<bool, StoreError> {
        let Some(work) = self.load(vm_id).await? else { return Ok(false) };
        let plan = self.plan(&work, memory, OffsetDateTime::now_utc());
        self.write_statuses(&work, &plan).await?;
        for action in &plan.actions {
            debug!(vm = vm_id, ?action, "a step");
            match action {
                Action::Record(change) => self.record(&work, change, memory).await?,
                Action::PlaceDisc(disc) => self.place_disc(&work, *disc, memory).await?,
                Action::OpenRun => self.open_run(&work, memory).await?,
                Action::Ask(ask) => self.ask(&work, ask, memory).await?,
            }
        }
        Ok(!plan.actions.is_empty())
    }

    async fn load(&self, vm_id: i64) -> Result<Option<Work>, StoreError> {
        let (_turn, mut client) = self.client().await?;
        let tx = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let tx = tx.start().await?;
        Ok(rows::load(&tx, &[vm_id]).await?.pop())
    }

    async fn load_after(&self, behind: i64) -> Result<Vec<Work>, StoreError> {
        let (_turn, mut client) = self.client().await?;
        let tx = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let tx = tx.start().await?;
        let ids = rows::vm_ids(&tx, behind, SWEEP_VMS_MAX).await?;
        rows::load(&tx, &ids).await
    }

    async fn write_statuses(&self, work: &Work, plan: &Plan) -> Result<(), StoreError> {
        let statuses = new_statuses(work, plan);
        if statuses.is_empty() {
            return Ok(());
        }
        let vm = statuses.iter().find(|(disc, _)| disc.is_none()).map(|(_, status)| (work.vm.id, *status));
        let discs: Vec<_> = statuses.iter().filter_map(|(disc, status)| Some(((*disc)?, *status))).collect();
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        rows::write_status(&tx, vm, &discs).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn record(&self, work: &Work, change: &Change, memory: &mut Memory) -> Result<(), StoreError> {
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        if rows::lock(&tx, work.vm.id).await? {
            rows::write(&tx, work.vm.id, change).await?;
        }
        tx.commit().await?;
        if matches!(
            change,
            Change::DiscMoved(_) | Change::MoveUndone(_) | Change::OutcomeForced(_) | Change::LeftoverRemoved { .. }
        ) {
            // The next in the queue may have its turn.
            self.poke.all();
        }
        if let Change::RunEnded { reason, .. } = change {
            info!(vm = work.vm.id, name = work.vm.name, reason, "a run has ended");
        }
        memory.note(change, work, OffsetDateTime::now_utc());
        Ok(())
    }

    async fn place_disc(&self, work: &Work, disc: DiscNumber, memory: &mut Memory) -> Result<(), StoreError> {
        let Some(row) = work.discs.iter().find(|row| row.number == disc) else { return Ok(()) };
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        places::take_turn(&tx).await?;
        let mut pools = places::pools(&tx).await?;
        for pool in &mut pools {
            pool.closed = pool.closed.take().or_else(|| self.closed(&pool.tail));
        }
        let avoid: Vec<i64> = memory.avoid_pools.get(&disc).into_iter().flatten().copied().collect();
        let policy = self.config.placement.discs;
        match choose_pool(&pools, &row.grade, row.size_mib, policy, &avoid) {
            Ok(choice) => {
                rows::place_disc(&tx, disc, choice.place).await?;
                let node = pools.iter().find(|pool| pool.id == choice.place).map(|pool| pool.tail.as_str());
                rows::record(&tx, work.vm.id, "disc-placed", Some(disc), node, &choice.reason).await?;
                info!(vm = work.vm.id, %disc, reason = choice.reason, "a disc is placed");
                tx.commit().await?;
            }
            Err(full) => memory.hold_disc(disc, full.message, OffsetDateTime::now_utc()),
        }
        Ok(())
    }

    async fn open_run(&self, work: &Work, memory: &mut Memory) -> Result<(), StoreError> {
        let vm_id = work.vm.id;
        let now = OffsetDateTime::now_utc();
        let key = match Secret::random() {
            Ok(key) => key,
            Err(error) => {
                memory.hold_vm(format!("the kernel gives no random bytes for a key: {error}"), now);
                return Ok(());
            }
        };
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        if !rows::lock(&tx, vm_id).await? {
            return Ok(());
        }
        places::take_turn(&tx).await?;
        let mut heads = places::heads(&tx, vm_id).await?;
        for head in &mut heads {
            head.closed = head.closed.take().or_else(|| self.closed(&head.name));
            head.memory_reported_mib =
                self.registry.free_memory_mib(&head.name).and_then(|mib| i64::try_from(mib).ok());
        }
        // The reserve is for machines that have run and must find a new place (R163).
        let reserve = if rows::has_run(&tx, vm_id).await? { 0 } else { self.config.placement.reserve_heads };
        let avoid: Vec<NodeName> = memory.avoid_head.iter().cloned().collect();
        let memory_mib = i64::from(work.vm.memory_mib);
        let choice = match choose_head(&heads, memory_mib, self.config.placement.vms, reserve, &avoid) {
            Ok(choice) => choice,
            Err(full) => {
                memory.hold_vm(full.message, now);
                return Ok(());
            }
        };
        if !work.vm.power_ordered && !self.may(Kind::Start, memory, now) {
            return Ok(());
        }
        if rows::open_run(&tx, vm_id, &choice.place, &key, &choice.reason).await? {
            info!(vm = vm_id, name = work.vm.name, reason = choice.reason, "a VM is being started");
            memory.granted.clear();
        }
        tx.commit().await?;
        Ok(())
    }

    async fn ask(&self, work: &Work, ask: &Ask, memory: &mut Memory) -> Result<(), StoreError> {
        if ask.purpose.is_automatic_stop(&work.vm) && !self.may(Kind::Stop, memory, OffsetDateTime::now_utc()) {
            return Ok(());
        }
        let result = self.registry.command(&ask.node, ask.command.clone(), ask.deadline).await;
        match &result {
            Ok(_) => debug!(vm = work.vm.id, node = %ask.node, purpose = ?ask.purpose, "done"),
            // What is not there need not be taken away.
            Err(FleetError::Refused { error, .. }) if error == "not-found" => {
                debug!(vm = work.vm.id, node = %ask.node, purpose = ?ask.purpose, "it was not there");
            }
            Err(error) => warn!(vm = work.vm.id, node = %ask.node, purpose = ?ask.purpose, %error, "not done"),
        }
        if result.is_ok() && ask.purpose == Purpose::RemoveRogue {
            self.record_rogue(work, &ask.node).await?;
        }
        for change in conclude(work, ask, &result, memory, OffsetDateTime::now_utc()) {
            self.record(work, &change, memory).await?;
        }
        Ok(())
    }

    async fn record_rogue(&self, work: &Work, head: &NodeName) -> Result<(), StoreError> {
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        let message = "an instance that was not to run there was stopped";
        rows::record(&tx, work.vm.id, "rogue-stopped", None, Some(head.as_str()), message).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whether the window has room for one more automatic start or stop; if not the VM waits.
    fn may(&self, kind: Kind, memory: &mut Memory, now: OffsetDateTime) -> bool {
        match self.gate.lock().unwrap_or_else(PoisonError::into_inner).pass(kind, now) {
            Ok(()) => true,
            Err(closed) => {
                let failures_count = memory.failures_count;
                let (until, reason) = (closed.until, closed.reason);
                memory.vm = Some(Hold { until, reason, failures_count, automatic_only: true });
                false
            }
        }
    }

    /// Has the reconciler look at a VM.
    pub(super) fn poke_vm(&self, vm_id: i64) {
        self.poke.vm(vm_id);
    }

    pub(super) fn closed(&self, node: &NodeName) -> Option<String> {
        (self.registry.presence(node) != Presence::Ready).then(|| "not connected".to_owned())
    }

    /// Purges what was deleted long enough before `now` (R051).
    async fn purge_due(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        for vm_id in purge::due(&tx, now - self.config.purge_after).await? {
            let reason = "it was deleted long enough ago";
            if purge::purge(&tx, vm_id, reason).await? {
                rows::record(&tx, vm_id, "vm-purging", None, None, reason).await?;
                info!(vm = vm_id, "a deleted VM is purged");
            }
        }
        tx.commit().await?;
        Ok(())
    }
}
