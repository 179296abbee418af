//! `bigv vm …`.

use super::{ForceArgs, WaitArgs};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What to do about VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Make a VM, write a distribution onto it, start it
    #[command(after_help = "Examples:\n  \
        bigv vm new web1\n  \
        bigv vm new web1.shop --vm-distribution tiny --vm-discs sata:25GB,ssd:5GB\n\n\
        A disc is GRADE:SIZE; without a grade it is sata, without a unit GiB (M, G, T).\n\
        The first disc is started from. Ctrl-C stops the waiting, not the making.")]
    New(VmNew),
    /// List VMs
    #[command(after_help = "Examples:\n  bigv vm list\n  bigv vm list shop.acme --output-format json")]
    List(VmList),
    /// Show one VM
    #[command(after_help = "Examples:\n  bigv vm show web1\n  bigv vm show web1.shop.acme --output-format json")]
    Show(VmTarget),
    /// Start a VM, and have it started again whenever it stops
    #[command(after_help = "Examples:\n  bigv vm start web1")]
    Start(VmPower),
    /// Cut a VM's power
    #[command(after_help = "Examples:\n  bigv vm stop web1\n\nThe gentle way is `bigv vm shutdown`.")]
    Stop(VmPower),
    /// Cut a VM's power and start it again; pending changes take effect
    #[command(after_help = "Examples:\n  bigv vm restart web1")]
    Restart(VmPower),
    /// Ask the guest to shut down, and leave it off
    #[command(after_help = "Examples:\n  bigv vm shutdown web1 --wait-max 120\n\n\
        A guest that does not listen stays on: `bigv vm stop` cuts its power.")]
    Shutdown(VmPower),
    /// Press the reset button; pending changes do not take effect
    #[command(after_help = "Examples:\n  bigv vm reset web1")]
    Reset(VmTarget),
    /// Delete a VM; `vm undelete` has it back until it is purged
    #[command(after_help = "Examples:\n  bigv vm delete web1\n  bigv vm delete web1 --force")]
    Delete(VmDelete),
    /// Have a deleted VM back
    #[command(after_help = "Examples:\n  bigv vm undelete web1")]
    Undelete(VmTarget),
    /// Destroy a VM and all its discs at once and for good
    #[command(after_help = "Examples:\n  bigv vm purge web1")]
    Purge(VmDelete),
    /// Connect to a VM's serial console over SSH
    #[command(after_help = "Examples:\n  bigv vm console web1\n  bigv vm console web1 --ssh-args '-v -p 2222'\n\n\
        Your SSH key must be among `bigv user key list`. To leave, type Enter, ~ and\n\
        a full stop.")]
    Console(VmConsole),
    /// Change cores and memory; takes effect when the VM is started next
    #[command(after_help = "Examples:\n  bigv vm resize web1 --vm-cores 4 --vm-memory 8")]
    Resize(VmResize),
    /// Write a distribution onto the first disc of a VM that is off, and start it
    #[command(
        after_help = "Examples:\n  bigv vm reimage web1 --vm-distribution tiny\n\nAll that is on the first disc is lost."
    )]
    Reimage(VmReimage),
    /// Put a CD into a VM's drive, or take it out
    #[command(
        after_help = "Examples:\n  bigv vm cdrom web1 https://example.com/install.iso\n  bigv vm cdrom web1 --remove"
    )]
    Cdrom(VmCdrom),
}

/// Which VM.
#[derive(Debug, Args)]
pub struct VmTarget {
    /// The VM: vm[.group[.account]]
    #[arg(value_name = "VM")]
    pub vm: Option<String>,
    /// The same as an option
    #[arg(long, alias = "name", value_name = "VM", conflicts_with = "vm")]
    pub vm_name: Option<String>,
}

impl VmTarget {
    /// What was typed, either way.
    pub fn typed(&self) -> Option<&str> {
        self.vm.as_deref().or(self.vm_name.as_deref())
    }
}

/// `vm new`.
#[derive(Debug, Args)]
pub struct VmNew {
    /// Its name.
    #[command(flatten)]
    pub target: VmTarget,
    /// What to install; the first of `bigv definitions images` if left out; none: nothing
    #[arg(long, visible_alias = "vm-image", value_name = "IMAGE")]
    pub vm_distribution: Option<String>,
    /// Its discs, as sata:25GB,ssd:5GB
    #[arg(long, value_name = "DISCS", default_value = "25GB")]
    pub vm_discs: String,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub vm_cores: u32,
    /// Memory, in GiB without a unit
    #[arg(long, value_name = "SIZE", default_value = "1")]
    pub vm_memory: String,
    /// Root's password in the guest; `-` asks for it
    #[arg(long, value_name = "PASSWORD")]
    pub vm_root_password: Option<String>,
    /// A file with root's SSH public keys for the guest
    #[arg(long, value_name = "FILE")]
    pub vm_ssh_key_file: Option<PathBuf>,
    /// A CD to put into its drive
    #[arg(long, visible_alias = "cdrom", value_name = "URL")]
    pub vm_cdrom_url: Option<String>,
    /// Leave it off; implies --no-wait
    #[arg(long)]
    pub stopped: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `vm list`.
#[derive(Debug, Args)]
pub struct VmList {
    /// Only this group: group[.account]
    #[arg(value_name = "GROUP")]
    pub in_group: Option<String>,
    /// Deleted ones too
    #[arg(long, visible_alias = "deleted")]
    pub include_deleted: bool,
}

/// `vm start`, `stop`, `restart`, `shutdown`.
#[derive(Debug, Args)]
pub struct VmPower {
    /// Which.
    #[command(flatten)]
    pub target: VmTarget,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `vm delete` and `vm purge`.
#[derive(Debug, Args)]
pub struct VmDelete {
    /// Which.
    #[command(flatten)]
    pub target: VmTarget,
    /// Asking.
    #[command(flatten)]
    pub force: ForceArgs,
}

/// `vm console`.
#[derive(Debug, Args)]
pub struct VmConsole {
    /// Which.
    #[command(flatten)]
    pub target: VmTarget,
    /// Only say how to connect
    #[arg(long)]
    pub no_connect: bool,
    /// More arguments for ssh, split as a shell would, behind those of the profile
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub ssh_args: Option<String>,
}

/// `vm resize`.
#[derive(Debug, Args)]
pub struct VmResize {
    /// Which.
    #[command(flatten)]
    pub target: VmTarget,
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vm_cores: Option<u32>,
    /// Memory, in GiB without a unit
    #[arg(long, value_name = "SIZE")]
    pub vm_memory: Option<String>,
}

/// `vm reimage`.
#[derive(Debug, Args)]
pub struct VmReimage {
    /// Which.
    #[command(flatten)]
    pub target: VmTarget,
    /// What to install: see `bigv definitions images`
    #[arg(long, visible_alias = "vm-image", value_name = "IMAGE")]
    pub vm_distribution: Option<String>,
    /// Root's password in the guest; `-` asks for it
    #[arg(long, value_name = "PASSWORD")]
    pub vm_root_password: Option<String>,
    /// A file with root's SSH public keys for the guest
    #[arg(long, value_name = "FILE")]
    pub vm_ssh_key_file: Option<PathBuf>,
    /// Asking.
    #[command(flatten)]
    pub force: ForceArgs,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `vm cdrom`.
#[derive(Debug, Args)]
pub struct VmCdrom {
    /// The VM: vm[.group[.account]]
    #[arg(value_name = "VM")]
    pub vm: Option<String>,
    /// Where the CD's image is
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// The VM as an option
    #[arg(long, alias = "name", value_name = "VM")]
    pub vm_name: Option<String>,
    /// The URL as an option
    #[arg(long, visible_alias = "cdrom-url", value_name = "URL")]
    pub vm_cdrom_url: Option<String>,
    /// Take the CD out
    #[arg(long)]
    pub remove: bool,
}
