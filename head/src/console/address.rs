//! The console's address on the management network, which moves with the machine (R109).

use super::announce::Announcer;
use futures_util::TryStreamExt;
use rtnetlink::{
    AddressMessageBuilder, Handle,
    packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo},
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
    /// The kernel refused the address.
    #[error("cannot add {address} to {interface}")]
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
            match handle.address().del(message(index, address)).execute().await {
                Err(source) if !is(&source, nix::errno::Errno::EADDRNOTAVAIL) => {
                    Err(AddressError::Refused { address, interface: interface.clone(), source })
                }
                _ => Ok(()),
            }
        }
        .await;
        if let Err(error) = removed {
            tracing::warn!("console: {address} stays on {interface}: {error}");
        }
    }
}

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

fn message(index: u32, address: IpAddr) -> AddressMessage {
    match address {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build(),
        IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(address, 128).build(),
    }
}

fn is(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().raw_os_error() == Some(errno as i32))
}
