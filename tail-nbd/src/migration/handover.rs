//! Who owns the disc: the two ends of a hand-over as state machines, without I/O.
//!
//! ```text
//!   source: Serving ─freeze─▶ Frozen(a) ──Prepared(a)──▶ Fenced(a) ──Serving──▶ Retired
//!               ▲────deadline────┘ Withdraw(a)             │ (repeats Commit(a) until then)
//!   target: Incoming ──Prepare(a)──▶ Prepared(a) ──Commit(a)──▶ Owner
//!               ▲─────Withdraw(a)────────┘
//! ```
//!
//! `a` names one freeze, and is never used twice, not even after a restart: what is said of one that was called off
//! means nothing for the next. A new state is durable before anything is said of it. The commit point is the source's
//! record of Fenced: until then only the source decides, and from then on it never serves this generation again
//! (safety rule 18).
//!
//! The exploration in the tests goes through everything that can happen with three parties, each message lost,
//! doubled, delayed and overtaken, and each party stopped between any two steps.

use serde::{Deserialize, Serialize};

/// One freeze of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub uuid::Uuid);

/// What the source is to the disc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// It acknowledges writes.
    Serving,
    /// It acknowledges nothing, and waits for the target. Not durable: after a restart it serves.
    Frozen(Attempt),
    /// It has given the disc up. Durable.
    Fenced(Attempt),
    /// The target has taken it. Durable.
    Retired,
}

/// What the target is to the disc. Every state is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// It takes data in; its copy is worth nothing.
    Incoming,
    /// Its copy is whole, and it takes no more data.
    Prepared(Attempt),
    /// It acknowledges writes.
    Owner,
}

/// What the two say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// To the target: you have all of it.
    Prepare(Attempt),
    /// To the source: I have, durably.
    Prepared(Attempt),
    /// To the target: it was called off.
    Withdraw(Attempt),
    /// To the target: it is yours. The brain may relay it.
    Commit(Attempt),
    /// To the source: I serve it.
    Serving,
}

/// What follows from a word: first the new state is made durable, where it has to be, and then the answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<S> {
    /// The state from now on.
    pub state: S,
    /// What to say then.
    pub say: Option<Word>,
}

impl Source {
    /// True when clients' writes may be acknowledged.
    pub fn may_acknowledge(self) -> bool {
        self == Self::Serving
    }

    /// The clients are paused, and the target has been sent everything.
    pub fn handle_frozen(self, attempt: Attempt) -> Option<Step<Self>> {
        let step = Step { state: Self::Frozen(attempt), say: Some(Word::Prepare(attempt)) };
        (self == Self::Serving).then_some(step)
    }

    /// The clients have waited too long. `None` when it is too late to serve on.
    pub fn handle_deadline(self) -> Option<Step<Self>> {
        let Self::Frozen(attempt) = self else { return None };
        Some(Step { state: Self::Serving, say: Some(Word::Withdraw(attempt)) })
    }

    /// A word of the target. `None`: it means nothing now.
    pub fn handle_word(self, word: Word) -> Option<Step<Self>> {
        match (self, word) {
            (Self::Frozen(own), Word::Prepared(attempt)) if own == attempt => {
                Some(Step { state: Self::Fenced(attempt), say: Some(Word::Commit(attempt)) })
            }
            (Self::Fenced(_), Word::Serving) => Some(Step { state: Self::Retired, say: None }),
            _ => None,
        }
    }

    /// What to say to a target that is reached again.
    pub fn repeat(self) -> Option<Word> {
        let Self::Fenced(attempt) = self else { return None };
        Some(Word::Commit(attempt))
    }

    /// What is left of it after a restart.
    #[must_use]
    pub fn restarted(self) -> Self {
        if matches!(self, Self::Frozen(_)) { Self::Serving } else { self }
    }
}

impl Target {
    /// True when clients' writes may be acknowledged.
    pub fn may_acknowledge(self) -> bool {
        self == Self::Owner
    }

    /// True when data may be taken in. A prepared copy must not change any more.
    pub fn takes_data(self) -> bool {
        self == Self::Incoming
    }

    /// True when the copy may be dropped without the source's word (safety rule 18).
    pub fn may_be_dropped(self) -> bool {
        self == Self::Incoming
    }

    /// A word of the source, or of the brain. `None`: it means nothing now.
    pub fn handle_word(self, word: Word) -> Option<Step<Self>> {
        match (self, word) {
            (Self::Incoming, Word::Prepare(attempt)) => {
                Some(Step { state: Self::Prepared(attempt), say: Some(Word::Prepared(attempt)) })
            }
            (Self::Prepared(own), Word::Prepare(attempt)) if own == attempt => {
                Some(Step { state: self, say: Some(Word::Prepared(attempt)) })
            }
            (Self::Prepared(own), Word::Withdraw(attempt)) if own == attempt => {
                Some(Step { state: Self::Incoming, say: None })
            }
            (Self::Prepared(own), Word::Commit(attempt)) if own == attempt => {
                Some(Step { state: Self::Owner, say: Some(Word::Serving) })
            }
            (Self::Owner, Word::Commit(_)) => Some(Step { state: Self::Owner, say: Some(Word::Serving) }),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
