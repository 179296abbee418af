//! `bigv disc …`.

use super::{ForceArgs, VmTarget, WaitArgs};
use clap::{Args, Subcommand};

/// What to do about discs.
#[derive(Debug, Subcommand)]
pub enum DiscCommand {
    /// Add a disc to a VM
    #[command(after_help = "Examples:\n  bigv disc new web1 ssd:10GB\n  \
        bigv disc new --vm-name web1 --disc-grade ssd --disc-size 10 --disc-label data\n\n\
        The guest sees it after the VM's next restart.")]
    New(DiscNew),
    /// List the discs of a VM
    #[command(after_help = "Examples:\n  bigv disc list web1")]
    List(VmTarget),
    /// Change a disc's size: a new size, or +SIZE to grow by that
    #[command(after_help = "Examples:\n  bigv disc resize web1 data 20GB\n  bigv disc resize web1 data +5GB\n\n\
        A running guest sees a grown disc at once. Shrinking loses what is behind the\n\
        new end: it is asked about, and the VM must be off.")]
    Resize(DiscResize),
    /// Destroy a disc and all that is on it at once and for good
    #[command(
        visible_alias = "purge",
        after_help = "Examples:\n  bigv disc delete web1 data\n  \
        bigv disc delete web1 data --disc-label-confirmation data"
    )]
    Delete(DiscDelete),
}

/// `disc new`.
#[derive(Debug, Args)]
pub struct DiscNew {
    /// The VM: vm[.group[.account]]
    #[arg(value_name = "VM")]
    pub vm: Option<String>,
    /// The disc: [GRADE:]SIZE
    #[arg(value_name = "DISC")]
    pub disc: Option<String>,
    /// The VM as an option
    #[arg(long, value_name = "VM")]
    pub vm_name: Option<String>,
    /// Its grade: see `bigv definitions grades`
    #[arg(long, value_name = "GRADE")]
    pub disc_grade: Option<String>,
    /// Its size, in GiB without a unit
    #[arg(long, value_name = "SIZE")]
    pub disc_size: Option<String>,
    /// Its label; disc-N if left out
    #[arg(long, value_name = "LABEL")]
    pub disc_label: Option<String>,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `disc resize`.
#[derive(Debug, Args)]
pub struct DiscResize {
    /// The VM: vm[.group[.account]]
    #[arg(value_name = "VM")]
    pub vm: Option<String>,
    /// The disc's label or number
    #[arg(value_name = "LABEL")]
    pub label: Option<String>,
    /// The new size, or +SIZE
    #[arg(value_name = "SIZE")]
    pub size: Option<String>,
    /// The VM as an option
    #[arg(long, value_name = "VM")]
    pub vm_name: Option<String>,
    /// The label as an option
    #[arg(long, value_name = "LABEL")]
    pub disc_label: Option<String>,
    /// The size as an option
    #[arg(long, value_name = "SIZE")]
    pub disc_size: Option<String>,
    /// Asking.
    #[command(flatten)]
    pub force: ForceArgs,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `disc delete`.
#[derive(Debug, Args)]
pub struct DiscDelete {
    /// The VM: vm[.group[.account]]
    #[arg(value_name = "VM")]
    pub vm: Option<String>,
    /// The disc's label or number
    #[arg(value_name = "LABEL")]
    pub label: Option<String>,
    /// The VM as an option
    #[arg(long, value_name = "VM")]
    pub vm_name: Option<String>,
    /// The label as an option
    #[arg(long, value_name = "LABEL")]
    pub disc_label: Option<String>,
    /// The label once more: does it without asking
    #[arg(long, value_name = "LABEL")]
    pub disc_label_confirmation: Option<String>,
    /// Asking.
    #[command(flatten)]
    pub force: ForceArgs,
}
