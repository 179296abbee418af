//! A machine's serial console, over SSH (R109–R112, R137, R140).
//!
//! ```text
//!   qemu ttyS0 ── unix socket ──▶ serial ──▶ history (a ring of the last output)
//!                     ▲              │ "there is more"       │ read from a position
//!                     └── input ─────┼───────────────────────┘
//!                                    ▼
//!   ssh client ◀── connection ◀── viewer          as many as limits allow
//! ```
//!
//! * `service`: the public face: start, change the users, stop.
//! * `users`: who may come in, and what proves it.
//! * `host_keys`: the machine's own SSH host keys, which travel with it.
//! * `connection`: one SSH connection, from accept to the last byte.
//! * `viewer`: one window onto the serial line within a connection.
//! * `serial`: the one client of qemu's serial socket.
//! * `history`: the output kept, addressed by its offset since the start.
//! * `address`, `announce`: the console's address on the management network, and what a killed
//!   head left of them.
//! * `limits`: every bound, with its reason.
//!
//! Invariants:
//!
//! * A viewer is a position in the output, not a queue: what it is shown is what lies between its
//!   position and the end, so that history and live output join without gap or repeat, and a
//!   viewer that does not read costs nothing and holds up nobody. One that falls behind the ring
//!   is told how much it missed.
//! * Nobody is let in by a rule of this system's UNIX users: the names exist in `vm.X` alone.
//! * A right that is withdrawn ends the connections made with it.
//! * Output is passed as it came; no byte of it is interpreted.
//!
//! Deliberately absent: commands, file transfer and port forwarding (a console is no shell), and
//! changes of the window's size (a serial line has none).

mod address;
mod announce;
mod connection;
mod history;
mod host_keys;
pub mod limits;
mod serial;
mod service;
mod users;
mod viewer;

pub use address::{AddressError, remove_strays};
pub use host_keys::NoHostKey;
pub use service::{Console, ConsoleConfig, ConsoleError};
pub use users::ConsoleUsers;
