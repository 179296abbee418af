//! What the reconciler remembers of a VM between its looks at it. All of it may be lost at any
//! time: it only saves repetition and spaces out attempts.

use crate::{
    limits::{BACK_OFF_FIRST, BACK_OFF_LAST, RUN_IS_STABLE_AFTER},
    model::{change::Change, work::Work},
};
use spine::{
    id::{AttachmentsVersion, DiscNumber, Generation, NodeName},
    resource::Attributes,
};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// What was tried and how it went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Why the machine is not to be started, stopped or changed for a while.
    pub vm: Option<Hold>,
    /// Why a disc is to be left alone for a while.
    pub discs: BTreeMap<DiscNumber, Hold>,
    /// Why a leftover is to be left alone for a while.
    pub leftovers: BTreeMap<(DiscNumber, NodeName, Generation), Hold>,
    /// Which version of its attachments each tail has said ok to in answer to this brain.
    pub granted: BTreeMap<DiscNumber, AttachmentsVersion>,
    /// The head that has not managed to start the machine.
    pub avoid_head: Option<NodeName>,
    /// Pools that have refused a disc.
    pub avoid_pools: BTreeMap<DiscNumber, BTreeSet<i64>>,
    /// The head has not answered the order to start the run of this number in time.
    pub start_overdue: Option<i64>,
    /// What the head has last been told to change about this run. A head that takes it and shows it
    /// otherwise is not told again and again.
    pub refreshed: Option<(i64, Attributes)>,
    /// Failures in a row.
    pub failures_count: u32,
}

/// A pause, with what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Until then.
    pub until: OffsetDateTime,
    /// What went wrong, or what it waits for.
    pub reason: String,
    /// Failures in a row.
    pub failures_count: u32,
    /// It holds up only what no user has ordered.
    pub automatic_only: bool,
}

impl Hold {
    /// True while the pause lasts.
    pub fn lasts(&self, now: OffsetDateTime) -> bool {
        now < self.until
    }
}

impl Memory {
    /// The machine has to wait after a failure; longer after each.
    pub fn hold_vm(&mut self, reason: impl Into<String>, now: OffsetDateTime) {
        self.failures_count = self.failures_count.saturating_add(1);
        self.vm = Some(hold(self.failures_count, reason.into(), now));
    }

    /// A disc has to wait after a failure; longer after each.
    pub fn hold_disc(&mut self, disc: DiscNumber, reason: impl Into<String>, now: OffsetDateTime) {
        let failures_count = self.discs.get(&disc).map_or(1, |hold| hold.failures_count.saturating_add(1));
        self.discs.insert(disc, hold(failures_count, reason.into(), now));
    }

    /// A leftover has to wait after its removal failed.
    pub fn hold_leftover(
        &mut self,
        key: (DiscNumber, NodeName, Generation),
        reason: impl Into<String>,
        now: OffsetDateTime,
    ) {
        let failures_count = self.leftovers.get(&key).map_or(1, |hold| hold.failures_count.saturating_add(1));
        self.leftovers.insert(key, hold(failures_count, reason.into(), now));
    }

    /// Takes note of a change that has been written. `work` is as it was before.
    pub fn note(&mut self, change: &Change, work: &Work, now: OffsetDateTime) {
        match change {
            Change::RunMoved(_) => self.vm = None,
            Change::RunEnded { reason, .. } => {
                self.granted.clear();
                self.start_overdue = None;
                let Some(run) = &work.run else { return };
                if now - run.started_at > RUN_IS_STABLE_AFTER {
                    self.failures_count = 0;
                    self.vm = None;
                } else if work.wanted_on() {
                    // It could not be started, or stopped by itself at once: the next attempt waits.
                    self.hold_vm(reason.clone(), now);
                    self.avoid_head = Some(run.head.clone());
                } else {
                    self.failures_count = 0;
                    self.vm = None;
                }
            }
            Change::DiscMade { disc, .. } | Change::DiscRemoved(disc) => {
                self.avoid_pools.remove(disc);
                self.discs.remove(disc);
            }
            Change::DiscMoved(disc) | Change::MoveUndone(disc) | Change::OutcomeForced(disc) => {
                // Its owner is asked once more: only an owner's answer counts (safety rule 5).
                self.granted.remove(disc);
                self.discs.remove(disc);
            }
            Change::LeftoverRemoved { disc, tail, generation } => {
                self.leftovers.remove(&(*disc, tail.clone(), *generation));
            }
            _ => {}
        }
    }

    /// The moment after `now` when a pause ends.
    pub fn wakes_at(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let holds = self.discs.values().chain(self.leftovers.values()).chain(&self.vm);
        holds.filter(|hold| hold.lasts(now)).map(|hold| hold.until).min()
    }
}

fn hold(failures_count: u32, reason: String, now: OffsetDateTime) -> Hold {
    let doublings = failures_count.saturating_sub(1).min(16);
    let pause = BACK_OFF_FIRST.saturating_mul(1 << doublings).min(BACK_OFF_LAST);
    Hold { until: now + pause, reason, failures_count, automatic_only: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut memory = Memory::default();
        let mut pauses = vec![];
        for _ in 0..9 {
            memory.hold_vm("x", now);
            pauses.push((memory.vm.as_ref().unwrap().until - now).whole_seconds());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(memory.wakes_at(now), Some(now + Duration::from_secs(60)));
        assert_eq!(memory.wakes_at(now + Duration::from_secs(60)), None);
    }
}
