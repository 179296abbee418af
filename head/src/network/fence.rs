//! Which machine may reach which disc's address: pure (safety rule 6).
//!
//! ```text
//!   a packet of this head ── of a machine's uid, to the storage prefix? ── no ──▶ goes
//!                                    │ yes
//!                     uid . address . port in the set? ── yes ──▶ goes
//!                                    │ no
//!                                 refused
//! ```

use crate::vm::spec::Disc;
use serde_json::Value;
use spine::address::StoragePrefix;
use std::{collections::BTreeSet, fmt::Write, net::Ipv6Addr, ops::RangeInclusive};

/// One machine's way to one of its discs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permit {
    /// The machine's.
    pub uid: u32,
    /// The disc's.
    pub address: Ipv6Addr,
    /// The disc's, of TCP.
    pub port: u16,
}

/// What is fenced in: these users, off these addresses.
#[derive(Clone, Debug)]
pub struct Fence {
    /// Every uid that machines can have.
    pub uids: RangeInclusive<u32>,
    /// Every address that discs can have.
    pub prefix: StoragePrefix,
}

/// What the kernel has of a fence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its set.
    pub permits: BTreeSet<Permit>,
    /// Its rules' comments, in order.
    pub rules: Vec<String>,
}

impl Fence {
    /// The table that is ours alone. Two heads can share a network namespace as long as their uids differ.
    pub fn table(&self) -> String {
        format!("bigv_head_{}", self.uids.start())
    }

    /// What lets a machine reach its discs. Those outside the prefix need no permit.
    pub fn permits(&self, uid: u32, discs: &[Disc]) -> BTreeSet<Permit> {
        let permit = |disc: &Disc| {
            let address: Ipv6Addr = disc.address.host.parse().ok()?;
            self.prefix.number_of(address).map(|_| Permit { uid, address, port: disc.address.port })
        };
        discs.iter().filter_map(permit).collect()
    }

    /// The nft script that makes `observed` into `desired`, in one transaction; none when it is so.
    pub fn plan(&self, desired: &BTreeSet<Permit>, observed: Option<&Observed>) -> Option<String> {
        let table = self.table();
        match observed {
            Some(observed) if observed.rules == self.rules().map(|(_, _, comment)| comment) => {
                let mut script = String::new();
                elements(&mut script, "delete", &table, observed.permits.difference(desired));
                elements(&mut script, "add", &table, desired.difference(&observed.permits));
                (!script.is_empty()).then_some(script)
            }
            // It is not there, or somebody changed it: all of it anew.
            _ => Some(self.whole(desired)),
        }
    }

    /// Deleting needs a table that is there, hence the first line.
    fn whole(&self, desired: &BTreeSet<Permit>) -> String {
        let table = self.table();
        let mut script = format!(
            "add table ip6 {table}\n\
             delete table ip6 {table}\n\
             add table ip6 {table}\n\
             add set ip6 {table} {SET} {{ type uid . ipv6_addr . inet_service; }}\n\
             add chain ip6 {table} machines\n\
             add chain ip6 {table} output {{ type filter hook output priority filter; policy accept; }}\n"
        );
        for (chain, rule, comment) in self.rules() {
            let _ = writeln!(script, "add rule ip6 {table} {chain} {rule} comment \"{comment}\"");
        }
        elements(&mut script, "add", &table, desired.iter());
        script
    }

    /// Chain, rule and comment. A packet without a socket, as the last ones of a process that is gone, has no
    /// uid: the first rule does not match it.
    fn rules(&self) -> [(&'static str, String, String); 4] {
        let (first, last) = (self.uids.start(), self.uids.end());
        let prefix = self.prefix;
        [
            (
                "output",
                format!("meta skuid {first}-{last} ip6 daddr {prefix} jump machines"),
                format!("machines {first}-{last} to discs {prefix}"),
            ),
            ("machines", format!("meta skuid . ip6 daddr . tcp dport @{SET} accept"), "to a disc of its own".into()),
            ("machines", "reject with tcp reset".into(), "to another disc".into()),
            ("machines", "reject with icmpv6 type admin-prohibited".into(), "to another disc, not TCP".into()),
        ]
    }
}

const SET: &str = "discs";

fn elements<'a>(script: &mut String, verb: &str, table: &str, permits: impl Iterator<Item = &'a Permit>) {
    for Permit { uid, address, port } in permits {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "{verb} element ip6 {table} {SET} {{ {uid} . {address} . {port} }}");
    }
}

impl Observed {
    /// Reads what `nft -j list table` says; none when it is not what nft says. An element that is not one
    /// of ours counts as a changed rule.
    pub fn read(value: &Value) -> Option<Self> {
        let mut observed = Self::default();
        for object in value.get("nftables")?.as_array()? {
            if let Some(rule) = object.get("rule") {
                observed.rules.push(rule["comment"].as_str().unwrap_or_default().to_owned());
            }
            for element in object.get("set").and_then(|set| set.get("elem")?.as_array()).into_iter().flatten() {
                match permit(element) {
                    Some(permit) => drop(observed.permits.insert(permit)),
                    None => observed.rules.push("an element of somebody else".to_owned()),
                }
            }
        }
        // nft lists chains, and so their rules, in the order they were made: `machines` comes first.
        observed.rules.sort_by_key(|comment| !comment.starts_with("machines "));
        Some(observed)
    }
}

fn permit(element: &Value) -> Option<Permit> {
    let [uid, address, port] = element.get("concat")?.as_array()?.as_slice() else { return None };
    // nft is told to show numbers only: a uid may have a name.
    let uid = u32::try_from(uid.as_u64()?).ok()?;
    Some(Permit { uid, address: address.as_str()?.parse().ok()?, port: u16::try_from(port.as_u64()?).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fence() -> Fence {
        Fence { uids: 70_000..=70_999, prefix: "fd00:b16:0:d::/64".parse().unwrap() }
    }

    fn permit(uid: u32, disc: u16) -> Permit {
        Permit { uid, address: format!("fd00:b16:0:d::{disc:x}").parse().unwrap(), port: 10_809 }
    }

    fn in_force(permits: impl IntoIterator<Item = Permit>) -> Observed {
        Observed {
            permits: permits.into_iter().collect(),
            rules: fence().rules().map(|(_, _, comment)| comment).to_vec(),
        }
    }

    #[test]
    fn rule_6_only_discs_need_permits() {
        let disc = |address: &str| Disc {
            address: address.parse().unwrap(),
            model: crate::hypervisor::profile::DiscModel::Virtio,
            serial: None,
            key: spine::secret::Secret::default(),
            size: None,
        };
        let discs = [
            disc("nbd:[fd00:b16:0:d::8]:10809"),
            disc("nbd:[fd00:b16:0:e::8]:10809"),
            disc("nbd:10.0.0.1:1"),
            disc("nbd:host:1"),
        ];
        assert_eq!(fence().permits(70_001, &discs), [permit(70_001, 8)].into());
    }

    #[test]
    fn rule_6_a_fence_that_is_not_there_is_made_whole() {
        let script = fence().plan(&[permit(70_001, 8)].into(), None).unwrap();
        for line in [
            "add rule ip6 bigv_head_70000 output meta skuid 70000-70999 ip6 daddr fd00:b16:0:d::/64 jump machines ",
            "add rule ip6 bigv_head_70000 machines reject with tcp reset ",
            "add element ip6 bigv_head_70000 discs { 70001 . fd00:b16:0:d::8 . 10809 }",
        ] {
            assert!(script.contains(line), "{script}");
        }
        let mut cut = in_force([permit(70_001, 8)]);
        cut.rules.pop();
        assert_eq!(fence().plan(&cut.permits.clone(), Some(&cut)), Some(script), "as is one that somebody cut");
    }

    #[test]
    fn rule_6_only_differences_are_applied() {
        let observed = in_force([permit(70_001, 8), permit(70_002, 9)]);
        assert_eq!(fence().plan(&observed.permits, Some(&observed)), None);
        assert_eq!(
            fence().plan(&[permit(70_001, 8), permit(70_003, 10)].into(), Some(&observed)).unwrap(),
            "delete element ip6 bigv_head_70000 discs { 70002 . fd00:b16:0:d::9 . 10809 }\n\
             add element ip6 bigv_head_70000 discs { 70003 . fd00:b16:0:d::a . 10809 }\n"
        );
    }

    #[test]
    fn nfts_list_is_read_and_anything_else_is_not_believed() {
        let rule = |comment: &str| json!({"rule": {"chain": "machines", "comment": comment}});
        let table = |element: Value| {
            json!({"nftables": [
                {"metainfo": {"version": "1.0.6"}},
                {"set": {"name": "discs", "elem": [element]}},
                rule("to a disc of its own"), rule("to another disc"), rule("to another disc, not TCP"),
                rule("machines 70000-70999 to discs fd00:b16:0:d::/64"),
            ]})
        };
        let good = Observed::read(&table(json!({"concat": [70_001, "fd00:b16:0:d::8", 10_809]}))).unwrap();
        assert_eq!(good, in_force([permit(70_001, 8)]));
        for element in [json!("x"), json!({"concat": ["root", "fd00::1", 1]}), json!({"concat": [1, "::", 65_536]})] {
            let odd = Observed::read(&table(element.clone())).unwrap();
            assert!(odd.permits.is_empty(), "{element}");
            assert!(fence().plan(&BTreeSet::new(), Some(&odd)).unwrap().contains("delete table"), "{element}");
        }
        assert_eq!(Observed::read(&json!({"nftables": 1})), None);
    }

    proptest! {
        #[test]
        fn applying_the_plan_leaves_nothing_to_do(
            desired in proptest::collection::btree_set((70_000u32..70_004, 1u16..5), 0..8),
            observed in proptest::collection::btree_set((70_000u32..70_004, 1u16..5), 0..8),
        ) {
            let set = |pairs: BTreeSet<(u32, u16)>| pairs.into_iter().map(|(uid, disc)| permit(uid, disc)).collect::<BTreeSet<_>>();
            let (desired, mut observed) = (set(desired), in_force(set(observed)));
            for line in fence().plan(&desired, Some(&observed)).unwrap_or_default().lines() {
                let words: Vec<_> = line.split(' ').collect();
                let permit = Permit { uid: words[6].parse().unwrap(), address: words[8].parse().unwrap(), port: words[10].parse().unwrap() };
                let changed = if words[0] == "add" { observed.permits.insert(permit) } else { observed.permits.remove(&permit) };
                prop_assert!(changed, "nft refuses the whole script for an element that is not there: {line}");
            }
            prop_assert_eq!(fence().plan(&desired, Some(&observed)), None);
        }
    }
}
