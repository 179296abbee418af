//! When a connection is to be looked at though nothing happens to it.

use crate::ring::slots::Token;
use crate::time::Instant;
use std::collections::BTreeSet;

/// At most one alarm for each connection, so that to look at the clock costs what is due, however many wait.
///
/// A connection keeps its alarm beside its deadline. Deadlines come and go with each request that arrives in two
/// parts, so an alarm is left where it is when the deadline is lifted or moved to later, and then it was for nothing.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    due: BTreeSet<(Instant, Token)>,
}

impl Alarms {
    /// Has `who` looked at no earlier than at `at`, and less than a second later. `alarm` is the one it has.
    pub(super) fn set(&mut self, who: Token, alarm: &mut Option<Instant>, at: Instant) {
        // Those of one second ring together.
        let at = at.rounded_up_to_seconds();
        if alarm.is_some_and(|earlier| earlier <= at) {
            return;
        }
        self.forget(who, *alarm);
        self.due.insert((at, who));
        *alarm = Some(at);
    }

    /// `who` is gone, with this alarm.
    pub(super) fn forget(&mut self, who: Token, alarm: Option<Instant>) {
        if let Some(at) = alarm {
            self.due.remove(&(at, who));
        }
    }

    /// The next one to be looked at, whose alarm is taken from it.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Token> {
        if self.next_at()? > now {
            return None;
        }
        self.due.pop_first().map(|(_, who)| who)
    }

    /// When the first one is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::slots::Slots;

    #[test]
    fn an_alarm_stays_unless_it_is_needed_earlier() {
        let mut slots = Slots::new(2);
        let (one, other) = (slots.insert(()).unwrap(), slots.insert(()).unwrap());
        let (mut alarms, second) = (Alarms::default(), |count| Instant::default().plus_seconds(count));
        let (mut of_one, mut of_other) = (None, None);
        alarms.set(one, &mut of_one, second(30));
        alarms.set(one, &mut of_one, second(40));
        assert_eq!(alarms.next_at(), Some(second(30)));
        alarms.set(one, &mut of_one, Instant::from_nanoseconds(4_000_000_001));
        alarms.set(other, &mut of_other, second(5));
        assert_eq!((of_one, of_other), (Some(second(5)), Some(second(5))), "they ring together");
        assert_eq!(alarms.take_due(second(4)), None);
        alarms.forget(other, of_other);
        assert_eq!(alarms.take_due(second(5)), Some(one));
        assert_eq!((alarms.take_due(second(100)), alarms.next_at()), (None, None), "one alarm each");
    }
}
