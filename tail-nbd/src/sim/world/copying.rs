//! Discs that are copied while they are used, as a move does it: what is noted as written is all that is copied again.

use super::{Answer, Export, Frozen, Standing, World};
use crate::disc::dirty::Dirty;
use crate::geometry::DiscSize;
use crate::mailbox::Letter;
use crate::shard::engine::Engine;
use crate::sim::disk::Disk;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// What a disc is copied to.
pub(super) struct Copying {
    /// The disc begins to note what is written.
    begun: Option<Answer>,
    copy: Vec<u8>,
}

/// What brakes let through: nothing, little, some, and all.
const RATES: [Option<u64>; 4] = [Some(1), Some(64 << 10), Some(4 << 20), None];

impl World {
    /// Begins to copy a disc, goes on with it, or gives it up.
    pub(super) fn copy(&mut self, disc: usize) -> Option<Letter> {
        let export = &mut self.exports[disc];
        let (number, (reply, answer)) = (export.number, oneshot::channel());
        if export.copying.is_none() {
            if !matches!(export.standing, Standing::Serving) || export.doomed || export.frozen.is_some() {
                return None;
            }
            export.copying = Some(Copying { begun: Some(answer), copy: Vec::new() });
            let size = DiscSize::from_bytes(export.disk.size()).expect("it is being served");
            return Some(Letter::Track(number, Some(Box::new(Dirty::new(size))), reply));
        }
        match self.chance.below(8) {
            0 => {
                export.copying = None;
                Some(Letter::Track(number, None, reply))
            }
            1..=3 => {
                let rate = RATES[self.chance.below(RATES.len() as u64) as usize];
                Some(Letter::Brake(number, rate, reply))
            }
            _ => {
                let bytes_max = self.chance.between(1, 64 << 10);
                if let Some(engine) = &mut self.engine {
                    export.copy_written(engine, bytes_max);
                }
                None
            }
        }
    }

    /// Copies all of the discs that have begun to note what is written, and the rest of those that are frozen: then the
    /// copy is the disc.
    pub(super) fn check_copies(&mut self) -> Result<(), String> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        for export in &mut self.exports {
            let is_lost = export.doomed || !matches!(export.standing, Standing::Serving);
            let Some(copying) = export.copying.as_mut().filter(|_| !is_lost) else {
                export.copying = None;
                continue;
            };
            if let Some(answer) = &mut copying.begun {
                match answer.try_recv() {
                    Err(TryRecvError::Empty) => continue,
                    Ok(Ok(())) => (copying.begun, copying.copy) = (None, all_of(&export.disk)),
                    other => return Err(format!("disc {}: it cannot be copied: {other:?}", export.number)),
                }
            }
            if matches!(export.frozen, Some(Frozen::Answered)) {
                while export.copy_written(engine, u64::MAX) > 0 {}
                let copied = export.copying.as_ref().is_none_or(|copying| copying.copy == all_of(&export.disk));
                if !copied {
                    return Err(format!("disc {}: what was written was not noted", export.number));
                }
            }
        }
        Ok(())
    }
}

impl Export {
    /// Copies some of what was written, and says how much is left.
    fn copy_written(&mut self, engine: &mut Engine, bytes_max: u64) -> u64 {
        let Some(copying) = self.copying.as_mut().filter(|copying| copying.begun.is_none()) else { return 0 };
        let (reply, mut answer) = oneshot::channel();
        engine.deliver(Letter::TakeWritten(self.number, bytes_max, reply));
        let Ok(Ok(taken)) = answer.try_recv() else {
            self.copying = None;
            return 0;
        };
        for run in taken.runs {
            self.disk.read(run.offset(), &mut copying.copy[run.offset() as usize..run.end() as usize]);
        }
        taken.left_bytes
    }
}

fn all_of(disk: &Disk) -> Vec<u8> {
    let mut all = vec![0; disk.size() as usize];
    disk.read(0, &mut all);
    all
}
