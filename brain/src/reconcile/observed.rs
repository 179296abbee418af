//! What heads and tails have of one VM.

use crate::{
    fleet::{Registry, registry::Presence},
    model::work::Work,
};
use serde_json::Value;
use spine::{
    id::{DiscName, DiscNumber, NodeName},
    resource::{disc::DiscReport, vm::VmResource},
};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// What heads and tails have of one VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The nodes that its rows name: its discs' tails and its run's head.
    pub nodes: BTreeMap<NodeName, Node>,
    /// What its tail says of each disc; only of ready tails.
    pub discs: BTreeMap<DiscNumber, SeenDisc>,
    /// What the tail says of it that it is being moved to; only of ready tails.
    pub targets: BTreeMap<DiscNumber, SeenDisc>,
    /// What a tail says of an old copy of a disc; only of ready tails.
    pub leftovers: BTreeMap<(DiscNumber, NodeName), SeenDisc>,
    /// The ready heads that have the machine.
    pub machines: Vec<Machine>,
    /// Why the run's head has it no longer, if it has said so.
    pub gone: Option<String>,
}

/// Whether a node counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// It has said all it has.
    Ready,
    /// It is away, since then at least.
    Away(OffsetDateTime),
}

/// What a tail says of a disc.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // Eight of them at most, for a moment.
pub enum SeenDisc {
    /// As it should.
    Report(DiscReport),
    /// Something that this build cannot read.
    Unreadable,
}

/// A machine that a head has.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Which head.
    pub head: NodeName,
    /// What it says of it; none when that cannot be read.
    pub resource: Option<VmResource>,
}

impl Observed {
    /// Looks up what concerns this VM. A node that has not been seen since `brain_started` counts
    /// as away since then.
    pub fn look(registry: &Registry, work: &Work, brain_started: OffsetDateTime) -> Self {
        let mut observed = Self::default();
        let node = |name: &NodeName| match registry.presence(name) {
            Presence::Ready => Node::Ready,
            Presence::Away(since) => Node::Away(since.unwrap_or(brain_started)),
        };
        for disc in &work.discs {
            let Some(pool) = &disc.pool else { continue };
            observed.nodes.insert(pool.tail.clone(), node(&pool.tail));
            observed.discs.extend(seen(registry, &pool.tail, &disc.spine_name()).map(|seen| (disc.number, seen)));
            let Some(moving) = &disc.moving else { continue };
            let tail = &moving.target.tail;
            observed.nodes.insert(tail.clone(), node(tail));
            observed.targets.extend(seen(registry, tail, &disc.target_name(moving)).map(|seen| (disc.number, seen)));
        }
        for leftover in &work.leftovers {
            observed.nodes.insert(leftover.tail.clone(), node(&leftover.tail));
            let key = (leftover.name.number, leftover.tail.clone());
            observed.leftovers.extend(seen(registry, &leftover.tail, &leftover.name).map(|seen| (key, seen)));
        }
        let id = work.vm.spine_id();
        let machines = registry.heads_with(&id).into_iter();
        observed.machines = machines.map(|(head, value)| Machine { head, resource: read(value) }).collect();
        for run in &work.unconfirmed {
            observed.nodes.insert(run.head.clone(), node(&run.head));
        }
        if let Some(run) = &work.run {
            observed.nodes.insert(run.head.clone(), node(&run.head));
            observed.gone = registry.gone(&run.head, &id);
        }
        observed
    }

    /// Since when a node that the rows name is away; none when it is ready.
    pub fn away(&self, node: &NodeName) -> Option<OffsetDateTime> {
        match self.nodes.get(node) {
            Some(Node::Away(since)) => Some(*since),
            Some(Node::Ready) | None => None,
        }
    }
}

fn seen(registry: &Registry, tail: &NodeName, disc: &DiscName) -> Option<SeenDisc> {
    match registry.disc(tail, disc) {
        Some(report) => Some(SeenDisc::Report(report)),
        None => registry.has_disc(tail, disc).then_some(SeenDisc::Unreadable),
    }
}

fn read(value: Value) -> Option<VmResource> {
    serde_json::from_value(value).ok()
}
