//! What each machine's qemu may reach: pure (safety rule 6).
//!
//! ```text
//!   a packet of a machine's uid ── uid . address . port in the sets? ── yes ──▶ goes: a disc of its own
//!                                    │ no
//!                        under the storage prefix? ── yes ──▶ refused: another disc
//!                                    │ no
//!                        port 53? ── yes ──▶ goes: the name of a CD's server
//!                                    │ no
//!                        in cdrom_allow? ── yes ──▶ goes: a CD that the operator allows
//!                                    │ no
//!                        private, or a network of the head's? ── yes ──▶ refused
//!                                    │ no
//!                                   goes: a CD from the Internet
//! ```

use super::range::Range;
use crate::{config::Config, vm::spec::Disc};
use serde_json::Value;
use spine::address::StoragePrefix;
use std::{collections::BTreeSet, fmt::Write, net::IpAddr, ops::RangeInclusive};

/// One machine's way to one of its discs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permit {
    /// The machine's.
    pub uid: u32,
    /// The disc's.
    pub address: IpAddr,
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
    /// Where CDs may come from, though it would be refused otherwise.
    pub allowed: Vec<Range>,
    /// The networks that the head itself is in.
    pub own: BTreeSet<Range>,
}

/// What the kernel has of a fence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its sets.
    pub permits: BTreeSet<Permit>,
    /// Its rules' comments, in order.
    pub rules: Vec<String>,
}

/// A rule of the fence, known again by its comment.
struct Rule {
    chain: &'static str,
    text: String,
    comment: String,
}

/// Not of the Internet (the registries of RFC 6890): nothing that customers' CDs come from is there.
const PRIVATE: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    // The first two contain ::, ::1 and IPv4 in disguise.
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "2002::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
];

impl Fence {
    /// The fence that a configuration asks for, on a head that is in these networks.
    pub fn new(config: &Config, own: BTreeSet<Range>) -> Self {
        let allowed = config.cdrom_allow.clone();
        Self { uids: config.uid_range.clone(), prefix: config.storage_prefix, allowed, own }
    }

    /// The table that is ours alone. Two heads can share a network namespace as long as their uids differ.
    pub fn table(&self) -> String {
        format!("bigv_head_{}", self.uids.start())
    }

    /// What lets a machine reach its discs. A disc whose server is named, not numbered, has none: it is reached as a CD
    /// would be.
    pub fn permits(&self, uid: u32, discs: &[Disc]) -> BTreeSet<Permit> {
        let permit = |disc: &Disc| {
            let address = disc.address.host.parse().ok()?;
            Some(Permit { uid, address, port: disc.address.port })
        };
        discs.iter().filter_map(permit).collect()
    }

    /// The nft script that makes `observed` into `desired`, in one transaction; none when it is so.
    pub fn plan(&self, desired: &BTreeSet<Permit>, observed: Option<&Observed>) -> Option<String> {
        let table = self.table();
        match observed {
            Some(observed) if observed.rules.iter().eq(self.rules().iter().map(|rule| &rule.comment)) => {
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
            "add table inet {table}\n\
             delete table inet {table}\n\
             add table inet {table}\n\
             add set inet {table} {SET_V4} {{ type uid . ipv4_addr . inet_service; }}\n\
             add set inet {table} {SET_V6} {{ type uid . ipv6_addr . inet_service; }}\n\
             add chain inet {table} refuse\n\
             add chain inet {table} machines\n\
             add chain inet {table} output {{ type filter hook output priority filter; policy accept; }}\n"
        );
        for Rule { chain, text, comment } in self.rules() {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(script, "add rule inet {table} {chain} {text} comment \"{comment}\"");
        }
        elements(&mut script, "add", &table, desired.iter());
        script
    }

    /// In the order in which nft lists them: by the making of their chains. A packet without a socket, as the last ones
    /// of a process that is gone, has no uid: the last rule does not match it.
    fn rules(&self) -> Vec<Rule> {
        let rule =
            |chain, text: &str, comment: &str| Rule { chain, text: text.to_owned(), comment: comment.to_owned() };
        let (first, last) = (self.uids.start(), self.uids.end());
        let mut rules = vec![
            rule("refuse", "meta l4proto tcp reject with tcp reset", "TCP"),
            rule("refuse", "reject with icmpx type admin-prohibited", "all else"),
            rule(
                "machines",
                &format!("meta skuid . ip daddr . tcp dport @{SET_V4} accept"),
                "to a disc of its own, IPv4",
            ),
            rule(
                "machines",
                &format!("meta skuid . ip6 daddr . tcp dport @{SET_V6} accept"),
                "to a disc of its own, IPv6",
            ),
            rule(
                "machines",
                &format!("ip6 daddr {} goto refuse", self.prefix),
                &format!("to another disc {}", self.prefix),
            ),
            rule("machines", "meta l4proto { tcp, udp } th dport 53 accept", "to a name server"),
        ];
        let to = |range: &Range, verdict: &str, what: &str| {
            let family = if range.is_v4() { "ip" } else { "ip6" };
            rule("machines", &format!("{family} daddr {range} {verdict}"), &format!("{what} {range}"))
        };
        rules.extend(self.allowed.iter().map(|range| to(range, "accept", "to cdrom_allow")));
        let private = PRIVATE.map(|text| text.parse::<Range>().expect("the list is tested"));
        rules.extend(private.iter().map(|range| to(range, "goto refuse", "to what is private")));
        rules.extend(self.own.iter().map(|range| to(range, "goto refuse", "to a network of the head")));
        rules.push(rule(
            "output",
            &format!("meta skuid {first}-{last} jump machines"),
            &format!("machines {first}-{last}"),
        ));
        rules
    }
}

const SET_V4: &str = "discs4";
const SET_V6: &str = "discs6";

fn elements<'a>(script: &mut String, verb: &str, table: &str, permits: impl Iterator<Item = &'a Permit>) {
    for Permit { uid, address, port } in permits {
        let set = if address.is_ipv4() { SET_V4 } else { SET_V6 };
        let _ = writeln!(script, "{verb} element inet {table} {set} {{ {uid} . {address} . {port} }}");
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
        Fence {
            uids: 70_000..=70_999,
            prefix: "fd00:b16:0:d::/64".parse().unwrap(),
            allowed: vec!["10.16.5.7".parse().unwrap()],
            own: ["198.51.100.0/24".parse().unwrap()].into(),
        }
    }

    fn permit(uid: u32, disc: u16) -> Permit {
        Permit { uid, address: format!("fd00:b16:0:d::{disc:x}").parse().unwrap(), port: 10_809 }
    }

    fn in_force(permits: impl IntoIterator<Item = Permit>) -> Observed {
        Observed {
            permits: permits.into_iter().collect(),
            rules: fence().rules().into_iter().map(|rule| rule.comment).collect(),
        }
    }

    #[test]
    fn rule_6_a_machine_may_reach_its_discs_wherever_they_are() {
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
        let elsewhere = |address: &str, port| Permit { uid: 70_001, address: address.parse().unwrap(), port };
        let wanted = [permit(70_001, 8), elsewhere("fd00:b16:0:e::8", 10_809), elsewhere("10.0.0.1", 1)];
        assert_eq!(fence().permits(70_001, &discs), wanted.into());
    }

    #[test]
    fn rule_6_a_fence_that_is_not_there_is_made_whole() {
        let script = fence().plan(&[permit(70_001, 8)].into(), None).unwrap();
        for line in [
            "add rule inet bigv_head_70000 output meta skuid 70000-70999 jump machines ",
            "add rule inet bigv_head_70000 machines ip6 daddr fd00:b16:0:d::/64 goto refuse ",
            "add rule inet bigv_head_70000 machines ip daddr 10.16.5.7/32 accept ",
            "add rule inet bigv_head_70000 machines ip daddr 10.0.0.0/8 goto refuse ",
            "add rule inet bigv_head_70000 machines ip6 daddr fe80::/9 goto refuse ",
            "add rule inet bigv_head_70000 machines ip daddr 198.51.100.0/24 goto refuse ",
            "add element inet bigv_head_70000 discs6 { 70001 . fd00:b16:0:d::8 . 10809 }",
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
            "delete element inet bigv_head_70000 discs6 { 70002 . fd00:b16:0:d::9 . 10809 }\n\
             add element inet bigv_head_70000 discs6 { 70003 . fd00:b16:0:d::a . 10809 }\n"
        );
    }

    #[test]
    fn nfts_list_is_read_and_anything_else_is_not_believed() {
        let rule = |rule: Rule| json!({"rule": {"chain": rule.chain, "comment": rule.comment}});
        let table = |element: Value| {
            let mut objects =
                vec![json!({"metainfo": {"version": "1.0.6"}}), json!({"set": {"name": "discs6", "elem": [element]}})];
            objects.extend(fence().rules().into_iter().map(rule));
            json!({"nftables": objects})
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

    #[test]
    fn comments_tell_rules_apart_and_fit() {
        let comments: Vec<String> = fence().rules().into_iter().map(|rule| rule.comment).collect();
        assert_eq!(comments.iter().collect::<BTreeSet<_>>().len(), comments.len());
        assert!(comments.iter().all(|comment| comment.len() < 128), "nft's own bound");
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
