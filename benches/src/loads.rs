//! The loads that servers are compared by, and the bars that the tail must clear: data, no code that measures.

use crate::load::plan::Operation;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// The load generator of this crate, which batches.
    Own,
    /// fio's nbd engine, which is libnbd.
    Fio,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "own",
            Self::Fio => "fio",
        })
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Requests, or bytes, a second: their ratios are the same. More is better.
    Rate,
    /// The server's processor time for a request. Less is better.
    ServerCpu,
    /// Median latency. Less is better.
    P50,
    /// The latency that 99 of 100 requests keep below. Less is better.
    P99,
}

impl Metric {
    /// True when a higher value is the better one.
    pub fn more_is_better(self) -> bool {
        self == Self::Rate
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rate => "rate",
            Self::ServerCpu => "CPU per I/O",
            Self::P50 => "p50",
            Self::P99 => "p99",
        })
    }
}

/// One ratio to the best peer that the tail must reach: at least it when more is better, else at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Seen by this client.
    pub client: Client,
    /// Of this.
    pub metric: Metric,
    /// The tail's value divided by the best peer's.
    pub ratio: f64,
}

/// One row of the comparison.
#[derive(Debug, PartialEq)]
pub struct Load {
    /// Its name on the command line, in reports and among the fio job files.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Reads or writes, all at random places.
    pub operation: Operation,
    /// Bytes of a request.
    pub block_bytes: u32,
    /// Connections.
    pub connections_count: usize,
    /// Requests in flight on each.
    pub depth: usize,
    /// What the tail must reach.
    pub bars: &'static [Bar],
}

impl Load {
    /// The load of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        LOADS.iter().find(|load| load.name == name)
    }

    /// True for loads whose rate is told in MiB a second.
    pub fn is_bandwidth(&self) -> bool {
        self.block_bytes >= 64 << 10
    }
}

const fn bar(client: Client, metric: Metric, ratio: f64) -> Bar {
    Bar { client, metric, ratio }
}

use {
    Client::{Fio, Own},
    Metric::{P50, P99, Rate, ServerCpu},
    Operation::{Read, Write},
};

/// One connection with many small requests: the same bars for reads and for writes.
const ONE_DEEP: &[Bar] =
    &[bar(Own, Rate, 1.5), bar(Own, ServerCpu, 0.5), bar(Fio, Rate, 1.0), bar(Fio, ServerCpu, 0.7)];
/// One request at a time.
const SINGLE: &[Bar] = &[bar(Own, P50, 0.85), bar(Fio, P50, 1.0)];
/// Reads that are worth sending by reference.
const LARGE_READS: &[Bar] =
    &[bar(Own, Rate, 2.0), bar(Own, ServerCpu, 0.5), bar(Fio, Rate, 1.5), bar(Fio, ServerCpu, 0.5)];

/// Every load, in the order in which reports show them.
pub const LOADS: &[Load] = &[
    Load {
        name: "read-4k-4x32",
        about: "4 KiB random reads, 4 connections × 32",
        operation: Read,
        block_bytes: 4096,
        connections_count: 4,
        depth: 32,
        bars: &[
            bar(Own, Rate, 4.0),
            bar(Own, ServerCpu, 0.25),
            bar(Own, P99, 1.0),
            bar(Fio, Rate, 1.2),
            bar(Fio, ServerCpu, 0.6),
        ],
    },
    Load {
        name: "write-4k-4x32",
        about: "4 KiB random writes, 4 connections × 32",
        operation: Write,
        block_bytes: 4096,
        connections_count: 4,
        depth: 32,
        bars: &[
            bar(Own, Rate, 2.5),
            bar(Own, ServerCpu, 0.35),
            bar(Own, P99, 0.25),
            bar(Fio, Rate, 1.2),
            bar(Fio, ServerCpu, 0.6),
        ],
    },
    Load {
        name: "read-4k-1x32",
        about: "4 KiB random reads, 1 connection × 32",
        operation: Read,
        block_bytes: 4096,
        connections_count: 1,
        depth: 32,
        bars: ONE_DEEP,
    },
    Load {
        name: "write-4k-1x32",
        about: "4 KiB random writes, 1 connection × 32",
        operation: Write,
        block_bytes: 4096,
        connections_count: 1,
        depth: 32,
        bars: ONE_DEEP,
    },
    Load {
        name: "read-4k-1x1",
        about: "4 KiB random reads, one at a time",
        operation: Read,
        block_bytes: 4096,
        connections_count: 1,
        depth: 1,
        bars: SINGLE,
    },
    Load {
        name: "write-4k-1x1",
        about: "4 KiB random writes, one at a time",
        operation: Write,
        block_bytes: 4096,
        connections_count: 1,
        depth: 1,
        bars: SINGLE,
    },
    Load {
        name: "read-128k-1x8",
        about: "128 KiB random reads, 1 connection × 8",
        operation: Read,
        block_bytes: 128 << 10,
        connections_count: 1,
        depth: 8,
        bars: LARGE_READS,
    },
    Load {
        name: "read-1m-1x4",
        about: "1 MiB random reads, 1 connection × 4",
        operation: Read,
        block_bytes: 1 << 20,
        connections_count: 1,
        depth: 4,
        bars: LARGE_READS,
    },
    Load {
        name: "write-128k-1x8",
        about: "128 KiB random writes, 1 connection × 8",
        operation: Write,
        block_bytes: 128 << 10,
        connections_count: 1,
        depth: 8,
        bars: &[bar(Own, Rate, 1.25), bar(Own, ServerCpu, 0.8), bar(Fio, Rate, 1.0)],
    },
];

/// The load whose processor time is also held against the limit.
pub const LIMIT_LOAD: &str = "read-4k-4x32";
/// The tail's processor time for a read, at most, as a multiple of a null disc's plus the bare read's.
pub const LIMIT_RATIO: f64 = 1.5;
/// What still counts as no idle processor time, in µs a second: 0.05 % of a core.
pub const IDLE_US_PER_S_MAX: f64 = 500.0;

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, fs, path::Path};

    #[test]
    fn names_are_unique_and_say_what_the_load_is() {
        for load in LOADS {
            assert_eq!(Load::named(load.name), Some(load));
            let block = match load.block_bytes {
                bytes if bytes >= 1 << 20 => format!("{}m", bytes >> 20),
                bytes => format!("{}k", bytes >> 10),
            };
            let operation = if load.operation == Read { "read" } else { "write" };
            assert_eq!(load.name, format!("{operation}-{block}-{}x{}", load.connections_count, load.depth));
        }
        assert!(Load::named(LIMIT_LOAD).is_some());
    }

    #[test]
    fn the_fio_job_files_are_the_same_loads() {
        for load in LOADS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fio/{}.fio", load.name));
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
            let rw = if load.operation == Read { "randread" } else { "randwrite" };
            assert_eq!(values["rw"], rw, "{}", load.name);
            assert_eq!(values["bs"], load.block_bytes.to_string(), "{}", load.name);
            assert_eq!(values["numjobs"], load.connections_count.to_string(), "{}", load.name);
            assert_eq!(values["iodepth"], load.depth.to_string(), "{}", load.name);
            assert_eq!((values["ioengine"], values["uri"]), ("nbd", "${URI}"), "{}", load.name);
        }
    }
}
