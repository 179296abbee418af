//! Everything that can happen in a hand-over when an operator forces its outcome, up to two times (safety rule 9).
//!
//! The brain may promote either end at any moment, also when the other is well, and orders each to own or to give up the
//! disc with a generation that it never granted before. Words and orders are delivered at any later time, any number of
//! times, or never; each end may be stopped before a new state is durable, and after it.

use super::*;
use std::collections::{BTreeSet, VecDeque};

/// Of the source before the move, and of the target after it.
const FIRST: Generation = Generation(1);
const MOVED: Generation = Generation(2);
/// Two forced outcomes, one after the other.
const LAST: Generation = Generation(4);

fn attempt() -> Attempt {
    Attempt(uuid::Uuid::from_u128(1))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Source,
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Promote,
    Retire,
}

/// An end with the generation that it has. `now` is none while it is stopped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat<S> {
    now: Option<(S, Generation)>,
    record: (S, Generation),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    source: Seat<Source>,
    target: Seat<Target>,
    said: BTreeSet<Word>,
    orders: BTreeSet<(End, Order, Generation)>,
    granted: Generation,
    frozen_once: bool,
    /// Who has acknowledged writes, of which generation.
    acknowledged: BTreeSet<(Generation, End)>,
    /// What the target has is all of the disc.
    whole: bool,
}

impl World {
    fn new() -> Self {
        let seat = (Source::Serving, FIRST);
        Self {
            source: Seat { now: Some(seat), record: seat },
            target: Seat { now: Some((Target::Incoming, MOVED)), record: (Target::Incoming, MOVED) },
            said: BTreeSet::new(),
            orders: BTreeSet::new(),
            granted: MOVED,
            frozen_once: false,
            acknowledged: BTreeSet::new(),
            whole: false,
        }
    }

    fn check(&self) {
        for (generation, _) in &self.acknowledged {
            let who = self.acknowledged.iter().filter(|(own, _)| own == generation).count();
            assert!(who <= 1, "two tails have acknowledged writes of {generation}: {self:?}");
        }
        let owns = |state: Target| state == Target::Owner || state == Target::Superseded { whole: true };
        assert!(!owns(self.target.record.0) || self.whole, "a part of a disc was served: {self:?}");
        let (source, target) = (self.source.record, self.target.record);
        if source.0 == Source::Serving && target.0 == Target::Owner {
            assert_ne!(source.1, target.1, "two owners of one generation after a restart: {self:?}");
            assert!(self.granted > MOVED, "two owners, and nobody forced it: {self:?}");
        }
        for (end, superseded, generation) in [
            (End::Source, source.0 == Source::Superseded, source.1),
            (End::Target, matches!(target.0, Target::Superseded { .. }), target.1),
        ] {
            let of_the_other = self.orders.contains(&(end, Order::Retire, generation));
            assert!(!superseded || of_the_other, "it gave up what nobody else was given: {self:?}");
        }
    }

    fn next(&self) -> Vec<Self> {
        let mut next = vec![];
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            next.push(world);
        };
        if self.granted < LAST {
            let generation = Generation(self.granted.0 + 1);
            for (winner, loser) in [(End::Source, End::Target), (End::Target, End::Source)] {
                with(&|world| {
                    world.granted = generation;
                    world.orders.insert((winner, Order::Promote, generation));
                    world.orders.insert((loser, Order::Retire, generation));
                });
            }
        }
        match self.source.now {
            None => with(&|world| world.source.now = Some(world.source.record)),
            Some((state, generation)) => {
                with(&|world| world.source.now = None);
                if state.may_acknowledge() {
                    with(&|world| _ = world.acknowledged.insert((generation, End::Source)));
                }
            }
        }
        match self.target.now {
            None => with(&|world| world.target.now = Some(world.target.record)),
            Some((state, generation)) => {
                with(&|world| world.target.now = None);
                if state.may_acknowledge() {
                    with(&|world| _ = world.acknowledged.insert((generation, End::Target)));
                }
            }
        }
        self.source_moves(&mut next);
        self.target_moves(&mut next);
        next
    }

    fn source_moves(&self, next: &mut Vec<Self>) {
        let Some((state, generation)) = self.source.now else { return };
        let mut steps: Vec<(Step<Source>, Generation)> = vec![];
        // A move is cancelled before an end is promoted or retired, so nobody freezes the disc then.
        if !self.frozen_once && generation == FIRST {
            steps.extend(state.handle_frozen(attempt()).map(|step| (step, generation)));
        }
        steps.extend(state.handle_deadline().map(|step| (step, generation)));
        steps.extend(self.said.iter().filter_map(|word| Some((state.handle_word(*word)?, generation))));
        steps.push((Step { state, say: state.repeat() }, generation));
        // A source that has given the disc up knows which generation the target was granted.
        let known =
            if matches!(state, Source::Fenced(_) | Source::Retired) { generation.max(MOVED) } else { generation };
        for (end, order, given) in &self.orders {
            if *end != End::Source || !outranks(*given, known) {
                continue;
            }
            let new = match order {
                Order::Promote => state.handle_promote(),
                Order::Retire => state.handle_retire(),
            };
            steps.extend(new.map(|state| (Step { state, say: None }, *given)));
        }
        for (step, given) in steps {
            let mut stopped = self.clone();
            stopped.frozen_once |= matches!(step.state, Source::Frozen(_));
            stopped.source.now = None;
            next.push(stopped.clone());
            stopped.source.record = (step.state.restarted(), given);
            next.push(stopped.clone());
            let mut done = stopped;
            done.source.now = Some((step.state, given));
            done.said.extend(step.say);
            next.push(done);
        }
    }

    fn target_moves(&self, next: &mut Vec<Self>) {
        let Some((state, generation)) = self.target.now else { return };
        let mut steps: Vec<(Step<Target>, Generation)> = vec![];
        // What the brain relays is a Commit as well.
        steps.extend(self.said.iter().filter_map(|word| Some((state.handle_word(*word)?, generation))));
        for (end, order, given) in &self.orders {
            if *end != End::Target || !outranks(*given, generation) {
                continue;
            }
            let new = match order {
                Order::Promote => state.handle_promote(),
                Order::Retire => Some(state.handle_retire()),
            };
            steps.extend(new.map(|state| (Step { state, say: None }, *given)));
        }
        for (step, given) in steps {
            let mut stopped = self.clone();
            stopped.target.now = None;
            next.push(stopped.clone());
            stopped.target.record = (step.state, given);
            match step.state {
                Target::Prepared(_) => stopped.whole = true,
                Target::Incoming => stopped.whole = false,
                Target::Owner | Target::Superseded { .. } => {}
            }
            next.push(stopped.clone());
            let mut done = stopped;
            done.target.now = Some((step.state, given));
            done.said.extend(step.say);
            next.push(done);
        }
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "how much was explored is part of the result")]
fn rule9_whatever_is_forced_and_whenever_each_generation_has_one_owner() {
    let mut seen = BTreeSet::from([World::new()]);
    let mut queue = VecDeque::from([World::new()]);
    let (mut promoted, mut taken_back, mut superseded) = (0u64, 0u64, 0u64);
    while let Some(world) = queue.pop_front() {
        world.check();
        promoted += u64::from(world.acknowledged.iter().any(|(own, end)| *own > MOVED && *end == End::Target));
        taken_back += u64::from(world.acknowledged.iter().any(|(own, end)| *own > MOVED && *end == End::Source));
        superseded += u64::from(world.source.record.0 == Source::Superseded);
        for next in world.next() {
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    eprintln!("forced: {} states, {promoted} promoted, {taken_back} taken back, {superseded} superseded", seen.len());
    assert!(promoted > 0 && taken_back > 0 && superseded > 0, "all outcomes are reached");
}

#[test]
fn rule9_no_word_wakes_an_end_that_is_superseded() {
    let words = [
        Word::Prepare(attempt()),
        Word::Prepared(attempt()),
        Word::Withdraw(attempt()),
        Word::Commit(attempt()),
        Word::Serving,
    ];
    for word in words {
        assert_eq!(Source::Superseded.handle_word(word), None, "{word:?}");
        for whole in [false, true] {
            assert_eq!(Target::Superseded { whole }.handle_word(word), None, "{word:?}");
        }
    }
    assert_eq!((Source::Superseded.repeat(), Source::Superseded.handle_deadline()), (None, None));
    assert!(!Target::Superseded { whole: true }.may_be_dropped(), "its removal is ordered, not taken");
}
