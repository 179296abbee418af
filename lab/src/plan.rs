//! Who is where: the lab's names and addresses, computed from its name and its numbers of heads and tails.
//!
//! Pure. Every lab uses the same addresses, since labs do not see each other; what the machine shares
//! (namespace names, the API's port, the guests' uids) differs by the lab's name and slot.

use crate::error::LabError;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The discs' own prefix, on the storage LAN.
pub const STORAGE_PREFIX: &str = "fd00:b16:0:d::/64";
/// Where the brain listens for the nodes.
pub const SPINE_LISTEN: &str = "[fd00:b16:0:1::1]:7770";
/// The first port tried for the API on 127.0.0.1; the lab takes the first free one of the next hundred.
pub const API_PORT_FIRST: u16 = 8600;
/// Heads, and tails, at most: the address plan gives each one a digit.
pub const NODES_MAX: u8 = 9;
/// Labs side by side at most: the guests' uids are given out by slot.
pub const SLOTS_MAX: u16 = 16;
/// What each head offers its guests, in MiB.
pub const HEAD_MEMORY_MIB: u32 = 2048;
/// The grades of which each tail has one pool.
pub const GRADES: [&str; 2] = ["sata", "ssd"];

/// A lab's name: a prefix of namespace names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LabName {
    type Error = LabError;
    fn try_from(text: String) -> Result<Self, LabError> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || text.len() > 20 || !text.chars().all(good) {
            let shown: String = text.chars().take(40).collect();
            return Err(LabError::BadName(format!(
                "{shown:?} cannot be a lab's name: expected 1 to 20 small letters, digits and dashes, a letter first"
            )));
        }
        Ok(Self(text))
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl FromStr for LabName {
    type Err = LabError;
    fn from_str(text: &str) -> Result<Self, LabError> {
        Self::try_from(text.to_owned())
    }
}

/// One namespace of the lab. All but `switch` and `customer` run a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Node {
    /// The four bridges.
    Switch,
    /// The brain and its private PostgreSQL.
    Brain,
    /// Head number 1…
    Head(u8),
    /// Tail number 1…
    Tail(u8),
    /// The customers' side: management and public LAN.
    Customer,
}

impl Node {
    /// The daemon that runs there.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Brain => Some("bigv-brain"),
            Self::Head(_) => Some("bigv-head"),
            Self::Tail(_) => Some("tail-nbd"),
            Self::Switch | Self::Customer => None,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("switch"),
            Self::Brain => f.write_str("brain"),
            Self::Head(number) => write!(f, "head{number}"),
            Self::Tail(number) => write!(f, "tail{number}"),
            Self::Customer => f.write_str("customer"),
        }
    }
}

impl FromStr for Node {
    type Err = LabError;
    fn from_str(text: &str) -> Result<Self, LabError> {
        let number = |digits: &str| digits.parse::<u8>().ok().filter(|number| (1..=NODES_MAX).contains(number));
        let node = match text {
            "switch" => Some(Self::Switch),
            "brain" => Some(Self::Brain),
            "customer" => Some(Self::Customer),
            _ => match (text.strip_prefix("head"), text.strip_prefix("tail")) {
                (Some(digits), _) => number(digits).map(Self::Head),
                (_, Some(digits)) => number(digits).map(Self::Tail),
                _ => None,
            },
        };
        node.ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            LabError::BadName(format!(
                "{shown:?} is not a node: expected brain, head1…, tail1…, customer or switch (`bigv-lab status` lists them)"
            ))
        })
    }
}

impl TryFrom<String> for Node {
    type Error = LabError;
    fn try_from(text: String) -> Result<Self, LabError> {
        text.parse()
    }
}

impl From<Node> for String {
    fn from(node: Node) -> Self {
        node.to_string()
    }
}

/// One of the lab's LANs, a bridge in the switch's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lan {
    /// Brain and nodes.
    Spine,
    /// Heads, tails and the discs' addresses.
    Storage,
    /// The consoles.
    Management,
    /// The guests.
    Public,
}

impl Lan {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Spine, Self::Storage, Self::Management, Self::Public];

    /// The bridge's name, and the stem of the interfaces on it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spine => "spine",
            Self::Storage => "storage",
            Self::Management => "mgmt",
            Self::Public => "public",
        }
    }

    /// The interface of a node on this LAN.
    pub fn interface(self) -> String {
        format!("{}0", self.name())
    }
}

/// A node's interface on a LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Which LAN it is on.
    pub lan: Lan,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Prefixes that are reached over it without a router.
    pub on_link: Vec<&'static str>,
    /// The bridge in the node's namespace that it is a port of.
    pub bridge: Option<&'static str>,
}

/// The shape of one lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub name: LabName,
    /// How many heads.
    pub heads: u8,
    /// How many tails.
    pub tails: u8,
    /// Which of the machine's labs it is; gives the guests' uids.
    pub slot: u16,
}

impl Plan {
    /// Every namespace, the switch first since the others are plugged into it.
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes = vec![Node::Switch, Node::Customer];
        nodes.extend(self.daemons());
        nodes
    }

    /// The nodes with a daemon, in the order of starting.
    pub fn daemons(&self) -> Vec<Node> {
        let tails = (1..=self.tails).map(Node::Tail);
        let heads = (1..=self.heads).map(Node::Head);
        std::iter::once(Node::Brain).chain(tails).chain(heads).collect()
    }

    /// The node named `text`, if this lab has it.
    pub fn node(&self, text: &str) -> Result<Node, LabError> {
        let node = text.parse()?;
        if self.nodes().contains(&node) {
            return Ok(node);
        }
        Err(LabError::BadName(format!(
            "lab {} has no {node}: it has {} heads and {} tails",
            self.name, self.heads, self.tails
        )))
    }

    /// The name of a node's namespace.
    pub fn namespace(&self, node: Node) -> String {
        format!("{}-{node}", self.name)
    }

    /// What a node is plugged into.
    pub fn interfaces(&self, node: Node) -> Vec<Interface> {
        let spine = |host: String| Interface {
            lan: Lan::Spine,
            addresses: vec![format!("fd00:b16:0:1::{host}/64")],
            on_link: vec![],
            bridge: None,
        };
        let storage = |host: String| Interface {
            lan: Lan::Storage,
            addresses: vec![format!("fd00:b16:0:2::{host}/64")],
            on_link: vec![STORAGE_PREFIX],
            bridge: None,
        };
        let plain = |lan, addresses| Interface { lan, addresses, on_link: vec![], bridge: None };
        match node {
            Node::Switch => vec![],
            Node::Brain => vec![spine("1".to_owned())],
            Node::Tail(number) => vec![spine(format!("2{number}")), storage(format!("2{number}"))],
            Node::Head(number) => vec![
                spine(format!("1{number}")),
                storage(format!("1{number}")),
                plain(Lan::Management, vec![format!("10.16.3.1{number}/24")]),
                Interface { lan: Lan::Public, addresses: vec![], on_link: vec![], bridge: Some("br-public") },
            ],
            Node::Customer => vec![
                plain(Lan::Management, vec!["10.16.3.2/24".to_owned()]),
                plain(Lan::Public, vec!["10.16.4.1/24".to_owned(), "fd00:b16:0:4::1/64".to_owned()]),
            ],
        }
    }

    /// A node's own address on the storage LAN.
    pub fn storage_address(&self, node: Node) -> Option<String> {
        let interface = self.interfaces(node).into_iter().find(|interface| interface.lan == Lan::Storage)?;
        let (address, _) = interface.addresses.first()?.split_once('/')?;
        Some(address.to_owned())
    }

    /// The uids of a head's guests. Heads share the machine's uids, so each has a hundred of its own.
    pub fn uid_range(&self, head: u8) -> [u32; 2] {
        let first = 70_000 + u32::from(self.slot) * 1_000 + u32::from(head) * 100;
        [first, first + 99]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn plan(heads: u8, tails: u8) -> Plan {
        Plan { name: "lab".parse().unwrap(), heads, tails, slot: 0 }
    }

    #[test]
    fn every_address_is_used_once() {
        let plan = plan(NODES_MAX, NODES_MAX);
        let mut seen = BTreeSet::new();
        for node in plan.nodes() {
            for address in plan.interfaces(node).into_iter().flat_map(|interface| interface.addresses) {
                assert!(seen.insert(address.clone()), "{address} of {node} is somebody else's");
            }
        }
        assert_eq!(seen.len(), 1 + 9 * 2 + 9 * 3 + 3);
    }

    #[test]
    fn r037_nodes_and_discs_share_the_storage_lan_and_not_a_prefix() {
        let plan = plan(2, 2);
        let prefix: spine::address::StoragePrefix = STORAGE_PREFIX.parse().unwrap();
        for node in [Node::Head(2), Node::Tail(1)] {
            let address = plan.storage_address(node).unwrap().parse().unwrap();
            assert_eq!(prefix.number_of(address), None, "a disc could take {node}'s address");
        }
        assert_eq!(plan.storage_address(Node::Brain), None);
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        let plan = plan(NODES_MAX, NODES_MAX);
        for node in plan.nodes() {
            for interface in plan.interfaces(node) {
                let port = crate::network::switch_port(node, interface.lan);
                assert!(port.len() <= 15, "{port} is longer than an interface's name may be");
            }
        }
    }

    #[test]
    fn guests_of_two_heads_never_share_a_uid() {
        let mut ranges = Vec::new();
        for slot in 0..SLOTS_MAX {
            let plan = Plan { slot, ..plan(NODES_MAX, 1) };
            ranges.extend((1..=NODES_MAX).map(|head| plan.uid_range(head)));
        }
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0][1] < pair[1][0]));
    }

    #[test]
    fn names_that_are_not_names_are_refused() {
        for bad in ["", "Lab", "1lab", "a/b", "..", "-rf", "a b", "abcdefghijklmnopqrstuvwxyz"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad:?}");
        }
        for bad in ["", "head", "head0", "head10", "head-1", "tailx", "brain1", "root"] {
            assert!(bad.parse::<Node>().is_err(), "{bad:?}");
        }
        let plan = plan(2, 1);
        assert_eq!(plan.node("head2").unwrap(), Node::Head(2));
        assert!(plan.node("tail2").unwrap_err().to_string().contains("2 heads and 1 tails"));
    }
}
