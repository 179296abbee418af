//! Networks, as `10.0.0.0/8`.

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};
use thiserror::Error;

/// A network, or one address. The bits behind its prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: IpAddr,
    prefix_bits: u8,
}

/// Why a text is not a network.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a network, as \"192.0.2.0/24\", \"2001:db8::/64\" or \"192.0.2.7\"")]
pub struct RangeError(String);

impl Range {
    /// The network of `address`; none when there are not so many bits.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(address) => {
                let behind = 32u32.checked_sub(prefix_bits.into())?;
                let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let behind = 128u32.checked_sub(prefix_bits.into())?;
                let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Some(Self { first, prefix_bits })
    }

    /// True for one of IPv4.
    pub fn is_v4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// The networks that this machine has addresses in.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of_this_machine() -> io::Result<BTreeSet<Self>> {
        let range = |interface: nix::ifaddrs::InterfaceAddress| {
            let address = ip(interface.address?)?;
            let mask_bits = match ip(interface.netmask?)? {
                IpAddr::V4(mask) => mask.to_bits().leading_ones(),
                IpAddr::V6(mask) => mask.to_bits().leading_ones(),
            };
            Self::new(address, u8::try_from(mask_bits).ok()?)
        };
        Ok(getifaddrs()?.filter_map(range).collect())
    }
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let read = || {
            let address: IpAddr = address.parse().ok()?;
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let range = Self::new(address, bits.map_or(Some(whole), |bits| bits.parse().ok())?)?;
            // A network that is written with a host's bits is a mistake.
            (range.first == address).then_some(range)
        };
        read().ok_or_else(|| RangeError(text.chars().take(60).collect()))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_shown() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "::/0", "fe80::/10", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Range>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7".parse::<Range>().unwrap().to_string(), "192.0.2.7/32");
        assert_eq!("::1".parse::<Range>().unwrap().to_string(), "::1/128");
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10/8", "fe80::%1/10", "a.example"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_is_in_its_loopback_network() {
        let found = Range::of_this_machine().unwrap();
        assert!(found.contains(&"127.0.0.0/8".parse().unwrap()), "{found:?}");
    }
}
