//! A restart that no client notices: a new process takes the discs over from the old one.
//!
//! ```text
//!   operator            old process (giver)                          new process (taker), its child
//!   upgrade ──────────▶ starts the program, a socket as its stdin ─▶ configuration, kernel, rings, pools
//!                                     ◀──────────── ready ─────────── (or `failed`, with a sentence)
//!                       obeys the brain no more, locks every disc
//!                       (from here on no record changes)
//!                                     ──────────── lent ────────────▶ reads all sidecars, opens the discs frozen,
//!                                     ◀─────────── prepared ─────────  from the descriptors
//!                 ┌──── freezes all discs
//!          clients│                   ──────────── state ───────────▶ takes in what has changed
//!           wait  │                   ◀─────────── serving ──────────
//!                 └────                                               thaws them
//!        ◀── "47 discs" exits; nothing is shut down, no address goes  addresses, brain, control socket, metrics
//! ```
//!
//! **One word decides.** Until `serving` is in the socket the taker has done nothing that anybody could see: its discs are
//! frozen, so it receives, reads, writes and sends nothing. From then on the giver does nothing any more. Because the taker
//! says it before it begins, and what it said outlives it in the giver's socket, the giver always knows who serves:
//!
//! | what happens | who serves |
//! | --- | --- |
//! | the taker says `failed`, dies, or is silent for too long, before `serving` | the giver: it kills the taker, waits for its end, and thaws |
//! | a disc does not freeze in time | the giver: it thaws and tries again, and after [`FREEZE_TRIES`] times gives up |
//! | the giver is killed before `serving` | nobody: the taker ends, and the service manager starts a server as after a crash |
//! | the giver is killed after it | the taker |
//! | the taker is killed after it | nobody, as whenever a server is killed |
//! | `serving` came after the giver's patience, and the taker is killed already | nobody: the giver ends with an error |
//!
//! **The wait hardly depends on the number of discs and clients**, but on that of requests under way: files, listeners, counters
//! and the sockets of clients are lent while the old process serves, and of what has not changed since only a number is said.
//! That is checked against what was lent: a disc that is not the same any more, or not there, or as large, or a client that was
//! not lent, is refused with everything else.
//!
//! The lock of the state directory and those of the data files are the same open file descriptions in both, so no third
//! process gets in between (safety rule 10), and what was acknowledged is in the files before they change hands.
//!
//! **What is not carried.** Requests are carried as they are, with payloads and replies cut anywhere (safety rule 26). Clients
//! that are still in their handshake and have no business here are closed. An import is not interrupted: the upgrade is
//! refused. Clients whose TLS ends in the old process cannot be carried: they are closed before the discs are frozen, when what
//! they have asked for is answered, and connect again.
//!
//! * [`channel`]: messages with descriptors. [`state`]: the discs as bytes.
//! * [`giver`] and [`taker`]: the two sides. [`fuzz`]: what must hold whatever is handed over.
//!
//! Deliberately absent: going back to an older program that knows no upgrade (stop it and start the other one), and the
//! stand-alone server, which has nobody to ask it.

pub mod channel;
pub mod fuzz;
pub mod giver;
pub mod state;
pub mod taker;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The form of what is handed over. A taker that does not know it says so, and the giver serves on.
pub const FORMAT: u32 = 4;

/// How long the new program may take until it is ready: rings, pools, and the loading of a program on a busy machine, whose
/// disks may be slow as well. Nobody waits for it.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take to read the sidecars of all discs, and to open them. Nobody waits for it but the brain.
pub const PREPARED_DEADLINE: Duration = Duration::from_secs(60);

/// How long clients that cannot be carried may take to take their last replies; then they end with the old process.
pub const UNCARRIED_DEADLINE: Duration = Duration::from_secs(2);

/// How often it is looked whether they are gone.
pub const UNCARRIED_PAUSE: Duration = Duration::from_millis(20);

/// How long the operations in flight may take to end while the clients wait.
pub const FREEZE_DEADLINE: Duration = Duration::from_millis(60);

/// How often it is tried to freeze all discs: a slow flush is over some time. With the pauses it is some 26 seconds.
pub const FREEZE_TRIES: u32 = 100;

/// How long the discs go on between two tries.
pub const FREEZE_PAUSE: Duration = Duration::from_millis(200);

/// How long the new process may take to take everything in while the clients wait. It takes milliseconds; a process that
/// takes this long does not come back.
pub const SERVING_DEADLINE: Duration = Duration::from_secs(2);

/// What the giver says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GiverSaid {
    /// No record changes any more: read them, and open the discs. Descriptors: what is known of the discs, the lock of the
    /// state directory, perhaps a listener for metrics, and those of the discs and their clients. Further messages bring the rest of them.
    Lent(state::Contents),
    /// What the discs have become. Descriptors: the state, and those of clients that are not as they were.
    State(state::Contents),
    /// More descriptors.
    Descriptors,
}

/// What the taker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TakerSaid {
    /// It can run here.
    Ready,
    /// It knows the discs.
    Prepared,
    /// It has everything, and serves from now on.
    Serving,
    /// It cannot, for this reason, and ends.
    Failed(String),
}
