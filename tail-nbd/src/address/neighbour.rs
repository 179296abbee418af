//! Packets of IPv6 neighbour discovery (RFC 4861), without their IPv6 headers; no I/O.
//!
//! ```text
//!   type  code  checksum  flags or reserved   target            option: type, length in 8 bytes, MAC
//!   u8    u8    u16       u32                 16 bytes          u8 u8 6 bytes
//! ```
//!
//! The kernel fills in the checksum of what a raw ICMPv6 socket sends (RFC 3542 section 3.1).

use std::net::Ipv6Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// All nodes of a link (RFC 4291 section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Hop limit of every packet of neighbour discovery: a receiver drops any other, since it could have
/// come from afar (RFC 4861 section 7.1).
pub const HOP_LIMIT: u32 = 255;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;
/// The override flag: who has another MAC for the target is to forget it (RFC 4861 section 4.4).
const OVERRIDE: u8 = 0x20;
const TARGET_AT: usize = 8;
const OPTION_AT: usize = 24;
const PACKET_BYTES: usize = 32;

/// Says unasked that `target` is at `mac` (RFC 4861 section 7.2.6).
pub fn advertisement(target: Ipv6Addr, mac: Mac) -> [u8; PACKET_BYTES] {
    let mut packet = packet(ADVERTISEMENT, target, TARGET_OPTION, mac);
    packet[4] = OVERRIDE;
    packet
}

/// Asks who has `target` (RFC 4861 section 4.3).
pub fn solicitation(target: Ipv6Addr, mac: Mac) -> [u8; PACKET_BYTES] {
    packet(SOLICITATION, target, SOURCE_OPTION, mac)
}

/// Where a solicitation for `target` is sent (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let low = u128::from(target) & 0xff_ffff;
    Ipv6Addr::from(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// The target of an advertisement; none when the packet is something else.
pub fn advertised(packet: &[u8]) -> Option<Ipv6Addr> {
    let target: [u8; 16] = packet.get(TARGET_AT..OPTION_AT)?.try_into().ok()?;
    (packet[0] == ADVERTISEMENT && packet[1] == 0).then(|| Ipv6Addr::from(target))
}

fn packet(kind: u8, target: Ipv6Addr, option: u8, mac: Mac) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = kind;
    packet[TARGET_AT..OPTION_AT].copy_from_slice(&target.octets());
    packet[OPTION_AT] = option;
    packet[OPTION_AT + 1] = 1;
    packet[OPTION_AT + 2..].copy_from_slice(&mac);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn packets_are_those_of_rfc_4861() {
        let target: Ipv6Addr = "fd00:b16:0:d::7".parse().unwrap();
        let expected = "8800000020000000fd000b160000000d00000000000000070201020000000001";
        let hex = |packet: [u8; 32]| packet.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(advertisement(target, MAC)), expected);
        let expected = "8700000000000000fd000b160000000d00000000000000070101020000000001";
        assert_eq!(hex(solicitation(target, MAC)), expected);
        let group = solicited_node("fd00:b16:0:d::12:3456:789a".parse().unwrap());
        assert_eq!(group.to_string(), "ff02::1:ff56:789a");
    }

    proptest! {
        #[test]
        fn any_packet_is_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = advertised(&bytes);
        }

        #[test]
        fn an_advertisement_is_recognised(target: u128) {
            let target = Ipv6Addr::from(target);
            prop_assert_eq!(advertised(&advertisement(target, MAC)), Some(target));
            prop_assert_eq!(advertised(&solicitation(target, MAC)), None);
        }
    }
}
