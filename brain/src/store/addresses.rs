//! Which addresses are in use. Whoever gives one out holds the lock of [`lock`].

use super::StoreError;
use std::net::IpAddr;
use tokio_postgres::Transaction;

/// The key of the advisory lock: any number that nothing else in this database locks.
const LOCK: i64 = 0x6164_6472;

/// Waits until no other transaction gives addresses out; holds until this one ends.
///
/// # Errors
/// When the database fails.
pub async fn lock(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    Ok(())
}

/// The addresses in use on a network, from `first` to `last`, in rising order.
///
/// # Errors
/// When the database fails.
pub async fn used(tx: &Transaction<'_>, first: IpAddr, last: IpAddr) -> Result<Vec<IpAddr>, StoreError> {
    let sql = "SELECT address FROM ip_addresses WHERE address BETWEEN $1 AND $2 ORDER BY address";
    Ok(tx.query(sql, &[&first, &last]).await?.iter().map(|row| row.get(0)).collect())
}

/// The management addresses in use from `first` to `last`, in rising order.
///
/// # Errors
/// When the database fails.
pub async fn used_for_management(tx: &Transaction<'_>, first: IpAddr, last: IpAddr) -> Result<Vec<IpAddr>, StoreError> {
    let sql = "SELECT management_address FROM virtual_machines \
         WHERE management_address BETWEEN $1 AND $2 ORDER BY management_address";
    Ok(tx.query(sql, &[&first, &last]).await?.iter().map(|row| row.get(0)).collect())
}

/// Puts an address on a card.
///
/// # Errors
/// When it is in use, or the database fails.
pub async fn insert(tx: &Transaction<'_>, nic_id: i64, vlan_num: i64, address: IpAddr) -> Result<(), StoreError> {
    let sql = "INSERT INTO ip_addresses (address, nic_id, vlan_num) VALUES ($1, $2, $3)";
    tx.execute(sql, &[&address, &nic_id, &vlan_num]).await?;
    Ok(())
}
