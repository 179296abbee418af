//! Three network namespaces on a bridge, gone when the measurement ends.

use crate::{
    leftovers,
    namespace::{self, ip},
};
use anyhow::Result;
use spine::{address::StoragePrefix, id::DiscNumber};
use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The storage interface of each tail.
pub const INTERFACE: &str = "storage0";
/// The address of the guests.
pub const HEAD: &str = "fd00:b16:0:2::11";
/// Where the brain listens.
pub const BRAIN: &str = "[fd00:b16:0:2::1]:7770";
/// The discs' addresses are in it.
pub const PREFIX: &str = "fd00:b16:0:d::/64";

/// The joined namespaces.
#[derive(Debug)]
pub struct Net {
    head: String,
    tails: [String; 2],
}

impl Net {
    /// Makes them.
    ///
    /// # Errors
    /// When `ip` fails, as it does without root.
    pub fn new() -> Result<Self> {
        // A measurement may have more than one.
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| leftovers::name(&format!("{what}-{nth}"));
        let net = Self { head: name("head"), tails: ["tail1", "tail2"].map(name) };
        let head = net.head.as_str();
        for name in net.names() {
            namespace::make(name)?;
        }
        ip(&["-n", head, "link", "add", "br0", "type", "bridge"])?;
        for (tail, port) in net.tails.iter().zip(["port1", "port2"]) {
            ip(&["-n", head, "link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", tail])?;
            ip(&["-n", head, "link", "set", port, "master", "br0", "up"])?;
        }
        let own = [0, 1].map(|nth| format!("{}/64", tail_address(nth)));
        for (name, link, address) in [
            (head, "br0", "fd00:b16:0:2::11/64"),
            (head, "br0", "fd00:b16:0:2::1/64"),
            (&net.tails[0], INTERFACE, &own[0]),
            (&net.tails[1], INTERFACE, &own[1]),
        ] {
            ip(&["-n", name, "addr", "add", address, "dev", link, "nodad"])?;
            ip(&["-n", name, "link", "set", link, "up"])?;
        }
        ip(&["-n", head, "-6", "route", "add", PREFIX, "dev", "br0", "src", HEAD])?;
        Ok(net)
    }

    /// Moves this thread, and those that it starts from now on, to the head's side.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<()> {
        namespace::enter(&self.head)
    }

    /// The words that start a program on the side of tail `nth`, before its own.
    pub fn exec_words(&self, nth: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.tails[nth]]
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.head).chain(&self.tails).map(String::as_str)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.names() {
            namespace::remove(name);
        }
    }
}

/// The own address of tail `nth`.
pub fn tail_address(nth: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0xb16, 0, 2, 0, 0, 0, 0x21 + nth as u16)
}

/// Where disc `number` is, whichever tail has it.
pub fn disc_address(number: u64) -> SocketAddr {
    let prefix: StoragePrefix = PREFIX.parse().expect("it is a prefix");
    let address: Ipv6Addr = prefix.address_of(DiscNumber(number));
    (address, spine::limits::NBD_PORT).into()
}
