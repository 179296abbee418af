//! A status as text for people.

use super::rates::Rates;
use super::status::{Disc, Latency, Status};
use comfy_table::{ContentArrangement, Table, presets};
use spine::id::DiscNumber;
use spine::resource::disc::{DiscReport, DiscState};
use std::fmt::Write as _;

/// The whole status, as lines that end with LF.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    let uptime = duration(status.uptime_seconds);
    let _ = writeln!(text, "tail {}, version {}, up {uptime}; brain: {}", status.name, status.version, status.brain);
    let _ = writeln!(text, "io_uring: {}", status.features);
    let pools = status.pools.iter().map(|(name, pool)| {
        let of_pool = [pool.size, pool.free, pool.allocated, pool.promised].map(bytes);
        let mut row = vec![name.to_string(), pool.grade.to_string(), pool.discs.to_string()];
        row.extend(of_pool);
        row.push(pool.note.clone());
        row
    });
    table(&mut text, &["POOL", "GRADE", "DISCS", "SIZE", "FREE", "ALLOCATED", "PROMISED", "NOTE"], pools);
    table(
        &mut text,
        &["DISC", "POOL", "SIZE", "ALLOCATED", "STATE", "GEN", "CLIENTS", "NOW"],
        status.discs.iter().map(disc),
    );
    let users = status.discs.iter().map(|disc| {
        let report = &disc.report;
        vec![disc.number.to_string(), access(report), clients(&disc.clients), report.reason.clone().unwrap_or_default()]
    });
    table(&mut text, &["DISC", "ACCESS", "CONNECTED", "REASON"], users);
    let head = ["DISC", "READS", "BYTES", "µs p50/p99", "WRITES", "BYTES", "µs p50/p99"];
    table(&mut text, &head, status.discs.iter().map(transfers));
    let head = ["DISC", "FLUSHES", "µs p50/p99", "ZEROES", "µs p50/p99", "REFUSED", "ERRORS"];
    table(&mut text, &head, status.discs.iter().map(others));
    let rated = status.discs.iter().filter_map(|disc| Some(rates(disc.number, disc.rates.as_ref()?)));
    let mut rated = rated.peekable();
    if rated.peek().is_some() {
        let head = ["DISC", "READS/s", "BYTES/s", "WRITES/s", "BYTES/s", "FLUSHES/s", "ZEROES/s", "ERRORS/s"];
        table(&mut text, &head, rated);
    }
    let shards = status.shards.iter().enumerate().map(|(index, shard)| {
        let counts = [
            shard.discs_count as u64,
            shard.clients_count as u64,
            shard.turns_count,
            shard.completions_count,
            shard.sends_count,
            shard.buffers_taken_count as u64,
            shard.waiting_count as u64,
        ];
        std::iter::once(index as u64).chain(counts).map(|count| count.to_string()).collect()
    });
    table(&mut text, &["SHARD", "DISCS", "CLIENTS", "TURNS", "COMPLETIONS", "SENDS", "BUFFERS", "WAITING"], shards);
    let limits: Vec<_> = status.limits.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let _ = writeln!(text, "\nlimits: {}", limits.join(" "));
    if !status.shortages.is_empty() {
        let met: Vec<_> = status.shortages.iter().map(|(name, count)| format!("{name}×{count}")).collect();
        let _ = writeln!(text, "limits that were met: {}", met.join(" "));
    }
    text
}

/// Columns that fit the terminal, if there is one: long cells are broken. An empty line comes before.
fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().copied()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    text.push('\n');
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn disc(disc: &Disc) -> Vec<String> {
    let report = &disc.report;
    vec![
        disc.number.to_string(),
        report.storage_pool.to_string(),
        bytes(report.size),
        bytes(report.allocated),
        state(report),
        report.generation.to_string(),
        disc.clients.len().to_string(),
        disc.requests_in_flight_count.to_string(),
    ]
}

fn transfers(disc: &Disc) -> Vec<String> {
    let counters = &disc.counters;
    vec![
        disc.number.to_string(),
        counters.reads_count.to_string(),
        bytes(counters.read_bytes),
        latency(counters.read_latency_us),
        counters.writes_count.to_string(),
        bytes(counters.written_bytes),
        latency(counters.write_latency_us),
    ]
}

fn others(disc: &Disc) -> Vec<String> {
    let counters = &disc.counters;
    let errors: Vec<_> = counters.errors.iter().map(|(kind, count)| format!("{kind}×{count}")).collect();
    vec![
        disc.number.to_string(),
        counters.flushes_count.to_string(),
        latency(counters.flush_latency_us),
        counters.zeroes_count.to_string(),
        latency(counters.zero_latency_us),
        counters.refused_count.to_string(),
        errors.join(","),
    ]
}

fn rates(number: DiscNumber, rates: &Rates) -> Vec<String> {
    // What is less than one in ten seconds is still not nothing.
    let rate = |rate: f64| if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
    vec![
        number.to_string(),
        rate(rates.reads),
        bytes(rates.read_bytes as u64),
        rate(rates.writes),
        bytes(rates.written_bytes as u64),
        rate(rates.flushes),
        rate(rates.zeroes),
        rate(rates.errors),
    ]
}

fn latency(latency: Latency) -> String {
    match (latency.p50, latency.p99) {
        (None, _) => "-".to_owned(),
        (Some(p50), None) => format!("{p50}/>1000000"),
        (Some(p50), Some(p99)) => format!("{p50}/{p99}"),
    }
}

fn state(report: &DiscReport) -> String {
    match (report.state, report.progress) {
        (DiscState::Importing, progress) => format!("importing {}%", progress.unwrap_or(0)),
        (DiscState::Serving, _) => "serving".to_owned(),
        (DiscState::Receiving, _) => format!("receiving {}%", report.migration_progress.unwrap_or(0)),
        (DiscState::Moved, _) => "moved".to_owned(),
        (DiscState::Failed, _) => "failed".to_owned(),
    }
}

fn access(report: &DiscReport) -> String {
    let heads: Vec<_> = match (&report.attachments, &report.access_control_list) {
        (Some(attachments), _) => attachments.iter().map(|attachment| attachment.head.to_string()).collect(),
        (None, Some(list)) => list.iter().map(|address| format!("{address} (list)")).collect(),
        (None, None) => Vec::new(),
    };
    match heads[..] {
        [] => "nobody".to_owned(),
        _ => format!("{} v{}", heads.join(","), report.attachments_version),
    }
}

fn clients(clients: &[std::net::IpAddr]) -> String {
    let mut texts: Vec<_> = clients.iter().map(ToString::to_string).collect();
    texts.sort();
    let counted = texts.chunk_by(|a, b| a == b).map(|same| match same.len() {
        1 => same[0].clone(),
        count => format!("{}×{count}", same[0]),
    });
    counted.collect::<Vec<_>>().join(",")
}

/// Bytes in the largest unit of 1,024 that leaves at least 1, with one digit behind the point.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = ((bytes.ilog2() / 10) as usize).min(UNITS.len());
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power - 1])
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Counters, Shard};
    use super::*;
    use serde_json::json;

    #[test]
    fn people_see_what_matters() {
        let report = json!({
            "size": 1u64 << 30, "storage_pool": "sata1", "generation": 2, "attachments_version": 3,
            "attachments": [{"head": "fd00:b16:0:2::11", "key_hash": "sha256:00"}], "address": "fd00:b16:0:d::7",
            "allocated": 22u64 << 20, "state": "importing", "progress": 40
        });
        let pool = json!({
            "grade": "sata", "size": 4u64 << 40, "free": 1u64 << 40, "allocated": 5, "promised": 1u64 << 30, "discs": 1,
            "note": "RAID10"
        });
        let status = Status {
            name: "tail1".parse().unwrap(),
            version: "0.1.0".into(),
            pid: 4711,
            uptime_seconds: 7_300,
            brain: "connected".into(),
            features: "all".into(),
            load: [0.0; 3],
            pools: [("sata1".parse().unwrap(), serde_json::from_value(pool).unwrap())].into(),
            discs: vec![Disc {
                number: spine::id::DiscNumber(7),
                grade: "sata".parse().unwrap(),
                report: serde_json::from_value(report).unwrap(),
                clients: vec!["fd00:b16:0:2::11".parse().unwrap(); 2],
                requests_in_flight_count: 0,
                counters: Counters {
                    reads_count: 12,
                    read_bytes: 48 << 10,
                    read_latency_us: Latency { mean: 70, p50: Some(64), p99: Some(256) },
                    errors_count: 2,
                    errors: [("ENOSPC".to_owned(), 2)].into(),
                    ..Counters::default()
                },
                rates: Some(Rates { reads: 1500.4, read_bytes: 6.3e6, writes: 0.25, ..Rates::default() }),
            }],
            shards: vec![Shard {
                discs_count: 1,
                clients_count: 2,
                turns_count: 9,
                completions_count: 30,
                sends_count: 8,
                buffers_taken_count: 1,
                waiting_count: 0,
            }],
            limits: [("open_files_max".to_owned(), 1024)].into(),
            shortages: [("data_mib".to_owned(), 3), ("negotiating_per_disc_max".to_owned(), 1)].into(),
        };
        let text = render(&status);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "a terminal has 80 columns: {longest:?}\n{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1023, 1024, 1536, u64::MAX].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "15.9 EiB"]);
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([5, 65, 7_300, 90_000].map(duration), ["5 s", "1 min", "2 h 1 min", "1 d 1 h"]);
    }
}
