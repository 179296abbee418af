//! The brain: what should be is a row in PostgreSQL, and the reconciler makes the world match it.
//!
//! ```text
//!   customers ──HTTP──▶ http ─▶ service ─▶ store ─▶ PostgreSQL
//!                                  │ poke             ▲
//!                                  ▼                  │ rows
//!                              reconcile ─────────────┘
//!                                  │ commands      ▲ what each node has
//!                                  ▼               │
//!                                fleet ◀──spine──▶ heads and tails
//! ```
//!
//! * [`store`]: all the SQL, the schema's version, who is the active brain.
//! * [`fleet`]: the spine sessions of heads and tails, and what each of them has.
//! * [`reconcile`]: compares rows with nodes and acts on the difference.
//! * [`model`]: pure rules: placement, networks.
//! * [`embedded`]: a private PostgreSQL for a lab or a single machine.
//! * [`http`], [`service`], [`auth`]: the public API: requests, use cases, who may do what.
//! * [`config`], [`limits`]: what the rest starts from.
//!
//! Invariants: intent is durable before anything is ordered; no decision is taken about a node that
//! has not said all it has; a disc or VM that is not in the database is reported, never removed.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod embedded;
pub mod fleet;
pub mod http;
pub mod limits;
pub mod model;
pub mod reconcile;
pub mod service;
pub mod store;
