//! The rows of VMs as the reconciler needs them, and how it changes them.

use super::{
    StoreError,
    events::{self, BRAIN, Event},
    forced, migrations,
};
use crate::model::{
    change::Change,
    work::{
        CardRow, DiscRow, EndedRun, Forced, Known, Leftover, MoveRow, PoolRow, RunRow, RunState, Status, Superseded,
        Undo, UserRow, VmRow, Work,
    },
};
use spine::{
    id::{AttachmentsVersion, DiscName, DiscNumber, Generation, MigrationId, NodeName},
    secret::Secret,
};
use std::{collections::BTreeMap, fmt::Display, net::IpAddr, str::FromStr};
use tokio_postgres::{Row, Transaction};

/// The numbers of all VMs that there is anything of, after `behind` and in order, a bounded part.
///
/// # Errors
/// When the database fails.
pub async fn vm_ids(tx: &Transaction<'_>, behind: i64, count_max: usize) -> Result<Vec<i64>, StoreError> {
    let limit = i64::try_from(count_max).unwrap_or(i64::MAX);
    let rows =
        tx.query("SELECT id FROM virtual_machines WHERE id > $1 ORDER BY id LIMIT $2", &[&behind, &limit]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Loads VMs with all that belongs to them. A number that there is no VM of is left out.
///
/// # Errors
/// When the database fails or holds what no brain has written.
pub async fn load(tx: &Transaction<'_>, vm_ids: &[i64]) -> Result<Vec<Work>, StoreError> {
    let mut works: BTreeMap<i64, Work> = BTreeMap::new();
    for row in tx.query(VMS, &[&vm_ids]).await? {
        let vm = vm_row(&row)?;
        let work =
            Work { vm, discs: vec![], run: None, unconfirmed: vec![], leftovers: vec![], cards: vec![], users: vec![] };
        works.insert(work.vm.id, work);
    }
    for row in tx.query(DISCS, &[&vm_ids]).await? {
        let disc = disc_row(&row)?;
        with(&mut works, &row, |work| work.discs.push(disc));
    }
    for row in tx.query(RUNS, &[&vm_ids]).await? {
        let run = run_row(&row)?;
        with(&mut works, &row, |work| work.run = Some(run));
    }
    for row in tx.query(UNCONFIRMED, &[&vm_ids]).await? {
        let id: i64 = row.get(1);
        let run = EndedRun { id, head: parse(row.get(2), || format!("run {id}"))? };
        with(&mut works, &row, |work| work.unconfirmed.push(run));
    }
    for row in tx.query(LEFTOVERS, &[&vm_ids]).await? {
        let leftover = leftover_row(&row)?;
        with(&mut works, &row, |work| work.leftovers.push(leftover));
    }
    for row in tx.query(CARDS, &[&vm_ids]).await? {
        let card = CardRow { mac: row.get(1), vlan: row.get(2), ips: row.get::<_, Vec<IpAddr>>(3) };
        with(&mut works, &row, |work| work.cards.push(card));
    }
    for row in tx.query(USERS, &[&vm_ids]).await? {
        let password_hash: Option<String> = row.get(3);
        let user = UserRow {
            username: row.get(1),
            authorized_keys: row.get(2),
            password_hash: password_hash.map(Secret::new),
        };
        with(&mut works, &row, |work| work.users.push(user));
    }
    Ok(works.into_values().collect())
}

const VMS: &str = "
    SELECT v.id, v.name, g.name, a.name, v.cores, v.memory_mib, v.power_on, v.power_ordered, v.autoreboot_on, v.cdrom_url,
           v.keymap, v.hardware_profile, v.management_address, v.management_ssh_keys, v.deleted_at IS NOT NULL,
           v.purged_at IS NOT NULL, v.status_state, v.status_reason
    FROM virtual_machines v JOIN groups g ON g.id = v.group_id JOIN accounts a ON a.id = g.account_id
    WHERE v.id = ANY($1) ORDER BY v.id";

const DISCS: &str = "
    SELECT d.virtual_machine_id, d.number, d.label, d.size_mib, d.grade, p.id, p.name, n.name, d.generation,
           d.attachments_version, d.made, d.image, d.image_ordered, d.shrink_forced, d.remove_reason,
           d.status_state, d.status_reason, d.status_progress, m.uuid, tp.id, tp.name, tn.name, tp.grade,
           tn.migration_address, n.storage_address, m.generation, m.undo_reason, m.undo_state, m.undo_stops_job,
           m.forced, m.forced_generation, m.limit_mb_per_s
    FROM discs d LEFT JOIN storage_pools p ON p.id = d.storage_pool_id LEFT JOIN nodes n ON n.id = p.tail_id
    LEFT JOIN migrations m ON m.disc_id = d.id AND m.state = 'moving'
    LEFT JOIN storage_pools tp ON tp.id = m.target_pool_id LEFT JOIN nodes tn ON tn.id = tp.tail_id
    WHERE d.virtual_machine_id = ANY($1) ORDER BY d.virtual_machine_id, d.position, d.number";

const RUNS: &str = "
    SELECT r.virtual_machine_id, r.id, n.name, n.storage_address, r.attachment_key, r.state, r.started_at
    FROM runs r JOIN nodes n ON n.id = r.head_id
    WHERE r.virtual_machine_id = ANY($1) AND r.state <> 'ended'";

const UNCONFIRMED: &str = "
    SELECT r.virtual_machine_id, r.id, n.name FROM runs r JOIN nodes n ON n.id = r.head_id
    WHERE r.virtual_machine_id = ANY($1) AND r.state = 'ended' AND NOT r.confirmed ORDER BY r.id";

const LEFTOVERS: &str = "
    SELECT l.virtual_machine_id, l.disc_number, l.grade, n.name, l.generation, l.aborted, l.superseded_by, l.superseded_move,
           l.kept
    FROM disc_leftovers l JOIN nodes n ON n.id = l.tail_id WHERE l.virtual_machine_id = ANY($1) ORDER BY l.id";

const CARDS: &str = "
    SELECT c.virtual_machine_id, c.mac::text, c.vlan_num,
           coalesce(array_agg(i.address ORDER BY i.routed_via IS NOT NULL, family(i.address), i.address)
                    FILTER (WHERE i.address IS NOT NULL), '{}')
    FROM nics c LEFT JOIN ip_addresses i ON i.nic_id = c.id
    WHERE c.virtual_machine_id = ANY($1) GROUP BY c.id ORDER BY c.virtual_machine_id, c.position";

/// Every privilege that reaches a VM includes its console, unless it asks for proofs that a console
/// cannot check: a Yubikey, or where the user comes from.
const USERS: &str = "
    SELECT DISTINCT v.id, u.username, u.authorized_keys, u.password_hash
    FROM virtual_machines v JOIN groups g ON g.id = v.group_id
    JOIN privileges p ON p.virtual_machine_id = v.id OR p.group_id = g.id OR p.account_id = g.account_id
                      OR p.level IN ('cluster_admin', 'cluster_su')
    JOIN users u ON u.id = p.user_id
    WHERE v.id = ANY($1) AND NOT p.yubikey_required AND p.ip_restrictions IS NULL ORDER BY v.id, u.username";

fn with(works: &mut BTreeMap<i64, Work>, row: &Row, change: impl FnOnce(&mut Work)) {
    if let Some(work) = works.get_mut(&row.get::<_, i64>(0)) {
        change(work);
    }
}

fn vm_row(row: &Row) -> Result<VmRow, StoreError> {
    Ok(VmRow {
        id: row.get(0),
        name: row.get(1),
        group: row.get(2),
        account: row.get(3),
        cores: row.get(4),
        memory_mib: row.get(5),
        power_on: row.get(6),
        power_ordered: row.get(7),
        autoreboot_on: row.get(8),
        cdrom_url: row.get(9),
        keymap: row.get(10),
        hardware_profile: row.get(11),
        management_address: row.get(12),
        management_ssh_keys: row.get::<_, Vec<String>>(13).into_iter().map(Secret::new).collect(),
        deleted: row.get(14),
        purged: row.get(15),
        status: Status { state: row.get(16), reason: row.get(17), progress: None },
    })
}

fn disc_row(row: &Row) -> Result<DiscRow, StoreError> {
    let number: i64 = row.get(1);
    let place = || format!("disc {number}");
    let pool = match (row.get(5), row.get::<_, Option<&str>>(6), row.get::<_, Option<&str>>(7)) {
        (Some(id), Some(name), Some(tail)) => {
            Some(PoolRow { id, name: parse(name, place)?, tail: parse(tail, place)? })
        }
        _ => None,
    };
    Ok(DiscRow {
        number: DiscNumber(count(number, place)?),
        label: row.get(2),
        size_mib: row.get(3),
        grade: parse(row.get(4), place)?,
        pool,
        generation: Generation(count(row.get(8), place)?),
        attachments_version: AttachmentsVersion(count(row.get(9), place)?),
        made: row.get(10),
        image: row.get::<_, Option<&str>>(11).map(|image| parse(image, place)).transpose()?,
        image_ordered: row.get(12),
        shrink_forced: row.get(13),
        remove_reason: row.get(14),
        moving: move_row(row, place)?,
        status: Status { state: row.get(15), reason: row.get(16), progress: row.get(17) },
    })
}

/// The columns from 18 on: all null while the disc does not move.
fn move_row(row: &Row, place: impl Fn() -> String + Copy) -> Result<Option<MoveRow>, StoreError> {
    let Some(id) = row.get::<_, Option<uuid::Uuid>>(18) else { return Ok(None) };
    let undo = row.get::<_, Option<String>>(26).map(|reason| {
        let state = parse(row.get(27), place)?;
        Ok::<_, StoreError>(Undo { reason, state, stops_job: row.get(28) })
    });
    let forced = row.get::<_, Option<&str>>(29).map(|how| {
        let generation = Generation(count(row.get(30), place)?);
        Ok::<_, StoreError>(Forced { how: parse(how, place)?, generation })
    });
    Ok(Some(MoveRow {
        id: MigrationId(id),
        target: PoolRow { id: row.get(19), name: parse(row.get(20), place)?, tail: parse(row.get(21), place)? },
        target_grade: parse(row.get(22), place)?,
        target_address: row.get::<_, Option<&str>>(23).map(|text| parse(text, place)).transpose()?,
        source_address: row.get(24),
        generation: Generation(count(row.get(25), place)?),
        limit_mb_per_s: row.get::<_, Option<i32>>(31).map(i32::unsigned_abs),
        undo: undo.transpose()?,
        forced: forced.transpose()?,
    }))
}

fn leftover_row(row: &Row) -> Result<Leftover, StoreError> {
    let number: i64 = row.get(1);
    let place = || format!("a leftover of disc {number}");
    let superseded = row.get::<_, Option<&str>>(6).map(|by| {
        let id = MigrationId(row.get::<_, uuid::Uuid>(7));
        Ok::<_, StoreError>(Superseded { by: parse(by, place)?, id })
    });
    Ok(Leftover {
        name: DiscName { grade: parse(row.get(2), place)?, number: DiscNumber(count(number, place)?) },
        tail: parse(row.get(3), place)?,
        generation: Generation(count(row.get(4), place)?),
        aborted: row.get::<_, Option<uuid::Uuid>>(5).map(MigrationId),
        superseded: superseded.transpose()?,
        kept: row.get(8),
    })
}

fn run_row(row: &Row) -> Result<RunRow, StoreError> {
    let id: i64 = row.get(1);
    let place = || format!("run {id}");
    let state: &str = row.get(5);
    Ok(RunRow {
        id,
        head: parse(row.get(2), place)?,
        head_address: row.get(3),
        key: Secret::new(row.get::<_, String>(4)),
        state: RunState::parse(state).ok_or_else(|| StoreError::corrupt(place(), format!("state {state:?}")))?,
        started_at: row.get(6),
    })
}

pub(super) fn parse<T: FromStr<Err: Display>>(text: &str, place: impl Fn() -> String) -> Result<T, StoreError> {
    text.parse().map_err(|error| StoreError::corrupt(place(), error))
}

fn count(number: i64, place: impl Fn() -> String) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::corrupt(place(), format!("{number} is negative")))
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Locks a VM's row until the transaction ends: the API's changes wait. False when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn lock(tx: &Transaction<'_>, vm_id: i64) -> Result<bool, StoreError> {
    Ok(tx.query_opt("SELECT 1 FROM virtual_machines WHERE id = $1 FOR UPDATE", &[&vm_id]).await?.is_some())
}

/// True when the VM has been started before.
///
/// # Errors
/// When the database fails.
pub async fn has_run(tx: &Transaction<'_>, vm_id: i64) -> Result<bool, StoreError> {
    Ok(tx.query_opt("SELECT 1 FROM runs WHERE virtual_machine_id = $1 LIMIT 1", &[&vm_id]).await?.is_some())
}

/// Opens a run and gives each of the VM's discs a new attachments version. False when there is one
/// already, or the machine is no longer wanted on. The VM's row must be locked.
///
/// # Errors
/// When the database fails.
pub async fn open_run(
    tx: &Transaction<'_>,
    vm_id: i64,
    head: &NodeName,
    key: &Secret,
    reason: &str,
) -> Result<bool, StoreError> {
    let opened = tx
        .execute(
            "INSERT INTO runs (virtual_machine_id, head_id, attachment_key, state, memory_mib)
             SELECT v.id, n.id, $3, 'attaching', v.memory_mib FROM virtual_machines v, nodes n
             WHERE v.id = $1 AND v.power_on AND v.deleted_at IS NULL AND n.name = $2
             ON CONFLICT DO NOTHING",
            &[&vm_id, &head.as_str(), &key.reveal()],
        )
        .await?;
    if opened == 0 {
        return Ok(false);
    }
    raise_attachments(tx, vm_id).await?;
    // What a user has ordered is under way: should it have to be started again, that is automatic.
    tx.execute("UPDATE virtual_machines SET power_ordered = false WHERE id = $1", &[&vm_id]).await?;
    let message = format!("started on {reason}");
    record(tx, vm_id, "vm-starting", None, Some(head.as_str()), &message).await?;
    Ok(true)
}

async fn raise_attachments(tx: &Transaction<'_>, vm_id: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE discs SET attachments_version = attachments_version + 1
         WHERE virtual_machine_id = $1 AND remove_reason IS NULL",
        &[&vm_id],
    )
    .await?;
    Ok(())
}

/// Puts a disc into a pool, unless it is in one already.
///
/// # Errors
/// When the database fails.
pub async fn place_disc(tx: &Transaction<'_>, disc: DiscNumber, pool_id: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE discs SET storage_pool_id = $2 WHERE number = $1 AND storage_pool_id IS NULL",
        &[&signed(disc.0), &pool_id],
    )
    .await?;
    Ok(())
}

/// Writes one change, as [`Change::apply`] means it. The VM's row must be locked.
///
/// # Errors
/// When the database fails.
pub async fn write(tx: &Transaction<'_>, vm_id: i64, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::DiscMade { disc, image } => {
            // The owner may have asked for another image meanwhile: that one is still to be ordered.
            let sql = "UPDATE discs SET made = true, image_ordered = coalesce(image = $2, false) WHERE number = $1";
            tx.execute(sql, &[&signed(disc.0), &image.as_ref().map(|image| image.as_str())]).await?;
            record(tx, vm_id, "disc-made", Some(*disc), None, "its tail has it").await?;
        }
        Change::DiscUnplaced { disc, reason } => {
            tx.execute("UPDATE discs SET storage_pool_id = NULL WHERE number = $1 AND NOT made", &[&signed(disc.0)])
                .await?;
            record(tx, vm_id, "disc-refused", Some(*disc), None, reason).await?;
        }
        Change::DiscRemoved(disc) => {
            let sql = "DELETE FROM discs WHERE number = $1 AND remove_reason IS NOT NULL RETURNING remove_reason";
            if let Some(row) = tx.query_opt(sql, &[&signed(disc.0)]).await? {
                record(tx, vm_id, "disc-removed", Some(*disc), None, row.get(0)).await?;
            }
        }
        Change::ImageOrdered { disc, image } => {
            let sql = "UPDATE discs SET image_ordered = true WHERE number = $1 AND image = $2";
            tx.execute(sql, &[&signed(disc.0), &image.as_str()]).await?;
        }
        Change::ImageWritten { disc, image } => {
            let sql = "UPDATE discs SET image = NULL, image_ordered = false WHERE number = $1 AND image = $2";
            tx.execute(sql, &[&signed(disc.0), &image.as_str()]).await?;
            let sql = "UPDATE virtual_machines SET last_imaged_with = $2 WHERE id = $1";
            tx.execute(sql, &[&vm_id, &image.as_str()]).await?;
            record(tx, vm_id, "disc-imaged", Some(*disc), None, &format!("{image} is on it")).await?;
        }
        Change::DiscShrunk { disc, size_mib } => {
            let sql = "UPDATE discs SET shrink_forced = false WHERE number = $1 AND size_mib = $2";
            tx.execute(sql, &[&signed(disc.0), size_mib]).await?;
        }
        Change::AttachmentsRaised { disc, version } => {
            let sql = "UPDATE discs SET attachments_version = greatest(attachments_version, $2) WHERE number = $1";
            tx.execute(sql, &[&signed(disc.0), &signed(version.0)]).await?;
        }
        Change::DiscMoved(disc) => migrations::moved(tx, vm_id, *disc).await?,
        Change::MoveUndo { disc, undo } => migrations::undo(tx, *disc, undo).await?,
        Change::MoveUndone(disc) => migrations::undone(tx, vm_id, *disc).await?,
        Change::OutcomeForced(disc) => forced::ended(tx, vm_id, *disc).await?,
        Change::LeftoverRemoved { disc, tail, generation } => {
            migrations::leftover_removed(tx, *disc, tail, *generation).await?;
        }
        Change::RunMoved(state) => {
            let sql = "UPDATE runs SET state = $2 WHERE virtual_machine_id = $1 AND state <> 'ended'";
            tx.execute(sql, &[&vm_id, &state.as_str()]).await?;
            if *state == RunState::Running {
                record(tx, vm_id, "vm-started", None, None, "its head says that it runs").await?;
            }
        }
        Change::RunEnded { reason, stopped, confirmed } => end_run(tx, vm_id, reason, *stopped, *confirmed).await?,
        Change::RunConfirmed(id) => {
            tx.execute("UPDATE runs SET confirmed = true WHERE id = $1", &[id]).await?;
        }
        Change::AddressesFreed => {
            let sql = "DELETE FROM ip_addresses WHERE nic_id IN (SELECT id FROM nics WHERE virtual_machine_id = $1)";
            tx.execute(sql, &[&vm_id]).await?;
            tx.execute("DELETE FROM nics WHERE virtual_machine_id = $1", &[&vm_id]).await?;
            tx.execute("UPDATE virtual_machines SET management_address = NULL WHERE id = $1", &[&vm_id]).await?;
        }
        Change::VmRemoved => {
            tx.execute("DELETE FROM runs WHERE virtual_machine_id = $1", &[&vm_id]).await?;
            tx.execute("DELETE FROM virtual_machines WHERE id = $1 AND purged_at IS NOT NULL", &[&vm_id]).await?;
            record(tx, vm_id, "vm-purged", None, None, "nothing is left of it").await?;
        }
    }
    Ok(())
}

async fn end_run(
    tx: &Transaction<'_>,
    vm_id: i64,
    reason: &str,
    stopped: bool,
    confirmed: bool,
) -> Result<(), StoreError> {
    let ended = tx
        .execute(
            "UPDATE runs SET state = 'ended', ended_at = now(), end_reason = $2, confirmed = $3
             WHERE virtual_machine_id = $1 AND state <> 'ended'",
            &[&vm_id, &reason, &confirmed],
        )
        .await?;
    if ended == 0 {
        return Ok(());
    }
    raise_attachments(tx, vm_id).await?;
    if stopped {
        let sql = "UPDATE virtual_machines SET power_on = autoreboot_on AND deleted_at IS NULL WHERE id = $1";
        tx.execute(sql, &[&vm_id]).await?;
    }
    let kind = if stopped { "vm-stopped" } else { "vm-not-started" };
    record(tx, vm_id, kind, None, None, reason).await
}

/// Writes how a VM and its discs stand; `since` moves only when the state does.
///
/// # Errors
/// When the database fails.
pub async fn write_status(
    tx: &Transaction<'_>,
    vm: Option<(i64, &Status)>,
    discs: &[(DiscNumber, &Status)],
) -> Result<(), StoreError> {
    if let Some((vm_id, status)) = vm {
        tx.execute(
            "UPDATE virtual_machines SET status_state = $2, status_reason = $3,
                    status_since = CASE WHEN status_state = $2 THEN status_since ELSE now() END
             WHERE id = $1",
            &[&vm_id, &status.state, &status.reason],
        )
        .await?;
    }
    for (disc, status) in discs {
        tx.execute(
            "UPDATE discs SET status_state = $2, status_reason = $3, status_progress = $4,
                    status_since = CASE WHEN status_state = $2 THEN status_since ELSE now() END
             WHERE number = $1",
            &[&signed(disc.0), &status.state, &status.reason, &status.progress],
        )
        .await?;
    }
    Ok(())
}

/// Records an event of the brain's own.
///
/// # Errors
/// When the database fails.
pub async fn record(
    tx: &Transaction<'_>,
    vm_id: i64,
    kind: &str,
    disc: Option<DiscNumber>,
    node: Option<&str>,
    message: &str,
) -> Result<(), StoreError> {
    let disc_number = disc.map(|disc| signed(disc.0));
    let event = Event { actor: BRAIN, kind, vm_id: Some(vm_id), disc_number, node, message };
    events::record(tx, &event).await
}

/// All discs with the tails that have them or copies of them, and all VMs.
///
/// # Errors
/// When the database fails.
pub async fn known(tx: &Transaction<'_>) -> Result<Known, StoreError> {
    let discs = tx
        .query(
            "SELECT d.number, n.name FROM discs d JOIN storage_pools p ON p.id = d.storage_pool_id
             JOIN nodes n ON n.id = p.tail_id
             UNION SELECT d.number, n.name FROM migrations m JOIN discs d ON d.id = m.disc_id
             JOIN storage_pools p ON p.id = m.target_pool_id JOIN nodes n ON n.id = p.tail_id WHERE m.state = 'moving'
             UNION SELECT l.disc_number, n.name FROM disc_leftovers l JOIN nodes n ON n.id = l.tail_id",
            &[],
        )
        .await?;
    let vms = tx.query("SELECT id FROM virtual_machines", &[]).await?;
    Ok(Known {
        discs: discs.iter().map(|row| (row.get::<_, i64>(0).unsigned_abs(), row.get(1))).collect(),
        vms: vms.iter().map(|row| row.get(0)).collect(),
    })
}
