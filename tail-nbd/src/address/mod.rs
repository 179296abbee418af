//! The discs' addresses on the storage interface (R118, R128; safety rules 11, 12).
//!
//! ```text
//!   store ── add, remove ──▶ keeper thread ── plan(wanted × observed) ──▶ netlink
//!      ◀── up, or trouble ──────┘    └── unsolicited neighbour advertisements ──▶ storage LAN
//! ```
//!
//! Invariants:
//! * At start, each address under the prefix that no disc of ours has is removed before anything else:
//!   a killed process leaves its addresses behind (rule 11).
//! * At start, an address that is not up yet is added only when nobody answered a probe for it.
//! * Only differences are applied: addresses that are up already stay up over a restart, and after an
//!   orderly stop. Nothing outside the prefix is ever touched.
//! * Addresses are added as /128 without duplicate-address detection and with preferred lifetime 0, so
//!   that the kernel never takes one as the source of the tail's own connections.
//!
//! * [`neighbour`]: the packets of neighbour discovery; pure.
//! * [`announce`]: when an address is to be announced; pure.
//! * [`netlink`]: observing and changing the interface.
//! * [`keeper`]: the thread that does it.
//!
//! Deliberately absent: addresses of other nodes, and routes.

pub mod announce;
pub mod keeper;
pub mod neighbour;
pub mod netlink;

pub use keeper::{Addresses, KeeperConfig};

use spine::address::StoragePrefix;
use std::{collections::BTreeSet, net::Ipv6Addr};

/// What has to be done to the interface, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Addresses to take off.
    pub remove: Vec<Ipv6Addr>,
    /// Addresses to put on.
    pub add: Vec<Ipv6Addr>,
}

/// The difference between what is wanted and what is there. Addresses outside `prefix` are not ours to
/// touch, and its first address is the routers' (RFC 4291 section 2.6.1).
pub fn plan(wanted: &BTreeSet<Ipv6Addr>, observed: &BTreeSet<Ipv6Addr>, prefix: StoragePrefix) -> Plan {
    let ours = |address: &&Ipv6Addr| prefix.number_of(**address).is_some();
    Plan {
        remove: observed.difference(wanted).filter(ours).copied().collect(),
        add: wanted.difference(observed).filter(ours).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix() -> StoragePrefix {
        "fd00:b16:0:d::/64".parse().unwrap()
    }

    fn set(texts: &[&str]) -> BTreeSet<Ipv6Addr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn rule11_what_no_disc_covers_goes_and_nothing_else() {
        let wanted = set(&["fd00:b16:0:d::7", "fd00:b16:0:d::8"]);
        let observed = set(&["fd00:b16:0:d::8", "fd00:b16:0:d::9", "fd00:b16:0:2::21", "fe80::1"]);
        let plan = plan(&wanted, &observed, prefix());
        assert_eq!(plan.remove, ["fd00:b16:0:d::9".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!(plan.add, ["fd00:b16:0:d::7".parse::<Ipv6Addr>().unwrap()]);
    }

    proptest! {
        #[test]
        fn applying_a_plan_leaves_nothing_to_do(
            wanted in proptest::collection::btree_set(1u64..20, 0..10),
            observed in proptest::collection::btree_set(1u64..20, 0..10),
            foreign in proptest::collection::btree_set(1u128..20, 0..5),
        ) {
            let address = |number: u64| prefix().address_of(spine::id::DiscNumber(number));
            let wanted: BTreeSet<_> = wanted.into_iter().map(address).collect();
            let foreign: BTreeSet<_> = foreign.into_iter().map(Ipv6Addr::from).collect();
            let mut observed: BTreeSet<_> = observed.into_iter().map(address).chain(foreign.clone()).collect();
            let first = plan(&wanted, &observed, prefix());
            for address in &first.remove { prop_assert!(observed.remove(address)); }
            for address in &first.add { prop_assert!(observed.insert(*address)); }
            prop_assert_eq!(plan(&wanted, &observed, prefix()), Plan::default());
            prop_assert!(foreign.is_subset(&observed));
        }
    }
}
