//! The next step for a disc that moves to another tail (R130; nbd.md section 3; safety rules 5, 7, 18).
//!
//! ```text
//!   source owner, target without it      ─▶ the target is told to receive it
//!   source owner, target incoming        ─▶ the source is told to send it, and both work
//!   source owner, the move has failed    ─▶ undo: the source is told to send nothing ─▶ what the target has is left over
//!   source fenced, target prepared       ─▶ the target is told what the source has said
//!   target owner                         ─▶ it lies there from now on ─▶ what the source has is left over
//!   leftover                             ─▶ removed, with its generation
//! ```
//!
//! Until the source is fenced it alone decides, and is who is asked about attachments. What is not
//! certain changes nothing: a tail that is away, a source that is fenced while the target does not say
//! that it is the owner. The disc is then away, and its VM waits.

use super::{
    disc::disc_status,
    observed::SeenDisc,
    plan::{Action, Ask, Purpose, Situation, Standing},
};
use crate::{
    limits::DISC_COMMAND_DEADLINE,
    model::{
        change::Change,
        migration::MigrationState,
        work::{DiscRow, Leftover, MoveRow, PoolRow, Status, Undo},
    },
};
use serde_json::{Value, json};
use spine::{
    id::{AttachmentsVersion, ResourceName},
    message::Command,
    resource::{
        Attributes,
        disc::{DiscOrder, DiscReport, DiscState},
        migration::{
            CommitOrder, IncomingOrder, MigrationError, MigrationErrorKind, MigrationOrder, MigrationPhase,
            MigrationReport, Ownership, PAUSE_MS,
        },
        to_attributes,
    },
};

impl Situation<'_> {
    /// The next step for a disc in `pool` that is being moved.
    pub fn moving_disc(self, disc: &DiscRow, pool: &PoolRow, moving: &MoveRow) -> Standing {
        if let Some(forced) = moving.forced {
            return self.forced_disc(disc, pool, moving, forced);
        }
        let target = match self.observed.targets.get(&disc.number) {
            Some(SeenDisc::Report(report)) => Some(report),
            Some(SeenDisc::Unreadable) | None => None,
        };
        if target.is_some_and(|target| target.owner == Ownership::Owner && target.generation == moving.generation) {
            let status = Status::because("serving", format!("{} has taken it over", moving.target.tail));
            return Standing::act(Action::Record(Change::DiscMoved(disc.number)), status);
        }
        if let Some(away) = self.away(&pool.tail) {
            return Standing::wait(Status::because("waiting", away));
        }
        match self.observed.discs.get(&disc.number) {
            None => {
                let lost = format!(
                    "missing on tail: {} does not have it any more, nor does {}",
                    pool.tail, moving.target.tail
                );
                Standing::wait(Status::because("failed", format!("{lost}: an operator must find out why")))
            }
            Some(SeenDisc::Unreadable) => {
                let reason = format!("what {} says of it cannot be understood", pool.tail);
                Standing::wait(Status::because("failed", reason))
            }
            Some(SeenDisc::Report(source)) => match source.owner {
                Ownership::Owner => self.still_at_source(disc, pool, moving, source, target),
                Ownership::Fenced | Ownership::Retired => self.between_tails(disc, pool, moving, source, target),
                Ownership::Incoming | Ownership::Prepared => {
                    let reason = format!("{} says that it is only about to get this disc", pool.tail);
                    Standing::wait(Status::because("failed", reason))
                }
            },
        }
    }

    fn still_at_source(
        self,
        disc: &DiscRow,
        pool: &PoolRow,
        moving: &MoveRow,
        source: &DiscReport,
        target: Option<&DiscReport>,
    ) -> Standing {
        let mut standing = Standing::wait(disc_status(source));
        standing.usable = source.state == DiscState::Serving;
        standing.granted = self.memory.granted.get(&disc.number) == Some(&disc.attachments_version);
        standing.action = self.attachments(disc, pool, source);
        if standing.action.is_some() {
            return standing;
        }
        let (action, reason) = self.send(disc, pool, moving, source, target);
        standing.action = action;
        standing.status.reason = Some(reason);
        standing
    }

    /// What brings the copying on while the source is the owner, and how that stands.
    fn send(
        self,
        disc: &DiscRow,
        pool: &PoolRow,
        moving: &MoveRow,
        source: &DiscReport,
        target: Option<&DiscReport>,
    ) -> (Option<Action>, String) {
        if let Some(undo) = &moving.undo {
            let attributes = Attributes::from_iter([("migration".to_owned(), Value::Null)]);
            let stop =
                self.ask_tail(disc, pool, Purpose::MoveStop(disc.number), |name| Command::Update(name, attributes));
            return (Some(stop), format!("its move to {} is being undone: {}", moving.destination(), undo.reason));
        }
        let own = source.migration.as_ref().filter(|report| report.id == moving.id);
        if let Some(undo) = own.and_then(failure) {
            let reason = format!("its move to {} has failed: {}", moving.destination(), undo.reason);
            return (Some(Action::Record(Change::MoveUndo { disc: disc.number, undo })), reason);
        }
        let to = format!("it is being moved to {}", moving.destination());
        let (Some(source_address), Some(address)) = (moving.source_address, moving.target_address) else {
            let lacking = format!("{} does not say where it takes discs", moving.target.tail);
            return (None, format!("{to}: {lacking}"));
        };
        if let Some(away) = self.away(&moving.target.tail) {
            return (None, format!("{to}: {away}"));
        }
        let Some(target) = target else {
            if own.is_some() {
                let reason = format!("{} has lost what it had received", moving.target.tail);
                let undo = Undo { reason, state: MigrationState::Errored, stops_job: true };
                return (Some(Action::Record(Change::MoveUndo { disc: disc.number, undo })), to);
            }
            let incoming = IncomingOrder { id: moving.id, source: pool.tail.clone(), address: source_address };
            let order = order(moving, source, incoming);
            let receive = Action::Ask(Ask {
                node: moving.target.tail.clone(),
                command: Command::Create(ResourceName::Disc(disc.target_name(moving)), to_attributes(&order)),
                deadline: DISC_COMMAND_DEADLINE,
                purpose: Purpose::MoveReceive(disc.number),
            });
            return (Some(receive), to);
        };
        if target.generation != moving.generation || target.owner == Ownership::Owner {
            let reason = format!("{} has another copy of it, of generation {}", moving.target.tail, target.generation);
            let undo = Undo { reason, state: MigrationState::Errored, stops_job: true };
            return (Some(Action::Record(Change::MoveUndo { disc: disc.number, undo })), to);
        }
        if let Some(report) = own {
            return (None, format!("{to}: {}", phase(report)));
        }
        let order = MigrationOrder {
            id: moving.id,
            target: moving.target.tail.clone(),
            address,
            generation: moving.generation,
            limit_mb_per_s: moving.limit_mb_per_s,
            pause_ms: PAUSE_MS,
        };
        let attributes = Attributes::from_iter([("migration".to_owned(), json!(order))]);
        let send = self.ask_tail(disc, pool, Purpose::MoveSend(disc.number), |name| Command::Update(name, attributes));
        (Some(send), to)
    }

    /// The source has given the disc up, and the target does not say yet that it has it.
    fn between_tails(
        self,
        disc: &DiscRow,
        pool: &PoolRow,
        moving: &MoveRow,
        source: &DiscReport,
        target: Option<&DiscReport>,
    ) -> Standing {
        let (from, to) = (&pool.tail, &moving.target.tail);
        if source.migration.as_ref().is_none_or(|report| report.id != moving.id) {
            let reason = format!("{from} has given it up in a move that the database knows nothing of");
            return Standing::wait(Status::because("failed", reason));
        }
        if let Some(away) = self.away(to) {
            let reason =
                format!("{from} has given it up to {to}, and {away}: it is served by neither until {to} is back");
            return Standing::wait(Status::because("waiting", reason));
        }
        let reason = format!("{from} has given it up, and {to} is taking it over");
        let prepared =
            target.is_some_and(|target| target.owner == Ownership::Prepared && target.generation == moving.generation);
        if !prepared {
            let state = if target.is_some() { "waiting" } else { "failed" };
            let reason = match target {
                Some(_) => reason,
                None => format!("{from} has given it up, and {to} does not have it: an operator must find out why"),
            };
            return Standing::wait(Status::because(state, reason));
        }
        let commit = CommitOrder { id: moving.id, generation: moving.generation };
        let attributes = Attributes::from_iter([("commit".to_owned(), json!(commit))]);
        let relay = Action::Ask(Ask {
            node: to.clone(),
            command: Command::Update(ResourceName::Disc(disc.target_name(moving)), attributes),
            deadline: DISC_COMMAND_DEADLINE,
            purpose: Purpose::MoveCommit(disc.number),
        });
        Standing::act(relay, Status::because("waiting", reason))
    }

    /// A disc that is to be destroyed moves no further.
    pub fn unwanted_moving_disc(self, disc: &DiscRow, pool: &PoolRow, moving: &MoveRow, reason: &str) -> Standing {
        let mut standing = self.moving_disc(disc, pool, moving);
        let moved = matches!(standing.action, Some(Action::Record(Change::DiscMoved(_))));
        if moving.undo.is_none() && !moved {
            let undo = Undo { reason: reason.to_owned(), state: MigrationState::Cancelled, stops_job: false };
            standing.action = Some(Action::Record(Change::MoveUndo { disc: disc.number, undo }));
        }
        standing.status =
            Status::because("removing", format!("{reason}; it was being moved to {}", moving.destination()));
        Standing { usable: false, granted: false, ..standing }
    }

    /// The removal of a leftover, when its time has come.
    pub fn remove_leftover(self, leftover: &Leftover) -> Option<Action> {
        let key = (leftover.name.number, leftover.tail.clone(), leftover.generation);
        let held = self.memory.leftovers.get(&key).is_some_and(|hold| hold.lasts(self.now));
        if held || self.is_kept(leftover) || self.away(&leftover.tail).is_some() || !self.is_replaced(leftover) {
            return None;
        }
        let mut attributes = Attributes::from_iter([("generation".to_owned(), json!(leftover.generation))]);
        if let Some(id) = leftover.aborted {
            attributes.insert("aborted".to_owned(), json!(id));
        }
        let (disc, tail, generation) = key;
        Some(Action::Ask(Ask {
            node: leftover.tail.clone(),
            command: Command::Remove(ResourceName::Disc(leftover.name.clone()), attributes),
            deadline: DISC_COMMAND_DEADLINE,
            purpose: Purpose::RemoveLeftover { disc, tail, generation },
        }))
    }

    /// An old copy that may have the only copy of a write waits for an operator, and for its tail to take notice; with
    /// the disc itself it goes as well.
    fn is_kept(self, leftover: &Leftover) -> bool {
        let disc = self.work.discs.iter().any(|disc| disc.number == leftover.name.number);
        (leftover.kept && disc) || self.untold(leftover).is_some()
    }

    /// The former owner keeps what it has until the new one is seen to serve, or the disc itself is destroyed.
    fn is_replaced(self, leftover: &Leftover) -> bool {
        let disc = self.work.discs.iter().find(|disc| disc.number == leftover.name.number);
        let Some(disc) = disc.filter(|_| leftover.aborted.is_none()) else { return true };
        match self.observed.discs.get(&disc.number) {
            Some(SeenDisc::Report(report)) => {
                report.owner == Ownership::Owner
                    && report.state == DiscState::Serving
                    && report.generation >= leftover.generation
            }
            Some(SeenDisc::Unreadable) | None => false,
        }
    }
}

/// How a move ends that its source says has failed.
fn failure(report: &MigrationReport) -> Option<Undo> {
    let unexplained =
        || MigrationError { kind: MigrationErrorKind::Unknown, message: "its tail does not say why".to_owned() };
    let error = match (&report.error, report.phase) {
        (Some(error), _) => error.clone(),
        (None, MigrationPhase::Failed) => unexplained(),
        (None, _) => return None,
    };
    let state = match error.kind {
        MigrationErrorKind::Cancelled => MigrationState::Cancelled,
        _ => MigrationState::Errored,
    };
    // What is about this disc or about a tail that is away does not keep others from being moved.
    let stops_job = match error.kind {
        MigrationErrorKind::Cancelled
        | MigrationErrorKind::Unreachable
        | MigrationErrorKind::ReadError
        | MigrationErrorKind::NoSpace
        | MigrationErrorKind::Pause
        | MigrationErrorKind::FlushFailed
        | MigrationErrorKind::Stopped => false,
        MigrationErrorKind::Refused
        | MigrationErrorKind::WriteError
        | MigrationErrorKind::Mismatch
        | MigrationErrorKind::Protocol
        | MigrationErrorKind::Unknown => true,
    };
    Some(Undo { reason: crate::fleet::registry::shorten(&error.message), state, stops_job })
}

/// What a move is doing, for people.
fn phase(report: &MigrationReport) -> String {
    match report.phase {
        MigrationPhase::Connecting => format!("waiting for {}", report.peer),
        MigrationPhase::Copying => "its data is being copied".to_owned(),
        MigrationPhase::Converging => format!("what was written meanwhile is being copied (pass {})", report.pass),
        MigrationPhase::Mirroring => "writes go to both tails".to_owned(),
        MigrationPhase::Verifying => "both copies are being compared".to_owned(),
        MigrationPhase::Waiting => match &report.waiting {
            Some(waiting) => {
                format!("{}; it goes on as soon as it can", crate::fleet::registry::shorten(&waiting.message))
            }
            None => format!("waiting for {}", report.peer),
        },
        MigrationPhase::Handover => "it is being handed over".to_owned(),
        MigrationPhase::Done | MigrationPhase::Failed | MigrationPhase::Unknown => "its tails are at work".to_owned(),
    }
}

/// The target makes room for what the source has: its size is the source's, not the row's.
fn order(moving: &MoveRow, source: &DiscReport, incoming: IncomingOrder) -> DiscOrder {
    DiscOrder {
        size: source.size,
        storage_pool: moving.target.name.clone(),
        generation: moving.generation,
        attachments_version: AttachmentsVersion(0),
        attachments: None,
        access_control_list: None,
        address: None,
        image: None,
        force: false,
        incoming: Some(incoming),
        extra: Attributes::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        fleet::FleetError,
        model::work::Work,
        reconcile::{
            conclude::conclude,
            memory::Memory,
            observed::{Node, Observed},
            tests::{now, plan, report, served, short},
        },
    };
    use spine::{
        id::{DiscNumber, Generation, MigrationId},
        resource::migration::MigrationRole,
    };

    const DISC: DiscNumber = DiscNumber(1);

    /// A VM that is off, with a disc on tail1 that is to move to tail2.
    pub(in crate::reconcile) fn moving() -> (Work, Observed) {
        let (mut work, mut observed) = served();
        work.vm.power_on = false;
        work.discs[0].moving = Some(MoveRow {
            id: MigrationId(uuid::Uuid::from_u128(42)),
            target: PoolRow { id: 2, name: "sata1".parse().unwrap(), tail: "tail2".parse().unwrap() },
            target_grade: "sata".parse().unwrap(),
            target_address: Some("[fd00::22]:7771".parse().unwrap()),
            source_address: Some("fd00::21".parse().unwrap()),
            generation: Generation(2),
            undo: None,
            forced: None,
            limit_mb_per_s: Some(50),
        });
        observed.nodes.insert("tail2".parse().unwrap(), Node::Ready);
        (work, observed)
    }

    pub(in crate::reconcile) fn says(
        observed: &mut Observed,
        work: &Work,
        owner: Ownership,
        phase: Option<MigrationPhase>,
    ) {
        let id = work.discs[0].moving.as_ref().unwrap().id;
        let begun = MigrationReport::begun(id, MigrationRole::Source, "tail2".parse().unwrap(), Generation(2));
        let own = phase.map(|phase| MigrationReport { phase, pass: 1, ..begun });
        let source = DiscReport { owner, migration: own, ..report(&work.discs[0]) };
        observed.discs.insert(DISC, SeenDisc::Report(source));
    }

    pub(in crate::reconcile) fn target(observed: &mut Observed, work: &Work, owner: Ownership, generation: u64) {
        let generation = Generation(generation);
        observed.targets.insert(DISC, SeenDisc::Report(DiscReport { owner, generation, ..report(&work.discs[0]) }));
    }

    fn steps(work: &Work, observed: &Observed) -> Vec<String> {
        short(&plan(work, observed, &Memory::default()))
    }

    fn status(work: &Work, observed: &Observed) -> Status {
        plan(work, observed, &Memory::default()).disc_statuses[&DISC].clone()
    }

    #[test]
    fn r130_the_target_is_told_then_the_source_and_then_both_are_left_to_it() {
        let (work, mut observed) = moving();
        let first = plan(&work, &observed, &Memory::default());
        assert_eq!(short(&first), ["tail2: MoveReceive(DiscNumber(1))"]);
        let Action::Ask(Ask { command: Command::Create(_, order), .. }) = &first.actions[0] else {
            panic!("{first:?}")
        };
        assert_eq!(order["generation"], 2);
        assert_eq!(order["incoming"]["source"], "tail1");
        assert!(!order.contains_key("attachments") && !order.contains_key("image"), "safety rule 5");
        target(&mut observed, &work, Ownership::Incoming, 2);
        let second = plan(&work, &observed, &Memory::default());
        assert_eq!(short(&second), ["tail1: MoveSend(DiscNumber(1))"]);
        let Action::Ask(Ask { command: Command::Update(_, order), .. }) = &second.actions[0] else {
            panic!("{second:?}")
        };
        assert_eq!(order["migration"]["address"], "[fd00::22]:7771");
        assert_eq!(order["migration"]["limit_mb_per_s"], 50);
        says(&mut observed, &work, Ownership::Owner, Some(MigrationPhase::Copying));
        assert!(steps(&work, &observed).is_empty());
        assert_eq!(status(&work, &observed).state, "serving", "the guest notices nothing");
        says(&mut observed, &work, Ownership::Owner, Some(MigrationPhase::Waiting));
        let Some(SeenDisc::Report(source)) = observed.discs.get_mut(&DISC) else { unreachable!() };
        let (kind, message) = (MigrationErrorKind::NoSpace, "no space at tail2".to_owned());
        source.migration.as_mut().unwrap().waiting = Some(MigrationError { kind, message });
        assert!(steps(&work, &observed).is_empty(), "it goes on by itself, and no other move is begun");
        assert!(status(&work, &observed).reason.unwrap().contains("no space at tail2"));
    }

    #[test]
    fn safety_rule_18_the_source_is_told_to_stop_and_its_word_ends_the_move() {
        let (mut work, mut observed) = moving();
        target(&mut observed, &work, Ownership::Prepared, 2);
        says(&mut observed, &work, Ownership::Owner, Some(MigrationPhase::Failed));
        let failed = plan(&work, &observed, &Memory::default());
        let [Action::Record(Change::MoveUndo { undo, .. })] = &failed.actions[..] else { panic!("{failed:?}") };
        assert!(undo.stops_job && undo.state == MigrationState::Errored, "no reason is an unknown one: {undo:?}");
        assert!(failed.actions[0] != Action::Record(Change::MoveUndone(DISC)));
        let Action::Record(change) = &failed.actions[0] else { unreachable!() };
        change.apply(&mut work);
        let stop = plan(&work, &observed, &Memory::default());
        assert_eq!(short(&stop), ["tail1: MoveStop(DiscNumber(1))"]);
        let Action::Ask(ask) = &stop.actions[0] else { unreachable!() };
        let mut memory = Memory::default();
        let moved = FleetError::Refused { node: ask.node.clone(), error: "moved".into(), message: "too late".into() };
        assert!(conclude(&work, ask, &Err(moved), &mut memory, now()).is_empty(), "it is not undone");
        let done = conclude(&work, ask, &Ok(Attributes::new()), &mut memory, now());
        assert_eq!(done, [Change::MoveUndone(DISC)]);
        done[0].apply(&mut work);
        assert_eq!(steps(&work, &observed).len(), 1, "the copy at the target goes: {:?}", steps(&work, &observed));
        let removal = plan(&work, &observed, &Memory::default());
        let Action::Ask(Ask { command: Command::Remove(_, why), .. }) = &removal.actions[0] else {
            panic!("{removal:?}")
        };
        assert_eq!((&why["generation"], why["aborted"].is_string()), (&json!(2), true));
    }

    #[test]
    fn a_source_that_is_fenced_is_believed_and_nothing_else_is() {
        let (mut work, mut observed) = moving();
        says(&mut observed, &work, Ownership::Fenced, Some(MigrationPhase::Handover));
        target(&mut observed, &work, Ownership::Prepared, 2);
        assert_eq!(steps(&work, &observed), ["tail2: MoveCommit(DiscNumber(1))"]);
        work.discs[0].moving.as_mut().unwrap().undo =
            Some(Undo { reason: "late".to_owned(), state: MigrationState::Cancelled, stops_job: false });
        assert_eq!(steps(&work, &observed), ["tail2: MoveCommit(DiscNumber(1))"], "too late to be undone");
        observed.nodes.insert("tail2".parse().unwrap(), Node::Away(now()));
        observed.targets.clear();
        assert!(steps(&work, &observed).is_empty(), "it waits: availability is lost, never consistency");
        assert!(status(&work, &observed).reason.unwrap().contains("served by neither"));
        observed.nodes.insert("tail2".parse().unwrap(), Node::Ready);
        target(&mut observed, &work, Ownership::Owner, 2);
        assert_eq!(plan(&work, &observed, &Memory::default()).actions, [Action::Record(Change::DiscMoved(DISC))]);
        says(&mut observed, &work, Ownership::Fenced, None);
        observed.targets.clear();
        assert!(steps(&work, &observed).is_empty());
        assert_eq!(status(&work, &observed).state, "failed", "it was given up in a move that is not ours");
    }

    #[test]
    fn what_is_not_as_it_should_be_ends_the_move_and_stops_the_job() {
        let (work, mut observed) = moving();
        says(&mut observed, &work, Ownership::Owner, Some(MigrationPhase::Copying));
        let undo = |observed: &Observed| match &plan(&work, observed, &Memory::default()).actions[..] {
            [Action::Record(Change::MoveUndo { undo, .. })] => undo.clone(),
            other => panic!("{other:?}"),
        };
        assert!(undo(&observed).reason.contains("has lost what it had received"));
        for (owner, generation) in [(Ownership::Incoming, 3), (Ownership::Owner, 1)] {
            target(&mut observed, &work, owner, generation);
            assert!(undo(&observed).stops_job, "{owner:?} {generation}");
        }
        let ask = Ask {
            node: "tail2".parse().unwrap(),
            command: Command::Create("disc.sata.1".parse().unwrap(), Attributes::new()),
            deadline: DISC_COMMAND_DEADLINE,
            purpose: Purpose::MoveReceive(DISC),
        };
        for (word, ends, stops) in [("pool-full", true, false), ("bad-value", true, true), ("busy", false, false)] {
            let refusal = FleetError::Refused { node: ask.node.clone(), error: word.into(), message: "no".into() };
            let changes = conclude(&work, &ask, &Err(refusal), &mut Memory::default(), now());
            let stopped = matches!(&changes[..], [Change::MoveUndo { undo, .. }] if undo.stops_job);
            assert_eq!((!changes.is_empty(), stopped), (ends, stops), "{word}");
        }
    }

    #[test]
    fn the_former_owner_keeps_its_copy_until_the_new_one_serves() {
        let (mut work, mut observed) = moving();
        Change::DiscMoved(DISC).apply(&mut work);
        observed.targets.clear();
        let mut taken = report(&work.discs[0]);
        (taken.state, taken.generation) = (DiscState::Failed, Generation(2));
        observed.discs.insert(DISC, SeenDisc::Report(taken.clone()));
        assert!(steps(&work, &observed).is_empty(), "the new owner has failed: {:?}", steps(&work, &observed));
        taken.state = DiscState::Serving;
        observed.discs.insert(DISC, SeenDisc::Report(taken));
        let removal =
            r#"tail1: RemoveLeftover { disc: DiscNumber(1), tail: NodeName("tail1"), generation: Generation(2) }"#;
        assert_eq!(steps(&work, &observed), [removal]);
        observed.nodes.insert("tail1".parse().unwrap(), Node::Away(now()));
        assert!(steps(&work, &observed).is_empty());
    }

    #[test]
    fn a_disc_that_is_to_be_destroyed_is_not_moved_any_further() {
        let (mut work, observed) = moving();
        work.discs[0].remove_reason = Some("its owner deleted it".to_owned());
        let first = plan(&work, &observed, &Memory::default());
        let [Action::Record(change @ Change::MoveUndo { .. })] = &first.actions[..] else { panic!("{first:?}") };
        change.apply(&mut work);
        assert_eq!(steps(&work, &observed), ["tail1: MoveStop(DiscNumber(1))"]);
        Change::MoveUndone(DISC).apply(&mut work);
        assert_eq!(steps(&work, &observed)[0], "tail1: RemoveDisc(DiscNumber(1))");
    }
}
