//! The storage LAN's addresses: a disc's own address follows from its number alone (R037).

use crate::id::DiscNumber;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, net::Ipv6Addr, str::FromStr};
use thiserror::Error;

/// The /64 that holds nothing but discs' addresses, the same on every node of a cluster.
///
/// Because nothing else lives in it, a tail may take off its interface every address under the
/// prefix that it does not own (safety rule 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoragePrefix(u64);

impl StoragePrefix {
    /// The address of disc `number`: the prefix, then the number in the low 64 bits.
    pub fn address_of(self, number: DiscNumber) -> Ipv6Addr {
        Ipv6Addr::from((u128::from(self.0) << 64) | u128::from(number.0))
    }

    /// The number of the disc that `address` belongs to; none when it is not under the prefix.
    pub fn number_of(self, address: Ipv6Addr) -> Option<DiscNumber> {
        let bits = u128::from(address);
        let number = (bits & u128::from(u64::MAX)) as u64;
        ((bits >> 64) as u64 == self.0 && number != 0).then_some(DiscNumber(number))
    }

    /// The prefix's first address.
    pub fn network(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.0) << 64)
    }
}

/// A text that is not an IPv6 /64.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{0:?} is not a storage prefix: expected an IPv6 network of 64 bits, such as fd00:b16:0:d::/64")]
pub struct StoragePrefixError(String);

impl FromStr for StoragePrefix {
    type Err = StoragePrefixError;
    fn from_str(text: &str) -> Result<Self, StoragePrefixError> {
        let error = || StoragePrefixError(text.chars().take(80).collect());
        let address: Ipv6Addr = text.strip_suffix("/64").ok_or_else(error)?.parse().map_err(|_| error())?;
        let bits = u128::from(address);
        let usable = bits & u128::from(u64::MAX) == 0 && bits != 0 && !address.is_multicast();
        usable.then_some(Self((bits >> 64) as u64)).ok_or_else(error)
    }
}

impl fmt::Display for StoragePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.network())
    }
}

impl Serialize for StoragePrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoragePrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn r037_an_address_follows_from_the_number() {
        let prefix: StoragePrefix = "fd00:b16:0:d::/64".parse().unwrap();
        assert_eq!(prefix.address_of(DiscNumber(8)).to_string(), "fd00:b16:0:d::8");
        assert_eq!(prefix.number_of("fd00:b16:0:d::8".parse().unwrap()), Some(DiscNumber(8)));
        assert_eq!(prefix.number_of("fd00:b16:0:e::8".parse().unwrap()), None);
        assert_eq!(prefix.number_of("fd00:b16:0:d::".parse().unwrap()), None, "the router's anycast address");
    }

    #[test]
    fn only_a_slash_64_is_a_prefix() {
        for bad in ["", "fd00::", "fd00::/48", "fd00::1/64", "::/64", "ff02::/64", "10.0.0.0/64"] {
            assert!(bad.parse::<StoragePrefix>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_and_addresses_are_one_to_one(number in 1u64..) {
            let prefix: StoragePrefix = "fd00:b16:0:d::/64".parse().unwrap();
            prop_assert_eq!(prefix.number_of(prefix.address_of(DiscNumber(number))), Some(DiscNumber(number)));
        }
    }
}
