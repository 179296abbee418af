//! What was written to a disc while it is copied to another tail.
//!
//! The map is marked when an operation on the file is over, whatever its result, and before anybody is answered
//! ([`Shard::handle_transfer`]); see [`Dirty`] for why nothing is lost. It lives with the disc: a disc that was closed,
//! or has panicked, has none any more, and whoever copies it must begin again.

use super::error::ShardError;
use super::owner::Shard;
use crate::disc::State;
use crate::disc::dirty::Dirty;
use crate::geometry::ByteRange;
use crate::nbd::request::{Command, Request};
use spine::id::DiscNumber;

/// What was taken from a map of written blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What is to be copied again; clean from now on.
    pub runs: Vec<ByteRange>,
    /// What is dirty besides, in bytes.
    pub left_bytes: u64,
}

/// Runs that are taken at once: each costs the copier a few calls.
const RUNS_MAX: usize = 1024;

impl Shard {
    /// Begins to note what is written, in a map that is all clean; `None` ends it.
    pub(super) fn track(&mut self, number: DiscNumber, map: Option<Box<Dirty>>) -> Result<(), ShardError> {
        let token = self.find(number)?;
        let Some(disc) = self.discs.get_mut(token) else { return Err(ShardError::NotOpen(number)) };
        if map.is_some() && !matches!(disc.state, State::Serving) {
            return Err(ShardError::Busy(number));
        }
        disc.dirty = map;
        if let Some(brake) = &mut disc.brake {
            brake.forgive();
        }
        Ok(())
    }

    /// Takes what was written, about `bytes_max` of it; 0 only asks how much there is.
    pub(super) fn take_written(&mut self, number: DiscNumber, bytes_max: u64) -> Result<Taken, ShardError> {
        let token = self.find(number)?;
        let disc = self.discs.get_mut(token).filter(|disc| disc.is_frozen() || matches!(disc.state, State::Serving));
        // Anything else has lost track, or is about to.
        let Some(dirty) = disc.and_then(|disc| disc.dirty.as_mut()) else { return Err(ShardError::Busy(number)) };
        let runs = dirty.take(bytes_max, RUNS_MAX);
        Ok(Taken { runs, left_bytes: dirty.bytes() })
    }

    /// Says of each range whether it was written and not taken yet, or is being written. A write that is over is in the map,
    /// and one that is not is still among the transfers.
    pub(super) fn touched(&mut self, number: DiscNumber, ranges: &[ByteRange]) -> Result<Vec<bool>, ShardError> {
        let token = self.find(number)?;
        let dirty = self.discs.get(token).and_then(|disc| disc.dirty.as_ref()).ok_or(ShardError::Busy(number))?;
        let changed = |request: &Request| match request.command {
            Command::Write { range, .. } | Command::Trim { range, .. } | Command::WriteZeroes { range, .. } => {
                Some(range)
            }
            _ => None,
        };
        let its = self.transfers.iter().filter(|(_, transfer)| transfer.disc == token);
        let in_flight: Vec<ByteRange> = its.filter_map(|(_, transfer)| changed(&transfer.request)).collect();
        let is_touched =
            |range: &ByteRange| dirty.is_marked(*range) || in_flight.iter().any(|change| change.overlaps(*range));
        Ok(ranges.iter().map(is_touched).collect())
    }
}
