//! A move as it is seen from outside, from its order to its end: phases, passes, and bytes that reach the target.

use super::{
    cluster::{Cluster, Move},
    guest::trace,
};
use anyhow::Result;
use serde::Serialize;
use std::{
    thread,
    time::{Duration, Instant},
};

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A thousandth of the windows in which rates are measured.
const READ_CLOSE: Duration = Duration::from_millis(2);
const READ_TRIES: u32 = 5;

/// What was seen of a move.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    looks: Vec<Look>,
}

#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    phase: String,
    pass: u64,
    /// By the target's storage interface since the first look.
    received_bytes: u64,
}

/// The beginning of a phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mark {
    /// Since something else began, in seconds.
    pub seconds: f64,
    /// Its name, and of further passes the number.
    pub name: String,
}

/// Watches a move until the disc has its new owner, or `patience` is over. True when it has.
///
/// # Errors
/// When the move fails.
pub fn watch(cluster: &Cluster, moving: &Move, patience: Duration) -> Result<(Watch, bool)> {
    let mut watch = Watch::default();
    let before = cluster.received_bytes(moving)?;
    loop {
        let (at, received_bytes) = read_closely(|| cluster.received_bytes(moving))?;
        let has_moved = cluster.has_moved(moving)?;
        let report = cluster.source_report(moving);
        let phase = report.get("phase").and_then(|phase| phase.as_str()).unwrap_or("ordered").to_owned();
        let pass = report.get("pass").and_then(serde_json::Value::as_u64).unwrap_or_default();
        watch.looks.push(Look { at, phase, pass, received_bytes: received_bytes - before });
        if has_moved || moving.age() > patience {
            return Ok((watch, has_moved));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Reads a counter, with the time at which it was read: on a busy machine it may take long, and is read again then.
fn read_closely(read: impl Fn() -> Result<u64>) -> Result<(Instant, u64)> {
    let mut tries_left = READ_TRIES;
    loop {
        let before = Instant::now();
        let value = read()?;
        let took = before.elapsed();
        tries_left -= 1;
        if took < READ_CLOSE || tries_left == 0 {
            return Ok((before + took / 2, value));
        }
    }
}

impl Watch {
    /// The first look and the last.
    pub fn ends(&self) -> (Instant, Instant) {
        let end = |look: Option<&Look>| look.expect("there is always one look").at;
        (end(self.looks.first()), end(self.looks.last()))
    }

    /// When the first copy was seen to be over; the last look if it never was.
    pub fn first_copy_end(&self) -> Instant {
        let later = self.looks.iter().find(|look| look.pass > 1 || look.phase == "handover");
        later.map_or(self.ends().1, |look| look.at)
    }

    /// What reached the target, with all headers, in bytes.
    pub fn received_bytes(&self) -> u64 {
        self.looks.last().map_or(0, |look| look.received_bytes)
    }

    /// What a guest has dirtied: different blocks of each pass, added up.
    pub fn dirtied_blocks(&self, trace: &[trace::Answer]) -> u64 {
        let mut bounds: Vec<Instant> = self.looks.first().map(|look| look.at).into_iter().collect();
        let changes = self.looks.windows(2).filter(|pair| pair[0].pass != pair[1].pass);
        bounds.extend(changes.map(|pair| pair[1].at));
        bounds.push(self.ends().1);
        trace::dirtied_blocks(trace, &bounds)
    }

    /// Where its phases begin, in seconds since `from`.
    pub fn marks(&self, from: Instant) -> Vec<Mark> {
        let mut marks: Vec<Mark> = Vec::new();
        for look in &self.looks {
            let name = if look.pass > 1 && look.phase == "converging" {
                format!("pass {}", look.pass)
            } else {
                look.phase.clone()
            };
            if marks.last().is_none_or(|mark| mark.name != name) {
                marks.push(Mark { seconds: look.at.saturating_duration_since(from).as_secs_f64(), name });
            }
        }
        marks
    }

    /// What reached the target in each `window` that ends with a look: seconds since the first look, 10⁶ bytes a second.
    pub fn rates(&self, window: Duration) -> Vec<(f64, f64)> {
        let begin = self.ends().0;
        let mut rates = Vec::new();
        let mut from = 0;
        for look in &self.looks {
            // The shortest time that is not shorter than the window.
            while look.at - self.looks[from].at >= window
                && self.looks.get(from + 1).is_some_and(|next| look.at - next.at >= window)
            {
                from += 1;
            }
            let took = look.at - self.looks[from].at;
            if took >= window {
                let bytes = look.received_bytes - self.looks[from].received_bytes;
                rates.push(((look.at - begin).as_secs_f64(), bytes as f64 / took.as_secs_f64() / 1e6));
            }
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(begin: Instant, looks: &[(u64, &str, u64, u64)]) -> Watch {
        let look = |&(ms, phase, pass, received_bytes): &(u64, &str, u64, u64)| Look {
            at: begin + Duration::from_millis(ms),
            phase: phase.to_owned(),
            pass,
            received_bytes,
        };
        Watch { looks: looks.iter().map(look).collect() }
    }

    #[test]
    fn a_counter_that_was_read_slowly_is_read_again() {
        let reads = std::cell::Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                thread::sleep(READ_CLOSE);
            }
            Ok(reads.get())
        };
        let before = Instant::now();
        let (at, value) = read_closely(read).unwrap();
        assert!(value >= 2, "the first took too long");
        assert!(at >= before + READ_CLOSE && at <= Instant::now());
    }

    #[test]
    fn the_rate_of_a_window_is_that_of_its_bytes() {
        let looks: Vec<_> =
            (0..=40).map(|tenth| (tenth * 100, "copying", 1, if tenth < 30 { 0 } else { 60_000_000 })).collect();
        let watch = example(Instant::now(), &looks);
        let rates = watch.rates(Duration::from_secs(2));
        assert_eq!(rates.len(), 21, "the first ends after two seconds");
        assert!(rates.iter().filter(|rate| rate.0 < 2.95).all(|rate| rate.1 == 0.0));
        assert!(rates.iter().filter(|rate| rate.0 > 2.95).all(|rate| (rate.1 - 30.0).abs() < 1e-6), "{rates:?}");
        assert_eq!(example(Instant::now(), &looks[..3]).rates(Duration::from_secs(2)), []);
    }

    #[test]
    fn phases_and_passes_are_marked_where_they_begin() {
        let begin = Instant::now();
        let looks = [
            (0, "connecting", 0, 0),
            (100, "copying", 1, 10),
            (200, "copying", 1, 20),
            (300, "converging", 2, 30),
            (400, "converging", 3, 40),
            (500, "handover", 3, 50),
        ];
        let watch = example(begin, &looks);
        let names: Vec<_> = watch.marks(begin).into_iter().map(|mark| mark.name).collect();
        assert_eq!(names, ["connecting", "copying", "pass 2", "pass 3", "handover"]);
        assert_eq!(watch.first_copy_end(), begin + Duration::from_millis(300));
        assert_eq!(watch.received_bytes(), 50);
    }

    #[test]
    fn what_is_dirtied_in_each_pass_is_added_up() {
        let begin = Instant::now();
        let watch = example(begin, &[(0, "copying", 1, 0), (100, "converging", 2, 0), (200, "handover", 2, 0)]);
        let answer =
            |ms, block| trace::Answer { at: begin + Duration::from_millis(ms), took_us: 1, block: Some(block) };
        assert_eq!(watch.dirtied_blocks(&[answer(10, 1), answer(20, 1), answer(110, 1), answer(120, 2)]), 3);
    }
}
