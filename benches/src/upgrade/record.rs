//! What a measurement of upgrades saves.

use super::crowd::Kind;
use crate::{
    figures::{self, Bar, Figure},
    record::Machine,
    statistics::percentile,
};
use serde::Serialize;

/// What a client may wait, in ms.
const PAUSE_MS_MAX: f64 = 100.0;

/// A measurement of upgrades, as it is saved.
#[derive(Debug, Clone, Serialize)]
pub struct Upgrades {
    /// Version of this record: [`crate::record::FORMAT`].
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// Discs, each with a client.
    pub discs_count: u64,
    /// Clients that write all the time.
    pub writers_count: u64,
    /// Clients that read all the time.
    pub readers_count: u64,
    /// How often each of the others reads, in ms.
    pub every_ms: f64,
    /// Threads of the tail that serve.
    pub shards_count: usize,
    /// What the kernel calls the load, before and after.
    pub load_averages: [String; 2],
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Each upgrade.
    pub upgrades: Vec<Upgrade>,
}

/// One upgrade, and the stretch before it.
#[derive(Debug, Clone, Serialize)]
pub struct Upgrade {
    /// How long clients waited, as the old process says, in ms.
    pub pause_ms: f64,
    /// The whole of it, from the order to the end of the command, in ms.
    pub took_ms: f64,
    /// The longest wait of each client for an answer, in ms.
    pub longest_ms: Vec<(Kind, f64)>,
    /// The same while nothing happened, for about as long.
    pub longest_before_ms: Vec<(Kind, f64)>,
}

impl Upgrades {
    /// True when every bar is met.
    pub fn is_met(&self) -> bool {
        figures::all_met(&self.figures)
    }

    /// For people.
    pub fn table(&self) -> String {
        figures::table(&self.figures)
    }
}

/// What these upgrades come to. Each client counts once in each of them.
pub fn sum_up(upgrades: &[Upgrade]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut note = |what: &str, values: Vec<f64>, bar: Option<Bar>| {
        if values.is_empty() {
            return;
        }
        let [median, p99, worst] = [0.5, 0.99, 1.0].map(|share| percentile(&values, share));
        figures.push(Figure::new(format!("{what}, median"), median, "ms"));
        figures.push(Figure::new(format!("{what}, p99"), p99, "ms"));
        let worst = Figure::new(format!("{what}, worst"), worst, "ms");
        figures.push(match bar {
            Some(bar) => worst.with(bar),
            None => worst,
        });
    };
    let during = |upgrade: &Upgrade| upgrade.longest_ms.clone();
    let before = |upgrade: &Upgrade| upgrade.longest_before_ms.clone();
    let all: Vec<(Kind, f64)> = upgrades.iter().flat_map(during).collect();
    let silent: Vec<(Kind, f64)> = upgrades.iter().flat_map(before).collect();
    let of = |wanted: Kind| all.iter().filter(|(kind, _)| *kind == wanted).map(|(_, ms)| *ms).collect();
    let of_all = |all: &[(Kind, f64)]| all.iter().map(|(_, ms)| *ms).collect();
    let bar = Some(Bar::AtMost(PAUSE_MS_MAX));
    note("pause, as the old process says", upgrades.iter().map(|upgrade| upgrade.pause_ms).collect(), bar);
    note("longest wait of a client over an upgrade", of_all(&all), bar);
    note("the same of those that write", of(Kind::Writer), None);
    note("the same of those that read all the time", of(Kind::Reader), None);
    note("the same of the others", of(Kind::Quiet), None);
    note("longest wait of a client while nothing happens", of_all(&silent), None);
    note("an upgrade from order to end", upgrades.iter().map(|upgrade| upgrade.took_ms).collect(), None);
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_that_waits_too_long_is_enough() {
        let upgrade = |worst| Upgrade {
            pause_ms: 9.0,
            took_ms: 800.0,
            longest_ms: vec![(Kind::Writer, 12.0), (Kind::Quiet, worst)],
            longest_before_ms: vec![(Kind::Writer, 200.0), (Kind::Quiet, 1.0)],
        };
        assert!(figures::all_met(&sum_up(&[upgrade(100.0)])));
        assert!(!figures::all_met(&sum_up(&[upgrade(99.0), upgrade(100.5)])));
        assert_eq!(sum_up(&[]), []);
        let table = figures::table(&sum_up(&[upgrade(50.0)]));
        assert!(
            table.contains("the same of those that write, worst") && !table.contains("read all the time"),
            "{table}"
        );
    }
}
