//! One qemu: how it is called, how it is started, how it is talked to.
//!
//! ```text
//!   VmResource ─ spec ─▶ command_line ─▶ argv ─▶ process ─ exec-qemu ─▶ qemu (own uid, no rights)
//!                                                                        ▲
//!                              qmp (bytes ⇄ messages) ◀─ monitor (tokio) ┘  discs, CD, signals
//! ```
//!
//! * [`profile`]: the virtual hardware by name (B07): machine type, CPU, models of discs and cards.
//! * [`command_line`]: the argument list, a pure function (R079).
//! * [`qmp`]: qemu's monitor protocol, without I/O. [`monitor`] moves its bytes and keeps its deadlines.
//! * [`process`]: starting, adopting, waiting for and killing the process. [`exec`] is what runs between
//!   fork and qemu and gives up every right.
//! * [`kvm`]: proves that KVM runs a guest.
//!
//! Invariants: no secret is ever in an argument list (safety rule 6); no text of a customer can become
//! an option of its own; every monitor command has a deadline (safety rule 14); qemu belongs to no
//! group and has no capability, and cannot get one back.
//!
//! How a machine is started: qemu begins with `-preconfig`, in which it has no devices yet. Its discs
//! are added over the monitor as block nodes with their keys; only then are the devices made that the
//! arguments name, so that boot order, buses and slots are all in the arguments and nothing is ever
//! hot-plugged. `cont` is the last step.
//!
//! Deliberately absent: migration, snapshots, guest agents.

pub mod command_line;
pub mod exec;
pub mod kvm;
pub mod monitor;
pub mod process;
pub mod profile;
pub mod qmp;
