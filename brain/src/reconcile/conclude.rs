//! What a node's answer means: pure.

use super::{
    memory::Memory,
    plan::{Ask, Purpose},
};
use crate::{
    fleet::FleetError,
    model::{
        change::Change,
        migration::MigrationState,
        work::{RunState, Undo, Work},
    },
};
use spine::{id::DiscNumber, message::Command, resource::Attributes};
use time::OffsetDateTime;

/// Turns the answer to an order into changes of the rows, and remembers what is not one.
///
/// An order without an answer changes nothing: the next look shows what became of it.
pub fn conclude(
    work: &Work,
    ask: &Ask,
    result: &Result<Attributes, FleetError>,
    memory: &mut Memory,
    now: OffsetDateTime,
) -> Vec<Change> {
    let error = match result {
        Ok(_) => return done(work, ask, memory),
        Err(error) => error,
    };
    let word = match error {
        FleetError::Refused { error, .. } => error.as_str(),
        _ => "",
    };
    match (&ask.purpose, word) {
        (Purpose::RemoveLeftover { .. }, "not-found") => done(work, ask, memory),
        (Purpose::RemoveLeftover { disc, tail, generation } | Purpose::Retire { disc, tail, generation }, _) => {
            memory.hold_leftover((*disc, tail.clone(), *generation), error.to_string(), now);
            vec![]
        }
        (Purpose::MoveReceive(disc) | Purpose::MoveSend(disc), _) => move_refused(*disc, word, error, memory, now),
        (Purpose::RemoveDisc(_) | Purpose::Stop(_) | Purpose::Confirm(_), "not-found") => done(work, ask, memory),
        (Purpose::RemoveRogue, "not-found") => vec![],
        (Purpose::MakeDisc(disc, _), "pool-full" | "no-such-pool") => refused_by_pool(work, *disc, error, memory, now),
        (
            Purpose::MakeDisc(disc, _)
            | Purpose::RemoveDisc(disc)
            | Purpose::OrderImage(disc, _)
            | Purpose::Resize(disc, _)
            | Purpose::Attach(disc, _)
            | Purpose::MoveStop(disc)
            | Purpose::Promote(disc)
            | Purpose::MoveCommit(disc),
            _,
        ) => {
            memory.hold_disc(*disc, error.to_string(), now);
            vec![]
        }
        (Purpose::Start(run), _) => start_failed(*run, word, error, memory, now),
        (Purpose::Stop(_) | Purpose::Confirm(_) | Purpose::RemoveRogue | Purpose::Refresh, _) => {
            memory.hold_vm(error.to_string(), now);
            vec![]
        }
    }
}

fn done(work: &Work, ask: &Ask, memory: &mut Memory) -> Vec<Change> {
    match &ask.purpose {
        Purpose::MakeDisc(disc, image) => vec![Change::DiscMade { disc: *disc, image: image.clone() }],
        Purpose::RemoveDisc(disc) => vec![Change::DiscRemoved(*disc)],
        Purpose::OrderImage(disc, image) => vec![Change::ImageOrdered { disc: *disc, image: image.clone() }],
        Purpose::Resize(disc, size_mib) => {
            memory.discs.remove(disc);
            vec![Change::DiscShrunk { disc: *disc, size_mib: *size_mib }]
        }
        Purpose::Attach(disc, version) => {
            memory.discs.remove(disc);
            memory.granted.insert(*disc, *version);
            vec![]
        }
        Purpose::MoveReceive(disc) | Purpose::MoveSend(disc) | Purpose::MoveCommit(disc) | Purpose::Promote(disc) => {
            memory.discs.remove(disc);
            vec![]
        }
        Purpose::Retire { disc, tail, generation } => {
            memory.leftovers.remove(&(*disc, tail.clone(), *generation));
            vec![]
        }
        Purpose::MoveStop(disc) => vec![Change::MoveUndone(*disc)],
        Purpose::RemoveLeftover { disc, tail, generation } => {
            vec![Change::LeftoverRemoved { disc: *disc, tail: tail.clone(), generation: *generation }]
        }
        Purpose::Start(_) => vec![Change::RunMoved(RunState::Running)],
        Purpose::Stop(start_failed) => {
            let reason = match (start_failed, &work.vm) {
                (true, _) => format!("{} took too long to start it", ask.node),
                (false, vm) if vm.purged || vm.deleted => "it was deleted".to_owned(),
                (false, _) => "its owner wants it off".to_owned(),
            };
            vec![Change::RunEnded { reason, stopped: !start_failed, confirmed: true }]
        }
        Purpose::Confirm(run) => vec![Change::RunConfirmed(*run)],
        Purpose::Refresh => {
            if let (Some(run), Command::Update(_, changes)) = (&work.run, &ask.command) {
                memory.refreshed = Some((run.id, changes.clone()));
            }
            vec![]
        }
        Purpose::RemoveRogue => vec![],
    }
}

/// Another pool may take the disc: this tail has made nothing.
fn refused_by_pool(
    work: &Work,
    disc: DiscNumber,
    error: &FleetError,
    memory: &mut Memory,
    now: OffsetDateTime,
) -> Vec<Change> {
    let row = work.discs.iter().find(|row| row.number == disc);
    if let Some(pool) = row.and_then(|row| row.pool.as_ref()) {
        memory.avoid_pools.entry(disc).or_default().insert(pool.id);
    }
    memory.hold_disc(disc, error.to_string(), now);
    vec![Change::DiscUnplaced { disc, reason: error.to_string() }]
}

/// A tail that says no ends the move, one that says nothing is asked again. What is about this disc or its pool does
/// not keep others of its job from being moved.
fn move_refused(
    disc: DiscNumber,
    word: &str,
    error: &FleetError,
    memory: &mut Memory,
    now: OffsetDateTime,
) -> Vec<Change> {
    match error {
        FleetError::Refused { .. } | FleetError::NotUnderstood { .. } if !matches!(word, "busy" | "moved") => {
            let stops_job = !matches!(word, "pool-full" | "too-big" | "not-found");
            let undo = Undo { reason: error.to_string(), state: MigrationState::Errored, stops_job };
            vec![Change::MoveUndo { disc, undo }]
        }
        _ => {
            memory.hold_disc(disc, error.to_string(), now);
            vec![]
        }
    }
}

fn start_failed(run: i64, word: &str, error: &FleetError, memory: &mut Memory, now: OffsetDateTime) -> Vec<Change> {
    match error {
        // The head has it, and is about to say so.
        FleetError::Refused { .. } if word == "exists" => {
            memory.hold_vm(error.to_string(), now);
            vec![]
        }
        FleetError::Refused { .. } | FleetError::NotUnderstood { .. } => {
            vec![Change::RunEnded { reason: error.to_string(), stopped: false, confirmed: true }]
        }
        FleetError::Deadline { .. } => {
            memory.start_overdue = Some(run);
            vec![]
        }
        FleetError::NotConnected(_) | FleetError::WentAway(_) | FleetError::NotRunning => vec![],
    }
}
