//! Gives a new machine its addresses: the first that are free, in the transaction that makes it.

use super::{Service, ServiceError, error::invalid};
use crate::{
    config::NetworkConfig,
    model::address::AddressRange,
    store::{addresses, nics},
};
use std::net::IpAddr;
use tokio_postgres::Transaction;

/// A management address that nothing else has. Nobody else is given one until the transaction ends.
///
/// # Errors
/// When none is left, or the database fails.
pub(super) async fn management(service: &Service, tx: &Transaction<'_>) -> Result<IpAddr, ServiceError> {
    addresses::lock(tx).await?;
    let [first, last] = service.config.management_range;
    let range = AddressRange::ipv4(first, last);
    let used = addresses::used_for_management(tx, range.first, range.last).await?;
    range.first_free(&used).ok_or_else(|| {
        invalid("management_address", format!("cannot be given: all addresses from {first} to {last} are in use"))
    })
}

/// Gives a machine a network card on the cluster's first network, with an IPv4 and an IPv6 address.
/// The caller has called [`management`] in the same transaction. Without networks there is no card.
///
/// # Errors
/// When no address is left, or the database fails.
pub(super) async fn network_card(service: &Service, tx: &Transaction<'_>, vm_id: i64) -> Result<(), ServiceError> {
    let Some(network) = service.config.networks.first() else { return Ok(()) };
    let vlan = i64::from(network.vlan);
    let [first, last] = network.ipv4_range;
    let ipv4 = first_free(tx, AddressRange::ipv4(first, last), network).await?;
    let ipv6 = first_free(tx, AddressRange::ipv6(network.ipv6), network).await?;
    let nic_id = nics::insert(tx, vm_id, vlan).await?;
    addresses::insert(tx, nic_id, vlan, ipv4).await?;
    addresses::insert(tx, nic_id, vlan, ipv6).await?;
    Ok(())
}

async fn first_free(
    tx: &Transaction<'_>,
    range: AddressRange,
    network: &NetworkConfig,
) -> Result<IpAddr, ServiceError> {
    let mut used = addresses::used(tx, range.first, range.last).await?;
    used.extend([IpAddr::from(network.ipv4_router), network.ipv6_router.into()]);
    used.sort_unstable();
    range.first_free(&used).ok_or_else(|| {
        let AddressRange { first, last } = range;
        let sentence =
            format!("cannot be given: all addresses of network {} from {first} to {last} are in use", network.vlan);
        invalid("ips", sentence)
    })
}
