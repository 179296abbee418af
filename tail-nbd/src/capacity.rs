//! What the machine must allow a tail with many discs, looked at when it starts.
//!
//! A limit that is too low would show only when the thousandth client comes back after a restart, as a disc that does
//! not answer. So each is named before that, with what it is, what is needed, and how it is raised.

use crate::limits::{CONNECTIONS_MAX, DISCS_MAX, NEGOTIATING_MAX};
use spine::{id::DiscNumber, resource::disc::DiscReport};
use std::{collections::BTreeSet, fmt, fs, net::IpAddr};

/// Descriptors of one disc: its data for the control side and for the shard, its listener, and two clients, since a
/// VM that moves has two; and, while they are handed over to a new process, all but the first once more.
const OPEN_FILES_PER_DISC: u64 = 9;

/// Descriptors of the tail itself, and of clients that use more connections than one.
const OPEN_FILES_SPARE: u64 = 1024;

/// Descriptors of one file of the stand-alone server: two of its data, and one client.
const OPEN_FILES_PER_EXPORT: u64 = 3;

/// Descriptors of the stand-alone server itself, where every file has one client and the door is full.
const OPEN_FILES_AT_THE_DOOR: u64 = 64 + NEGOTIATING_MAX as u64;

/// Entries of the neighbour table that the machine needs besides the tail's clients.
const NEIGHBOURS_SPARE: u64 = 128;

/// The kernel's bound on IPv6 neighbours; it is there in the first network namespace only, and counts for all.
const NEIGHBOURS_FILE: &str = "/proc/sys/net/ipv6/neigh/default/gc_thresh3";

const OPEN_FILES: &str = "the limit on open files (RLIMIT_NOFILE)";

/// What a tail needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Discs in all.
    pub discs_count: u64,
    /// Discs of the shard that has most of them.
    pub shard_discs_max: usize,
    /// Addresses that may connect.
    pub clients: BTreeSet<IpAddr>,
}

/// What the machine allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Descriptors of the process.
    pub open_files_max: u64,
    /// IPv6 neighbours; none when the kernel does not say.
    pub neighbours_max: Option<u64>,
}

/// A limit that is too low.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Its name.
    pub limit: &'static str,
    /// Its value.
    pub value: u64,
    /// What it should be at least.
    pub needed: u64,
    /// What happens otherwise, and how it is raised.
    pub advice: &'static str,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, value, needed, advice } = self;
        write!(f, "{limit} is {value}, and at least {needed} is needed: {advice}")
    }
}

impl Needs {
    /// Of these discs, spread over so many shards.
    pub fn of<'a>(discs: impl IntoIterator<Item = (DiscNumber, &'a DiscReport)>, shards_count: usize) -> Self {
        let mut needs = Self::default();
        let mut shards = vec![0; shards_count.max(1)];
        for (number, report) in discs {
            needs.discs_count += 1;
            let shard = usize::try_from(number.0 % shards.len() as u64).expect("it is less than a usize");
            shards[shard] += 1;
            needs.clients.extend(report.attachments.iter().flatten().map(|attachment| attachment.head));
            needs.clients.extend(report.access_control_list.iter().flatten());
        }
        needs.shard_discs_max = shards.into_iter().max().unwrap_or(0);
        needs
    }

    /// The limits that are too low; pure.
    pub fn shortages(&self, allowed: Allowed) -> Vec<Shortage> {
        let open_files = OPEN_FILES_SPARE + OPEN_FILES_PER_DISC * self.discs_count;
        let neighbours = NEIGHBOURS_SPARE + self.clients.iter().filter(|client| client.is_ipv6()).count() as u64;
        let shortage = |limit, value, needed, advice| Shortage { limit, value, needed, advice };
        let all = [
            shortage(
                OPEN_FILES,
                allowed.open_files_max,
                open_files,
                "discs or their clients will be refused; set LimitNOFILE= of the service, or ulimit -n",
            ),
            shortage(
                "net.ipv6.neigh.default.gc_thresh3",
                allowed.neighbours_max.unwrap_or(u64::MAX),
                neighbours,
                "clients will lose packets; set it, with gc_thresh1 and gc_thresh2 below it, by sysctl",
            ),
            shortage(
                "DISCS_MAX of a shard",
                DISCS_MAX as u64,
                self.shard_discs_max as u64,
                "the discs beyond it are not served; set shards higher",
            ),
            shortage(
                "CONNECTIONS_MAX of a shard",
                CONNECTIONS_MAX as u64,
                self.shard_discs_max as u64,
                "some discs will have no client; set shards higher",
            ),
        ];
        all.into_iter().filter(|shortage| shortage.value < shortage.needed).collect()
    }
}

/// What the stand-alone server lacks for so many files; pure.
pub fn exports_shortage(exports_count: usize, open_files_max: u64) -> Option<Shortage> {
    let needed = OPEN_FILES_AT_THE_DOOR + OPEN_FILES_PER_EXPORT * exports_count as u64;
    (open_files_max < needed).then_some(Shortage {
        limit: OPEN_FILES,
        value: open_files_max,
        needed,
        advice: "clients will wait to be let in; set LimitNOFILE= of the service, or ulimit -n",
    })
}

impl Allowed {
    /// Asks the kernel for what it says; the limit on open files was raised by whoever started.
    pub fn of(open_files_max: u64) -> Self {
        let neighbours = fs::read_to_string(NEIGHBOURS_FILE).ok();
        Self { open_files_max, neighbours_max: neighbours.and_then(|text| text.trim().parse().ok()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(head: &str) -> DiscReport {
        serde_json::from_value(json!({
            "size": 512, "storage_pool": "sata1", "generation": 1, "attachments_version": 1,
            "address": "fd00:b16:0:d::7", "allocated": 0, "state": "serving", "access_control_list": [head],
        }))
        .unwrap()
    }

    fn needs(numbers: impl Iterator<Item = u64>, shards_count: usize) -> Needs {
        let discs: Vec<_> = numbers.map(|n| (DiscNumber(n), report(&format!("fd00:b16:0:2::{:x}", n % 100)))).collect();
        Needs::of(discs.iter().map(|(number, report)| (*number, report)), shards_count)
    }

    const PLENTY: Allowed = Allowed { open_files_max: 1 << 19, neighbours_max: Some(1024) };

    #[test]
    fn what_is_enough_is_not_mentioned() {
        let needs = needs(1..=4000, 2);
        assert_eq!((needs.discs_count, needs.shard_discs_max, needs.clients.len()), (4000, 2000, 100));
        assert_eq!(needs.shortages(PLENTY), []);
        assert_eq!(Needs::of([], 2).shortages(Allowed { neighbours_max: None, ..PLENTY }), []);
    }

    #[test]
    fn each_limit_that_is_too_low_is_named_with_what_is_needed() {
        let low = Allowed { open_files_max: 20_000, neighbours_max: Some(200) };
        let shortages = needs(1..=4000, 2).shortages(low);
        let texts: Vec<_> = shortages.iter().map(ToString::to_string).collect();
        assert!(texts[0].contains("RLIMIT_NOFILE") && texts[0].contains("20000") && texts[0].contains("37024"));
        assert!(texts[0].contains("LimitNOFILE="), "{texts:?}");
        assert!(texts[1].contains("gc_thresh3") && texts[1].contains("228"), "{texts:?}");
        assert_eq!(texts.len(), 2);
    }

    #[test]
    fn the_stand_alone_server_needs_less() {
        assert_eq!(exports_shortage(1, 131), None);
        let low = exports_shortage(2, 131).unwrap().to_string();
        assert!(low.contains("RLIMIT_NOFILE) is 131, and at least 134 is needed"), "{low}");
    }

    #[test]
    fn discs_of_which_one_shard_has_all_count_for_it() {
        let needs = Needs { discs_count: 70_000, shard_discs_max: 70_000, ..Needs::default() };
        let shortages = needs.shortages(PLENTY);
        assert!(shortages.iter().any(|shortage| shortage.limit.contains("DISCS_MAX")), "{shortages:?}");
        assert_eq!(super::tests::needs((2..=200).step_by(2), 2).shard_discs_max, 100);
    }
}
