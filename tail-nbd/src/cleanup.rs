//! What a service manager runs after a tail has ended, however it ended (safety rule 11): the kernel goes on
//! answering for the addresses of a process that is gone.

use crate::{
    address::{
        netlink::{Netlink, NetlinkError},
        plan,
    },
    config::Config,
    describe::describe,
    pool::{Pool, PoolError},
    store::start::Scan,
};
use spine::daemon::{self, StateDirError};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};
use thiserror::Error;

/// Why addresses stay.
#[derive(Debug, Error)]
pub enum CleanupError {
    /// A tail runs, and sees to its addresses itself.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Takes off the storage interface each address under the storage prefix that no disc of this tail has, and
/// returns them. Those of its discs stay for the tail that follows (safety rule 12). A pool that cannot be
/// read has no discs.
///
/// # Errors
/// When a tail runs with this configuration, or the kernel refuses.
pub async fn remove_addresses(config: &Config) -> Result<Vec<Ipv6Addr>, CleanupError> {
    let _lock = daemon::lock_state_dir(&config.state_dir)?;
    let netlink = Netlink::open()?;
    let interface = match netlink.interface(&config.storage_interface).await {
        Ok(interface) => interface,
        // Its addresses went with it.
        Err(NetlinkError::NoInterface(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let owned = owned(config).unwrap_or_else(|error| {
        tracing::error!(error = describe(&error), "the discs are not known: no address stays");
        BTreeSet::new()
    });
    let plan = plan(&owned, &netlink.addresses(interface).await?, config.storage_prefix);
    for address in &plan.remove {
        netlink.remove(interface, *address).await?;
    }
    Ok(plan.remove)
}

fn owned(config: &Config) -> Result<BTreeSet<Ipv6Addr>, PoolError> {
    let mut pools = BTreeMap::new();
    for pool in &config.pools {
        match Pool::open(pool, &config.state_dir) {
            Ok(pool) => drop(pools.insert(pool.name.clone(), pool)),
            Err(error) => tracing::error!(error = describe(&error), "the addresses of this pool's discs do not stay"),
        }
    }
    Ok(Scan::read(&pools, config.storage_prefix)?.addresses().collect())
}
