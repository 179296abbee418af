//! A world from a seed: one VM, three tails, two heads, and a brain that crashes between any two
//! steps. Connections and answers are lost, orders are carried out late, guests crash, the owner
//! changes their mind, discs move between tails and operators call that off. `SEED=n cargo test -p brain simulation` repeats one.

use super::{
    conclude::conclude,
    memory::Memory,
    observed::{Machine, Node, Observed, SeenDisc},
    plan::{Action, Ask, Plan, Purpose, Situation},
    resource::Surroundings,
    simulated_move,
    tests::{disc, report, surroundings, vm},
};
use crate::{
    fleet::FleetError,
    model::{
        change::{Change, raise_attachments},
        migration::MigrationState,
        work::{DiscRow, MoveRow, PoolRow, RunRow, RunState, Undo, Work},
    },
};
use serde_json::json;
use spine::{
    id::{DiscName, DiscNumber, Generation, MigrationId, NodeName, ResourceName},
    message::Command,
    resource::{
        Attributes,
        disc::{Attachment, AttachmentReport, DiscReport, DiscState},
        from_attributes,
        migration::Ownership,
        vm::VmResource,
    },
    secret::Secret,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};
use time::OffsetDateTime;

const SEEDS: u64 = 1500;
const STEPS: u32 = 300;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Default)]
pub(super) struct Peer {
    away_since: Option<OffsetDateTime>,
    pub(super) discs: BTreeMap<DiscNumber, (DiscReport, Vec<Attachment>)>,
    machine: Option<VmResource>,
    /// Orders that it has and carries out later, in order.
    late: VecDeque<Command>,
}

struct World {
    random: Random,
    now: OffsetDateTime,
    /// What the database has: all that a crash of the brain leaves. None once the row is gone.
    rows: Option<Work>,
    memory: Memory,
    peers: BTreeMap<NodeName, Peer>,
    runs: i64,
    /// Generations granted of each disc: the database has them.
    granted: BTreeMap<DiscNumber, u64>,
    ever_made: BTreeSet<DiscNumber>,
    /// Which head each run's key was given to.
    keys: BTreeMap<String, NodeName>,
    surroundings: Surroundings,
    faults: bool,
    purging: bool,
}

fn head_address(head: &NodeName) -> std::net::IpAddr {
    format!("fd00:b16:0:2::1{}", &head.as_str()[4..]).parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let names = ["head1", "head2", "tail1", "tail2", "tail3"];
        let mut first = disc(1, None);
        first.image = Some("tiny".parse().unwrap());
        Self {
            random: Random(seed),
            now: super::tests::now(),
            rows: Some(vm(vec![first, disc(2, None)])),
            memory: Memory::default(),
            peers: names.iter().map(|name| (name.parse().unwrap(), Peer::default())).collect(),
            runs: 0,
            granted: BTreeMap::new(),
            ever_made: BTreeSet::new(),
            keys: BTreeMap::new(),
            surroundings: surroundings(),
            faults: true,
            purging: false,
        }
    }

    fn observe(&self, work: &Work) -> Observed {
        let mut observed = Observed::default();
        let node = |name: &NodeName| self.peers[name].away_since.map_or(Node::Ready, Node::Away);
        for row in &work.discs {
            let Some(pool) = &row.pool else { continue };
            observed.nodes.insert(pool.tail.clone(), node(&pool.tail));
            if let (Node::Ready, Some((report, _))) = (node(&pool.tail), self.peers[&pool.tail].discs.get(&row.number))
            {
                observed.discs.insert(row.number, SeenDisc::Report(report.clone()));
            }
            let Some(moving) = &row.moving else { continue };
            let tail = &moving.target.tail;
            observed.nodes.insert(tail.clone(), node(tail));
            if let (Node::Ready, Some((report, _))) = (node(tail), self.peers[tail].discs.get(&row.number)) {
                observed.targets.insert(row.number, SeenDisc::Report(report.clone()));
            }
        }
        for leftover in &work.leftovers {
            observed.nodes.insert(leftover.tail.clone(), node(&leftover.tail));
        }
        for (name, peer) in &self.peers {
            if let (None, Some(resource)) = (peer.away_since, &peer.machine) {
                observed.machines.push(Machine { head: name.clone(), resource: Some(resource.clone()) });
            }
        }
        for run in &work.unconfirmed {
            observed.nodes.insert(run.head.clone(), node(&run.head));
        }
        if let Some(run) = &work.run {
            observed.nodes.insert(run.head.clone(), node(&run.head));
        }
        observed
    }

    fn plan(&self) -> Option<Plan> {
        let work = self.rows.as_ref()?;
        let observed = self.observe(work);
        let (memory, surroundings) = (&self.memory, &self.surroundings);
        Some(Situation { work, observed: &observed, memory, surroundings, now: self.now }.plan())
    }

    /// One look and its steps; false when there was nothing to do.
    fn round(&mut self) -> bool {
        let (Some(plan), Some(seen)) = (self.plan(), self.rows.clone()) else { return false };
        for action in &plan.actions {
            if self.faults && self.random.one_in(12) {
                self.memory = Memory::default();
                return true;
            }
            match action {
                Action::Record(change) => self.record(change),
                Action::PlaceDisc(number) => self.place(*number),
                Action::OpenRun => self.open_run(),
                Action::Ask(ask) => {
                    let result = self.order(ask);
                    if self.faults && self.random.one_in(12) {
                        self.memory = Memory::default();
                        return true;
                    }
                    for change in conclude(&seen, ask, &result, &mut self.memory, self.now) {
                        self.record(&change);
                    }
                }
            }
            self.check();
        }
        !plan.actions.is_empty()
    }

    fn record(&mut self, change: &Change) {
        let Some(mut work) = self.rows.take() else { return };
        let before = work.clone();
        if let Change::RunEnded { reason, .. } = change {
            assert!(!reason.is_empty(), "R166: a run ends without a reason");
        }
        if let Change::DiscRemoved(number) = change {
            let row = before.discs.iter().find(|row| row.number == *number);
            assert!(row.is_none_or(|row| row.remove_reason.is_some()), "a row of a wanted disc goes");
        }
        if change.apply(&mut work) {
            self.rows = Some(work);
        } else {
            assert!(before.vm.purged && before.discs.is_empty(), "the row goes before all is gone");
        }
        self.memory.note(change, &before, self.now);
    }

    fn place(&mut self, number: DiscNumber) {
        let tail = self.some_tail();
        if self.peers[&tail].away_since.is_some() {
            return self.memory.hold_disc(number, "no pool", self.now);
        }
        let row = self.rows.as_mut().unwrap().discs.iter_mut().find(|row| row.number == number).unwrap();
        row.pool = Some(PoolRow { id: 1, name: "sata1".parse().unwrap(), tail });
    }

    fn open_run(&mut self) {
        let head: NodeName = if self.random.one_in(2) { "head1" } else { "head2" }.parse().unwrap();
        let work = self.rows.as_mut().unwrap();
        assert!(work.run.is_none(), "a VM has at most one open run");
        if self.peers[&head].away_since.is_some() || !work.wanted_on() {
            return self.memory.hold_vm("the cluster is full", self.now);
        }
        self.runs += 1;
        let key = Secret::new(format!("key{}", self.runs));
        self.keys.insert(key.hash().as_str().to_owned(), head.clone());
        let head_address = Some(head_address(&head));
        let state = RunState::Attaching;
        work.run = Some(RunRow { id: self.runs, head, head_address, key, state, started_at: self.now });
        raise_attachments(work);
        self.memory.granted.clear();
    }

    /// An order on its way: it may be lost, carried out unanswered, or carried out much later.
    fn order(&mut self, ask: &Ask) -> Result<Attributes, FleetError> {
        self.check_order(ask);
        let node = ask.node.clone();
        if self.peers[&node].away_since.is_some() {
            return Err(FleetError::NotConnected(node));
        }
        // The tails do not wait for the brain between its look at them and its order.
        if self.faults && self.random.one_in(4) {
            self.moves_go_on();
        }
        let fate = if self.faults { self.random.below(12) } else { 12 };
        match fate {
            0 => {
                self.cut(&node);
                return Err(FleetError::WentAway(node));
            }
            1 => {
                self.carry_out_late(&node);
                let _ = self.carry_out(&node, ask.command.clone());
                self.cut(&node);
                return Err(FleetError::WentAway(node));
            }
            2 => {
                self.peers.get_mut(&node).unwrap().late.push_back(ask.command.clone());
                return Err(FleetError::Deadline { node, seconds: 1 });
            }
            _ => {}
        }
        // Orders about one thing are carried out in order: whoever answers has done those before.
        self.carry_out_late(&node);
        let starts_again = matches!(ask.purpose, Purpose::Start(_)) && self.peers[&node].machine.is_some();
        if fate == 3 && !starts_again {
            return Err(refused(&node, "io-error"));
        }
        self.carry_out(&node, ask.command.clone())
    }

    fn cut(&mut self, node: &NodeName) {
        let now = self.now;
        self.peers.get_mut(node).unwrap().away_since.get_or_insert(now);
    }

    fn carry_out_late(&mut self, node: &NodeName) {
        while let Some(command) = self.peers.get_mut(node).unwrap().late.pop_front() {
            let _ = self.carry_out(node, command);
        }
    }

    fn carry_out(&mut self, node: &NodeName, command: Command) -> Result<Attributes, FleetError> {
        match command.name().clone() {
            ResourceName::Disc(name) => self.tail(node, &name, command),
            _ => self.head(node, command),
        }
    }

    fn tail(&mut self, node: &NodeName, name: &DiscName, command: Command) -> Result<Attributes, FleetError> {
        let number = name.number;
        let made_before = self.ever_made.contains(&number);
        if let Some(answer) = simulated_move::order(&mut self.peers, node, number, &command) {
            return answer.map_err(|error| refused(node, error));
        }
        let tail = self.peers.get_mut(node).unwrap();
        match command {
            Command::Create(..) if tail.discs.contains_key(&number) => {}
            Command::Create(_, order) => {
                assert!(!made_before, "a disc is made twice");
                self.ever_made.insert(number);
                let mut new = report(&DiscRow { number, ..disc(number.0, None) });
                if order.get("image").is_some_and(|image| !image.is_null()) {
                    new.state = DiscState::Importing;
                }
                tail.discs.insert(number, (new, vec![]));
            }
            Command::Update(_, changes) => {
                let Some((report, attachments)) = tail.discs.get_mut(&number) else {
                    return Err(refused(node, "not-found"));
                };
                if let Some(version) = changes.get("attachments_version").and_then(|version| version.as_u64()) {
                    if version < report.attachments_version.0 {
                        return Err(refused(node, "stale-attachments"));
                    }
                    *attachments = serde_json::from_value(changes["attachments"].clone()).unwrap();
                    report.attachments_version.0 = version;
                    let hashed = attachments.iter();
                    let hashed = hashed.map(|one| AttachmentReport { head: one.head, key_hash: one.key.hash() });
                    report.attachments = Some(hashed.collect());
                }
                if changes.contains_key("image") {
                    assert!(attachments.is_empty(), "an image is written onto a disc that is in use");
                    report.state = DiscState::Importing;
                }
            }
            Command::Remove(..) => {
                assert!(self.purging, "a disc is removed that nobody wanted gone");
                if tail.discs.remove(&number).is_none() {
                    return Err(refused(node, "not-found"));
                }
            }
        }
        Ok(Attributes::new())
    }

    fn head(&mut self, node: &NodeName, command: Command) -> Result<Attributes, FleetError> {
        let head = self.peers.get_mut(node).unwrap();
        match command {
            Command::Create(..) if head.machine.is_some() => return Err(refused(node, "exists")),
            Command::Create(_, attributes) => {
                let mut resource: VmResource = from_attributes(&attributes).unwrap();
                for disc in &mut resource.discs {
                    let key = disc.key.take().unwrap();
                    disc.extra.insert("key_hash".to_owned(), json!(key.hash()));
                }
                head.machine = Some(resource);
            }
            Command::Update(..) => {}
            Command::Remove(..) if head.machine.take().is_none() => return Err(refused(node, "not-found")),
            Command::Remove(..) => {}
        }
        Ok(Attributes::new())
    }

    /// Before a head is told to start the VM, its discs let in that head with that key, and nobody else.
    fn check_order(&self, ask: &Ask) {
        let Purpose::Start(run) = ask.purpose else { return };
        let work = self.rows.as_ref().unwrap();
        let own = work.run.as_ref().unwrap();
        assert_eq!((own.id, &own.head), (run, &ask.node));
        for row in work.kept_discs() {
            let attachments = simulated_move::authority(&self.peers, row.number);
            let wanted = [Attachment { head: head_address(&own.head), key: own.key.clone() }];
            assert_eq!(attachments, wanted, "safety rule 7: started without its discs");
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        for (number, (_, attachments)) in self.peers.values().flat_map(|peer| &peer.discs) {
            assert!(attachments.len() <= 1, "safety rule 7: disc {number} has two writers");
            for one in attachments {
                let owner = &self.keys[one.key.hash().as_str()];
                assert_eq!(head_address(owner), one.head, "a key was given to two heads");
            }
        }
        for number in &self.ever_made {
            simulated_move::check(&self.peers, *number, self.purging);
        }
    }

    fn some_tail(&mut self) -> NodeName {
        ["tail1", "tail2", "tail3"][self.random.below(3) as usize].parse().unwrap()
    }

    /// An operator orders a move, as the queue begins one: a generation is granted in the rows, before a tail knows.
    fn begin_move(&mut self) {
        let (target, picked) = (self.some_tail(), self.random.below(2) as usize);
        let Some(work) = &mut self.rows else { return };
        let Some(row) = work.discs.get_mut(picked) else { return };
        let held = work.leftovers.iter().any(|one| one.name.number == row.number && one.tail == target);
        let elsewhere = row.pool.as_ref().is_some_and(|pool| pool.tail != target);
        if !row.made || row.image.is_some() || row.moving.is_some() || row.remove_reason.is_some() || held || !elsewhere
        {
            return;
        }
        let granted = self.granted.entry(row.number).or_insert(1);
        *granted += 1;
        row.moving = Some(MoveRow {
            id: MigrationId(uuid::Uuid::from_u128(u128::from(row.number.0) << 64 | u128::from(*granted))),
            target: PoolRow { id: 2, name: "sata1".parse().unwrap(), tail: target },
            target_grade: "sata".parse().unwrap(),
            target_address: Some("[fd00::22]:7771".parse().unwrap()),
            source_address: Some("fd00::21".parse().unwrap()),
            generation: Generation(*granted),
            undo: None,
            forced: None,
            limit_mb_per_s: None,
        });
    }

    fn cancel_move(&mut self) {
        let number = DiscNumber(self.random.below(2) + 1);
        let undo = Undo { reason: "called off".to_owned(), state: MigrationState::Cancelled, stops_job: false };
        self.record(&Change::MoveUndo { disc: number, undo });
    }

    /// The tails go on with a move by themselves, whether the brain sees them or not.
    fn moves_go_on(&mut self) {
        let (fails, steps) = (self.faults && self.random.one_in(6), self.random.below(3));
        for number in self.ever_made.clone() {
            for _ in 0..=steps {
                simulated_move::go_on(&mut self.peers, number, fails);
                self.check();
            }
        }
    }

    /// Something happens that the brain has not done.
    fn misfortune(&mut self) {
        let names: Vec<NodeName> = self.peers.keys().cloned().collect();
        let name = &names[self.random.below(5) as usize];
        let now = self.now;
        match self.random.below(14) {
            0 => self.cut(name),
            1..=3 => self.peers.get_mut(name).unwrap().away_since = None,
            4 => drop(self.peers.get_mut(name).unwrap().machine.take()),
            5 => self.carry_out_late(name),
            6 => self.owner(|work| work.vm.power_on = true),
            7 => self.owner(|work| (work.vm.power_on, work.vm.autoreboot_on) = (false, false)),
            8 => self.owner(|work| (work.vm.power_on, work.vm.autoreboot_on) = (false, true)),
            9 => self.begin_move(),
            10 if self.random.one_in(4) => self.cancel_move(),
            10..=12 => self.moves_go_on(),
            _ => self.imports_go_on(),
        }
        if self.random.one_in(60) {
            self.purge();
        }
        self.now = now + Duration::from_secs(self.random.below(30));
    }

    fn owner(&mut self, change: impl FnOnce(&mut Work)) {
        if let Some(work) = self.rows.as_mut().filter(|work| !work.vm.deleted) {
            change(work);
        }
    }

    fn purge(&mut self) {
        let Some(work) = &mut self.rows else { return };
        self.purging = true;
        (work.vm.purged, work.vm.deleted, work.vm.power_on) = (true, true, false);
        for row in &mut work.discs {
            row.remove_reason = Some("the VM was purged".to_owned());
        }
    }

    fn imports_go_on(&mut self) {
        for (report, _) in self.peers.values_mut().flat_map(|peer| peer.discs.values_mut()) {
            if report.state == DiscState::Importing {
                report.state = DiscState::Serving;
            }
        }
    }

    /// No more faults: everything comes right.
    fn settle(&mut self) {
        self.faults = false;
        let names: Vec<NodeName> = self.peers.keys().cloned().collect();
        for name in &names {
            self.carry_out_late(name);
            self.peers.get_mut(name).unwrap().away_since = None;
        }
        let mut quiet = 0;
        for _ in 0..400 {
            self.imports_go_on();
            self.moves_go_on();
            quiet = if self.round() { 0 } else { quiet + 1 };
            self.now += Duration::from_secs(20);
            if quiet > 5 {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.plan());
    }

    fn check_settled(&self) {
        let machines: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.machine.is_some()).collect();
        let Some(work) = &self.rows else {
            assert!(machines.is_empty(), "an instance of a purged VM");
            assert!(self.peers.values().all(|peer| peer.discs.is_empty()), "a disc of a purged VM");
            return;
        };
        assert!(!self.purging, "the row of a purged VM stays: {work:?}");
        assert!(work.leftovers.is_empty(), "a leftover stays: {work:?}");
        for row in &work.discs {
            assert!(row.moving.is_none(), "a move does not end: {work:?}");
            let tails: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.discs.contains_key(&row.number)).collect();
            assert_eq!(tails.len(), 1, "disc {} has copies left over", row.number);
            let (tail, peer) = tails[0];
            assert_eq!(Some(tail), row.pool.as_ref().map(|pool| &pool.tail), "it lies where its row says");
            let report = &peer.discs[&row.number].0;
            assert_eq!((report.owner, report.generation), (Ownership::Owner, row.generation));
        }
        let attachments = self.peers.values().flat_map(|peer| peer.discs.values()).map(|(_, own)| own);
        if work.wanted_on() {
            let run = work.run.as_ref().expect("a VM that should be on has a run");
            assert_eq!((run.state, machines.len(), machines[0].0), (RunState::Running, 1, &run.head));
            let wanted = vec![Attachment { head: head_address(&run.head), key: run.key.clone() }];
            attachments.for_each(|own| assert_eq!(*own, wanted));
        } else {
            assert!(work.run.is_none() && machines.is_empty(), "a VM that should be off runs");
            attachments.for_each(|own| assert!(own.is_empty(), "safety rule 7: a withdrawal was forgotten"));
        }
    }
}

fn refused(node: &NodeName, error: &str) -> FleetError {
    FleetError::Refused { node: node.clone(), error: error.to_owned(), message: "no".to_owned() }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        if world.random.one_in(3) {
            world.misfortune();
        }
        if !world.round() {
            world.now += Duration::from_secs(2);
        }
        world.check();
    }
    world.settle();
    world.check_settled();
}

#[test]
fn r054_whatever_happens_the_world_comes_right() {
    if let Ok(seed) = std::env::var("SEED") {
        return simulate(seed.parse().expect("SEED is a number"));
    }
    for seed in 0..SEEDS {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            panic!("SEED={seed}: {}", text.unwrap_or_default());
        }
    }
}
