//! Who a request comes from.
//!
//! ```text
//!   Authorization: Basic …   ─▶ credentials ─▶ throttle ─▶ password (argon2id, a few at a time) ─┐
//!   Authorization: Bearer …  ─▶ credentials ─▶ session (hash of the token in the database) ──────┴─▶ Caller
//! ```
//!
//! * [`credentials`]: reads the header.
//! * [`password`]: makes and checks hashes without starving the rest of the process.
//! * [`throttle`]: slows down whoever guesses. [`recent`] is the bounded table it remembers with.
//! * [`caller`]: puts these together.
//!
//! What a caller may do is [`crate::model::privilege`].
//!
//! Invariants: a password or token is never logged and never stored; an unknown user costs as much
//! time as a wrong password.
//!
//! Absent: Yubikeys, API keys and impersonation. A privilege that asks for a Yubikey counts for
//! nobody.

pub mod caller;
pub mod credentials;
pub mod password;
pub mod recent;
pub mod throttle;

pub use caller::{AuthError, Caller, Gate};
