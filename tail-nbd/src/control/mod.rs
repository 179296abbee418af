//! The control side: the spine session, and what operators ask. The only async code but for the
//! threads it talks to.
//!
//! ```text
//!   brain ◀── spine ──▶ Session ── orders ──▶ Lanes ──▶ Store
//!                         ▲  │                            │ changed
//!                         │  └── Reported: what the brain was told ◀── reports ──┘
//!                         └───── Facts: pools and load, looked at every few seconds
//!   tail-nbd status ◀── unix socket ── status
//! ```
//!
//! Invariants:
//! * One task owns the link: what is dumped, what is told afterwards and what is answered have one order.
//! * What the brain is told follows from comparing reports with what it was told before, so that
//!   nothing is lost or said twice, whoever caused the change.
//! * Commands about one disc are carried out in the order in which they came; those about different
//!   discs at the same time (safety rule 1).
//! * The highest epoch is durable before anything is dumped to its brain (safety rule 8).
//! * Discs are served whether there is a brain or not (R177).
//!
//! * [`session`]: the task. [`lanes`], [`reported`], [`command`], [`epoch`], [`facts`]: its parts.
//! * [`fuzz`]: what must hold whatever the brain orders.
//! * [`status`]: what `tail-nbd status` is told. [`rates`]: what happened between two looks. [`table`]: how it shows it
//!   to people.
//!
//! Deliberately absent: any decision about who may use a disc.

pub mod command;
pub mod epoch;
pub mod facts;
pub mod fuzz;
pub mod lanes;
pub mod rates;
pub mod reported;
pub mod session;
pub mod status;
pub mod table;
