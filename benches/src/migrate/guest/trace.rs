//! What a guest's answers say: rates and latencies over time, and what was written between two moments; pure.

use serde::Serialize;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// How long after the request, in microseconds.
    pub took_us: u32,
    /// What was changed; none for a flush.
    pub block: Option<u32>,
}

/// A stretch of time of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stretch {
    /// Its middle, in seconds.
    pub seconds: f64,
    /// Answers a second.
    pub rate: f64,
    /// 99 of 100 answers came within so many milliseconds; zero when there were none.
    pub p99_ms: f64,
}

/// Answers a second and p99 between two moments; none when nothing was answered.
pub fn between(trace: &[Answer], from: Instant, to: Instant) -> Option<Stretch> {
    let answers = within(trace, from, to);
    let mut took_us: Vec<u32> = answers.iter().map(|answer| answer.took_us).collect();
    took_us.sort_unstable();
    let p99 = took_us.get((took_us.len() * 99).div_ceil(100).saturating_sub(1))?;
    let seconds = to.saturating_duration_since(from).as_secs_f64();
    (seconds > 0.0).then(|| Stretch {
        seconds: seconds / 2.0,
        rate: answers.len() as f64 / seconds,
        p99_ms: f64::from(*p99) / 1e3,
    })
}

/// The same for each `step` from `from` to `to`.
pub fn timeline(trace: &[Answer], from: Instant, to: Instant, step: Duration) -> Vec<Stretch> {
    let count = (to.saturating_duration_since(from).as_secs_f64() / step.as_secs_f64()) as u32;
    (0..count)
        .map(|nth| {
            let begin = from + step * nth;
            let seconds = (step * nth + step / 2).as_secs_f64();
            let nothing = Stretch { seconds, rate: 0.0, p99_ms: 0.0 };
            between(trace, begin, begin + step).map_or(nothing, |stretch| Stretch { seconds, ..stretch })
        })
        .collect()
}

/// Different blocks that were changed in each of the times between `bounds`, added up.
pub fn dirtied_blocks(trace: &[Answer], bounds: &[Instant]) -> u64 {
    let changed = |pair: &[Instant]| -> HashSet<u32> {
        within(trace, pair[0], pair[1]).iter().filter_map(|answer| answer.block).collect()
    };
    bounds.windows(2).map(|pair| changed(pair).len() as u64).sum()
}

fn within(trace: &[Answer], from: Instant, to: Instant) -> &[Answer] {
    let place = |at: Instant| trace.partition_point(|answer| answer.at < at);
    &trace[place(from)..place(to).max(place(from))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(begin: Instant, answers: &[(u64, u32, Option<u32>)]) -> Vec<Answer> {
        let answer = |&(ms, took_us, block)| Answer { at: begin + Duration::from_millis(ms), took_us, block };
        answers.iter().map(answer).collect()
    }

    #[test]
    fn rates_and_latencies_of_each_stretch() {
        let begin = Instant::now();
        let trace = trace(begin, &[(0, 1000, None), (60, 3000, None), (250, 7000, None)]);
        let step = Duration::from_millis(100);
        let found = timeline(&trace, begin, begin + Duration::from_millis(310), step);
        assert_eq!(found.iter().map(|s| s.rate.round()).collect::<Vec<_>>(), [20.0, 0.0, 10.0]);
        assert_eq!(found.iter().map(|s| s.p99_ms.round()).collect::<Vec<_>>(), [3.0, 0.0, 7.0]);
        assert!((found[2].seconds - 0.25).abs() < 1e-9);
        assert_eq!(between(&trace, begin + step, begin + step * 2), None);
        assert_eq!(between(&trace, begin + step, begin), None, "time does not go back");
    }

    #[test]
    fn a_block_counts_once_a_pass() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let trace = trace(
            begin,
            &[(1, 1, Some(5)), (2, 1, Some(5)), (3, 1, None), (4, 1, Some(6)), (12, 1, Some(5)), (30, 1, Some(9))],
        );
        assert_eq!(dirtied_blocks(&trace, &[at(0), at(10), at(20)]), 3, "5 and 6, then 5 again");
        assert_eq!(dirtied_blocks(&trace, &[at(0)]), 0);
    }
}
