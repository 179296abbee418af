//! What a FLUSH waits for.
//!
//! One sync of a file runs at a time. A request that wants one while it runs waits for the next, because
//! the one that runs may have begun before the writes that the request covers; all who wait share the next.
//! One at a time also matters for errors: Linux reports a failed writeback to one fsync only, so that a second
//! one beside it could succeed, and be answered first (safety rule 17).

use crate::error::Errno;
use alloc::vec::Vec;

/// The syncs of one disc.
#[derive(Debug)]
pub struct Barrier<T> {
    running: Option<Vec<T>>,
    waiting: Vec<T>,
    failed: Option<Errno>,
}

impl<T> Barrier<T> {
    /// Nothing runs; `failed` is an error from before that nobody has put right.
    pub fn new(failed: Option<Errno>) -> Self {
        Self { running: None, waiting: Vec::new(), failed }
    }

    /// The error of the first sync that failed. It stays.
    pub fn failed(&self) -> Option<Errno> {
        self.failed
    }

    /// True when a sync runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// `who` wants a sync. Call [`Barrier::start`] next.
    pub fn add(&mut self, who: T) {
        self.waiting.push(who);
    }

    /// True when a sync is to be started now; [`Barrier::finish`] follows it. Harmless when spurious.
    pub fn start(&mut self) -> bool {
        let starts = self.running.is_none() && !self.waiting.is_empty() && self.failed.is_none();
        if starts {
            self.running = Some(core::mem::take(&mut self.waiting));
        }
        starts
    }

    /// The sync is over. Returns who is to be answered, with the result; call [`Barrier::start`] next.
    ///
    /// # Panics
    /// When none runs, which is a bug of the caller.
    pub fn finish(&mut self, result: Result<(), Errno>) -> Vec<T> {
        let covered = self.running.take().expect("a sync was started");
        if let Err(errno) = result {
            self.fail(errno);
        }
        covered
    }

    /// A sync that nobody waits for any more has failed.
    pub fn fail(&mut self, errno: Errno) {
        self.failed.get_or_insert(errno);
    }

    /// Those who wait for the next sync.
    pub fn waiting(&self) -> &[T] {
        &self.waiting
    }

    /// Takes those out who wait and of whom this is so: they want no sync any more.
    pub fn take_waiting_if(&mut self, is_so: impl Fn(&T) -> bool) -> Vec<T> {
        self.waiting.extract_if(.., |who| is_so(who)).collect()
    }

    /// Those who can wait for nothing, because a sync has failed.
    pub fn take_hopeless(&mut self) -> Vec<T> {
        if self.failed.is_some() { core::mem::take(&mut self.waiting) } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_a_sync_runs_waits_for_the_next() {
        let mut barrier = Barrier::new(None);
        assert!(!barrier.start(), "nobody wants one");
        barrier.add(1);
        assert!(barrier.start());
        barrier.add(2);
        barrier.add(3);
        assert!(!barrier.start(), "one at a time");
        assert_eq!(barrier.finish(Ok(())), [1]);
        assert!(barrier.start());
        assert_eq!(barrier.finish(Ok(())), [2, 3], "they share one");
        assert!(!barrier.is_running() && !barrier.start());
    }

    #[test]
    fn a_failure_is_for_everybody_and_for_ever() {
        let mut barrier = Barrier::new(None);
        barrier.add(1);
        assert!(barrier.start());
        barrier.add(2);
        assert_eq!(barrier.finish(Err(Errno(5))), [1]);
        assert_eq!(barrier.take_hopeless(), [2]);
        barrier.add(3);
        assert!(!barrier.start(), "a later success would hide the loss");
        assert_eq!(barrier.take_hopeless(), [3]);
        assert_eq!(barrier.failed(), Some(Errno(5)));
    }
}
