//! States of a machine that has a qemu, what happens to it, and what is to be done: pure.

/// Where a machine is in its life, from the moment its guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest runs.
    Running,
    /// qemu is expected to end.
    Stopping {
        /// The reason given with `remove`; none when it ends by itself.
        ordered: Option<String>,
        /// SIGKILL was sent, because it did not end in time.
        killed: bool,
    },
    /// qemu has ended. Takes no more input.
    Gone {
        /// As in `Stopping`.
        ordered: Option<String>,
        /// As in `Stopping`.
        killed: bool,
    },
}

/// What happens to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The brain removes it.
    Remove(String),
    /// qemu said that it is about to exit.
    Announced,
    /// The deadline of a stop has passed.
    Deadline,
    /// The process has ended.
    Exited,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask qemu to quit.
    Quit,
    /// Wait no longer than the stop's deadline.
    ArmDeadline,
    /// SIGKILL.
    Kill,
    /// Clean up and report.
    Finish,
}

impl State {
    /// The next state, and what is to be done. Events that a state does not wait for change nothing.
    #[must_use]
    pub fn handle(self, event: Event) -> (Self, Vec<Action>) {
        match (self, event) {
            (Self::Running, Event::Remove(reason)) => {
                let next = Self::Stopping { ordered: Some(reason), killed: false };
                (next, vec![Action::Quit, Action::ArmDeadline])
            }
            (Self::Running, Event::Announced) => {
                (Self::Stopping { ordered: None, killed: false }, vec![Action::ArmDeadline])
            }
            // It is on its way out already: the order gives the reason, the deadline stands.
            (Self::Stopping { ordered: None, killed }, Event::Remove(reason)) => {
                (Self::Stopping { ordered: Some(reason), killed }, vec![])
            }
            (Self::Stopping { ordered, killed: false }, Event::Deadline) => {
                (Self::Stopping { ordered, killed: true }, vec![Action::Kill, Action::ArmDeadline])
            }
            // A process that does not die of SIGKILL hangs in the kernel; it is killed again for the log.
            (Self::Stopping { ordered, killed: true }, Event::Deadline) => {
                (Self::Stopping { ordered, killed: true }, vec![Action::Kill, Action::ArmDeadline])
            }
            (Self::Running, Event::Exited) => (Self::Gone { ordered: None, killed: false }, vec![Action::Finish]),
            (Self::Stopping { ordered, killed }, Event::Exited) => {
                (Self::Gone { ordered, killed }, vec![Action::Finish])
            }
            (state, _) => (state, vec![]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(events: &[Event]) -> (State, Vec<Action>) {
        let mut state = State::Running;
        let mut all = Vec::new();
        for event in events {
            let (next, actions) = state.handle(event.clone());
            state = next;
            all.extend(actions);
        }
        (state, all)
    }

    #[test]
    fn a_removed_machine_is_asked_first_and_killed_later() {
        let (state, actions) = run(&[Event::Remove("r".into()), Event::Deadline, Event::Exited]);
        assert_eq!(state, State::Gone { ordered: Some("r".into()), killed: true });
        use Action::{ArmDeadline, Finish, Kill, Quit};
        assert_eq!(actions, [Quit, ArmDeadline, Kill, ArmDeadline, Finish]);
    }

    #[test]
    fn r076_a_machine_that_ends_by_itself_has_no_order() {
        assert_eq!(run(&[Event::Exited]).0, State::Gone { ordered: None, killed: false });
        assert_eq!(run(&[Event::Announced, Event::Exited]).0, State::Gone { ordered: None, killed: false });
    }

    #[test]
    fn rule_14_a_guest_that_shut_down_and_hangs_is_killed() {
        assert!(run(&[Event::Announced, Event::Deadline]).1.contains(&Action::Kill));
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![Just(Event::Remove("r".into())), Just(Event::Announced), Just(Event::Deadline), Just(Event::Exited)]
    }

    proptest! {
        #[test]
        fn it_finishes_exactly_when_the_process_ended_and_only_once(events in proptest::collection::vec(event(), 0..12)) {
            let (state, actions) = run(&events);
            let exited = events.contains(&Event::Exited);
            prop_assert_eq!(matches!(state, State::Gone { .. }), exited);
            prop_assert_eq!(actions.iter().filter(|action| **action == Action::Finish).count(), usize::from(exited));
            prop_assert!(actions.iter().filter(|action| **action == Action::Quit).count() <= 1);
        }
    }
}
