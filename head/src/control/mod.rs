//! The supervisor: one task that holds the spine's session and the list of machines.
//!
//! ```text
//!   brain ◀── spine ──▶ supervisor ── orders ──▶ a driver per machine
//!                            ▲ ◀────── news ──────────┘
//! ```
//!
//! * [`supervisor`]: the loop. [`adoption`]: what it finds at its start.
//! * [`recovery`]: what becomes of a machine whose task failed.
//! * [`preflight`]: what is checked before.
//!
//! Invariant: whatever the brain is told goes through the one loop, so that a dump and the notices after
//! it always agree, and every command is answered once.

pub mod adoption;
pub mod preflight;
pub mod recovery;
pub mod supervisor;

use spine::message::Refusal;

/// A refusal: a word for programs and a sentence for people.
pub fn refusal(error: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal { error: error.into(), message: message.into() }
}
