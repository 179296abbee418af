//! Looking at the storage interface and changing its addresses, with rtnetlink.

use super::neighbour::{self, Mac};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, CacheInfo},
        link::LinkAttribute,
        route::RouteType,
    },
};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    time::{Duration, Instant},
};
use thiserror::Error;

/// Receive buffer of a probe: thousands of answers may come within its 200 ms.
const PROBE_BUFFER_BYTES: usize = 4 << 20;

/// How long a probe waits for answers (safety rule 11).
const PROBE_DEADLINE: Duration = Duration::from_millis(200);

/// How long an address that was added may take until packets for it are taken in, and how often that is looked at.
const LOCAL_DEADLINE: Duration = Duration::from_millis(250);
const LOCAL_PAUSE: Duration = Duration::from_millis(1);

/// Why the interface could not be looked at or changed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// There is no interface of the name.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// It has no Ethernet address.
    #[error("interface {0} is not an Ethernet")]
    NoMac(String),
    /// The kernel refused.
    #[error("cannot {what}")]
    Kernel {
        /// What was tried.
        what: String,
        /// What it says.
        source: rtnetlink::Error,
    },
    /// A socket failed.
    #[error("cannot {what}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// The storage interface as it was when looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// A connection to the kernel's routing tables, in the network namespace of the thread that made it.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Socket { what: "open a netlink socket", source };
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Looks up the interface `name`.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn interface(&self, name: &str) -> Result<Interface, NetlinkError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = match links.try_next().await {
            Ok(Some(link)) => link,
            Ok(None) => return Err(NetlinkError::NoInterface(name.to_owned())),
            Err(error) if has_errno(&error, &[Errno::NODEV]) => {
                return Err(NetlinkError::NoInterface(name.to_owned()));
            }
            Err(source) => return Err(NetlinkError::Kernel { what: format!("look at interface {name}"), source }),
        };
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => Mac::try_from(&bytes[..]).ok(),
            _ => None,
        });
        let mac = mac.ok_or_else(|| NetlinkError::NoMac(name.to_owned()))?;
        Ok(Interface { index: link.header.index, mac })
    }

    /// The IPv6 addresses on an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn addresses(&self, interface: Interface) -> Result<BTreeSet<Ipv6Addr>, NetlinkError> {
        let failed = |source| NetlinkError::Kernel { what: "list addresses".to_owned(), source };
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet6;
        let mut messages = request.set_link_index_filter(interface.index).execute();
        let mut addresses = BTreeSet::new();
        while let Some(message) = messages.try_next().await.map_err(failed)? {
            addresses.extend(message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
                _ => None,
            }));
        }
        Ok(addresses)
    }

    /// Puts an address up as safety rule 12 wants it. One that is up already is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn add(&self, interface: Interface, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(interface.index, address.into(), 128);
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        match request.execute().await {
            Err(error) if !has_errno(&error, &[Errno::EXIST]) => {
                Err(NetlinkError::Kernel { what: format!("add address {address}"), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Waits until the kernel takes in packets for an address that was added, which it sees to some time after its
    /// answer (addrconf_dad_work). A client that comes before tries again only after a second. False when that does
    /// not come about soon: the interface may be down.
    pub async fn wait_until_local(&self, address: Ipv6Addr) -> bool {
        let deadline = Instant::now() + LOCAL_DEADLINE;
        loop {
            let request = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build();
            let found = self.handle.route().get(request).execute().try_next().await;
            // An error says that there is no route at all.
            if found.is_ok_and(|route| route.is_some_and(|route| route.header.kind == RouteType::Local)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOCAL_PAUSE).await;
        }
    }

    /// Takes an address off. One that is not there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove(&self, interface: Interface, address: Ipv6Addr) -> Result<(), NetlinkError> {
        // The handle's own way to make the message of an address.
        let mut like_adding = self.handle.address().add(interface.index, address.into(), 128);
        let message = like_adding.message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Err(error) if !has_errno(&error, &[Errno::ADDRNOTAVAIL, Errno::NODEV]) => {
                Err(NetlinkError::Kernel { what: format!("remove address {address}"), source: error })
            }
            _ => Ok(()),
        }
    }
}

fn has_errno(error: &rtnetlink::Error, wanted: &[Errno]) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    Errno::from_io_error(&message.to_io()).is_some_and(|errno| wanted.contains(&errno))
}

/// Sends one unsolicited advertisement for `address`, from it, to all nodes (safety rule 12).
///
/// # Errors
/// What the system says.
pub fn announce(interface: Interface, address: Ipv6Addr) -> Result<(), NetlinkError> {
    let failed = |source| NetlinkError::Socket { what: "send a neighbour advertisement", source };
    let send = || {
        let socket = neighbour_socket(interface)?;
        socket.bind(&SocketAddrV6::new(address, 0, 0, 0).into())?;
        let packet = neighbour::advertisement(address, interface.mac);
        socket.send_to(&packet, &on_link(neighbour::ALL_NODES, interface)).map(drop)
    };
    send().map_err(failed)
}

/// Asks who has each of `addresses`, all at once, and returns those that somebody answered for
/// (safety rule 11). Blocks for 200 ms.
///
/// # Errors
/// What the system says.
pub fn probe(interface: Interface, addresses: &BTreeSet<Ipv6Addr>) -> Result<BTreeSet<Ipv6Addr>, NetlinkError> {
    let failed = |source| NetlinkError::Socket { what: "probe for addresses", source };
    let socket = neighbour_socket(interface).map_err(failed)?;
    let mut taken = BTreeSet::new();
    let asked = || -> io::Result<()> {
        // Best effort: less room only means that more of very many answers may be lost.
        let _ = socket.set_recv_buffer_size(PROBE_BUFFER_BYTES);
        for &address in addresses {
            let packet = neighbour::solicitation(address, interface.mac);
            socket.send_to(&packet, &on_link(neighbour::solicited_node(address), interface))?;
        }
        Ok(())
    };
    asked().map_err(failed)?;
    let deadline = Instant::now() + PROBE_DEADLINE;
    let mut packet = [0; 1500];
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        match (&socket).read(&mut packet) {
            Ok(length) => taken.extend(neighbour::advertised(&packet[..length])),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(taken.intersection(addresses).copied().collect())
}

fn neighbour_socket(interface: Interface) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(neighbour::HOP_LIMIT)?;
    socket.set_multicast_if_v6(interface.index)?;
    // A listener of our own on the same machine need not hear us.
    socket.set_multicast_loop_v6(false)?;
    Ok(socket)
}

fn on_link(address: Ipv6Addr, interface: Interface) -> SockAddr {
    SocketAddrV6::new(address, 0, 0, interface.index).into()
}
