//! What a shard has to say unasked: kept until the control side has taken it.
//!
//! A sync that has failed, and a disc that is out of service, must not be forgotten because the control side is
//! slow. What does not fit into the channel waits here, at most one event of each kind for each disc, and is offered
//! again every second.

use super::handle::ShardEvent;
use std::collections::VecDeque;
use std::mem::discriminant;
use tokio::sync::mpsc::{self, error::TrySendError};

/// The way to the control side.
#[derive(Debug)]
pub(super) struct Events {
    sender: mpsc::Sender<ShardEvent>,
    untold: VecDeque<ShardEvent>,
}

impl Events {
    /// Nothing to say yet.
    pub(super) fn new(sender: mpsc::Sender<ShardEvent>) -> Self {
        Self { sender, untold: VecDeque::new() }
    }

    /// Says `event`. True when something is left to be offered again.
    pub(super) fn tell(&mut self, event: ShardEvent) -> bool {
        let is_same =
            |other: &ShardEvent| other.number() == event.number() && discriminant(other) == discriminant(&event);
        if !self.untold.iter().any(is_same) {
            self.untold.push_back(event);
        }
        self.offer()
    }

    /// Says what is left, as far as there is room. True when something is still left.
    pub(super) fn offer(&mut self) -> bool {
        while let Some(event) = self.untold.pop_front() {
            match self.sender.try_send(event) {
                // Without a control side nobody wants to know.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(event)) => {
                    self.untold.push_front(event);
                    return true;
                }
            }
        }
        false
    }

    /// Says what is left, and waits for the control side to take it. For the end of the shard's thread only.
    pub(super) fn finish(&mut self) {
        for event in self.untold.drain(..) {
            // As above.
            let _ = self.sender.blocking_send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::DiscNumber;

    fn failed(number: u64) -> ShardEvent {
        ShardEvent::SyncFailed { number: DiscNumber(number), errno: 5 }
    }

    fn panicked(number: u64) -> ShardEvent {
        ShardEvent::Panicked { number: DiscNumber(number), message: "a fault".to_owned() }
    }

    #[test]
    fn rule17_what_does_not_fit_is_kept_once_and_said_later() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut events = Events::new(sender);
        assert!(!events.tell(failed(1)));
        for event in [failed(2), panicked(2), failed(3), failed(2), panicked(2)] {
            assert!(events.tell(event), "the channel is full");
        }
        assert_eq!(events.untold.len(), 3, "it is bounded by the discs");
        assert_eq!(receiver.try_recv(), Ok(failed(1)));
        assert!(events.offer());
        assert_eq!(receiver.try_recv(), Ok(failed(2)));
        let ending = std::thread::spawn(move || events.finish());
        assert_eq!([receiver.blocking_recv(), receiver.blocking_recv()], [Some(panicked(2)), Some(failed(3))]);
        assert_eq!(receiver.blocking_recv(), None);
        ending.join().unwrap();
    }

    #[test]
    fn without_a_control_side_nothing_is_kept() {
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        let mut events = Events::new(sender);
        assert!(!events.tell(failed(1)));
        assert!(events.untold.is_empty());
    }
}
