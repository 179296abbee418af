//! The report of a measurement of moves: one Markdown page with its plots beside it.

use super::record::{Moves, Speed, Timeline, Wire};
use crate::{
    figures,
    report::{
        self, Page,
        lines::{self, Curve, Lines},
        plot::{self, Bar, Panel, Scale},
        table::{self, number},
    },
    statistics::{Spread, percentile},
};
use anyhow::{Context, Result};
use std::{fs, path::Path};

/// Upper ends of the histogram's columns, in milliseconds; the last column is all above.
const COLUMNS_MS: [f64; 9] = [10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0];
/// Moves whose bytes are told, and plotted.
const WIRES_MAX: usize = 6;
/// Shares of moves whose pauses are told.
const PERCENTILES: [(f64, &str); 5] = [(0.5, "p50"), (0.9, "p90"), (0.95, "p95"), (0.99, "p99"), (1.0, "worst")];

/// Writes the page.
///
/// # Errors
/// When a file cannot be written.
pub fn write(moves: &Moves, out: &Path) -> Result<()> {
    let mut page = Page::new(out)?;
    page.text += &format!("# Moves of discs\n\n{}\n{}\n", report::machine(&moves.machine), settings(moves));
    page.text += &format!("\n## Bars and figures\n\n{}", figures::table(&moves.figures));
    if !moves.remarks.is_empty() {
        page.text += "\nWhat must be known of them:\n\n";
        moves.remarks.iter().for_each(|remark| page.text += &format!("- {remark}\n"));
    }
    let note = report::place(&moves.machine);
    pauses(&mut page, moves, &note)?;
    through_moves(&mut page, &moves.timelines, &note)?;
    limits(&mut page, moves, &note)?;
    wire(&mut page, &moves.wires, &note)?;
    speeds(&mut page, &moves.speeds, &note)?;
    fs::write(out, &page.text).with_context(|| format!("cannot write {}", out.display()))
}

fn settings(moves: &Moves) -> String {
    let s = &moves.settings;
    format!(
        "- {}{} moves of {} MiB under load, {} discs at once, {} moves of each of two discs under checkers, {} of a \
         machine's disc, {} rounds of the comparison\n- tails: {} serving {} each, io = {}; all on this machine, in network namespaces on a bridge",
        if s.quick { "a look, not for a claim: " } else { "" },
        s.moves_count,
        s.data_mib,
        s.many_count,
        s.verify_count,
        s.machine_count,
        s.rounds_count,
        s.shards_count,
        if s.shards_count == 1 { "thread" } else { "threads" },
        s.io
    )
}

fn pauses(page: &mut Page, moves: &Moves, note: &str) -> Result<()> {
    if moves.pauses_ms.is_empty() {
        return Ok(());
    }
    let rows = PERCENTILES.map(|(share, name)| vec![name.to_owned(), number(percentile(&moves.pauses_ms, share), 1)]);
    page.text += "\n## Pauses\n\nThe longest that a 4 KiB write took in each move, from its sending to its answer, the \
                  reconnect among it; 16 are in flight.\n\n";
    page.text += &table::markdown(&["of the moves", "ms"], &rows, 1);
    let bars = columns(&moves.pauses_ms).into_iter().map(|(name, count)| Bar {
        name,
        colour: 0,
        value: count as f64,
        ends: (count as f64, count as f64),
        behind: None,
    });
    let panels = bars.collect::<Vec<_>>();
    let (few, long) = panels.split_at(panels.len() / 2);
    let panel = |title: &str, bars: &[Bar]| Panel {
        title: title.to_owned(),
        unit: "moves",
        scale: Scale::Linear,
        bars: bars.to_vec(),
    };
    let panels = [panel("up to … ms", few), panel("up to … ms", long)];
    page.plot("pauses", "Pauses", &plot::panels("Longest write of each move", &panels, note)?)
}

/// How many values are up to each column's end, and above the one before.
fn columns(values: &[f64]) -> Vec<(String, usize)> {
    let mut from = f64::NEG_INFINITY;
    let mut columns: Vec<_> = COLUMNS_MS
        .iter()
        .map(|&to| {
            let count = values.iter().filter(|value| **value > from && **value <= to).count();
            from = to;
            (number(to, 0), count)
        })
        .collect();
    columns.push(("more".to_owned(), values.iter().filter(|value| **value > from).count()));
    columns
}

fn through_moves(page: &mut Page, timelines: &[Timeline], note: &str) -> Result<()> {
    if !timelines.is_empty() {
        page.text += "\n## A guest through a move\n";
    }
    for (nth, timeline) in (1..).zip(timelines) {
        let marks: Vec<_> = timeline.marks.iter().map(|mark| (mark.seconds, mark.name.clone())).collect();
        for (what, y_name, of) in [
            ("writes a second", "writes/s", (|stretch| stretch.rate) as fn(&super::guest::trace::Stretch) -> f64),
            ("p99 of its writes", "ms", |stretch| stretch.p99_ms),
        ] {
            let points = timeline.stretches.iter().map(|stretch| (stretch.seconds, of(stretch))).collect();
            let lines = Lines {
                title: format!("{}: {what}", timeline.title),
                x_name: "seconds",
                y_name,
                curves: vec![Curve { name: String::new(), points }],
                marks: marks.clone(),
                level: None,
            };
            let file = format!("guest-{nth}-{}", if y_name == "ms" { "p99" } else { "rate" });
            page.plot(&file, &lines.title, &lines::draw(&lines, note)?)?;
        }
    }
    Ok(())
}

fn limits(page: &mut Page, moves: &Moves, note: &str) -> Result<()> {
    if moves.limited.is_empty() {
        return Ok(());
    }
    page.text += "\n## Limit\n\nWhat reached the target in the two seconds before each moment, headers among it; the line \
                  is 5 % above the limit of 50 MB/s.\n";
    let curve = |limited: &super::record::Limited| Curve { name: limited.guest.clone(), points: limited.rates.clone() };
    let lines = Lines {
        title: "Moves limited to 50 MB/s".to_owned(),
        x_name: "seconds",
        y_name: "MB/s",
        curves: moves.limited.iter().map(curve).collect(),
        marks: Vec::new(),
        level: Some(52.5),
    };
    page.plot("limit", &lines.title, &lines::draw(&lines, note)?)
}

fn wire(page: &mut Page, wires: &[Wire], note: &str) -> Result<()> {
    if wires.is_empty() {
        return Ok(());
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let row = |wire: &Wire| {
        let parts = [wire.allocated_bytes, wire.dirtied_bytes, wire.received_bytes].map(|bytes| number(mib(bytes), 1));
        [vec![wire.name.clone()], parts.to_vec(), vec![number(wire.share(), 3)]].concat()
    };
    page.text += "\n## Bytes on the wire\n\nWhat reached the target's interface, headers among it, against what was \
                  allocated and 1.1 times what the guest dirtied: different blocks of 4 KiB in each pass.\n\n";
    if wires.len() > WIRES_MAX {
        page.text += &format!("The first {WIRES_MAX} of {}; all are in the record.\n\n", wires.len());
    }
    let wires = &wires[..wires.len().min(WIRES_MAX)];
    let header = ["move", "allocated MiB", "dirtied MiB", "received MiB", "of what is allowed"];
    page.text += &table::markdown(&header, &wires.iter().map(row).collect::<Vec<_>>(), 1);
    let panel = |wire: &Wire| {
        let bar = |name: &str, colour, bytes| {
            let value = mib(bytes);
            Bar { name: name.to_owned(), colour, value, ends: (value, value), behind: None }
        };
        let allowed = wire.allocated_bytes + wire.dirtied_bytes * 11 / 10;
        Panel {
            title: wire.name.clone(),
            unit: "MiB",
            scale: Scale::Linear,
            bars: vec![bar("received", 0, wire.received_bytes), bar("allowed", 1, allowed)],
        }
    };
    let panels: Vec<Panel> = wires.iter().map(panel).collect();
    page.plot("wire", "Bytes on the wire", &plot::panels("Bytes on the wire", &panels, note)?)
}

fn speeds(page: &mut Page, speeds: &[Speed], note: &str) -> Result<()> {
    if speeds.is_empty() {
        return Ok(());
    }
    page.text += "\n## Speed\n\nMiB of data a second, whatever went over the wire for it: the same data, disc and \
                  loopback, the ways in turn in each round.\n\n";
    let load = |loaded| if loaded { "beside a guest" } else { "idle" };
    let row = |speed: &Speed| {
        let spread = Spread::of(&speed.rounds)?;
        let ends = format!("{}–{}", number(spread.min, 0), number(spread.max, 0));
        Some(vec![speed.way.clone(), load(speed.loaded).to_owned(), number(spread.median, 0), ends])
    };
    let rows: Vec<_> = speeds.iter().filter_map(row).collect();
    page.text += &table::markdown(&["way", "disc", "MiB/s, median", "min–max"], &rows, 2);
    let panel = |loaded: bool| {
        let of = speeds.iter().filter(|speed| speed.loaded == loaded).enumerate();
        let bar = |(colour, speed): (usize, &Speed)| {
            let spread = Spread::of(&speed.rounds)?;
            let ends = (spread.min, spread.max);
            Some(Bar { name: speed.way.clone(), colour, value: spread.median, ends, behind: None })
        };
        Panel {
            title: load(loaded).to_owned(),
            unit: "MiB/s",
            scale: Scale::Linear,
            bars: of.filter_map(bar).collect(),
        }
    };
    let svg = plot::panels("Data moved a second", &[panel(false), panel(true)], note)?;
    page.plot("speed", "Data moved a second", &svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figures::Figure,
        migrate::{
            guest::trace::Stretch,
            record::{Limited, Settings},
            watch::Mark,
        },
        record::{FORMAT, tests as example},
    };

    fn moves() -> Moves {
        let stretch = |seconds| Stretch { seconds, rate: 5000.0, p99_ms: 1.0 };
        Moves {
            format: FORMAT,
            machine: example::machine(),
            settings: Settings {
                quick: true,
                moves_count: 5,
                data_mib: 128,
                many_count: 10,
                verify_count: 4,
                machine_count: 2,
                rounds_count: 1,
                shards_count: 1,
                io: "cached".into(),
            },
            figures: vec![Figure::new("longest write", 600.0, "ms").with(crate::figures::Bar::AtMost(500.0))],
            pauses_ms: vec![12.0, 80.0, 600.0],
            timelines: vec![Timeline {
                title: "the first move".into(),
                stretches: vec![stretch(0.1), stretch(0.2)],
                marks: vec![Mark { seconds: 0.1, name: "copying".into() }],
            }],
            limited: vec![Limited { guest: "a steady guest".into(), rates: vec![(2.0, 50.1)] }],
            wires: vec![Wire {
                name: "idle".into(),
                received_bytes: 101 << 20,
                allocated_bytes: 100 << 20,
                dirtied_bytes: 0,
            }],
            speeds: vec![
                Speed { way: "tail-nbd".into(), loaded: false, rounds: vec![500.0, 700.0, 600.0] },
                Speed { way: "qemu".into(), loaded: true, rounds: vec![] },
            ],
            remarks: vec!["something was left out".into()],
        }
    }

    #[test]
    fn the_page_has_every_part_and_its_plots_exist() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("moves.md");
        write(&moves(), &out).unwrap();
        let text = fs::read_to_string(&out).unwrap();
        for part in ["not met", "something was left out", "| worst", "600", "1.010", "500–700", "a look", "io = cached"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let plots: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("![")?.rsplit_once('(')).collect();
        assert_eq!(plots.len(), 6, "{text}");
        for (_, file) in plots {
            assert!(dir.path().join(file.trim_end_matches(')')).is_file(), "{file}");
        }
    }

    #[test]
    fn a_page_of_nothing_has_no_plots() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("moves.md");
        let mut nothing = moves();
        (nothing.pauses_ms, nothing.timelines, nothing.limited) = (vec![], vec![], vec![]);
        (nothing.wires, nothing.speeds, nothing.remarks) = (vec![], vec![], vec![]);
        write(&nothing, &out).unwrap();
        assert!(!fs::read_to_string(&out).unwrap().contains("!["));
    }

    #[test]
    fn every_pause_is_in_one_column() {
        let columns = columns(&[10.0, 10.1, 100.0, 5000.0]);
        let counted: Vec<_> = columns.iter().filter(|(_, count)| *count > 0).cloned().collect();
        assert_eq!(counted, [("10".into(), 1), ("20".into(), 1), ("100".into(), 1), ("more".into(), 1)]);
    }
}
