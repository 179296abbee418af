//! What is to be done for one VM: pure.

use super::{memory::Memory, observed::Observed, resource::Surroundings};
use crate::model::{
    change::Change,
    work::{DiscRow, Status, VmRow, Work},
};
use spine::{
    id::{AttachmentsVersion, DiscNumber, Generation, ImageName, NodeName},
    message::Command,
};
use std::{collections::BTreeMap, time::Duration};
use time::{OffsetDateTime, macros::format_description};

/// What is to be done for a VM, and how it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In order. After all of them it is planned anew; none: all that can be done now is done.
    pub actions: Vec<Action>,
    /// How the machine stands.
    pub status: Status,
    /// How each of its discs stands.
    pub disc_statuses: BTreeMap<DiscNumber, Status>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write something down.
    Record(Change),
    /// Find a pool for a disc.
    PlaceDisc(DiscNumber),
    /// Find a head, and open a run on it.
    OpenRun,
    /// Order something of a node; [`super::conclude`] says what its answer means.
    Ask(Ask),
}

/// An order to a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Which node.
    pub node: NodeName,
    /// What it is to do.
    pub command: Command,
    /// How long it may take.
    pub deadline: Duration,
    /// What it is for.
    pub purpose: Purpose,
}

/// What an order is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Make a disc, with an image to be written onto it if there is one.
    MakeDisc(DiscNumber, Option<ImageName>),
    /// Destroy a disc.
    RemoveDisc(DiscNumber),
    /// Write an image onto a disc that there is.
    OrderImage(DiscNumber, ImageName),
    /// Make a disc bigger or smaller: MiB.
    Resize(DiscNumber, i64),
    /// Say who may use a disc.
    Attach(DiscNumber, AttachmentsVersion),
    /// Make room for a disc that comes from another tail.
    MoveReceive(DiscNumber),
    /// Send a disc to another tail.
    MoveSend(DiscNumber),
    /// Send it no more, and stay its owner.
    MoveStop(DiscNumber),
    /// Own the disc that was received: its former owner has given it up.
    MoveCommit(DiscNumber),
    /// Own the disc of which the other tail is lost.
    Promote(DiscNumber),
    /// Take notice that the disc was given to another tail.
    Retire {
        /// Which disc.
        disc: DiscNumber,
        /// Who.
        tail: NodeName,
        /// Of which the other tail is the owner.
        generation: Generation,
    },
    /// Remove a copy that is not the disc.
    RemoveLeftover {
        /// Of which disc.
        disc: DiscNumber,
        /// Where.
        tail: NodeName,
        /// Which.
        generation: Generation,
    },
    /// Start the machine, as this run.
    Start(i64),
    /// Stop the machine; true: because its start took too long.
    Stop(bool),
    /// Stop an instance that should not be there (R057, R058).
    RemoveRogue,
    /// Make certain that a head does not have a run that was ended without it.
    Confirm(i64),
    /// Change the running machine.
    Refresh,
}

impl Purpose {
    /// True for what the limit on automatic stops counts: a stop of this machine that no user has ordered.
    pub fn is_automatic_stop(&self, vm: &VmRow) -> bool {
        match self {
            Self::Stop(start_overdue) => *start_overdue || !vm.power_ordered,
            Self::RemoveRogue => true,
            _ => false,
        }
    }
}

/// What the parts of a plan are made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The rows.
    pub work: &'a Work,
    /// What the nodes have.
    pub observed: &'a Observed,
    /// What was tried.
    pub memory: &'a Memory,
    /// The cluster.
    pub surroundings: &'a Surroundings,
    /// The time.
    pub now: OffsetDateTime,
}

impl Situation<'_> {
    /// Compares what should be with what is.
    pub fn plan(self) -> Plan {
        let mut actions = vec![];
        let mut disc_statuses = BTreeMap::new();
        let mut discs = vec![];
        actions.extend(self.work.leftovers.iter().filter_map(|leftover| self.retire_leftover(leftover)));
        for disc in &self.work.discs {
            let standing = self.disc(disc);
            actions.extend(standing.action.clone());
            disc_statuses.insert(disc.number, standing.status.clone());
            discs.push((disc, standing));
        }
        actions.extend(self.work.leftovers.iter().filter_map(|leftover| self.remove_leftover(leftover)));
        let (action, status) = self.machine(&discs);
        actions.extend(action);
        Plan { actions, status, disc_statuses }
    }

    /// Why a node that is needed cannot be used, if so.
    pub fn away(self, node: &NodeName) -> Option<String> {
        self.observed.away(node).map(|since| format!("{node} is not connected since {}", moment(since)))
    }
}

/// A moment, for people.
pub fn moment(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC")).unwrap_or_default()
}

/// How a disc stands, and the next step for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The next step.
    pub action: Option<Action>,
    /// For people.
    pub status: Status,
    /// True when a machine could start with it: there, of the right size, its image on it.
    pub usable: bool,
    /// True when its tail has said ok to the attachments that should be, in answer to this brain.
    pub granted: bool,
}

/// A disc with how it stands.
pub type StandingDisc<'a> = (&'a DiscRow, Standing);
