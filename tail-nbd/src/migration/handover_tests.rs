//! Everything that can happen in a hand-over (nbd.md section 3, points 9 and 15).
//!
//! The network is a set of what was ever said: each word may be delivered at any later time, any number of times, or never,
//! so that loss, doubling, delay and overtaking are all in it. Each party may be stopped before a new state is durable, and
//! between that and what it says. The brain relays what the source has reported, and forgets everything at any time.

use super::*;
use std::collections::{BTreeSet, VecDeque};

const ATTEMPTS_MAX: usize = 3;
const WRITES_MAX: u8 = 2;

fn attempt(index: usize) -> Attempt {
    Attempt(uuid::Uuid::from_u128(index as u128 + 1))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    /// `None` while it is stopped.
    source: Option<Source>,
    /// What a restart finds.
    source_record: Source,
    target: Option<Target>,
    target_record: Target,
    said: BTreeSet<Word>,
    /// Writes acknowledged by the source, and how many of them each freeze has sent.
    acknowledged: u8,
    sent: Vec<u8>,
    /// The attempt that the brain has seen the source fenced for.
    relays: Option<Attempt>,
    /// The source has told the brain that it gave up, and is not ordered to move this disc again under this id.
    gave_up: bool,
    brain_saw_it: bool,
    /// The target's copy is gone, and so is what is left at the source.
    dropped: bool,
    removed: bool,
}

impl World {
    fn new() -> Self {
        Self {
            source: Some(Source::Serving),
            source_record: Source::Serving,
            target: Some(Target::Incoming),
            target_record: Target::Incoming,
            said: BTreeSet::new(),
            acknowledged: 0,
            sent: vec![],
            relays: None,
            gave_up: false,
            brain_saw_it: false,
            dropped: false,
            removed: false,
        }
    }

    fn check(&self) {
        let source_serves = self.source.is_some_and(Source::may_acknowledge);
        let target_serves = self.target.is_some_and(Target::may_acknowledge);
        assert!(!(source_serves && target_serves), "two owners: {self:?}");
        // What a restart would find counts as well.
        assert!(
            !(self.source_record == Source::Serving && self.target_record == Target::Owner),
            "two owners after a restart: {self:?}"
        );
        if let Source::Fenced(own) = self.source_record {
            let whole = self.target_record == Target::Prepared(own) || self.target_record == Target::Owner;
            assert!(whole && !self.dropped, "the source gave it up and the target does not have it: {self:?}");
            let index = (0..ATTEMPTS_MAX).find(|index| attempt(*index) == own).unwrap();
            assert_eq!(self.sent[index], self.acknowledged, "an acknowledged write is missing: {self:?}");
        }
        assert!(!self.removed || self.target_record == Target::Owner, "the only copy was removed: {self:?}");
    }

    /// A party takes a step: it is stopped before the state is durable, before it says anything, or not at all.
    fn source_steps(&self, step: Step<Source>, next: &mut Vec<Self>) {
        let mut stopped = self.clone();
        stopped.source = None;
        next.push(stopped.clone());
        stopped.source_record = step.state.restarted();
        next.push(stopped.clone());
        let mut done = stopped;
        done.source = Some(step.state);
        done.said.extend(step.say);
        next.push(done);
    }

    fn target_steps(&self, step: Step<Target>, next: &mut Vec<Self>) {
        let mut stopped = self.clone();
        stopped.target = None;
        next.push(stopped.clone());
        stopped.target_record = step.state;
        next.push(stopped.clone());
        let mut done = stopped;
        done.target = Some(step.state);
        done.said.extend(step.say);
        next.push(done);
    }

    fn next(&self) -> Vec<Self> {
        let mut next = vec![];
        let with = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            world
        };
        match self.source {
            None => next.push(with(&|world| world.source = Some(world.source_record))),
            Some(source) => self.source_moves(source, &mut next),
        }
        match self.target {
            None => next.push(with(&|world| world.target = Some(world.target_record))),
            Some(_) if self.dropped => {}
            Some(target) => {
                for word in self.said.iter().copied().chain(self.relays.map(Word::Commit)) {
                    if let Some(step) = target.handle_word(word) {
                        self.target_steps(step, &mut next);
                    }
                }
                // By the brain: always while it is worth nothing, and later when the source has given up for good.
                if target.may_be_dropped() || (self.brain_saw_it && matches!(target, Target::Prepared(_))) {
                    next.push(with(&|world| world.dropped = true));
                }
                next.push(with(&|world| world.target = None));
            }
        }
        // The brain sees what is reported, and forgets it.
        if let Some(Source::Fenced(own)) = self.source {
            next.push(with(&|world| world.relays = Some(own)));
        }
        if self.source.is_some() && self.gave_up {
            next.push(with(&|world| world.brain_saw_it = true));
        }
        if self.target == Some(Target::Owner) && matches!(self.source, Some(Source::Fenced(_) | Source::Retired)) {
            next.push(with(&|world| world.removed = true));
        }
        next.push(with(&|world| world.relays = None));
        next
    }

    fn source_moves(&self, source: Source, next: &mut Vec<Self>) {
        if source.may_acknowledge() && self.acknowledged < WRITES_MAX {
            let mut world = self.clone();
            world.acknowledged += 1;
            next.push(world);
        }
        if self.sent.len() < ATTEMPTS_MAX && !self.gave_up && !self.brain_saw_it && !self.dropped {
            let name = attempt(self.sent.len());
            if let Some(step) = source.handle_frozen(name) {
                let mut world = self.clone();
                world.sent.push(self.acknowledged);
                world.source_steps(step, next);
            }
        }
        if let Some(step) = source.handle_deadline() {
            self.source_steps(step, next);
            // It may be the last try: cancelled, or too many.
            let mut world = self.clone();
            world.gave_up = true;
            world.source_steps(step, next);
        }
        for word in &self.said {
            if let Some(step) = source.handle_word(*word) {
                self.source_steps(step, next);
            }
        }
        let mut repeated = self.clone();
        repeated.said.extend(source.repeat());
        next.push(repeated);
        let mut stopped = self.clone();
        stopped.source = None;
        // What it said of its giving up goes with it, unless the brain has seen it.
        stopped.gave_up = false;
        next.push(stopped);
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "how much was explored is part of the result")]
fn r130_at_most_one_owner_and_no_acknowledged_write_is_lost_whatever_happens() {
    let mut seen = BTreeSet::from([World::new()]);
    let mut queue = VecDeque::from([World::new()]);
    let (mut moves, mut handed_over, mut called_off) = (0u64, 0u64, 0u64);
    while let Some(world) = queue.pop_front() {
        world.check();
        handed_over += u64::from(world.target_record == Target::Owner);
        called_off += u64::from(world.said.iter().any(|word| matches!(word, Word::Withdraw(_))));
        for next in world.next() {
            moves += 1;
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    eprintln!("hand-over: {} states, {moves} moves, {handed_over} of them handed over", seen.len());
    assert!(handed_over > 0 && called_off > 0, "both ends of a hand-over are reached");
}

#[test]
fn a_prepared_copy_takes_no_more_data_and_is_not_dropped() {
    let prepared = Target::Prepared(attempt(0));
    assert!(!prepared.takes_data() && !prepared.may_be_dropped() && !prepared.may_acknowledge());
    assert_eq!(prepared.handle_word(Word::Commit(attempt(1))), None, "of another freeze");
    assert_eq!(prepared.handle_word(Word::Prepare(attempt(1))), None);
}

#[test]
fn after_the_fence_there_is_no_way_back() {
    let fenced = Source::Fenced(attempt(0));
    assert_eq!(fenced.restarted(), fenced);
    assert_eq!(fenced.handle_deadline(), None);
    assert_eq!(fenced.handle_frozen(attempt(1)), None);
    assert_eq!(fenced.repeat(), Some(Word::Commit(attempt(0))));
    assert_eq!(Source::Frozen(attempt(0)).restarted(), Source::Serving);
}
