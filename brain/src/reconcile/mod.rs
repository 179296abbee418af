//! Makes the world match the rows (R054–R058).
//!
//! ```text
//!             rows of one VM ┐
//!   what its tails and heads ├─▶ plan ─▶ actions ─▶ driver ─▶ change of rows, or command to a node
//!      have of it (Observed) │              ▲                    │ answer
//!   what was tried (Memory)  ┘              └── again ◀── conclude ─▶ changes of rows
//! ```
//!
//! Level-triggered: nothing is handed over but what stands in the database and what nodes have; a
//! poke or an event only says where to look first. `plan` and `conclude` are pure, so that
//! `simulation` can crash the brain between any two steps, lose any answer and any connection.
//! The work on one VM is serial, different VMs go in parallel.
//!
//! Invariants:
//! * Nothing is decided about a node that has not said all it has; an absent node destroys nothing.
//! * A disc is made once. One that was made and is missing is reported, never made again.
//! * A VM has at most one open run, and a run has a key of its own. Before a head is told to start
//!   it, every tail has said in answer to this run that its discs let in that head with that key,
//!   and so nobody else (safety rule 7).
//! * What is not in the database is reported, never removed (R058, safety rule 8).
//! * Every stop and every failed start has a recorded reason (R166).
//! * A disc's row names its owner, or whoever was that last: a move changes it when the target says that it owns the disc.
//! * How many VMs are started and stopped in a while without a user's order has a limit, whatever the rows say.
//!
//! If the brain dies here, the truth is there:
//!
//! | the brain dies | it goes on from |
//! | --- | --- |
//! | after an order to make a disc | `made` is false: ordered again, which the tail answers with ok |
//! | between granting on two tails | the run is `attaching`: all are asked again |
//! | after the order to start a VM | the run is `starting`: the head has it, or is asked again |
//! | after the order to stop one | the run is `stopping`: the head has it not, or is asked again |
//! | after a run was ended without its head | it is unconfirmed: the head is asked once it is back |
//! | after a tail destroyed a disc | its row is there: ordered again, `not-found` is as good as ok |
//! | after a generation was granted | the move is there: both tails are looked at, and told what is missing |
//! | after the target became the owner | the target says so: the rows follow, and what the source has is left over |
//!
//! Deliberately absent: moving VMs, and restarting a lost head's VMs by itself.

mod conclude;
mod disc;
mod driver;
mod forced;
mod gate;
mod machine;
mod memory;
mod moving;
mod observed;
mod plan;
mod poke;
mod queue;
mod resource;
mod short;
mod strays;

#[cfg(test)]
mod simulated_move;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use driver::{Reconciler, ReconcilerConfig};
pub use forced::refusal as force_refusal;
pub use poke::Poke;
pub use short::propose;
