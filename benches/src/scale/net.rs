//! Two network namespaces of the measurement's own, gone when it ends.
//!
//! ```text
//!   "client" namespace: this process                 "tail" namespace: the tail
//!      head0 fd00:b16:0:2::11, ::1 ───── veth ───── storage0 fd00:b16:0:2::21, and every disc's address
//! ```
//!
//! The discs are reached through the tail's own address as a router, because the kernel's table of neighbours is one
//! for all namespaces, and 4,000 more in it would need a change of the machine's settings.

use crate::{
    leftovers,
    namespace::{self, ip},
};
use anyhow::Result;
use spine::{address::StoragePrefix, id::DiscNumber};
use std::net::{Ipv6Addr, SocketAddr};

/// The storage interface of the tail.
pub const INTERFACE: &str = "storage0";
/// The address of the clients.
pub const CLIENT: &str = "fd00:b16:0:2::11";
/// The tail's own address.
pub const TAIL: &str = "fd00:b16:0:2::21";
/// What the tail calls itself.
pub const TAIL_NAME: &str = "tail1";
/// Where the brain listens.
pub const BRAIN: &str = "[fd00:b16:0:2::1]:7770";
/// The discs' addresses are in it.
pub const PREFIX: &str = "fd00:b16:0:d::/64";

/// The joined namespaces.
#[derive(Debug)]
pub struct Net {
    client: String,
    tail: String,
}

impl Net {
    /// Makes them.
    ///
    /// # Errors
    /// When `ip` fails, as it does without root.
    pub fn new() -> Result<Self> {
        let net = Self { client: leftovers::name("client"), tail: leftovers::name("tail") };
        let (client, tail) = (net.client.as_str(), net.tail.as_str());
        for name in [client, tail] {
            namespace::make(name)?;
        }
        ip(&["-n", client, "link", "add", "head0", "type", "veth", "peer", "name", INTERFACE, "netns", tail])?;
        for (name, link, address) in [
            (client, "head0", "fd00:b16:0:2::11/64"),
            (client, "head0", "fd00:b16:0:2::1/64"),
            (tail, INTERFACE, "fd00:b16:0:2::21/64"),
        ] {
            ip(&["-n", name, "addr", "add", address, "dev", link, "nodad"])?;
            ip(&["-n", name, "link", "set", link, "up"])?;
        }
        ip(&["-n", client, "-6", "route", "add", PREFIX, "via", TAIL, "dev", "head0", "src", CLIENT])?;
        Ok(net)
    }

    /// Moves this thread, and those that it starts from now on, to the clients' side.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<()> {
        namespace::enter(&self.client)
    }

    /// The words that start a program on the tail's side, before its own.
    pub fn exec_words(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.tail]
    }

    /// Takes every disc's address off the tail's interface, and leaves nothing of them, as after a reboot.
    ///
    /// The kernel remembers the multicast group of each for a while, to say again that it was left (RFC 3810, 6.1), and looks
    /// through all that it remembers when an address is added: 4,000 took 92 s instead of some. MLD of version 1 has no such memory.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn flush_discs(&self) -> Result<()> {
        self.set_mld_version("1")?;
        // Its rounds are bounded, and one round takes only some thousand.
        ip(&["-n", &self.tail, "-6", "-loops", "1000", "addr", "flush", "dev", INTERFACE, "to", PREFIX])?;
        self.set_mld_version("0")
    }

    /// The version of MLD on the tail's interface; 0 is the usual one.
    fn set_mld_version(&self, version: &str) -> Result<()> {
        let order = format!("echo {version} > /proc/sys/net/ipv6/conf/{INTERFACE}/force_mld_version");
        ip(&["netns", "exec", &self.tail, "sh", "-c", &order])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.client, &self.tail] {
            namespace::remove(name);
        }
    }
}

/// Where disc `number` is.
pub fn disc_address(number: u64) -> SocketAddr {
    let prefix: StoragePrefix = PREFIX.parse().expect("it is a prefix");
    let address: Ipv6Addr = prefix.address_of(DiscNumber(number));
    (address, spine::limits::NBD_PORT).into()
}
