//! What the moves of a tail share: how much those to one and the same tail may send together, and turns to hand over.

use super::pace::{Budget, Pace};
use crate::time::Instant;
use spine::id::NodeName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Discs that are handed over at once. Each of them has clients that wait, and they share processors and disks: with a
/// hundred at once all take as long as the last.
const TURNS_COUNT: usize = 2;

/// The right to hand a disc over.
pub type Turn = OwnedSemaphorePermit;

/// A budget for each tail that discs move to, the clock of all of them, and the turns.
#[derive(Debug)]
pub struct Budgets {
    turns: Arc<Semaphore>,
    bytes_per_s: Option<u64>,
    of_tails: Mutex<BTreeMap<NodeName, Budget>>,
    began: tokio::time::Instant,
}

impl Budgets {
    /// So many 10⁶ bytes a second to each tail; `None`: as much as goes.
    pub fn new(mb_per_s: Option<u32>) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(TURNS_COUNT)),
            bytes_per_s: mb_per_s.map(bytes_per_s),
            of_tails: Mutex::default(),
            began: tokio::time::Instant::now(),
        }
    }

    /// What a move to this tail keeps to, which has a limit of its own in 10⁶ bytes a second, or none.
    pub fn pace(&self, target: &NodeName, limit_mb_per_s: Option<u32>) -> Pace {
        let shared = self.bytes_per_s.map(|all| {
            let mut of_tails = self.of_tails.lock().unwrap_or_else(PoisonError::into_inner);
            of_tails.entry(target.clone()).or_insert_with(|| Budget::new(all)).clone()
        });
        Pace::new(limit_mb_per_s.map(bytes_per_s), shared)
    }

    /// Waits for the turn to hand a disc over, and says whether there was anything to wait for.
    pub async fn turn(&self) -> (Turn, bool) {
        match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(turn) => (turn, false),
            Err(_) => (Arc::clone(&self.turns).acquire_owned().await.expect("it is never closed"), true),
        }
    }

    /// The time that paces count in.
    pub fn now(&self) -> Instant {
        Instant::default().plus(self.began.elapsed())
    }
}

fn bytes_per_s(mb_per_s: u32) -> u64 {
    u64::from(mb_per_s) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r130_few_discs_are_handed_over_at_once() {
        let budgets = Budgets::new(None);
        let mut turns = vec![];
        for _ in 0..TURNS_COUNT {
            let (turn, has_waited) = budgets.turn().await;
            assert!(!has_waited);
            turns.push(turn);
        }
        let mut next = Box::pin(budgets.turn());
        assert!(futures_util::poll!(&mut next).is_pending());
        turns.pop();
        assert!(next.await.1, "clients have written meanwhile");
    }

    #[test]
    fn r130_moves_to_the_same_tail_share_and_others_do_not() {
        let budgets = Budgets::new(Some(1));
        let tail = |name: &str| name.parse::<NodeName>().unwrap();
        let mut paces = ["a", "a", "b"].map(|name| budgets.pace(&tail(name), None));
        let now = Instant::default().plus_seconds(9);
        let waits = paces.each_mut().map(|pace| (pace.handle_piece(now, 500_000), pace.handle_piece(now, 0)).0);
        assert!(waits[0].is_zero() && waits[2].is_zero());
        assert_eq!(waits[1].as_millis(), 480, "half a second, less what may be caught up with");
        assert!(Budgets::new(None).pace(&tail("a"), None).handle_piece(now, u64::MAX).is_zero());
    }
}
