//! Many discs that move at once.

use super::{
    cluster::DEADLINE,
    guest::{Checked, Guest, Mix, Place, Plan, nbd},
    run::{BLOCKS_IN_MIB, Lab},
};
use crate::{
    figures::Bar,
    statistics::{fairness, percentile},
};
use anyhow::{Result, ensure};
use std::{
    thread,
    time::{Duration, Instant},
};

/// The first of the discs that move at once, their size, and how much is on each.
const FIRST: u64 = 100;
const BYTES: u64 = 64 << 20;
const MIB: u64 = 16;
/// Writes a second of each one's guest.
const RATE: u64 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The last of them has answered something after its move by then.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// Equal speeds have 1; one after another, a hundred discs have 0.16.
const FAIRNESS_MIN: f64 = 0.8;

impl Lab {
    /// Do all come to their end, share what there is, and is nobody paused for long?
    pub(super) fn many(&mut self) -> Result<()> {
        let numbers: Vec<u64> = (FIRST..FIRST + self.config.many_count).collect();
        let blocks_count = MIB * BLOCKS_IN_MIB;
        for number in &numbers {
            self.cluster.create(*number, BYTES)?;
            nbd::fill(&Place::disc(*number), blocks_count)?;
        }
        let plan = |number| {
            let place = Place::disc(number);
            Plan { place, blocks_count, depth: 1, rate: Some(RATE), mix: Mix::Writes, seed: number }
        };
        let guests: Vec<Guest> = numbers.iter().map(|number| Guest::start(plan(*number))).collect::<Result<_>>()?;
        let begun = Instant::now();
        let moves: Vec<_> =
            numbers.iter().map(|number| self.cluster.begin_move(*number, None)).collect::<Result<_>>()?;
        let mut speeds: Vec<Option<f64>> = vec![None; moves.len()];
        while speeds.contains(&None) {
            thread::sleep(LOOK_EVERY);
            ensure!(begun.elapsed() < DEADLINE, "not all have moved after {DEADLINE:?}");
            for (speed, moving) in speeds.iter_mut().zip(&moves).filter(|(speed, _)| speed.is_none()) {
                if self.cluster.has_moved(moving)? {
                    *speed = Some(MIB as f64 / moving.age().as_secs_f64());
                }
            }
        }
        let took = begun.elapsed();
        let mut reported_ms = vec![];
        for moving in &moves {
            reported_ms.push(self.cluster.finish_move(moving)?.pause_ms() as f64);
        }
        thread::sleep(AFTERWARDS);
        let pauses_ms: Vec<f64> = guests.iter().map(|guest| guest.take_worst().as_secs_f64() * 1e3).collect();
        let mut checked = Checked::default();
        for guest in guests {
            checked.add(guest.stop()?.check()?);
        }
        let speeds: Vec<f64> = speeds.into_iter().flatten().collect();
        let count = numbers.len();
        self.note(format!("{count} discs at once move in"), took.as_secs_f64(), "s", None);
        let total = count as f64 * MIB as f64 / took.as_secs_f64();
        self.note("which is, together", total, "MiB/s", None);
        let name = format!("fairness of the speeds of {count} discs at once (1: all the same)");
        self.note(name, fairness(&speeds), "", Bar::AtLeast(FAIRNESS_MIN));
        let name = |what| format!("longest write of a guest of {count} discs at once, {what}");
        self.note(name("median"), percentile(&pauses_ms, 0.5), "ms", None);
        self.note(name("p99"), percentile(&pauses_ms, 0.99), "ms", Bar::AtMost(100.0));
        self.note(name("worst"), percentile(&pauses_ms, 1.0), "ms", Bar::AtMost(500.0));
        let name = |what| format!("pauses that the sources of {count} discs reported, {what}");
        self.note(name("median"), percentile(&reported_ms, 0.5), "ms", None);
        self.note(name("worst"), percentile(&reported_ms, 1.0), "ms", None);
        self.note_checked("many at once", checked);
        numbers.into_iter().try_for_each(|number| self.cluster.remove(number))
    }
}
