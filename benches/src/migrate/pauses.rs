//! A disc without a limit: idle, under load again and again, and large with little on it.

use super::{
    cluster::{DEADLINE, Moved},
    guest::{nbd, trace},
    record::{Timeline, Wire},
    run::{BLOCKS_IN_MIB, DEPTH, DISC, DISC_BYTES, Lab},
    watch::{Watch, watch},
};
use crate::{figures::Bar, migrate::guest::Place, statistics::percentile};
use anyhow::{Context, Result};
use std::{
    thread,
    time::{Duration, Instant},
};

/// A large disc with little on it.
const SPARSE_DISC: u64 = 2;
const SPARSE_BYTES: u64 = 64 << 30;
const SPARSE_MIB: u64 = 100;
/// Before and after a move whose guest is plotted.
const MARGIN: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A move under load that takes longer than so many times an idle one, and this, is called off; after so many, no more are tried.
const IDLE_TIMES_MAX: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(10);
const CALLED_OFF_MAX: u32 = 3;

impl Lab {
    /// Nobody writes: how fast, how much on the wire, and are the holes still there?
    pub(super) fn idle(&mut self) -> Result<()> {
        self.cluster.create(DISC, DISC_BYTES)?;
        nbd::fill(&Place::disc(DISC), self.data_blocks())?;
        let before = self.cluster.allocated_bytes(DISC)?;
        let moving = self.cluster.begin_move(DISC, None)?;
        let (seen, _) = watch(&self.cluster, &moving, DEADLINE)?;
        let Moved { took, .. } = self.cluster.finish_move(&moving)?;
        let after = self.cluster.allocated_bytes(DISC)?;
        self.idle = Some(took);
        self.note("an idle disc moves in", took.as_secs_f64(), "s", None);
        self.note("which is", self.config.data_mib as f64 / took.as_secs_f64(), "MiB/s", None);
        self.note("allocated after against before", after as f64 / before as f64, "×", Bar::AtMost(1.01));
        self.note("the same, at least", after as f64 / before as f64, "×", Bar::AtLeast(0.99));
        let wire = Wire {
            name: "idle".to_owned(),
            received_bytes: seen.received_bytes(),
            allocated_bytes: before,
            dirtied_bytes: 0,
        };
        // Its headers are on the wire too.
        self.note("bytes on the wire against allocated, idle", wire.share(), "×", Bar::AtMost(1.01));
        self.moves.wires.push(wire);
        Ok(())
    }

    /// What does the guest see, and is every byte there afterwards?
    pub(super) fn busy(&mut self) -> Result<()> {
        let guest = self.guest(None, 1)?;
        thread::sleep(2 * MARGIN);
        let idle = self.idle.context("the idle disc comes first")?;
        let (mut reported_ms, mut called_off_count) = (0, 0);
        let (mut watches, mut allocated) = (Vec::new(), Vec::new());
        for _ in 0..self.config.moves_count {
            let allocated_bytes = self.cluster.allocated_bytes(DISC)?;
            guest.take_worst();
            let moving = self.cluster.begin_move(DISC, None)?;
            let (seen, has_moved) = watch(&self.cluster, &moving, idle * IDLE_TIMES_MAX + PATIENCE)?;
            if !has_moved {
                self.cluster.cancel_move(&moving)?;
                called_off_count += 1;
                if called_off_count == CALLED_OFF_MAX {
                    break;
                }
                continue;
            }
            watches.push(seen);
            allocated.push(allocated_bytes);
            reported_ms = reported_ms.max(self.cluster.finish_move(&moving)?.pause_ms());
            // What waited for the reconnect has been answered by then.
            let answered = guest.answered_count();
            while guest.answered_count() < answered + 10 * DEPTH as u64 {
                thread::sleep(LOOK_EVERY);
            }
            self.moves.pauses_ms.push(guest.take_worst().as_secs_f64() * 1e3);
        }
        thread::sleep(MARGIN);
        let written = guest.stop()?;
        let checked = written.check()?;
        self.note("moves under load", watches.len() as f64, "", Bar::AtLeast(1.0));
        let name = format!("moves under load that were called off after {IDLE_TIMES_MAX} × the idle time");
        self.note(name, f64::from(called_off_count), "", Bar::AtMost(0.0));
        self.note_checked("under load", checked);
        let Some(first) = watches.first() else { return Ok(()) };
        let title = format!("A move of {} MiB, {DEPTH} writes in flight", self.config.data_mib);
        self.plot_move(title, &written.trace, first);
        let [median, p99, worst] = [0.5, 0.99, 1.0].map(|share| percentile(&self.moves.pauses_ms, share));
        self.note("longest write of a move, median", median, "ms", None);
        self.note("longest write of a move, p99", p99, "ms", Bar::AtMost(100.0));
        self.note("longest write of a move, worst", worst, "ms", Bar::AtMost(500.0));
        self.note("longest pause that a source reported", reported_ms as f64, "ms", None);
        self.note("reconnects", written.reconnects_count as f64, "", None);
        self.note_wires(&written.trace, &watches, &allocated);
        Ok(())
    }

    fn note_wires(&mut self, trace: &[trace::Answer], watches: &[Watch], allocated: &[u64]) {
        let wire = |(nth, (watch, allocated)): (usize, (&Watch, &u64))| Wire {
            name: format!("under load, {}", nth + 1),
            received_bytes: watch.received_bytes(),
            allocated_bytes: *allocated,
            dirtied_bytes: watch.dirtied_blocks(trace) * nbd::BLOCK_BYTES as u64,
        };
        let wires: Vec<Wire> = watches.iter().zip(allocated).enumerate().map(wire).collect();
        let worst = wires.iter().map(Wire::share).fold(0.0, f64::max);
        let name = "bytes on the wire against allocated and 1.1 × dirtied, under load, worst";
        self.note(name, worst, "×", Bar::AtMost(1.0));
        self.moves.wires.extend(wires);
    }

    /// Keeps what a guest saw through a move for the report.
    pub(super) fn plot_move(&mut self, title: String, trace: &[trace::Answer], watch: &Watch) {
        let (first, last) = watch.ends();
        let from = first.checked_sub(MARGIN).unwrap_or(first);
        let until: Instant = last + MARGIN;
        // A long move is not plotted in more points than can be seen.
        let step = STEP.max((until - from) / 300);
        let stretches = trace::timeline(trace, from, until, step);
        self.moves.timelines.push(Timeline { title, stretches, marks: watch.marks(from) });
    }

    /// Is the time that of the data, or that of the disc?
    pub(super) fn sparse(&mut self) -> Result<()> {
        self.cluster.create(SPARSE_DISC, SPARSE_BYTES)?;
        nbd::fill(&Place::disc(SPARSE_DISC), SPARSE_MIB * BLOCKS_IN_MIB)?;
        let moved = self.cluster.move_disc(SPARSE_DISC, None)?;
        let idle = self.idle.context("the idle disc comes first")?.as_secs_f64() / self.config.data_mib as f64;
        let bar = Bar::AtMost(2.0 * idle * SPARSE_MIB as f64 + 1.0);
        self.note("a disc of 64 GiB with 100 MiB on it moves in", moved.took.as_secs_f64(), "s", bar);
        self.cluster.remove(SPARSE_DISC)
    }
}
