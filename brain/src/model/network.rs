//! IP networks as they stand in the configuration.

use serde::{Deserialize, Deserializer};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};
use thiserror::Error;

/// An IPv4 network: `10.16.4.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Network {
    /// Its first address.
    pub base: Ipv4Addr,
    /// Bits of the prefix, at most 30: a router and a machine need an address each.
    pub prefix_bits: u8,
}

/// An IPv6 network: `fd00:b16:0:4::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Network {
    /// Its first address.
    pub base: Ipv6Addr,
    /// Bits of the prefix, at most 126.
    pub prefix_bits: u8,
}

/// A text that is not a network.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not a network: {reason}")]
pub struct NetworkError {
    text: String,
    reason: &'static str,
}

impl Ipv4Network {
    /// True when `address` is in the network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.base)
    }

    /// The network's last address, the one for broadcasts.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | !self.mask())
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0)
    }
}

impl Ipv6Network {
    /// True when `address` is in the network.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        u128::from(address) & self.mask() == u128::from(self.base)
    }

    /// The first address: the prefix, then zeroes.
    pub fn base(self) -> Ipv6Addr {
        self.base
    }

    /// The last address: the prefix, then ones.
    pub fn last(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.base) | !self.mask())
    }

    /// Bits of the prefix.
    pub fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0)
    }
}

/// Splits `ADDRESS/BITS`, and checks the bits.
fn split<A: FromStr>(text: &str, bits_max: u8) -> Result<(A, u8), NetworkError> {
    let error = |reason| NetworkError { text: text.chars().take(80).collect(), reason };
    let (address, bits) = text.split_once('/').ok_or_else(|| error("it must be ADDRESS/BITS"))?;
    let address = address.parse().map_err(|_| error("its address is malformed"))?;
    let bits: u8 = bits.parse().map_err(|_| error("its prefix length is not a number"))?;
    if bits == 0 || bits > bits_max {
        return Err(error("its prefix length is out of range"));
    }
    Ok((address, bits))
}

const HOST_BITS: &str = "bits behind the prefix are set";

impl FromStr for Ipv4Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (base, prefix_bits) = split(text, 30)?;
        let network = Self { base, prefix_bits };
        if !network.contains(base) {
            return Err(NetworkError { text: text.to_owned(), reason: HOST_BITS });
        }
        Ok(network)
    }
}

impl FromStr for Ipv6Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (base, prefix_bits) = split(text, 126)?;
        let network = Self { base, prefix_bits };
        if !network.contains(base) {
            return Err(NetworkError { text: text.to_owned(), reason: HOST_BITS });
        }
        Ok(network)
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

impl fmt::Display for Ipv6Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

impl<'de> Deserialize<'de> for Ipv4Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Ipv6Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// True when both are of the same family and `first` is not behind `last`.
pub fn in_order(first: IpAddr, last: IpAddr) -> bool {
    first.is_ipv4() == last.is_ipv4() && first <= last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_back_as_written() {
        for text in ["10.16.4.0/24", "10.16.4.4/30"] {
            assert_eq!(text.parse::<Ipv4Network>().unwrap().to_string(), text);
        }
        assert_eq!("fd00:b16:0:4::/64".parse::<Ipv6Network>().unwrap().to_string(), "fd00:b16:0:4::/64");
        for bad in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "10.0.0.0/0", "10.0.0.0/x", "a/8", "10.0.0.0/31"] {
            assert!(bad.parse::<Ipv4Network>().is_err(), "{bad:?}");
        }
        assert!("fd00::1/64".parse::<Ipv6Network>().is_err());
    }

    #[test]
    fn a_network_knows_its_own() {
        let network: Ipv4Network = "10.16.4.0/24".parse().unwrap();
        assert!(network.contains("10.16.4.255".parse().unwrap()));
        assert!(!network.contains("10.16.5.0".parse().unwrap()));
        assert_eq!(network.last(), Ipv4Addr::new(10, 16, 4, 255));
        let network: Ipv6Network = "fd00:b16:0:4::/64".parse().unwrap();
        assert!(network.contains("fd00:b16:0:4::ffff".parse().unwrap()));
        assert!(!network.contains("fd00:b16:0:5::".parse().unwrap()));
    }
}
