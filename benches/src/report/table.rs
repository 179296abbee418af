//! Tables that read well both in a terminal and as Markdown.

use crate::{
    judge::{self, Verdict},
    loads::{Client, LOADS, Load},
    record::{Figures, Outcome, Run},
    statistics::Spread,
};

/// A table in Markdown with its columns aligned; the first `left` columns to the left.
pub fn markdown(header: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::from("|");
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let padded = if column < left { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") };
            text += &padded;
        }
        text + "\n"
    };
    let mut table = line(&mut header.iter().copied());
    table += "|";
    for (column, width) in widths.iter().enumerate() {
        let dashes = "-".repeat(width + 1);
        table += &if column < left { format!("{dashes}-|") } else { format!("{dashes}:|") };
    }
    table += "\n";
    for row in rows {
        table += &line(&mut row.iter().map(String::as_str));
    }
    table
}

/// What every server did with every load of one client; none when there is nothing.
pub fn figures(run: &Run, client: Client) -> Option<String> {
    let header = [
        "load",
        "server",
        "rate",
        "min–max",
        "p50 µs",
        "p99 µs",
        "server CPU µs",
        "min–max",
        "client CPU µs",
        "RSS MiB",
    ];
    let mut rows = Vec::new();
    for load in LOADS {
        for server in &run.servers {
            let tried =
                |s: &&crate::record::Sample| s.load == load.name && s.client == client && s.server == server.name;
            let tried: Vec<_> = run.samples.iter().filter(tried).collect();
            if !tried.is_empty() {
                let failures = tried.iter().filter(|sample| matches!(sample.outcome, Outcome::Failure(_))).count();
                rows.push(row(run, load, client, &server.name, failures));
            }
        }
    }
    (!rows.is_empty()).then(|| markdown(&header, &rows, 2))
}

fn row(run: &Run, load: &Load, client: Client, server: &str, failures: usize) -> Vec<String> {
    let of = |pick: fn(&Figures) -> f64| judge::spread(run, load.name, client, server, pick);
    let median = |pick, decimals| of(pick).map_or("–".to_owned(), |spread| number(spread.median, decimals));
    let rate = of(if load.is_bandwidth() { |f| f.mib_per_s } else { |f| f.iops });
    let unit = if load.is_bandwidth() { " MiB/s" } else { "/s" };
    let cpu = of(|f| f.server_cpu_us);
    let failed = if failures > 0 { format!(" ({failures} failed)") } else { String::new() };
    vec![
        load.name.to_owned(),
        format!("{server}{failed}"),
        rate.map_or("–".to_owned(), |spread| number(spread.median, 0) + unit),
        ends(rate, 0),
        median(|f| f.p50_us, 0),
        median(|f| f.p99_us, 0),
        cpu.map_or("–".to_owned(), |spread| number(spread.median, 2)),
        ends(cpu, 2),
        median(|f| f.client_cpu_us, 2),
        median(|f| f.rss_peak_kib as f64 / 1024.0, 1),
    ]
}

/// The bars, with what was reached; none when there are none to judge.
pub fn bars(verdicts: &[Verdict]) -> Option<String> {
    let header = ["load", "client", "figure", "asked", "met", "reached", "rounds", "against"];
    let row = |verdict: &Verdict| {
        vec![
            verdict.what.clone(),
            verdict.client.to_string(),
            verdict.figure.clone(),
            verdict.asked.clone(),
            (if verdict.met { "met" } else { "NOT MET" }).to_owned(),
            verdict.measured.map_or("not measured".to_owned(), |value| number(value, 2)),
            verdict.spread.map_or("–".to_owned(), |(min, max)| format!("{}–{}", number(min, 2), number(max, 2))),
            verdict.against.clone().unwrap_or_else(|| "–".to_owned()),
        ]
    };
    let rows: Vec<_> = verdicts.iter().map(row).collect();
    (!rows.is_empty()).then(|| markdown(&header, &rows, 5))
}

/// Idle processor time of each server; none when it was not measured.
pub fn idle(run: &Run) -> Option<String> {
    let rows = run.servers.iter().filter_map(|server| {
        let values: Vec<f64> = run.idle.iter().filter(|i| i.server == server.name).map(|i| i.cpu_us_per_s).collect();
        let spread = Spread::of(&values)?;
        Some(vec![server.name.clone(), number(spread.median, 0), ends(Some(spread), 0)])
    });
    let rows: Vec<_> = rows.collect();
    (!rows.is_empty()).then(|| markdown(&["server", "idle CPU, µs a second", "min–max"], &rows, 1))
}

fn ends(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or("–".to_owned(), |s| format!("{}–{}", number(s.min, decimals), number(s.max, decimals)))
}

/// With commas between thousands.
pub fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Sample, tests as record};

    #[test]
    fn numbers_have_commas() {
        assert_eq!(number(1_234_567.891, 1), "1,234,567.9");
        assert_eq!(number(999.0, 0), "999");
        assert_eq!(number(-1000.0, 0), "-1,000");
        assert_eq!(number(0.256, 2), "0.26");
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["bbbb".into(), "1,000".into()]];
        let table = markdown(&["what", "much"], &rows, 1);
        assert_eq!(table, "| what |  much |\n|------|------:|\n| a    |     1 |\n| bbbb | 1,000 |\n");
    }

    #[test]
    fn figures_are_medians_and_failures_are_counted() {
        let mut run = record::run();
        let mut push = |round, server: &str, outcome| {
            let load = "read-4k-4x32".into();
            run.samples.push(Sample { round, load, client: Client::Own, server: server.into(), outcome });
        };
        push(1, "nbdkit", Outcome::Figures(record::figures(50_000.0, 17.0)));
        push(2, "nbdkit", Outcome::Figures(record::figures(60_000.0, 16.0)));
        push(3, "nbdkit", Outcome::Figures(record::figures(55_000.0, 18.0)));
        push(1, "qemu-nbd", Outcome::Failure("x".into()));
        let table = figures(&run, Client::Own).unwrap();
        assert!(table.contains("| 55,000/s | 50,000–60,000 |"), "{table}");
        assert!(table.contains("qemu-nbd (1 failed)"), "{table}");
        assert!(!table.contains("tail-nbd"), "{table}");
        assert_eq!(figures(&run, Client::Fio), None);
    }
}
