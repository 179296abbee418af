//! From the samples of a run to medians, ratios to the best peer, and bars: arithmetic, no I/O.
//!
//! The best peer is another one for each figure: the fastest for the rate, the thriftiest for processor time.
//! A ratio is that of the medians; its spread is that of the ratios within each round, where both were measured
//! one after the other and what else the machine did hit both.

use crate::{
    loads::{Bar, Client, IDLE_US_PER_S_MAX, LIMIT_LOAD, LIMIT_RATIO, LOADS, Load, Metric},
    record::{Figures, LimitKind, Outcome, Run},
    statistics::{Spread, ratio},
};

/// The server whose bars are judged. Names that go on after it, as `tail-nbd-direct`, are it in another setting,
/// and no peers.
pub const SUBJECT: &str = "tail-nbd";

/// One bar, and whether it was cleared.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Name of the load, `idle` or `limit`.
    pub what: String,
    /// Who sent it.
    pub client: Client,
    /// The figure's name.
    pub figure: String,
    /// What is asked for, for people.
    pub asked: String,
    /// What was measured; none when a side is missing.
    pub measured: Option<f64>,
    /// Lowest and highest of the rounds.
    pub spread: Option<(f64, f64)>,
    /// The peer that set the mark.
    pub against: Option<String>,
    /// True when it is cleared, false when not or when it was not measured.
    pub met: bool,
}

/// True for servers that the subject is compared with.
pub fn is_peer(name: &str) -> bool {
    !name.starts_with(SUBJECT)
}

/// One figure of a sample.
pub fn figure(figures: &Figures, metric: Metric) -> f64 {
    match metric {
        Metric::Rate => figures.iops,
        Metric::ServerCpu => figures.server_cpu_us,
        Metric::P50 => figures.p50_us,
        Metric::P99 => figures.p99_us,
    }
}

/// What some server showed in the rounds of one load: round and figures.
pub fn rounds<'a>(run: &'a Run, load: &str, client: Client, server: &str) -> Vec<(u32, &'a Figures)> {
    let wanted = run.samples.iter().filter(|s| s.load == load && s.client == client && s.server == server);
    let measured = wanted.filter_map(|sample| match &sample.outcome {
        Outcome::Figures(figures) => Some((sample.round, figures)),
        Outcome::Failure(_) => None,
    });
    measured.collect()
}

/// Median and ends of one figure over the rounds.
pub fn spread(run: &Run, load: &str, client: Client, server: &str, of: impl Fn(&Figures) -> f64) -> Option<Spread> {
    let values: Vec<f64> = rounds(run, load, client, server).iter().map(|(_, figures)| of(figures)).collect();
    Spread::of(&values)
}

/// Every bar that the run has a part of, in the order of the loads.
pub fn verdicts(run: &Run) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if !run.servers.iter().any(|server| server.name == SUBJECT) {
        return verdicts;
    }
    for client in [Client::Own, Client::Fio] {
        for load in LOADS {
            let measured = run.samples.iter().any(|sample| sample.load == load.name && sample.client == client);
            let bars = load.bars.iter().filter(|bar| measured && bar.client == client);
            verdicts.extend(bars.map(|bar| verdict(run, load, bar)));
        }
    }
    verdicts.extend(idle(run));
    verdicts.extend(limit(run));
    verdicts
}

fn verdict(run: &Run, load: &Load, bar: &Bar) -> Verdict {
    let of = |figures: &Figures| figure(figures, bar.metric);
    let more = bar.metric.more_is_better();
    let peers = run.servers.iter().map(|server| server.name.as_str()).filter(|name| is_peer(name));
    let medians = peers.filter_map(|name| Some((name, spread(run, load.name, bar.client, name, of)?.median)));
    let best = if more {
        medians.max_by(|(_, a), (_, b)| a.total_cmp(b))
    } else {
        medians.min_by(|(_, a), (_, b)| a.total_cmp(b))
    };
    let ours = spread(run, load.name, bar.client, SUBJECT, of);
    let measured = ours.zip(best).and_then(|(ours, (_, theirs))| ratio(ours.median, theirs));
    let spread = best.and_then(|(peer, _)| {
        let theirs = rounds(run, load.name, bar.client, peer);
        let pairs = rounds(run, load.name, bar.client, SUBJECT).into_iter().filter_map(|(round, ours)| {
            let (_, theirs) = theirs.iter().find(|(other, _)| *other == round)?;
            ratio(of(ours), of(theirs))
        });
        Spread::of(&pairs.collect::<Vec<_>>()).map(|spread| (spread.min, spread.max))
    });
    Verdict {
        what: load.name.to_owned(),
        client: bar.client,
        figure: bar.metric.to_string(),
        asked: format!("{} {}", if more { "≥" } else { "≤" }, bar.ratio),
        measured,
        spread,
        against: best.map(|(peer, _)| peer.to_owned()),
        met: measured.is_some_and(|ratio| if more { rounded(ratio) >= bar.ratio } else { rounded(ratio) <= bar.ratio }),
    }
}

/// Two decimals, as tables show them: what is printed as the bar has cleared it.
fn rounded(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

fn idle(run: &Run) -> Option<Verdict> {
    let values: Vec<f64> =
        run.idle.iter().filter(|idle| idle.server == SUBJECT).map(|idle| idle.cpu_us_per_s).collect();
    let spread = Spread::of(&values)?;
    Some(Verdict {
        what: "idle".to_owned(),
        client: Client::Own,
        figure: "CPU, µs a second".to_owned(),
        asked: format!("≤ {IDLE_US_PER_S_MAX}"),
        measured: Some(spread.median),
        spread: Some((spread.min, spread.max)),
        against: None,
        met: spread.median <= IDLE_US_PER_S_MAX,
    })
}

/// The tail's processor time for a read, divided by a null disc's plus the bare read's.
fn limit(run: &Run) -> Option<Verdict> {
    let ours = spread(run, LIMIT_LOAD, Client::Own, SUBJECT, |figures| figures.server_cpu_us)?;
    let part = |kind| {
        let values: Vec<f64> = run.limits.iter().filter(|limit| limit.kind == kind).map(|l| l.cpu_us).collect();
        Spread::of(&values)
    };
    let (bare, null) = (part(LimitKind::BareRead), part(LimitKind::NullDisc));
    let floor = bare.zip(null).map(|(bare, null)| bare.median + null.median);
    let measured = floor.and_then(|floor| ratio(ours.median, floor));
    Some(Verdict {
        what: "limit".to_owned(),
        client: Client::Own,
        figure: "CPU per I/O".to_owned(),
        asked: format!("≤ {LIMIT_RATIO}"),
        measured,
        spread: floor.filter(|floor| *floor > 0.0).map(|floor| (ours.min / floor, ours.max / floor)),
        against: bare
            .zip(null)
            .map(|(bare, null)| format!("null disc {:.2} + read {:.2} µs", null.median, bare.median)),
        met: measured.is_some_and(|ratio| rounded(ratio) <= LIMIT_RATIO),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Idle, Limit, Sample, tests as record};

    fn sampled(rounds: &[(&str, u32, f64, f64)]) -> Run {
        let mut run = record::run();
        run.samples.extend(rounds.iter().map(|&(server, round, iops, cpu)| Sample {
            round,
            load: LIMIT_LOAD.into(),
            client: Client::Own,
            server: server.into(),
            outcome: Outcome::Figures(record::figures(iops, cpu)),
        }));
        run
    }

    fn found<'a>(verdicts: &'a [Verdict], figure: &str) -> &'a Verdict {
        verdicts.iter().find(|verdict| verdict.figure == figure).unwrap()
    }

    #[test]
    fn each_figure_has_its_own_best_peer() {
        let run = sampled(&[
            ("tail-nbd", 1, 200e3, 4.0),
            ("nbdkit", 1, 50e3, 20.0),
            ("qemu-nbd", 1, 40e3, 10.0),
            ("tail-nbd", 2, 210e3, 4.0),
            ("nbdkit", 2, 70e3, 20.0),
            ("qemu-nbd", 2, 40e3, 10.0),
            ("tail-nbd", 3, 220e3, 4.0),
            ("nbdkit", 3, 55e3, 20.0),
            ("qemu-nbd", 3, 40e3, 10.0),
        ]);
        let verdicts = verdicts(&run);
        let rate = found(&verdicts, "rate");
        assert_eq!((rate.against.as_deref(), rate.met), (Some("nbdkit"), false), "{rate:?}");
        assert!((rate.measured.unwrap() - 210.0 / 55.0).abs() < 1e-9, "of the medians");
        assert_eq!(rate.spread, Some((3.0, 4.0)), "of the rounds");
        let cpu = found(&verdicts, "CPU per I/O");
        assert_eq!((cpu.against.as_deref(), cpu.measured, cpu.met), (Some("qemu-nbd"), Some(0.4), false));
        assert!(found(&verdicts, "p99").met);
    }

    #[test]
    fn what_is_missing_is_not_met() {
        let mut run = sampled(&[("nbdkit", 1, 50e3, 20.0)]);
        let verdicts_without = verdicts(&run);
        assert!(verdicts_without.iter().all(|verdict| !verdict.met && verdict.measured.is_none()));
        assert_eq!(verdicts_without.len(), 3, "only what was tried");
        run.servers.remove(0);
        assert_eq!(verdicts(&run), [], "nobody to judge");
    }

    #[test]
    fn the_subject_in_another_setting_is_no_peer() {
        let mut run =
            sampled(&[("tail-nbd", 1, 100e3, 4.0), ("tail-nbd-direct", 1, 90e3, 4.0), ("nbdkit", 1, 20e3, 9.0)]);
        run.servers[2].name = "tail-nbd-direct".into();
        let rate = found(&verdicts(&run), "rate").clone();
        assert_eq!((rate.measured, rate.met), (Some(5.0), true));
    }

    #[test]
    fn limit_and_idle() {
        let mut run = sampled(&[("tail-nbd", 1, 100e3, 4.5), ("nbdkit", 1, 20e3, 9.0)]);
        run.idle.push(Idle { round: 1, server: "tail-nbd".into(), cpu_us_per_s: 600.0 });
        let limit = |run: &Run| verdicts(run).into_iter().find(|verdict| verdict.what == "limit").unwrap();
        run.limits.push(Limit { round: 1, kind: LimitKind::BareRead, iops: 1e6, cpu_us: 1.0 });
        assert_eq!((limit(&run).measured, limit(&run).met), (None, false), "one half is no limit");
        run.limits.push(Limit { round: 1, kind: LimitKind::NullDisc, iops: 1e6, cpu_us: 2.0 });
        assert_eq!((limit(&run).measured, limit(&run).met), (Some(1.5), true));
        assert!(!found(&verdicts(&run), "CPU, µs a second").met, "600 µs a second is not idle");
    }

    #[test]
    fn rounding_is_what_is_printed() {
        assert!(rounded(0.996) >= 1.0 && rounded(0.994) < 1.0);
    }
}
