//! How much a turn does for a client that is alone.
//!
//! The answers of a turn leave at its end. When there is one client, it waits for them while the shard works, and then the
//! shard waits while the client does: both have half of the time nothing to do, and sleep, and have to be woken. So a turn
//! for a client that is alone ends after a portion of what it has asked for, and the next follows at once: the first answers
//! are looked at while the others are made. Several clients fill each other's pauses, and longer turns are cheaper for them.

use crate::limits::{LONE_READ_BYTES_PER_TURN, LONE_REQUESTS_PER_TURN};
use crate::ring::slots::Token;

/// Receives from one connection, with none from others between them, that make it alone.
const LONE_RECEIVES_COUNT: u32 = 8;

/// What this turn has done, and for how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Portion {
    last: Option<Token>,
    receives_in_a_row: u32,
    requests_count: usize,
    read_bytes: u64,
}

impl Portion {
    /// A turn begins.
    pub(super) fn begin(&mut self) {
        (self.requests_count, self.read_bytes) = (0, 0);
    }

    /// Something has come from this connection.
    pub(super) fn handle_received(&mut self, connection: Token) {
        let again = self.last.replace(connection) == Some(connection);
        self.receives_in_a_row = if again { self.receives_in_a_row.saturating_add(1) } else { 0 };
    }

    /// A request was started that reads so many bytes.
    pub(super) fn handle_started(&mut self, read_bytes: u64) {
        self.requests_count += 1;
        self.read_bytes = self.read_bytes.saturating_add(read_bytes);
    }

    /// Requests that the turn has started.
    pub(super) fn requests_count(&self) -> usize {
        self.requests_count
    }

    /// True when further requests of this connection have the next turn. Those of others, which may have waited for memory
    /// instead of receiving, never do.
    pub(super) fn is_enough(&self, connection: Token) -> bool {
        let is_full = self.requests_count >= LONE_REQUESTS_PER_TURN || self.read_bytes >= LONE_READ_BYTES_PER_TURN;
        is_full && self.last == Some(connection) && self.receives_in_a_row >= LONE_RECEIVES_COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::slots::Slots;

    /// After receives from these connections, by number, and so many requests that read so many bytes each.
    fn is_enough(receives: &[usize], requests_count: usize, read_bytes: u64) -> bool {
        let mut slots = Slots::new(2);
        let tokens = [slots.insert(()).unwrap(), slots.insert(()).unwrap()];
        let mut portion = Portion::default();
        receives.iter().for_each(|nth| portion.handle_received(tokens[*nth]));
        portion.begin();
        (0..requests_count).for_each(|_| portion.handle_started(read_bytes));
        portion.is_enough(tokens[0])
    }

    #[test]
    fn a_client_that_is_alone_gets_its_first_answers_early() {
        assert!(is_enough(&[0; 9], LONE_REQUESTS_PER_TURN, 4096));
        assert!(!is_enough(&[0; 9], LONE_REQUESTS_PER_TURN - 1, 4096));
        assert!(is_enough(&[0; 9], 1, LONE_READ_BYTES_PER_TURN), "large ones take as long as several");
        assert!(!is_enough(&[0; 9], 0, 0), "each turn does something");
    }

    #[test]
    fn who_has_waited_beside_it_is_not_put_off() {
        let mut slots = Slots::new(2);
        let (lone, other) = (slots.insert(()).unwrap(), slots.insert(()).unwrap());
        let mut portion = Portion::default();
        (0..9).for_each(|_| portion.handle_received(lone));
        portion.handle_started(LONE_READ_BYTES_PER_TURN);
        assert!(portion.is_enough(lone) && !portion.is_enough(other));
    }

    #[test]
    fn several_get_all_at_once() {
        assert!(!is_enough(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], 100, 1 << 20));
        assert!(!is_enough(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 100, 1 << 20), "another has come");
    }
}
