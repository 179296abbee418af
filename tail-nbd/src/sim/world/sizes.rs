//! Discs that grow and shrink.

use super::{Answer, Export, Standing, World};
use crate::mailbox::Letter;
use crate::shard::ShardError;
use crate::sim::history::Tick;
use tokio::sync::oneshot;

/// A change of size that is not answered.
pub(super) struct Resize {
    pub(super) answer: Answer,
    bytes: u64,
    /// Data beyond it is no obstacle.
    cuts: bool,
}

impl World {
    /// Orders another size for a disc, between three quarters and one and a half of what it began with: attachments have
    /// something to write to in any case.
    pub(super) fn resize(&mut self, disc: usize) -> Letter {
        let quarter = self.plan.disc_bytes[disc] / 4;
        let bytes = self.chance.between(3 * quarter, 6 * quarter) & !511;
        let cuts = self.chance.one_in(4);
        let export = &mut self.exports[disc];
        let (reply, answer) = oneshot::channel();
        export.standing = Standing::Resizing(Resize { answer, bytes, cuts });
        if cuts {
            return Letter::Resize(export.number, bytes, reply);
        }
        export.disk.make_room(bytes);
        Letter::ResizeKeepingData(export.number, bytes, reply)
    }
}

impl Export {
    /// What was ordered is done, or refused.
    pub(super) fn finish_resize(&mut self, result: &Result<(), ShardError>, now: Tick) -> Result<(), String> {
        let Standing::Resizing(Resize { bytes, cuts, .. }) = std::mem::replace(&mut self.standing, Standing::Serving)
        else {
            return Err(format!("disc {}: nobody resizes it", self.number));
        };
        match result {
            Ok(()) if !cuts && !self.disk.is_zero_from(bytes) => {
                Err(format!("disc {}: data beyond {bytes} is cut off", self.number))
            }
            Ok(()) => {
                self.disk.resize(bytes);
                self.history.resize(bytes, now);
                Ok(())
            }
            Err(ShardError::WouldLoseData { at, .. }) if !cuts && (bytes..self.disk.size()).contains(at) => Ok(()),
            Err(_) if self.doomed => Ok(()),
            Err(error) => Err(format!("disc {}: a change to {bytes} is refused: {error}", self.number)),
        }
    }
}
