//! Which address a new network card gets: the first that is free.

use super::network::Ipv6Network;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

/// The first host number that VMs are given.
const IPV6_HOST_FIRST: u128 = 0x100;
/// The highest.
const IPV6_HOST_LAST: u128 = 0xffff_ffff;

impl AddressRange {
    /// A range of IPv4 addresses.
    pub fn ipv4(first: Ipv4Addr, last: Ipv4Addr) -> Self {
        Self { first: first.into(), last: last.into() }
    }

    /// The part of an IPv6 network that VMs are given: not the first addresses, which are for
    /// routers, and not more than 2^32, which leaves the rest of a /64 alone.
    pub fn ipv6(network: Ipv6Network) -> Self {
        let base = u128::from(network.base());
        let last = u128::from(network.last()).min(base | IPV6_HOST_LAST);
        Self { first: Ipv6Addr::from(base | IPV6_HOST_FIRST).into(), last: Ipv6Addr::from(last).into() }
    }

    /// The first address that is not among `used`, which is in rising order.
    pub fn first_free(self, used: &[IpAddr]) -> Option<IpAddr> {
        let mut candidate = number(self.first);
        for address in used.iter().filter(|a| a.is_ipv4() == self.first.is_ipv4()) {
            match number(*address) {
                taken if taken < candidate => {}
                taken if taken == candidate => candidate = candidate.checked_add(1)?,
                _ => break,
            }
        }
        (candidate <= number(self.last)).then(|| address_of(candidate, self.first.is_ipv4()))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address_of(number: u128, ipv4: bool) -> IpAddr {
    match (ipv4, u32::try_from(number)) {
        (true, Ok(number)) => Ipv4Addr::from(number).into(),
        // An IPv4 range ends at its last address, so that a candidate beyond 32 bits never gets here.
        _ => Ipv6Addr::from(number).into(),
    }
}

/// The hardware address of network card `nic_id`: locally administered, and never the same twice
/// because the numbers of cards are not used again.
pub fn mac_of(nic_id: i64) -> String {
    let [.., a, b, c, d] = nic_id.to_be_bytes();
    format!("fe:ff:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn range(first: u8, last: u8) -> AddressRange {
        AddressRange { first: v4(first), last: v4(last) }
    }

    #[test]
    fn the_first_gap_is_taken() {
        assert_eq!(range(5, 7).first_free(&[]), Some(v4(5)));
        assert_eq!(range(5, 7).first_free(&[v4(1), v4(5), v4(7)]), Some(v4(6)));
        assert_eq!(range(5, 7).first_free(&[v4(5), v4(6), v4(7), v4(9)]), None);
        let end = AddressRange { first: "255.255.255.255".parse().unwrap(), last: "255.255.255.255".parse().unwrap() };
        assert_eq!(end.first_free(&[end.first]), None);
    }

    #[test]
    fn an_ipv6_network_leaves_room_for_routers() {
        let range = AddressRange::ipv6("fd00:b16:0:4::/64".parse().unwrap());
        assert_eq!(range.last, "fd00:b16:0:4::ffff:ffff".parse::<IpAddr>().unwrap());
        let small = AddressRange::ipv6("fd00::1:0/112".parse().unwrap());
        assert_eq!(small.last, "fd00::1:ffff".parse::<IpAddr>().unwrap());
        assert_eq!(range.first_free(&[v4(1)]), Some("fd00:b16:0:4::100".parse().unwrap()));
        assert_eq!(
            range.first_free(&["fd00:b16:0:4::100".parse().unwrap()]),
            Some("fd00:b16:0:4::101".parse().unwrap())
        );
    }

    #[test]
    fn hardware_addresses_follow_from_the_number() {
        assert_eq!(mac_of(1), "fe:ff:00:00:00:01");
        assert_eq!(mac_of(0x0102_0304), "fe:ff:01:02:03:04");
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_and_in_the_range(mut used in proptest::collection::btree_set(0u8..40, 0..40)) {
            used.insert(0);
            let used: Vec<IpAddr> = used.into_iter().map(v4).collect();
            match range(5, 20).first_free(&used) {
                Some(free) => prop_assert!(!used.contains(&free) && free >= v4(5) && free <= v4(20)),
                None => prop_assert!((5..=20).all(|n| used.contains(&v4(n)))),
            }
        }
    }
}
