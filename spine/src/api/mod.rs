//! The shapes of the public HTTP API, as the brain writes and `bigv` reads them.
//!
//! Sizes and memory are in MiB. A request's body is read leniently (numbers as text, nulls, unknown
//! attributes), so requests are plain JSON on the brain's side; these are the answers, and what
//! `bigv` sends.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// `application/vnd.bigv.*`, as nested objects carry it in `type`.
pub mod kind {
    /// A group.
    pub const GROUP: &str = "application/vnd.bigv.group";
    /// A virtual machine.
    pub const VIRTUAL_MACHINE: &str = "application/vnd.bigv.virtual-machine";
    /// A disc.
    pub const DISC: &str = "application/vnd.bigv.disc";
    /// A network interface.
    pub const NIC: &str = "application/vnd.bigv.network-interface";
}

/// An account: who pays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// True while it may not start anything.
    #[serde(default)]
    pub suspended: bool,
    /// With `view=overview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
}

/// A group of VMs in an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub id: i64,
    /// The account it is in.
    pub account_id: i64,
    /// Its name; each account has `default`.
    pub name: String,
    /// With `view=overview`: [`kind::GROUP`].
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// With `view=overview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machines: Option<Vec<VirtualMachine>>,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtualMachine {
    /// Its number.
    pub id: i64,
    /// Its name, unique in its group.
    pub name: String,
    /// The group it is in.
    pub group_id: i64,
    /// Whether it is started again when it stops.
    pub autoreboot_on: bool,
    /// Whether it is wanted on.
    pub power_on: bool,
    /// The CD in its drive.
    pub cdrom_url: Option<String>,
    /// Virtual processors.
    pub cores: i64,
    /// MiB.
    pub memory: i64,
    /// Where its console listens.
    pub management_address: Option<IpAddr>,
    /// Keyboard layout.
    pub keymap: Option<String>,
    /// True once deleted, until it is purged.
    pub deleted: bool,
    /// `name.group.account.cluster-domain`.
    pub hostname: String,
    /// The head it runs on; null while it does not run.
    pub head: Option<String>,
    /// The virtual hardware.
    pub hardware_profile: Option<String>,
    /// Whether that stays as it is at a restart.
    pub hardware_profile_locked: bool,
    /// The zone.
    pub zone_name: Option<String>,
    /// The distribution it was last imaged with.
    pub last_imaged_with: Option<String>,
    /// What it is doing and why, when it is not as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// With `view=overview`: [`kind::VIRTUAL_MACHINE`].
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// With `view=overview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discs: Option<Vec<Disc>>,
    /// With `view=overview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_interfaces: Option<Vec<Nic>>,
}

/// How a thing stands against what is wanted of it: new beside the old API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// A word: `off`, `starting`, `running`, `stopping`, `imaging`, `waiting`, `failed`, `deleted`.
    pub state: String,
    /// A sentence: what it waits for or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// RFC 3339: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Percent done, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<i64>,
}

/// A disc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disc {
    /// Its number.
    pub id: i64,
    /// Free text, unique on its VM.
    pub label: String,
    /// MiB.
    pub size: i64,
    /// Whose it is.
    pub virtual_machine_id: i64,
    /// `TAIL-POOL`, once it is placed.
    pub storage_pool: Option<String>,
    /// Its grade.
    pub storage_grade: String,
    /// Backups kept of it.
    pub backup_count: i64,
    /// Whether backups are made.
    pub backups_enabled: bool,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// While it moves to another tail.
    #[serde(flatten, default)]
    pub moving: Option<DiscMove>,
    /// [`kind::DISC`].
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// What a disc shows besides while it moves to another tail (B09).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscMove {
    /// The label of the pool it goes to.
    pub new_storage_pool: String,
    /// The grade of that pool.
    pub new_storage_grade: String,
    /// The job that it is part of.
    pub migration_job_id: i64,
    /// A word: `preparing`, `connecting`, `copying`, `converging`, `mirroring`, `verifying`, `waiting`,
    /// `handover`, `undoing`.
    pub migration_phase: String,
    /// Why it is being undone, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_reason: Option<String>,
    /// Percent moved.
    pub migration_progress: i64,
    /// Seconds until it is over, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_eta: Option<i64>,
    /// 10⁶ bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_speed: Option<i64>,
    /// The most that is sent, in 10⁶ bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_limit_mb_per_s: Option<i64>,
    /// Bytes copied so far, repeats included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_bytes_copied: Option<i64>,
    /// Bytes still to be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_bytes_left: Option<i64>,
    /// How fast the guest makes new work, in bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_dirtied_bytes_per_s: Option<i64>,
    /// How long the guest would be paused now, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_expected_pause_ms: Option<i64>,
    /// Percent of the copy that was read back and compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_verified_percent: Option<i64>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// Its number.
    pub id: i64,
    /// Free text.
    pub label: Option<String>,
    /// The primary IPv4 address, then the IPv6 one.
    pub ips: Vec<IpAddr>,
    /// The network's number.
    pub vlan_num: i64,
    /// Six hexadecimal pairs.
    pub mac: String,
    /// Extra address → the address it is routed by.
    pub extra_ips: BTreeMap<IpAddr, IpAddr>,
    /// Whose it is.
    pub virtual_machine_id: i64,
    /// [`kind::NIC`].
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Its number.
    pub id: i64,
    /// What it logs in as.
    pub username: String,
    /// Where mail goes.
    pub email: Option<String>,
    /// OpenSSH public keys, one a line.
    pub authorized_keys: Option<String>,
}

/// Disc numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiscIds {
    /// In the order of the job.
    pub discs: Vec<i64>,
}

/// Discs that are to move between tails, as they were ordered together (B14).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationJob {
    /// Its number.
    pub id: i64,
    /// `sources`, `destinations` and `options` as they were ordered.
    pub args: serde_json::Value,
    /// Discs whose turn has not come.
    pub queue: DiscIds,
    /// Discs that are moving.
    #[serde(default)]
    pub active: DiscIds,
    /// The pools that its discs go to, by number.
    pub destinations: serde_json::Value,
    /// Discs that have come to an end.
    pub status: MigrationJobStatus,
    /// Each disc with where it goes, and why it stands as it does.
    #[serde(default)]
    pub discs: Vec<MigrationJobDisc>,
    /// Higher goes first.
    pub priority: i64,
    /// Who ordered it.
    #[serde(default)]
    pub created_by: String,
    /// Why nothing more of it is begun.
    #[serde(default)]
    pub stopped_reason: Option<String>,
    /// RFC 3339: when its first disc began to move.
    pub started_at: Option<String>,
    /// When its last disc had come to an end.
    pub finished_at: Option<String>,
    /// When it was ordered.
    pub created_at: Option<String>,
    /// When it last changed.
    pub updated_at: Option<String>,
}

/// What became of a job's discs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationJobStatus {
    /// By how they ended.
    pub discs: MigrationJobDiscs,
}

/// Discs by how their moves ended, by number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationJobDiscs {
    /// They lie at their targets.
    pub done: Vec<i64>,
    /// It went wrong: they are where they were.
    pub errored: Vec<i64>,
    /// They were called off: they are where they were.
    pub cancelled: Vec<i64>,
    /// They were never begun.
    pub skipped: Vec<i64>,
}

/// One disc of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationJobDisc {
    /// The disc's number.
    pub id: i64,
    /// The label of the pool that it leaves.
    pub from: String,
    /// The label of the pool that it goes to; none when there was none.
    pub to: Option<String>,
    /// A word: `queued`, `moving`, `done`, `errored`, `cancelled`, `skipped`.
    pub state: String,
    /// What it waits for, or why it ended so.
    pub reason: Option<String>,
}

/// What a job would do: the answer to `?plan=true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationPlan {
    /// One entry a disc.
    pub discs: Vec<MigrationPlanDisc>,
}

/// What would become of one disc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationPlanDisc {
    /// Its number.
    pub id: i64,
    /// Its label.
    pub label: String,
    /// Its VM's number.
    pub virtual_machine_id: i64,
    /// Its VM's name.
    pub virtual_machine: String,
    /// MiB.
    pub size: i64,
    /// The label of the pool that it lies in.
    pub from: Option<String>,
    /// The label of the pool that it would go to; none: it would stay.
    pub to: Option<String>,
    /// Why there, or why it would stay.
    pub reason: String,
}

/// What a tail still has of a disc that is another tail's: `GET /admin/old_copies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldCopy {
    /// The disc's number; none when the disc is gone.
    pub disc_id: Option<i64>,
    /// Its VM's number.
    pub virtual_machine_id: i64,
    /// What the tails call the disc: the number in its resource and its address.
    pub number: u64,
    /// Where the copy is.
    pub tail: String,
    /// The tail that was given the disc when that one was lost; none: the disc moved, and the copy goes by itself.
    pub superseded_by: Option<String>,
    /// It stays until an operator has it removed.
    pub kept: bool,
    /// Since when it is an old one.
    pub since: Option<String>,
}

/// One list of `GET /definitions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// `distributions`, `storage_grades`, …
    pub id: String,
    /// A list of words, or an object of descriptions.
    pub data: serde_json::Value,
}

/// The body of `POST …/vm_create`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmCreate {
    /// The machine.
    pub virtual_machine: NewVm,
    /// Its discs, in order; the first is started from.
    pub discs: Vec<NewDisc>,
    /// What to write onto the first; none leaves it empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reimage: Option<Reimage>,
}

/// A machine to be made.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct NewVm {
    /// Its name.
    pub name: String,
    /// Virtual processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<i64>,
    /// MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// The CD in its drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdrom_url: Option<String>,
    /// Whether it is started again when it stops; true when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoreboot_on: Option<bool>,
    /// Whether it is started; as `autoreboot_on` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_on: Option<bool>,
    /// The virtual hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_profile: Option<String>,
}

/// A disc to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewDisc {
    /// Free text; `disc-N` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its grade.
    pub storage_grade: String,
    /// MiB.
    pub size: i64,
}

/// What to write onto a machine's first disc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reimage {
    /// One of the definitions' `distributions`.
    pub distribution: String,
    /// Root's password in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_password: Option<String>,
    /// Root's keys in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<String>,
}

/// The answer to `POST …/vm_create`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmCreated {
    /// The machine, with its addresses.
    pub virtual_machine: VirtualMachine,
    /// Its discs.
    pub discs: Vec<Disc>,
}
