//! Virtual machines: what the API reads and what it wants of them.
//!
//! A purged VM ([`super::purge`]) does not exist here, although its row stays for a while.

use super::{StoreError, select};
use crate::model::{
    filter::Filter,
    privilege::Reach,
    vm::{Status, Vm},
};
use std::net::IpAddr;
use tokio_postgres::{Row, Transaction};

const SELECT: &str = "SELECT v.id, v.name, v.group_id, g.name AS group_name, a.id AS account_id, \
     a.name AS account_name, a.suspended AS account_suspended, v.cores, v.memory_mib, v.power_on, v.autoreboot_on, \
     v.cdrom_url, v.keymap, v.hardware_profile, v.hardware_profile_locked, v.zone_name, v.last_imaged_with, \
     v.management_address, r.id IS NOT NULL AS has_open_run, \
     CASE WHEN r.state IN ('running', 'stopping') THEN n.name END AS head, \
     v.status_state, v.status_reason, v.status_since, \
     (SELECT min(d.status_progress) FROM discs d \
       WHERE d.virtual_machine_id = v.id AND d.remove_reason IS NULL) AS status_progress, v.deleted_at \
     FROM virtual_machines v JOIN groups g ON g.id = v.group_id JOIN accounts a ON a.id = g.account_id \
     LEFT JOIN runs r ON r.virtual_machine_id = v.id AND r.state <> 'ended' \
     LEFT JOIN nodes n ON n.id = r.head_id WHERE ";

fn from_row(row: &Row) -> Vm {
    Vm {
        id: row.get("id"),
        name: row.get("name"),
        group_id: row.get("group_id"),
        group_name: row.get("group_name"),
        account_id: row.get("account_id"),
        account_name: row.get("account_name"),
        account_suspended: row.get("account_suspended"),
        cores: row.get::<_, i32>("cores").into(),
        memory_mib: row.get::<_, i32>("memory_mib").into(),
        power_on: row.get("power_on"),
        autoreboot_on: row.get("autoreboot_on"),
        cdrom_url: row.get("cdrom_url"),
        keymap: row.get("keymap"),
        hardware_profile: row.get("hardware_profile"),
        hardware_profile_locked: row.get("hardware_profile_locked"),
        zone_name: row.get("zone_name"),
        last_imaged_with: row.get("last_imaged_with"),
        management_address: row.get("management_address"),
        has_open_run: row.get("has_open_run"),
        head: row.get("head"),
        status: status_from_row(row),
        deleted_at: row.get("deleted_at"),
    }
}

/// The status columns, which VMs and discs have alike.
pub(super) fn status_from_row(row: &Row) -> Status {
    Status {
        state: row.get("status_state"),
        reason: row.get("status_reason"),
        since: row.get("status_since"),
        progress: row.get::<_, Option<i32>>("status_progress").map(i64::from),
    }
}

/// The VMs that the caller can see and the filter names, by group and name.
///
/// # Errors
/// When the database fails.
pub async fn list(tx: &Transaction<'_>, reach: &Reach, filter: &Filter) -> Result<Vec<Vm>, StoreError> {
    let sql = format!("{SELECT}{} ORDER BY a.name, g.name, v.name", select::VISIBLE_AND_NAMED);
    let bound = select::Bound::new(reach, filter);
    Ok(tx.query(&sql, &bound.params()).await?.iter().map(from_row).collect())
}

/// As [`list`], and nobody else changes these VMs until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn list_locked(tx: &Transaction<'_>, reach: &Reach, filter: &Filter) -> Result<Vec<Vm>, StoreError> {
    let sql = format!("{SELECT}{} ORDER BY v.id FOR UPDATE OF v", select::VISIBLE_AND_NAMED);
    let bound = select::Bound::new(reach, filter);
    Ok(tx.query(&sql, &bound.params()).await?.iter().map(from_row).collect())
}

/// A VM that is to be made: everything checked, every default filled in.
#[derive(Clone, Debug)]
pub struct VmRow<'a> {
    /// The group it is in.
    pub group_id: i64,
    /// Unique in the group: a second one is refused by the database.
    pub name: &'a str,
    /// Virtual processors.
    pub cores: i32,
    /// MiB.
    pub memory_mib: i32,
    /// Whether it is wanted on.
    pub power_on: bool,
    /// What `power_on` becomes when a run ends.
    pub autoreboot_on: bool,
    /// The CD in its drive.
    pub cdrom_url: Option<&'a str>,
    /// Keyboard layout.
    pub keymap: Option<&'a str>,
    /// The virtual hardware.
    pub hardware_profile: Option<&'a str>,
    /// Whether that stays as it is.
    pub hardware_profile_locked: bool,
    /// The zone.
    pub zone_name: Option<&'a str>,
    /// Where its console listens.
    pub management_address: IpAddr,
    /// The console's private host keys (R110).
    pub management_ssh_keys: &'a [String],
    /// Its first status.
    pub status_state: &'a str,
    /// And that status's reason.
    pub status_reason: Option<&'a str>,
}

/// Writes a new VM and returns its number.
///
/// # Errors
/// When the name is taken (see [`StoreError::constraint`]), or the database fails.
pub async fn insert(tx: &Transaction<'_>, vm: &VmRow<'_>) -> Result<i64, StoreError> {
    let sql = "INSERT INTO virtual_machines (group_id, name, cores, memory_mib, power_on, power_ordered, \
         autoreboot_on, cdrom_url, keymap, hardware_profile, hardware_profile_locked, zone_name, management_address, \
         management_ssh_keys, status_state, status_reason) VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9, $10, $11, \
         $12, $13, $14, $15) RETURNING id";
    let row = tx
        .query_one(
            sql,
            &[
                &vm.group_id,
                &vm.name,
                &vm.cores,
                &vm.memory_mib,
                &vm.power_on,
                &vm.autoreboot_on,
                &vm.cdrom_url,
                &vm.keymap,
                &vm.hardware_profile,
                &vm.hardware_profile_locked,
                &vm.zone_name,
                &vm.management_address,
                &vm.management_ssh_keys,
                &vm.status_state,
                &vm.status_reason,
            ],
        )
        .await?;
    Ok(row.get(0))
}

/// Writes back all that the API may change in a VM, except its deletion.
///
/// # Errors
/// When the name is taken, or the database fails.
pub async fn update(tx: &Transaction<'_>, vm: &Vm) -> Result<(), StoreError> {
    let (cores, memory) = (int(vm.cores), int(vm.memory_mib));
    tx.execute(
        "UPDATE virtual_machines SET name = $2, group_id = $3, cores = $4, memory_mib = $5, power_on = $6, \
         power_ordered = power_ordered OR power_on <> $6, autoreboot_on = $7, cdrom_url = $8, keymap = $9, \
         hardware_profile = $10, hardware_profile_locked = $11 WHERE id = $1",
        &[
            &vm.id,
            &vm.name,
            &vm.group_id,
            &cores,
            &memory,
            &vm.power_on,
            &vm.autoreboot_on,
            &vm.cdrom_url,
            &vm.keymap,
            &vm.hardware_profile,
            &vm.hardware_profile_locked,
        ],
    )
    .await?;
    Ok(())
}

/// The database's integer; values are checked against far smaller bounds before they get here.
fn int(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Deletes a VM so that it can be brought back: it is no longer wanted on.
///
/// # Errors
/// When the database fails.
pub async fn delete(tx: &Transaction<'_>, id: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE virtual_machines SET deleted_at = coalesce(deleted_at, now()), power_on = false, \
         power_ordered = power_ordered OR power_on, autoreboot_on = false WHERE id = $1",
        &[&id],
    )
    .await?;
    Ok(())
}

/// Brings a deleted VM back; it stays off.
///
/// # Errors
/// When the database fails.
pub async fn undelete(tx: &Transaction<'_>, id: i64) -> Result<(), StoreError> {
    tx.execute("UPDATE virtual_machines SET deleted_at = NULL WHERE id = $1 AND purged_at IS NULL", &[&id]).await?;
    Ok(())
}
