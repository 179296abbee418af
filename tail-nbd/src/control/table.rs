//! A status as text for people.

use super::status::Status;
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
    let discs = status.discs.iter().map(|disc| {
        let report = &disc.report;
        vec![
            disc.number.to_string(),
            report.storage_pool.to_string(),
            bytes(report.size),
            bytes(report.allocated),
            state(report),
            report.generation.to_string(),
            access(report),
            clients(&disc.clients),
            report.reason.clone().unwrap_or_default(),
        ]
    });
    let head = ["DISC", "POOL", "SIZE", "ALLOCATED", "STATE", "GEN", "ACCESS", "CLIENTS", "REASON"];
    table(&mut text, &head, discs);
    let shards = status.shards.iter().enumerate().map(|(index, shard)| {
        let counts = [shard.discs_count as u64, shard.clients_count as u64, shard.turns_count];
        let mut row = vec![index.to_string()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(shard.waiting_count.to_string());
        row
    });
    table(&mut text, &["SHARD", "DISCS", "CLIENTS", "TURNS", "WAITING"], shards);
    let limits: Vec<_> = status.limits.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let _ = writeln!(text, "\nlimits: {}", limits.join(" "));
    text
}

/// Columns as wide as their widest cell, with an empty line before.
fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    text.push('\n');
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
}

fn state(report: &DiscReport) -> String {
    match (report.state, report.progress) {
        (DiscState::Importing, progress) => format!("importing {}%", progress.unwrap_or(0)),
        (DiscState::Serving, _) => "serving".to_owned(),
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
    use super::super::status::{Counters, Disc, Shard};
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
                counters: Counters::default(),
            }],
            shards: vec![Shard { discs_count: 1, clients_count: 2, turns_count: 9, waiting_count: 0 }],
            limits: [("open_files_max".to_owned(), 1024)].into(),
        };
        insta::assert_snapshot!(render(&status));
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
