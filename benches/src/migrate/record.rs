//! What a measurement of moves saves.

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
    /// The pause of each move under load, in milliseconds, in order.
    pub pauses_ms: Vec<f64>,
    /// What was measured.
    pub figures: Vec<Figure>,
}

impl Moves {
    /// True when every bar is met.
    pub fn is_met(&self) -> bool {
        figures::all_met(&self.figures)
    }

    /// For people.
    pub fn table(&self) -> String {
        figures::table(&self.figures)
    }
}
