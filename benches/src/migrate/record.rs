//! What a measurement of moves saves.

use super::{guest::trace::Stretch, watch::Mark};
use crate::{
    figures::{self, Figure},
    record::Machine,
};
use serde::Serialize;

/// A measurement of moves, as it is saved.
#[derive(Debug, Clone, Serialize)]
pub struct Moves {
    /// Version of this record: [`crate::record::FORMAT`].
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// The longest write of each move under load, in milliseconds, in order.
    pub pauses_ms: Vec<f64>,
    /// Guests over time, each through a move.
    pub timelines: Vec<Timeline>,
    /// Limited moves over time.
    pub limited: Vec<Limited>,
    /// What moves cost on the wire.
    pub wires: Vec<Wire>,
    /// How fast discs got to another place, by the way they took.
    pub speeds: Vec<Speed>,
    /// What a reader must know: what was left out, what was wrong.
    pub remarks: Vec<String>,
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// True for a look.
    pub quick: bool,
    /// Moves under load.
    pub moves_count: u32,
    /// MiB on the disc that moves.
    pub data_mib: u64,
    /// Discs that move at once.
    pub many_count: u64,
    /// Moves under checkers, of each of two discs.
    pub verify_count: u32,
    /// Moves of a booted machine's disc.
    pub machine_count: u32,
    /// Rounds of the comparison.
    pub rounds_count: u32,
    /// Threads of each tail that serve.
    pub shards_count: usize,
    /// How the pools' files are read and written.
    pub io: String,
}

/// A guest through a move.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// Which move, and which guest.
    pub title: String,
    /// By stretches of time.
    pub stretches: Vec<Stretch>,
    /// Where the move's phases begin.
    pub marks: Vec<Mark>,
}

/// A limited move.
#[derive(Debug, Clone, Serialize)]
pub struct Limited {
    /// Beside which guest.
    pub guest: String,
    /// Seconds since it began; 10⁶ bytes a second that reached the target in the two seconds before.
    pub rates: Vec<(f64, f64)>,
}

/// Bytes of a move.
#[derive(Debug, Clone, Serialize)]
pub struct Wire {
    /// Which.
    pub name: String,
    /// That reached the target, with all headers.
    pub received_bytes: u64,
    /// That the disc had allocated before.
    pub allocated_bytes: u64,
    /// In blocks that the guest dirtied, once a pass.
    pub dirtied_bytes: u64,
}

/// A way to get a disc to another place.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// Which.
    pub way: String,
    /// True with a guest that wrote meanwhile.
    pub loaded: bool,
    /// MiB of data a second, by round.
    pub rounds: Vec<f64>,
}

impl Wire {
    /// Against what is allowed: once what was allocated, and 1.1 times what was dirtied.
    pub fn share(&self) -> f64 {
        self.received_bytes as f64 / (self.allocated_bytes as f64 + 1.1 * self.dirtied_bytes as f64)
    }
}

impl Moves {
    /// True when every bar is met.
    pub fn is_met(&self) -> bool {
        figures::all_met(&self.figures)
    }

    /// For people.
    pub fn table(&self) -> String {
        let remarks = self.remarks.iter().map(|remark| format!("\n- {remark}")).collect::<String>();
        format!("{}{remarks}\n", figures::table(&self.figures))
    }
}
