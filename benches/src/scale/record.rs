//! What a measurement of scale saves.

use crate::{
    figures::{self, Figure},
    record::{Machine, MemoryPoint},
};
use serde::Serialize;

/// A measurement of scale, as it is saved.
#[derive(Debug, Clone, Serialize)]
pub struct Scale {
    /// Version of this record: [`crate::record::FORMAT`].
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// Discs, each with an idle client.
    pub discs_count: u64,
    /// Threads of the tail that serve.
    pub shards_count: usize,
    /// Discs that were busy at once.
    pub busy_count: u64,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Memory while there were more and more discs.
    pub memory: Vec<MemoryPoint>,
}

impl Scale {
    /// True when every bar is met.
    pub fn is_met(&self) -> bool {
        figures::all_met(&self.figures)
    }

    /// For people.
    pub fn table(&self) -> String {
        figures::table(&self.figures)
    }
}
