//! The raw record of one measurement: what is saved as JSON, and what reports are made from.

use crate::loads::Client;
use crate::peers::scratch::Pages;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Version of the JSON below; a reader refuses others.
pub const FORMAT: u32 = 1;
/// Longest record that is read: 100 rounds of every load on ten servers are 6 MiB.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Side by side runs of some servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Who was measured, in the order of each round.
    pub servers: Vec<Served>,
    /// One for each round, load, client and server.
    pub samples: Vec<Sample>,
    /// One for each round and server.
    pub idle: Vec<Idle>,
    /// One for each round and kind.
    pub limits: Vec<Limit>,
}

/// The machine and the code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When it began, in UTC: `2026-01-31 12:00:00`.
    pub date: String,
    /// The commit of the source tree.
    pub commit: String,
    /// True when files differed from that commit.
    pub modified: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's own name.
    pub cpu: String,
    /// Processors that the measurement might use.
    pub cpus_count: usize,
    /// True on a virtual machine.
    pub virtual_machine: bool,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The filesystem of the measured file, and its options.
    pub filesystem: String,
    /// The load averages before it began: what else ran.
    pub load_average: String,
}

/// How a measurement was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds.
    pub rounds: u32,
    /// Counted seconds of each sample.
    pub seconds: f64,
    /// Seconds before them, with the own client.
    pub warm_up_seconds: f64,
    /// Size of the file in MiB.
    pub file_mib: u64,
    /// How it is in the page cache.
    pub pages: Pages,
    /// The processor of the servers.
    pub server_cpu: usize,
    /// The processor of the clients.
    pub client_cpu: usize,
    /// Niceness of clients and servers.
    pub nice: i32,
    /// What `fio --version` says.
    pub fio: Option<String>,
}

/// A server that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its name in the tables.
    pub name: String,
    /// How it was started.
    pub command: String,
    /// What its `--version` says first.
    pub version: String,
}

/// One load on one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From 1.
    pub round: u32,
    /// Of [`crate::loads::LOADS`].
    pub load: String,
    /// Who sent it.
    pub client: Client,
    /// Who answered.
    pub server: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was measured.
    Figures(Figures),
    /// The server or the client failed.
    Failure(String),
}

/// What one sample measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests a second.
    pub iops: f64,
    /// MiB a second.
    pub mib_per_s: f64,
    /// Median latency in µs.
    pub p50_us: f64,
    /// 99 of 100 requests were faster, in µs.
    pub p99_us: f64,
    /// The server's processor time for a request in µs, with all its threads and io_uring's workers.
    pub server_cpu_us: f64,
    /// The client's processor time for a request in µs.
    pub client_cpu_us: f64,
    /// The share of the time that something else had the client's processor; not known of fio.
    pub client_wait_share: Option<f64>,
    /// The most memory that the server had resident, in KiB.
    pub rss_peak_kib: u64,
    /// Threads of the server that were free to leave its processor, as io_uring's workers are on some kernels.
    pub threads_unpinned_count: usize,
}

/// A server with one client that asks for nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// From 1.
    pub round: u32,
    /// Whose.
    pub server: String,
    /// Its processor time in µs a second.
    pub cpu_us_per_s: f64,
}

/// A part of what a read must cost at least.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// From 1.
    pub round: u32,
    /// Which part.
    pub kind: LimitKind,
    /// Requests a second.
    pub iops: f64,
    /// Processor time for a request in µs.
    pub cpu_us: f64,
}

/// The parts of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// fio's io_uring engine reads the same file through the page cache.
    BareRead,
    /// The tail serves the same load from a disc without a file.
    NullDisc,
}

/// Memory of a tail by number of discs: what a measurement of scale saves for the report, as `memory-*.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// [`FORMAT`].
    pub format: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// The points, in any order.
    pub memory: Vec<MemoryPoint>,
}

/// A tail with so many discs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryPoint {
    /// Discs, each with an idle client.
    pub discs_count: u64,
    /// Resident memory in KiB.
    pub rss_kib: u64,
}

/// Reads a record of either kind.
///
/// # Errors
/// When the file is too long, no such record, or of another format; the file is named.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let named = || format!("{} is no record that this program can read", path.display());
    let bytes = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if bytes > RECORD_BYTES_MAX {
        bail!("{}: it has {bytes} bytes, more than {RECORD_BYTES_MAX}", named());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(named)?;
    match value["format"].as_u64() {
        Some(format) if format == u64::from(FORMAT) => serde_json::from_value(value).with_context(named),
        Some(format) => bail!("{}: it has format {format}, this program reads {FORMAT}", named()),
        None => bail!("{}: it has no format", named()),
    }
}

/// Saves a record so that a reader never sees half of it.
///
/// # Errors
/// When it cannot be written; the file is named.
pub fn save<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let named = || format!("cannot write {}", path.display());
    let unfinished = path.with_extension("json.new");
    let text = serde_json::to_string_pretty(record)? + "\n";
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path)).with_context(named)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine() -> Machine {
        Machine {
            date: "2026-01-31 12:00:00".into(),
            commit: "0123abc".into(),
            modified: false,
            kernel: "6.1.0".into(),
            cpu: "A CPU".into(),
            cpus_count: 2,
            virtual_machine: true,
            memory_mib: 4096,
            filesystem: "ext4 (rw)".into(),
            load_average: "0.10 0.20 0.30".into(),
        }
    }

    pub(crate) fn figures(iops: f64, server_cpu_us: f64) -> Figures {
        Figures {
            iops,
            mib_per_s: iops * 4096.0 / 1_048_576.0,
            p50_us: 1e6 / iops,
            p99_us: 3e6 / iops,
            server_cpu_us,
            client_cpu_us: 1.0,
            client_wait_share: Some(0.0),
            rss_peak_kib: 2048,
            threads_unpinned_count: 0,
        }
    }

    pub(crate) fn run() -> Run {
        let served = |name: &str| Served { name: name.into(), command: format!("{name} X"), version: "1.0".into() };
        Run {
            format: FORMAT,
            machine: machine(),
            settings: Settings {
                rounds: 1,
                seconds: 3.0,
                warm_up_seconds: 0.5,
                file_mib: 512,
                pages: Pages::Small,
                server_cpu: 0,
                client_cpu: 1,
                nice: 0,
                fio: None,
            },
            servers: vec![served("tail-nbd"), served("nbdkit"), served("qemu-nbd")],
            samples: Vec::new(),
            idle: Vec::new(),
            limits: Vec::new(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        let mut run = run();
        let sample = |outcome| Sample {
            round: 1,
            load: "read-4k-1x1".into(),
            client: Client::Fio,
            server: "nbdkit".into(),
            outcome,
        };
        run.samples.push(sample(Outcome::Figures(figures(1e5, 4.0))));
        run.samples.push(sample(Outcome::Failure("the server hung up".into())));
        run.limits.push(Limit { round: 1, kind: LimitKind::BareRead, iops: 5e5, cpu_us: 1.0 });
        save(&path, &run).unwrap();
        assert_eq!(read::<Run>(&path).unwrap(), run);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the unfinished file is gone");
    }

    #[test]
    fn strange_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        for (text, reason) in [("{}", "no format"), (r#"{"format":2}"#, "format 2"), ("[", "run.json")] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", read::<Run>(&path).unwrap_err());
            assert!(error.contains("run.json") && error.contains(reason), "{error}");
        }
    }
}
