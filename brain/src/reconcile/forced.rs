//! The next step for a disc of which one tail is lost for good and an operator has said who gets it, and for what the lost
//! tail has once it is back (safety rules 9, 18, 19).
//!
//! ```text
//!   promote:    target prepared, source lost  ─▶ target is told to own it   ─▶ it lies there; the source's is an old copy
//!   take back:  source fenced, target lost    ─▶ source is told to own it   ─▶ it lies there; the target's is an old copy
//!   old copy:   its tail is back              ─▶ it is told, before anything else about the disc ─▶ kept ─▶ removed
//! ```
//!
//! An operator is refused where both tails can still say between them who has the disc: nothing is lost then.

use super::{
    observed::{Observed, SeenDisc},
    plan::{Action, Ask, Purpose, Situation, Standing},
};
use crate::{
    fleet::Registry,
    limits::DISC_COMMAND_DEADLINE,
    model::{
        change::Change,
        work::{DiscRow, Force, Forced, Leftover, MoveRow, PoolRow, Status, Superseded, Work},
    },
};
use serde_json::json;
use spine::{
    id::{DiscName, DiscNumber, Generation, NodeName, ResourceName},
    message::Command,
    resource::{
        Attributes,
        disc::{DiscReport, DiscState},
        migration::{Ownership, PromoteOrder, RetireOrder},
    },
};
use time::OffsetDateTime;

/// Whether an operator can give the disc of a VM to that end now: then the highest generation that a tail reports of it.
///
/// # Errors
/// Why not.
pub fn refusal(registry: &Registry, work: &Work, number: DiscNumber, how: Force) -> Result<Generation, String> {
    let disc = work.discs.iter().find(|disc| disc.number == number).ok_or("it is gone")?;
    let observed = Observed::look(registry, work, OffsetDateTime::now_utc());
    match obstacle(work, &observed, disc, how) {
        Some(why) => Err(why),
        None => {
            let both = [observed.discs.get(&number), observed.targets.get(&number)];
            let generation = |seen: &SeenDisc| match seen {
                SeenDisc::Report(report) => Some(report.generation),
                SeenDisc::Unreadable => None,
            };
            Ok(both.into_iter().flatten().filter_map(generation).max().unwrap_or(disc.generation))
        }
    }
}

/// Why an operator cannot give the disc to that end now; none when it is possible.
fn obstacle(work: &Work, observed: &Observed, disc: &DiscRow, how: Force) -> Option<String> {
    let (Some(pool), Some(moving)) = (&disc.pool, &disc.moving) else {
        return Some("it is not being moved: there is no second copy of it".to_owned());
    };
    if work.vm.power_on || work.run.is_some() {
        return Some(format!("{} must be off first, and its power_on false", work.vm.name));
    }
    let (winner, loser) = ends(disc, pool, moving, how);
    let report = |seen: Option<&SeenDisc>| match seen {
        Some(SeenDisc::Report(report)) => Some(report.clone()),
        Some(SeenDisc::Unreadable) | None => None,
    };
    let (own, other) = match how {
        Force::Promote => (observed.targets.get(&disc.number), observed.discs.get(&disc.number)),
        Force::TakeBack => (observed.discs.get(&disc.number), observed.targets.get(&disc.number)),
    };
    if observed.away(winner.tail).is_some() {
        let instead = match how {
            Force::Promote => "the disc can be taken back from it",
            Force::TakeBack => "the disc's target can be promoted",
        };
        return Some(format!("{} is not connected: if that is the tail that is lost, {instead}", winner.tail));
    }
    let Some(own) = report(own).map(|own| own.owner) else { return Some(format!("{} does not have it", winner.tail)) };
    // What was forced before may be forced the other way, as long as it has not come about.
    let may = moving.forced.is_some()
        || match how {
            Force::Promote => own == Ownership::Prepared,
            Force::TakeBack => matches!(own, Ownership::Fenced | Ownership::Retired),
        };
    if !may {
        let why = match how {
            Force::Promote => "does not have all of it",
            Force::TakeBack => "has not given it up: call the move off instead",
        };
        return Some(format!("{} {why}", winner.tail));
    }
    let other = report(other).filter(|_| observed.away(loser.tail).is_none() && moving.forced.is_none())?;
    let serves = other.state != DiscState::Failed;
    match (how, other.owner) {
        (Force::Promote, Ownership::Owner) if serves => {
            Some(format!("{} is connected and serves it: call the move off instead", loser.tail))
        }
        (Force::Promote, Ownership::Fenced | Ownership::Retired) => {
            Some(format!("{} is connected and has given it up: the move ends by itself", loser.tail))
        }
        (Force::TakeBack, Ownership::Prepared | Ownership::Owner) if serves => {
            Some(format!("{} is connected and has all of it: the move ends by itself", loser.tail))
        }
        _ => None,
    }
}

/// One end of a move.
struct End<'a> {
    tail: &'a NodeName,
    name: DiscName,
}

/// Who gets the disc, and who does not.
fn ends<'a>(disc: &DiscRow, pool: &'a PoolRow, moving: &'a MoveRow, how: Force) -> (End<'a>, End<'a>) {
    let source = End { tail: &pool.tail, name: disc.spine_name() };
    let target = End { tail: &moving.target.tail, name: disc.target_name(moving) };
    match how {
        Force::Promote => (target, source),
        Force::TakeBack => (source, target),
    }
}

impl Situation<'_> {
    /// The next step for a disc in `pool` whose move is to end as an operator says.
    pub fn forced_disc(self, disc: &DiscRow, pool: &PoolRow, moving: &MoveRow, forced: Forced) -> Standing {
        let (winner, loser) = ends(disc, pool, moving, forced.how);
        let (own, other) = match forced.how {
            Force::Promote => (self.observed.targets.get(&disc.number), self.observed.discs.get(&disc.number)),
            Force::TakeBack => (self.observed.discs.get(&disc.number), self.observed.targets.get(&disc.number)),
        };
        let superseded = Superseded { by: winner.tail.clone(), id: moving.id };
        let doing = format!("{} is to have it, without {}", winner.tail, loser.tail);
        if self.away(loser.tail).is_none()
            && let Some(SeenDisc::Report(other)) = other
            && other.generation < forced.generation
        {
            let telling = Status::because("waiting", format!("{doing}, which is being told so"));
            match self.retire(&loser.name, loser.tail, forced.generation, &superseded) {
                Some(retire) => return Standing::act(retire, telling),
                None if other.state != DiscState::Failed => return Standing::wait(telling),
                None => {}
            }
        }
        if let Some(away) = self.away(winner.tail) {
            return Standing::wait(Status::because("waiting", format!("{doing}: {away}")));
        }
        let failed = |why: &str| Standing::wait(Status::because("failed", format!("{doing}, and {why}")));
        let own = match own {
            Some(SeenDisc::Report(own)) => own,
            Some(SeenDisc::Unreadable) => return failed("what it says of it cannot be understood"),
            None => return failed("it does not have it"),
        };
        if own.owner == Ownership::Owner && own.generation == forced.generation {
            let status = Status::because("serving", format!("{} has it", winner.tail));
            return Standing::act(Action::Record(Change::OutcomeForced(disc.number)), status);
        }
        if own.generation > forced.generation {
            return failed("it has a newer generation: the database is older than the disc");
        }
        if own.owner == Ownership::Incoming {
            return failed("it does not have all of it");
        }
        let status = Status::because("waiting", doing);
        // Nobody is let in: the next start has keys of its own.
        let (ours, theirs) = (disc.attachments_version, own.attachments_version);
        if theirs > ours || (theirs == ours && !nobody(own)) {
            let version = theirs.next();
            return Standing::act(Action::Record(Change::AttachmentsRaised { disc: disc.number, version }), status);
        }
        let order = PromoteOrder { id: moving.id, generation: forced.generation, attachments_version: ours };
        let attributes = Attributes::from_iter([("promote".to_owned(), json!(order))]);
        let promote = Action::Ask(Ask {
            node: winner.tail.clone(),
            command: Command::Update(ResourceName::Disc(winner.name), attributes),
            deadline: DISC_COMMAND_DEADLINE,
            purpose: Purpose::Promote(disc.number),
        });
        Standing::act(promote, status)
    }

    /// What a tail that has an old copy must be told before anything else is done about the disc; none when it is away,
    /// was told, or has just refused.
    pub fn retire_leftover(self, leftover: &Leftover) -> Option<Action> {
        let superseded = leftover.superseded.as_ref()?;
        self.untold(leftover)?;
        self.retire(&leftover.name, &leftover.tail, leftover.generation, superseded)
    }

    /// What a tail says of an old copy while it is back and does not know that it is one.
    pub fn untold(&self, leftover: &Leftover) -> Option<&DiscReport> {
        leftover.superseded.as_ref()?;
        let key = (leftover.name.number, leftover.tail.clone());
        let Some(SeenDisc::Report(report)) = self.observed.leftovers.get(&key) else { return None };
        (report.generation < leftover.generation).then_some(report)
    }

    /// Why no machine may be started with a disc: a tail that had it before is back, and has not taken notice yet.
    pub fn served_twice(self, disc: &DiscRow) -> Option<String> {
        let own = self.work.leftovers.iter().filter(|leftover| leftover.name.number == disc.number);
        let untold = own.filter_map(|leftover| Some((leftover, self.untold(leftover)?)));
        let mut serving = untold.filter(|(_, report)| report.state != DiscState::Failed);
        serving.next().map(|(leftover, _)| {
            format!("{} had it before, is back, and is being told that it has it no more", leftover.tail)
        })
    }

    fn retire(
        self,
        name: &DiscName,
        tail: &NodeName,
        generation: Generation,
        superseded: &Superseded,
    ) -> Option<Action> {
        let key = (name.number, tail.clone(), generation);
        if self.memory.leftovers.get(&key).is_some_and(|hold| hold.lasts(self.now)) {
            return None;
        }
        let order = RetireOrder { id: superseded.id, owner: superseded.by.clone(), generation };
        let attributes = Attributes::from_iter([("retire".to_owned(), json!(order))]);
        let (disc, tail, generation) = key;
        Some(Action::Ask(Ask {
            node: tail.clone(),
            command: Command::Update(ResourceName::Disc(name.clone()), attributes),
            deadline: DISC_COMMAND_DEADLINE,
            purpose: Purpose::Retire { disc, tail, generation },
        }))
    }
}

fn nobody(report: &DiscReport) -> bool {
    report.attachments.as_ref().is_none_or(Vec::is_empty)
        && report.access_control_list.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fleet::FleetError,
        reconcile::{
            conclude::conclude,
            memory::Memory,
            moving::tests::{moving, says, target},
            observed::Node,
            tests::{now, plan, report, short},
        },
    };
    use spine::{id::AttachmentsVersion, resource::migration::MigrationPhase};

    const DISC: DiscNumber = DiscNumber(1);

    fn forced(how: Force) -> (Work, Observed) {
        let (mut work, observed) = moving();
        work.discs[0].moving.as_mut().unwrap().forced = Some(Forced { how, generation: Generation(3) });
        (work, observed)
    }

    fn lose(observed: &mut Observed, tail: &str) {
        observed.nodes.insert(tail.parse().unwrap(), Node::Away(now()));
        match tail {
            "tail1" => observed.discs.clear(),
            _ => observed.targets.clear(),
        }
    }

    fn why_not(work: &Work, observed: &Observed, how: Force) -> String {
        obstacle(work, observed, &work.discs[0], how).unwrap_or_default()
    }

    fn steps(work: &Work, observed: &Observed) -> Vec<String> {
        short(&plan(work, observed, &Memory::default()))
    }

    #[test]
    fn rule9_only_what_the_two_tails_cannot_end_by_themselves_is_forced() {
        let (mut work, mut observed) = moving();
        target(&mut observed, &work, Ownership::Prepared, 2);
        assert!(why_not(&work, &observed, Force::Promote).contains("tail1 is connected and serves it"));
        assert!(why_not(&work, &observed, Force::TakeBack).contains("has not given it up"));
        says(&mut observed, &work, Ownership::Fenced, Some(MigrationPhase::Handover));
        assert!(why_not(&work, &observed, Force::Promote).contains("ends by itself"));
        assert!(why_not(&work, &observed, Force::TakeBack).contains("ends by itself"));
        let both = observed.clone();
        lose(&mut observed, "tail1");
        assert_eq!(why_not(&work, &observed, Force::Promote), "");
        assert!(why_not(&work, &observed, Force::TakeBack).contains("tail1 is not connected"));
        target(&mut observed, &work, Ownership::Incoming, 2);
        assert!(why_not(&work, &observed, Force::Promote).contains("does not have all of it"));
        observed.targets.clear();
        assert!(why_not(&work, &observed, Force::Promote).contains("tail2 does not have it"));
        let mut observed = both;
        lose(&mut observed, "tail2");
        assert_eq!(why_not(&work, &observed, Force::TakeBack), "");
        work.vm.power_on = true;
        assert!(why_not(&work, &observed, Force::TakeBack).contains("web1 must be off"));
        (work.vm.power_on, work.discs[0].moving) = (false, None);
        assert!(why_not(&work, &observed, Force::TakeBack).contains("not being moved"));
    }

    #[test]
    fn rule9_a_prepared_target_is_promoted_with_nobody_let_in() {
        let (mut work, mut observed) = forced(Force::Promote);
        target(&mut observed, &work, Ownership::Prepared, 2);
        lose(&mut observed, "tail1");
        let Some(SeenDisc::Report(own)) = observed.targets.get_mut(&DISC) else { unreachable!() };
        own.attachments_version = AttachmentsVersion(7);
        let raised = Change::AttachmentsRaised { disc: DISC, version: AttachmentsVersion(8) };
        assert_eq!(plan(&work, &observed, &Memory::default()).actions, [Action::Record(raised.clone())]);
        raised.apply(&mut work);
        let ordered = plan(&work, &observed, &Memory::default());
        let [Action::Ask(Ask { node, command: Command::Update(_, order), .. })] = &ordered.actions[..] else {
            panic!("{ordered:?}")
        };
        assert_eq!((node.as_str(), &order["promote"]["generation"]), ("tail2", &json!(3)));
        assert_eq!(order["promote"]["attachments_version"], 8, "above what the lost tail has let in");
        assert!(!ordered.disc_statuses[&DISC].reason.as_ref().unwrap().is_empty());

        // It owns it: that is where it lies, and what the lost one has is kept.
        target(&mut observed, &work, Ownership::Owner, 3);
        let done = plan(&work, &observed, &Memory::default());
        let [Action::Record(change @ Change::OutcomeForced(DISC))] = &done.actions[..] else { panic!("{done:?}") };
        change.apply(&mut work);
        let disc = &work.discs[0];
        assert_eq!((disc.pool.as_ref().unwrap().tail.as_str(), disc.generation), ("tail2", Generation(3)));
        let old = &work.leftovers[0];
        assert_eq!((old.tail.as_str(), old.generation, old.kept), ("tail1", Generation(3), true));
        assert_eq!(old.superseded.as_ref().unwrap().by.as_str(), "tail2");
    }

    #[test]
    fn rule9_rule19_a_source_that_has_given_it_up_takes_it_back() {
        let (mut work, mut observed) = forced(Force::TakeBack);
        says(&mut observed, &work, Ownership::Fenced, Some(MigrationPhase::Handover));
        lose(&mut observed, "tail2");
        assert_eq!(steps(&work, &observed), ["tail1: Promote(DiscNumber(1))"]);
        let Some(SeenDisc::Report(own)) = observed.discs.get_mut(&DISC) else { unreachable!() };
        (own.owner, own.generation) = (Ownership::Owner, Generation(3));
        assert_eq!(plan(&work, &observed, &Memory::default()).actions, [Action::Record(Change::OutcomeForced(DISC))]);
        Change::OutcomeForced(DISC).apply(&mut work);
        assert_eq!((work.discs[0].generation, &work.discs[0].moving), (Generation(3), &None));
        assert_eq!((work.leftovers[0].tail.as_str(), work.leftovers[0].kept), ("tail2", true));
    }

    #[test]
    fn rule9_whoever_is_back_is_retired_before_anything_else() {
        let (mut work, mut observed) = forced(Force::Promote);
        target(&mut observed, &work, Ownership::Prepared, 2);
        let retire =
            r#"tail1: Retire { disc: DiscNumber(1), tail: NodeName("tail1"), generation: Generation(3) }"#.to_owned();
        assert_eq!(steps(&work, &observed), std::slice::from_ref(&retire), "before the other is promoted");
        let first = plan(&work, &observed, &Memory::default());
        let Action::Ask(ask) = &first.actions[0] else { unreachable!() };
        let mut memory = Memory::default();
        let refused = FleetError::Refused { node: ask.node.clone(), error: "busy".into(), message: "no".into() };
        assert!(conclude(&work, ask, &Err(refused), &mut memory, now()).is_empty());
        assert!(plan(&work, &observed, &memory).actions.is_empty(), "what serves it is waited for");

        // When the disc lies elsewhere already, and its machine is to be started.
        lose(&mut observed, "tail1");
        Change::OutcomeForced(DISC).apply(&mut work);
        work.vm.power_on = true;
        observed.nodes.insert("tail2".parse().unwrap(), Node::Ready);
        observed.discs.insert(DISC, SeenDisc::Report(report(&work.discs[0])));
        assert_eq!(steps(&work, &observed), ["OpenRun"], "the lost one holds up nothing");
        let key = (DISC, "tail1".parse().unwrap());
        let stale = DiscReport { generation: Generation(1), ..report(&work.discs[0]) };
        observed.nodes.insert("tail1".parse().unwrap(), Node::Ready);
        observed.leftovers.insert(key.clone(), SeenDisc::Report(stale.clone()));
        assert_eq!(steps(&work, &observed), [retire], "no machine is started with a disc that two tails serve");
        assert!(plan(&work, &observed, &Memory::default()).status.reason.unwrap().contains("tail1 had it before"));
        let told = DiscReport { owner: Ownership::Retired, generation: Generation(3), ..stale };
        observed.leftovers.insert(key, SeenDisc::Report(told));
        assert_eq!(steps(&work, &observed), ["OpenRun"], "what it has is kept");
        work.leftovers[0].kept = false;
        let remove =
            r#"tail1: RemoveLeftover { disc: DiscNumber(1), tail: NodeName("tail1"), generation: Generation(3) }"#;
        assert!(steps(&work, &observed).contains(&remove.to_owned()), "until an operator says so");
    }

    #[test]
    fn what_is_forced_may_be_forced_the_other_way_while_it_has_not_come_about() {
        let (mut work, mut observed) = forced(Force::Promote);
        lose(&mut observed, "tail2");
        assert_eq!(why_not(&work, &observed, Force::TakeBack), "", "the target is lost as well, the source is back");
        work.discs[0].moving.as_mut().unwrap().forced =
            Some(Forced { how: Force::TakeBack, generation: Generation(4) });
        assert_eq!(steps(&work, &observed), ["tail1: Promote(DiscNumber(1))"]);
    }
}
