//! Who may wait for a status: so many at the same time, and so many of one user.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Requests that may wait at the same time.
const WAITING_MAX: usize = 256;
/// Of one user: a script that waits for many machines at once, and leaves turns to everybody else.
const WAITING_PER_USER_MAX: usize = 16;

/// Counts who waits.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// By the user's number; nobody is in it with none.
    counts: Arc<Mutex<HashMap<i64, usize>>>,
}

/// A turn to wait, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    waiting: Waiting,
    user_id: i64,
}

impl Waiting {
    /// A turn for this user, if there is one left.
    pub fn turn(&self, user_id: i64) -> Option<Turn> {
        let mut counts = self.counts();
        let own = counts.get(&user_id).copied().unwrap_or_default();
        if own >= WAITING_PER_USER_MAX || counts.values().sum::<usize>() >= WAITING_MAX {
            return None;
        }
        counts.insert(user_id, own + 1);
        Some(Turn { waiting: self.clone(), user_id })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<i64, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.waiting.counts();
        match counts.get_mut(&self.user_id) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(counts.remove(&self.user_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_takes_no_turns_of_others_and_all_together_have_a_bound() {
        let waiting = Waiting::default();
        let mut turns: Vec<_> = (0..WAITING_PER_USER_MAX).map(|_| waiting.turn(1).unwrap()).collect();
        assert!(waiting.turn(1).is_none());
        turns.pop();
        turns.push(waiting.turn(1).expect("one has ended"));
        turns.extend((WAITING_PER_USER_MAX..WAITING_MAX).map(|n| waiting.turn(2 + n as i64).unwrap()));
        assert!(waiting.turn(2).is_none());
        drop(turns);
        assert!(waiting.counts().is_empty());
    }
}
