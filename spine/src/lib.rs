//! Every type that crosses a process boundary, and the protocol that carries them.
//!
//! ```text
//!   cli ── api (HTTP/JSON) ──▶ brain ◀── spine (TCP, one JSON line a message) ── head, tail
//! ```
//!
//! * [`id`]: newtypes for everything that is named or numbered.
//! * [`resource`]: what a node has: `vm.X`, `disc.GRADE.N`, `global.*` (R069–R074).
//! * [`message`]: one line of the protocol, parsed and written.
//! * [`frame`]: bytes into lines, with a bound.
//! * [`session`]: both ends of a connection as pure state machines (R060–R068).
//! * [`transport`]: the only part that does I/O: tokio moves the bytes.
//! * [`api`]: the shapes of the brain's public HTTP API, shared with `bigv`.
//! * [`daemon`]: what the three daemons owe the system they run on.
//! * [`address`]: a disc's address computed from its number (R037).
//! * [`hardware`]: the names of virtual hardware that the brain offers and the heads make.
//! * [`fuzz`]: what must hold whatever a peer sends.
//! * [`secret`], [`limits`], [`size`], [`spec`]: what the rest is made of.
//!
//! Deliberately absent: policy. What is done about a resource is the business of the brain, the
//! heads and the tails.
#![forbid(unsafe_code)]

pub mod address;
pub mod api;
pub mod daemon;
pub mod frame;
pub mod fuzz;
pub mod hardware;
pub mod id;
pub mod limits;
pub mod message;
pub mod resource;
pub mod secret;
pub mod session;
pub mod size;
pub mod spec;
pub mod transport;
