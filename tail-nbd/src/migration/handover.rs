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
//! When one end is lost for good, an operator may force the outcome at the other (safety rule 9), with a generation higher
//! than any that was ever granted of the disc: a target that is prepared becomes the owner, or a source takes the disc
//! back. Writes that the lost end has acknowledged may be missing then. Once that end is back it is superseded, whatever
//! it was, and from then on no word of the other end means anything to it.
//!
//! ```text
//!   source: Serving, Fenced(a), Retired, Superseded ──promote(h)──▶ Serving of h
//!   target: Prepared(a), Superseded that was whole  ──promote(h)──▶ Owner of h
//!   either: anything that is durable                ──retire(h)───▶ Superseded
//! ```
//!
//! The exploration in the tests goes through everything that can happen with three parties, each message lost,
//! doubled, delayed and overtaken, and each party stopped between any two steps.

use serde::{Deserialize, Serialize};
use spine::id::Generation;

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
    /// The brain gave the disc to the target when this end was away. Durable.
    Superseded,
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
    /// The brain gave the disc back to the source when this end was away.
    Superseded {
        /// It has all of the disc, as it was once.
        whole: bool,
    },
}

/// True when an order to promote or to retire is not of former times: each has a generation of its own.
pub fn outranks(given: Generation, own: Generation) -> bool {
    given > own
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

    /// Takes the disc back for an operator. `None`: not in the middle of a freeze, which ends by itself.
    #[must_use]
    pub fn handle_promote(self) -> Option<Self> {
        match self {
            Self::Serving | Self::Fenced(_) | Self::Retired | Self::Superseded => Some(Self::Serving),
            Self::Frozen(_) => None,
        }
    }

    /// The disc is the other end's. `None`: not in the middle of a freeze, which ends by itself.
    #[must_use]
    pub fn handle_retire(self) -> Option<Self> {
        (!matches!(self, Self::Frozen(_))).then_some(Self::Superseded)
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

    /// Makes it the owner for an operator. `None`: what it has is not all of the disc.
    #[must_use]
    pub fn handle_promote(self) -> Option<Self> {
        match self {
            Self::Prepared(_) | Self::Owner | Self::Superseded { whole: true } => Some(Self::Owner),
            Self::Incoming | Self::Superseded { whole: false } => None,
        }
    }

    /// The disc is the other end's.
    #[must_use]
    pub fn handle_retire(self) -> Self {
        match self {
            Self::Superseded { .. } => self,
            Self::Incoming => Self::Superseded { whole: false },
            Self::Prepared(_) | Self::Owner => Self::Superseded { whole: true },
        }
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

#[cfg(test)]
#[path = "handover_force_tests.rs"]
mod force_tests;
