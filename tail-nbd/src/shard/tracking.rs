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
}
