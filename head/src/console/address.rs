//! The console's address on the management network, which moves with the machine (R109).

use super::announce::Announcer;
use futures_util::TryStreamExt;
use rtnetlink::{
    AddressMessageBuilder, Handle,
    packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use thiserror::Error;
use tokio::task::AbortHandle;

/// Why an address could not be put up.
#[derive(Debug, Error)]
pub enum AddressError {
    /// The kernel's routing socket could not be opened.
    #[error("cannot open a routing socket")]
    Socket(#[source] io::Error),
    /// No such interface.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// Its name.
        interface: String,
        /// The kernel's word.
        source: rtnetlink::Error,
    },
    /// The kernel did not say which addresses there are.
    #[error("cannot list the interface's addresses")]
    Listing(#[source] rtnetlink::Error),
    /// The kernel refused the change.
    #[error("cannot change {address} on {interface}")]
    Refused {
        /// The address.
        address: IpAddr,
        /// The interface's name.
        interface: String,
        /// The kernel's word.
        source: rtnetlink::Error,
    },
}

/// An address that is up. It stays up when this is dropped: only [`Claim::withdraw`] takes it down.
#[derive(Debug)]
pub struct Claim {
    address: IpAddr,
    interface: String,
    announcing: AbortHandle,
}

impl Claim {
    /// Puts `address` on `interface` with all its bits (`/32`, `/128`) and begins to announce it.
    /// One that is there already is taken over.
    ///
    /// # Errors
    /// [`AddressError`]; an announcement that cannot be sent is a warning only.
    pub async fn make(address: IpAddr, interface: &str) -> Result<Self, AddressError> {
        let handle = open()?;
        let index = index_of(&handle, interface).await?;
        if let Err(source) = add(&handle, index, address).await
            && !is(&source, nix::errno::Errno::EEXIST)
        {
            return Err(AddressError::Refused { address, interface: interface.into(), source });
        }
        let announcing = match Announcer::open(interface) {
            Ok(announcer) => tokio::spawn(announcer.announce(address)).abort_handle(),
            Err(error) => {
                tracing::warn!("console: {address} is not announced on {interface}: {error}");
                tokio::spawn(async {}).abort_handle()
            }
        };
        Ok(Self { address, interface: interface.into(), announcing })
    }

    /// Takes the address down. It may be gone already, with its interface or by another's hand.
    pub async fn withdraw(self) {
        let Self { address, interface, announcing } = self;
        announcing.abort();
        let removed: Result<(), AddressError> = async {
            let handle = open()?;
            let index = index_of(&handle, &interface).await?;
            let refused = |source| AddressError::Refused { address, interface: interface.clone(), source };
            remove(&handle, index, address).await.map_err(refused)
        }
        .await;
        if let Err(error) = removed {
            tracing::warn!("console: {address} stays on {interface}: {error}");
        }
    }
}

/// Takes down every console address on `interface` that is not in `keep`: a head that was killed
/// leaves its own behind, and its kernel would go on answering for machines that have moved. Only
/// addresses that [`Claim::make`] put up are touched; they are known by a mark that the kernel
/// keeps with them (`IFA_PROTO`, Linux 5.18).
///
/// # Errors
/// [`AddressError`]; what could be taken down is down.
pub async fn remove_strays(interface: &str, keep: &[IpAddr]) -> Result<Vec<IpAddr>, AddressError> {
    let handle = open()?;
    let index = index_of(&handle, interface).await?;
    let mut listing = handle.address().get().set_link_index_filter(index).execute();
    let mut strays = Vec::new();
    while let Some(found) = listing.try_next().await.map_err(AddressError::Listing)? {
        let ours = found.attributes.contains(&AddressAttribute::Protocol(MARK));
        let address = found.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        if let Some(address) = address.filter(|address| ours && !keep.contains(address)) {
            strays.push(address);
        }
    }
    for &address in &strays {
        remove(&handle, index, address).await.map_err(|source| AddressError::Refused {
            address,
            interface: interface.into(),
            source,
        })?;
    }
    Ok(strays)
}

/// The mark of a console's address: any number that the kernel (1 to 3) does not use itself.
const MARK: AddressProtocol = AddressProtocol::Other(0xb1);

fn open() -> Result<Handle, AddressError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Socket)?;
    // Ends by itself with the last handle.
    tokio::spawn(connection);
    Ok(handle)
}

async fn index_of(handle: &Handle, interface: &str) -> Result<u32, AddressError> {
    let missing = |source| AddressError::NoInterface { interface: interface.into(), source };
    let found = handle.link().get().match_name(interface.to_owned()).execute().try_next().await.map_err(missing)?;
    found.map(|link| link.header.index).ok_or_else(|| missing(rtnetlink::Error::RequestFailed))
}

async fn add(handle: &Handle, index: u32, address: IpAddr) -> Result<(), rtnetlink::Error> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(index, address, bits);
    request.message_mut().attributes.push(AddressAttribute::Protocol(MARK));
    if address.is_ipv6() {
        let mut life = CacheInfo::default();
        // Never the source of the head's own connections, which would die when the machine moves.
        life.ifa_preferred = 0;
        life.ifa_valid = u32::MAX;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(life));
        // During a move both heads may have it for a moment: detection of duplicates would leave
        // the new one without. No route to the prefix: it would be one to the address itself, and
        // for a moment the kernel would look for it on the wire.
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    request.execute().await
}

/// One that is gone already is as good as removed.
async fn remove(handle: &Handle, index: u32, address: IpAddr) -> Result<(), rtnetlink::Error> {
    match handle.address().del(message(index, address)).execute().await {
        Err(error) if !is(&error, nix::errno::Errno::EADDRNOTAVAIL) => Err(error),
        _ => Ok(()),
    }
}

fn message(index: u32, address: IpAddr) -> AddressMessage {
    match address {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build(),
        IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(address, 128).build(),
    }
}

fn is(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().raw_os_error() == Some(errno as i32))
}
