//! A network card and its addresses.

use super::privilege::Place;
use std::{collections::BTreeMap, net::IpAddr};

/// A network card of a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// Its number.
    pub id: i64,
    /// The VM it belongs to.
    pub virtual_machine_id: i64,
    /// Where that VM is, for the policy.
    pub vm_place: Place,
    /// Free text.
    pub label: Option<String>,
    /// The network's number.
    pub vlan_num: i64,
    /// Six hexadecimal pairs with colons.
    pub mac: String,
    /// Its own addresses: IPv4 first, then IPv6.
    pub ips: Vec<IpAddr>,
    /// Further addresses, and which of its own each is routed by.
    pub extra_ips: BTreeMap<IpAddr, IpAddr>,
}
