//! Moves with a limit: is it kept, what do guests keep, and does a move end that its guest outruns?

use super::{
    cluster::DEADLINE,
    guest::{BLOCK_BYTES, trace},
    record::Limited,
    run::{DISC, Lab},
    watch::{Watch, watch},
};
use crate::figures::Bar;
use anyhow::{Context, Result};
use std::{
    thread,
    time::{Duration, Instant},
};

/// What a limited move is limited to, in 10⁶ bytes a second.
const LIMIT_MB_PER_S: u32 = 50;
/// How long a limit is kept within its bound.
const WINDOW: Duration = Duration::from_secs(2);
/// Writes a second of a guest that has its pace.
const STEADY_RATE: u64 = 5000;
/// How long a guest writes alone, to compare with, and how long before that.
const ALONE: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(1);
/// How much longer than without a guest a move may take that its guest outruns, before it is called off.
const OUTRUN_TIMES_MAX: f64 = 20.0;
/// What a guest keeps beside a limited move: of its rate, and times its p99.
const RATE_KEPT: Bar = Bar::AtLeast(0.7);
const P99_TIMES: Bar = Bar::AtMost(3.0);

impl Lab {
    /// Is a limit kept, and does a guest with a pace of its own notice?
    pub(super) fn limited(&mut self) -> Result<()> {
        let guest = self.guest(Some(STEADY_RATE), 2)?;
        let alone = write_alone();
        let moving = self.cluster.begin_move(DISC, Some(LIMIT_MB_PER_S))?;
        let (seen, _) = watch(&self.cluster, &moving, DEADLINE)?;
        self.cluster.finish_move(&moving)?;
        let written = guest.stop()?;
        let name = format!("a guest of {STEADY_RATE} writes a second");
        self.note_beside(&name, &written.trace, alone, seen.ends())?;
        self.note_limit(&name, &seen);
        self.plot_move(format!("A move limited to {LIMIT_MB_PER_S} MB/s, {name}"), &written.trace, &seen);
        let checked = written.check()?;
        self.note_checked("beside a limited move", checked);
        Ok(())
    }

    /// Does a guest that writes as fast as it can keep its speed while the disc is copied?
    pub(super) fn flat_out(&mut self) -> Result<()> {
        let guest = self.guest(None, 4)?;
        let alone = write_alone();
        let moving = self.cluster.begin_move(DISC, Some(LIMIT_MB_PER_S))?;
        let (seen, has_moved) = watch(&self.cluster, &moving, self.patience())?;
        if has_moved {
            self.cluster.finish_move(&moving)?;
        } else {
            self.cluster.cancel_move(&moving)?;
        }
        let written = guest.stop()?;
        let name = "a guest that writes as fast as it can";
        let first_copy = (seen.ends().0, seen.first_copy_end());
        self.note_beside(&format!("{name}, during the first copy"), &written.trace, alone, first_copy)?;
        self.note_limit(name, &seen);
        let (begin, end) = seen.ends();
        let times = (end - begin).as_secs_f64() / self.idle_seconds();
        let what = format!("{name}: time against an idle disc's ({OUTRUN_TIMES_MAX}: called off)");
        self.note(what, times, "×", None);
        self.plot_move(format!("A move limited to {LIMIT_MB_PER_S} MB/s, {name}"), &written.trace, &seen);
        let checked = written.check()?;
        self.note_checked("beside a limited move, as fast as it can", checked);
        Ok(())
    }

    /// Does a move come to its end though the guest writes three times faster than it may copy?
    pub(super) fn outrun(&mut self) -> Result<()> {
        let rate = u64::from(LIMIT_MB_PER_S) * 3_000_000 / BLOCK_BYTES as u64;
        let guest = self.guest(Some(rate), 3)?;
        let moving = self.cluster.begin_move(DISC, Some(LIMIT_MB_PER_S))?;
        let (seen, has_moved) = watch(&self.cluster, &moving, self.patience())?;
        let times = if has_moved {
            self.cluster.finish_move(&moving)?.took.as_secs_f64() / self.idle_seconds()
        } else {
            self.cluster.cancel_move(&moving)?;
            OUTRUN_TIMES_MAX
        };
        let written = guest.stop()?;
        self.note("three times outrun: time against an idle disc's (20: called off)", times, "×", Bar::AtMost(3.0));
        self.note_limit("a guest that outruns it three times", &seen);
        self.plot_move(
            format!("A move limited to {LIMIT_MB_PER_S} MB/s, a guest that outruns it three times"),
            &written.trace,
            &seen,
        );
        let checked = written.check()?;
        self.note_checked("outrunning its move", checked);
        Ok(())
    }

    /// What an idle disc would take at the limit.
    fn idle_seconds(&self) -> f64 {
        self.config.data_mib as f64 * 1.048_576 / f64::from(LIMIT_MB_PER_S)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.idle_seconds() * OUTRUN_TIMES_MAX)
    }

    fn note_beside(
        &mut self,
        name: &str,
        written: &[trace::Answer],
        alone: (Instant, Instant),
        beside: (Instant, Instant),
    ) -> Result<()> {
        let stretch = |(from, to)| trace::between(written, from, to).context("the guest has written nothing");
        let (alone, beside) = (stretch(alone)?, stretch(beside)?);
        self.note(format!("{name}: rate alone"), alone.rate, "/s", None);
        self.note(format!("{name}: rate beside the move, against alone"), beside.rate / alone.rate, "×", RATE_KEPT);
        self.note(format!("{name}: p99 alone"), alone.p99_ms, "ms", None);
        self.note(format!("{name}: p99 beside the move, against alone"), beside.p99_ms / alone.p99_ms, "×", P99_TIMES);
        Ok(())
    }

    fn note_limit(&mut self, guest: &str, seen: &Watch) {
        let rates = seen.rates(WINDOW);
        let fastest = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let bar = Bar::AtMost(f64::from(LIMIT_MB_PER_S) * 1.05);
        let name = format!("fastest {} s of a move limited to {LIMIT_MB_PER_S} MB/s, {guest}", WINDOW.as_secs());
        self.note(name, fastest, "MB/s", bar);
        let every = rates.len().div_ceil(300).max(1);
        let rates = rates.into_iter().step_by(every).collect();
        self.moves.limited.push(Limited { guest: guest.to_owned(), rates });
    }
}

/// Lets a guest write alone, and returns from when to when it counts.
fn write_alone() -> (Instant, Instant) {
    thread::sleep(WARM_UP);
    let begun = Instant::now();
    thread::sleep(ALONE);
    (begun, Instant::now())
}
