//! The spine sessions of heads and tails, and what each of them has.
//!
//! ```text
//!   accept ─▶ session (one task a connection) ──▶ Registry ◀── reconcile: what has this node?
//!              hello → nodes row, welcome            │              command, signal
//!              pools → storage_pools rows            └──▶ http: who is connected
//! ```
//!
//! Invariants: a node counts between `ready` and the end of its connection, and no longer (R034); of
//! two connections with one name the newer counts, and the older is told why; a command is answered
//! exactly once, by the node, by its deadline, or by the end of the connection; an `ok` is in the
//! view before it is handed to whoever asked, so that no decision is made on what it made old.
//!
//! * [`registry`]: who is connected and what they have.
//! * [`session`]: one connection, from hello to its end.

pub mod registry;
pub mod session;

pub use registry::{FleetError, NodeInfo, Registry};
