//! `bigv-head`: runs virtual machines, and remembers nothing (R077).
//!
//! ```text
//!        brain ── spine ── control ── vm (a driver each) ── hypervisor ── qemu
//!                             │            ├── network (taps)              │
//!                           adopt          ├── disc (NBD, reconnects)  ────┘
//!                                          └── console (SSH to ttyS0)
//! ```
//!
//! Where to read on:
//!
//! * [`vm`]: the life of a machine. [`hypervisor`]: qemu, from arguments to monitor.
//! * [`control`]: the spine's session, and what is found at the start. [`adopt`]: the records by which
//!   a new supervisor knows the machines of the old one.
//! * [`network`], [`disc`], [`console`]: what a machine is connected to.
//! * [`config`], [`limits`], [`host`]: what all of them need.
//!
//! Invariants: a machine is a process, and a process that is gone is a machine that is gone (R076); the
//! supervisor may die at any moment without harm to a guest; what a machine needs comes in its resource
//! and nowhere else (R080).
//!
//! Deliberately absent: placement, retries, and any database: the brain's.
#![forbid(unsafe_code)]

pub mod adopt;
pub mod config;
pub mod console;
pub mod control;
pub mod disc;
pub mod host;
pub mod hypervisor;
pub mod limits;
pub mod network;
pub mod vm;
