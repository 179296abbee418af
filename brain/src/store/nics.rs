//! Network cards and the addresses on them.

use super::{StoreError, select};
use crate::model::{
    address::mac_of,
    filter::Filter,
    nic::Nic,
    privilege::{Place, Reach},
};
use std::{collections::BTreeMap, net::IpAddr};
use tokio_postgres::{Row, Transaction};

const SELECT: &str = "SELECT n.id, n.virtual_machine_id, a.id AS account_id, g.id AS group_id, n.label, n.vlan_num, \
     n.mac::text AS mac, \
     array(SELECT i.address FROM ip_addresses i WHERE i.nic_id = n.id ORDER BY i.address) AS addresses, \
     array(SELECT i.routed_via FROM ip_addresses i WHERE i.nic_id = n.id ORDER BY i.address) AS routed_via \
     FROM nics n JOIN virtual_machines v ON v.id = n.virtual_machine_id JOIN groups g ON g.id = v.group_id \
     JOIN accounts a ON a.id = g.account_id \
     WHERE ($12::bigint IS NULL OR n.id = $12) AND ($13::text IS NULL OR n.label = $13) AND ";

fn from_row(row: &Row) -> Nic {
    let vm_id = row.get("virtual_machine_id");
    // PostgreSQL orders IPv4 before IPv6, which is the order that clients rely on.
    let addresses: Vec<IpAddr> = row.get("addresses");
    let routed_via: Vec<Option<IpAddr>> = row.get("routed_via");
    let (mut ips, mut extra_ips) = (Vec::new(), BTreeMap::new());
    for (address, via) in addresses.into_iter().zip(routed_via) {
        match via {
            None => ips.push(address),
            Some(via) => drop(extra_ips.insert(address, via)),
        }
    }
    Nic {
        id: row.get("id"),
        virtual_machine_id: vm_id,
        vm_place: Place::vm(row.get("account_id"), row.get("group_id"), vm_id),
        label: row.get("label"),
        vlan_num: row.get("vlan_num"),
        mac: row.get("mac"),
        ips,
        extra_ips,
    }
}

/// The cards that the caller can see and the filter names, in the guest's order.
///
/// # Errors
/// When the database fails.
pub async fn list(tx: &Transaction<'_>, reach: &Reach, filter: &Filter) -> Result<Vec<Nic>, StoreError> {
    let sql = format!("{SELECT}{} ORDER BY v.id, n.position", select::VISIBLE_AND_NAMED);
    let bound = select::Bound::new(reach, filter);
    Ok(tx.query(&sql, &bound.params_with_part()).await?.iter().map(from_row).collect())
}

/// Gives a VM its first card and returns the card's number.
///
/// # Errors
/// When the database fails.
pub async fn insert(tx: &Transaction<'_>, vm_id: i64, vlan_num: i64) -> Result<i64, StoreError> {
    // The hardware address follows from the number, so that the number is drawn first.
    let id: i64 = tx.query_one("SELECT nextval(pg_get_serial_sequence('nics', 'id'))", &[]).await?.get(0);
    tx.execute(
        "INSERT INTO nics (id, virtual_machine_id, position, vlan_num, mac) OVERRIDING SYSTEM VALUE \
         VALUES ($1, $2, 0, $3, $4::text::macaddr)",
        &[&id, &vm_id, &vlan_num, &mac_of(id)],
    )
    .await?;
    Ok(id)
}
