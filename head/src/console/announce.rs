//! Tells the neighbours where an address is now: gratuitous ARP (RFC 5227 §3) and unsolicited
//! neighbour advertisements (RFC 4861 §7.2.6).

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, send, socket},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

/// When, after the first, an announcement is repeated: one lost is cheap, all lost costs the
/// neighbours' own time-out.
pub const REPEATS: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];

/// A packet socket that sends from one interface.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Announcer {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the interface has no Ethernet address, or the right to send packets is missing.
    pub fn open(interface: &str) -> io::Result<Self> {
        let link = link_of(interface)?;
        let mac = link.addr().ok_or_else(|| io::Error::other("the interface has no Ethernet address"))?;
        // Protocol 0: it sends, and nothing is received into its queue.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        bind(socket.as_raw_fd(), &link)?;
        Ok(Self { socket, mac })
    }

    /// Announces `address` at once and after each of [`REPEATS`].
    pub async fn announce(self, address: IpAddr) {
        let frame = frame(self.mac, address);
        let start = tokio::time::Instant::now();
        for at in [Duration::ZERO].into_iter().chain(REPEATS) {
            tokio::time::sleep_until(start + at).await;
            if let Err(error) = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()) {
                tracing::debug!("console: announcement of {address} not sent: {error}");
            }
        }
    }
}

/// The interface's address as the kernel itself writes it: no other safe way leads to one.
fn link_of(interface: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| entry.address.filter(|address| address.family() == Some(AddressFamily::Packet)))
        .find_map(|address| address.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}")))
}

/// The whole Ethernet frame.
fn frame(mac: [u8; 6], address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => unsolicited_advertisement(mac, address),
    }
}

/// ```text
///  0       6      12   14        22      28       32      38       42
///  ff:…:ff │ mac  │0806│ header  │ mac   │ address │ 0     │ address │   a request for itself
/// ```
fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x08, 0x06]);
    // Ethernet, IPv4, lengths 6 and 4, operation 1: request, which RFC 5227 §3 prefers.
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// ```text
///  0              6     12   14            54         78                 86
///  33:33:0:0:0:1 │ mac │86dd│ IPv6 header │ NA 24 B  │ option: mac, 8 B │   to all nodes
/// ```
fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut advertisement = Vec::with_capacity(32);
    // Type 136, code 0, checksum below; flag O: override what you have cached.
    advertisement.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    advertisement.extend(address.octets());
    // Option 2, target link-layer address, one unit of eight bytes.
    advertisement.extend([2, 1]);
    advertisement.extend(mac);
    let sum = icmp6_checksum(address, all_nodes, &advertisement);
    advertisement[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(mac);
    frame.extend([0x86, 0xdd]);
    // Version 6; payload length; next header ICMPv6; hop limit 255, or receivers must ignore it.
    frame.extend([0x60, 0, 0, 0, 0, advertisement.len() as u8, 58, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    frame.extend(advertisement);
    frame
}

/// RFC 4443 §2.3: the one's complement sum over the pseudo-header and the message.
fn icmp6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(40 + message.len());
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(message);
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn r109_the_arp_frame_asks_for_its_own_address() {
        let frame = frame(MAC, "10.16.3.100".parse().unwrap());
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[28..32], &[10, 16, 3, 100], "sender");
        assert_eq!(&frame[38..42], &[10, 16, 3, 100], "target");
        assert_eq!((&frame[6..12], &frame[22..28]), (&MAC[..], &MAC[..]));
    }

    #[test]
    fn r109_the_advertisement_has_a_right_checksum() {
        let address: Ipv6Addr = "fd00:b16:0:3::7".parse().unwrap();
        let frame = frame(MAC, address.into());
        assert_eq!(frame.len(), 86);
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        // Summed with its own checksum in place, a message gives zero.
        assert_eq!(icmp6_checksum(address, to, &frame[54..]), 0);
        assert_eq!(frame[21], 255, "hop limit");
    }
}
