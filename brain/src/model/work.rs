//! A VM with all that belongs to it, as its rows say: what the reconciler works from.

use super::migration::MigrationState;
use spine::{
    id::{
        AttachmentsVersion, DiscName, DiscNumber, Generation, Grade, ImageName, MigrationId, NodeName, PoolName,
        ResourceName, VmId,
    },
    secret::Secret,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};
use time::OffsetDateTime;

/// A VM with its discs, its open run, its cards and its console's users.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The machine.
    pub vm: VmRow,
    /// Its discs in the guest's order, those to be removed among them.
    pub discs: Vec<DiscRow>,
    /// The run that has not ended.
    pub run: Option<RunRow>,
    /// Runs that were ended while their head was away: it may have them still.
    pub unconfirmed: Vec<EndedRun>,
    /// Copies of its discs that are to be removed.
    pub leftovers: Vec<Leftover>,
    /// Its network cards in order.
    pub cards: Vec<CardRow>,
    /// Who may use its console, by name.
    pub users: Vec<UserRow>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq)]
pub struct VmRow {
    /// Its number: the X of `vm.X`.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its group's name.
    pub group: String,
    /// Its account's name.
    pub account: String,
    /// Virtual processors.
    pub cores: i32,
    /// MiB.
    pub memory_mib: i32,
    /// Wanted on.
    pub power_on: bool,
    /// A user has changed `power_on` since the last start: what follows from it is not automatic.
    pub power_ordered: bool,
    /// Wanted on again once it has stopped.
    pub autoreboot_on: bool,
    /// The CD in its drive.
    pub cdrom_url: Option<String>,
    /// Keyboard layout.
    pub keymap: Option<String>,
    /// Virtual hardware.
    pub hardware_profile: Option<String>,
    /// Where its console listens.
    pub management_address: Option<IpAddr>,
    /// The console's private host keys.
    pub management_ssh_keys: Vec<Secret>,
    /// Deleted, and may be brought back.
    pub deleted: bool,
    /// To be gone for good.
    pub purged: bool,
    /// How it stands, as written last.
    pub status: Status,
}

/// A disc.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscRow {
    /// Its number in the cluster: its address follows from it.
    pub number: DiscNumber,
    /// What its owner calls it.
    pub label: String,
    /// MiB.
    pub size_mib: i64,
    /// Its grade.
    pub grade: Grade,
    /// Where it lies, once that is decided.
    pub pool: Option<PoolRow>,
    /// Who owns it.
    pub generation: Generation,
    /// Version of the attachments that should be.
    pub attachments_version: AttachmentsVersion,
    /// Its tail has said that it is durable.
    pub made: bool,
    /// To be written onto it.
    pub image: Option<ImageName>,
    /// The tail has that in its books.
    pub image_ordered: bool,
    /// A smaller size may cut off data.
    pub shrink_forced: bool,
    /// Why it is to be destroyed, if so.
    pub remove_reason: Option<String>,
    /// Its move to another tail that is under way.
    pub moving: Option<MoveRow>,
    /// How it stands, as written last.
    pub status: Status,
}

/// A move of a disc that was begun: its generation is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRow {
    /// What the tails know it by.
    pub id: MigrationId,
    /// Where the disc goes.
    pub target: PoolRow,
    /// The grade of that pool.
    pub target_grade: Grade,
    /// Where the target waits for discs; none: it takes none.
    pub target_address: Option<SocketAddr>,
    /// Where the source connects from.
    pub source_address: Option<IpAddr>,
    /// Of which the target is to become the owner.
    pub generation: Generation,
    /// The most that is sent, in 10⁶ bytes a second; none: as fast as it goes.
    pub limit_mb_per_s: Option<u32>,
    /// It is to come to nothing, as far as that is still possible.
    pub undo: Option<Undo>,
    /// An operator has said how it ends, for one of its tails is lost.
    pub forced: Option<Forced>,
}

/// An outcome that an operator forces (safety rule 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced {
    /// Who gets the disc.
    pub how: Force,
    /// Of which it is the owner then.
    pub generation: Generation,
}

/// Which end of a move gets the disc when the other is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// The target.
    Promote,
    /// The source.
    TakeBack,
}

/// How a move comes to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// A sentence.
    pub reason: String,
    /// [`MigrationState::Cancelled`] or [`MigrationState::Errored`].
    pub state: MigrationState,
    /// Nothing more of its job is begun: what failed here may fail everywhere.
    pub stops_job: bool,
}

/// A copy of a disc that is not the disc any more, or never became it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What the tail calls it.
    pub name: DiscName,
    /// Where it is.
    pub tail: NodeName,
    /// The removal is ordered with it.
    pub generation: Generation,
    /// The move that made it and came to nothing; none: it is what the former owner has.
    pub aborted: Option<MigrationId>,
    /// The disc was given to another tail when this one was lost.
    pub superseded: Option<Superseded>,
    /// It stays until an operator has it removed.
    pub kept: bool,
}

/// To whom a disc was given when a tail of its was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The tail that was given it.
    pub by: NodeName,
    /// The move that both took part in.
    pub id: MigrationId,
}

/// A pool that holds a disc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRow {
    /// Its row.
    pub id: i64,
    /// Its name on its tail.
    pub name: PoolName,
    /// Its tail.
    pub tail: NodeName,
}

/// One start of a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Its number.
    pub id: i64,
    /// Where.
    pub head: NodeName,
    /// That head's address on the storage LAN.
    pub head_address: Option<IpAddr>,
    /// The key its qemu shows to the tails.
    pub key: Secret,
    /// How far it is.
    pub state: RunState,
    /// When it was decided.
    pub started_at: OffsetDateTime,
}

/// A run that was ended without its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRun {
    /// Its number.
    pub id: i64,
    /// Where it was.
    pub head: NodeName,
}

/// How far a run is.
///
/// ```text
/// attaching ──all tails said ok──▶ starting ──head said ok──▶ running ──▶ stopping
///     └────────────────────────────────┴─────────────────────────┴───────────┴──▶ ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// The tails are told to let its qemu in; the head knows nothing yet.
    Attaching,
    /// The head is, or is about to be, told to start it.
    Starting,
    /// The head has said that it runs.
    Running,
    /// The head is told to stop it.
    Stopping,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardRow {
    /// Six hexadecimal pairs.
    pub mac: String,
    /// The network's number.
    pub vlan: i64,
    /// Its addresses, its own before those routed to it, IPv4 first.
    pub ips: Vec<IpAddr>,
}

/// Someone who may use a console.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRow {
    /// Login name.
    pub username: String,
    /// OpenSSH keys, one a line.
    pub authorized_keys: Option<String>,
    /// A PHC string.
    pub password_hash: Option<Secret>,
}

/// How a thing stands against what is wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// A word: `off`, `starting`, `running`, `stopping`, `imaging`, `waiting`, `failed`, `deleted`;
    /// for discs also `serving` and `removing`.
    pub state: String,
    /// A sentence: what it waits for, or what went wrong.
    pub reason: Option<String>,
    /// Percent, where that is known.
    pub progress: Option<i32>,
}

impl Work {
    /// Whether the machine should be running.
    pub fn wanted_on(&self) -> bool {
        self.vm.power_on && !self.vm.deleted && !self.vm.purged
    }

    /// The discs that are not to be removed, in the guest's order.
    pub fn kept_discs(&self) -> impl Iterator<Item = &DiscRow> {
        self.discs.iter().filter(|disc| disc.remove_reason.is_none())
    }
}

/// A VM's name on the spine: its number.
pub fn vm_name(id: i64) -> VmId {
    id.to_string().parse().expect("a positive number is a name")
}

impl VmRow {
    /// Its name on the spine.
    pub fn spine_id(&self) -> VmId {
        vm_name(self.id)
    }
}

impl DiscRow {
    /// Its name on the spine.
    pub fn spine_name(&self) -> DiscName {
        DiscName { grade: self.grade.clone(), number: self.number }
    }

    /// What the tail that it moves to calls it.
    pub fn target_name(&self, moving: &MoveRow) -> DiscName {
        DiscName { grade: moving.target_grade.clone(), number: self.number }
    }

    /// Its size as the spine has it.
    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.size_mib).unwrap_or(0).saturating_mul(1 << 20)
    }
}

impl Force {
    /// The word of the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::TakeBack => "take_back",
        }
    }
}

impl FromStr for Force {
    type Err = UnknownForce;
    fn from_str(text: &str) -> Result<Self, UnknownForce> {
        [Self::Promote, Self::TakeBack].into_iter().find(|force| force.as_str() == text).ok_or(UnknownForce)
    }
}

/// The error of a word that is no forced outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no outcome of a migration is called that")]
pub struct UnknownForce;

impl MoveRow {
    /// Where the disc goes, for people.
    pub fn destination(&self) -> String {
        format!("{}-{}", self.target.tail, self.target.name)
    }
}

impl RunState {
    /// As the database has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }

    /// From the database; none for `ended` and for what no version has written.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Attaching, Self::Starting, Self::Running, Self::Stopping]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl Status {
    /// A state that needs no explanation.
    pub fn plain(state: &str) -> Self {
        Self { state: state.to_owned(), reason: None, progress: None }
    }

    /// A state with what it waits for or what went wrong.
    pub fn because(state: &str, reason: impl Into<String>) -> Self {
        Self { state: state.to_owned(), reason: Some(reason.into()), progress: None }
    }
}

/// What the database knows of.
#[derive(Debug, Default)]
pub struct Known {
    /// Discs, with their tails.
    pub discs: BTreeSet<(u64, String)>,
    /// VMs, wherever they are.
    pub vms: BTreeSet<i64>,
}

impl Known {
    /// Whether the node is known to have, or have had, the resource.
    pub fn contains(&self, node: &NodeName, resource: &ResourceName) -> bool {
        match resource {
            ResourceName::Disc(disc) => self.discs.contains(&(disc.number.0, node.as_str().to_owned())),
            ResourceName::Vm(id) => id.as_str().parse().is_ok_and(|id| self.vms.contains(&id)),
            ResourceName::Global(_) | ResourceName::Other(_) => true,
        }
    }
}
