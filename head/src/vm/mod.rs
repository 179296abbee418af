//! One machine's life on this head.
//!
//! ```text
//!               create                    running                 remove · the guest's shutdown
//!   (nothing) ────────▶ Starting ──────────────────▶ Running ────────────────────▶ Stopping
//!                          │ failed, removed            │ qemu exits                  │ qemu exits
//!                          ▼                            ▼                             ▼
//!                      (nothing)  ◀──────────────── destroyed ◀───────────────── destroyed
//!
//!   a new supervisor: its record says Running and the process is the same ─▶ Running, else (nothing)
//! ```
//!
//! * [`spec`]: what a machine is, checked. [`requests`]: whether there is room for it.
//! * [`state`]: states, events and what they ask for, pure.
//! * [`ending`]: why a machine ended, in words, pure.
//! * [`update`]: what an `update vm.X` asks for, pure. [`report`]: what may be said of a machine.
//! * [`driver`]: the one task per machine. [`start`]: the steps to a running guest, and back.
//!   [`cdrom`]: the CD drive.
//!
//! Invariants: one `create` is answered once; a machine that did not start leaves no process, tap,
//! directory or uid behind; a machine that ended is reported once, with a reason; `cont` is sent once in
//! a machine's life, by the supervisor that started it (safety rule 7).
//!
//! Deliberately absent: any memory of machines that do not run (R077).

pub mod cdrom;
pub mod driver;
pub mod ending;
pub mod report;
pub mod requests;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;
