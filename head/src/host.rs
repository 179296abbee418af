//! What every machine's task must know of its head. Nothing of it changes while the supervisor runs.

use crate::{
    adopt::Files,
    config::Config,
    hypervisor::{
        command_line::{Accelerator, Place},
        exec::Identity,
        kvm,
    },
    network::{
        firewall::Firewall,
        plan::{Tap, tap_name},
    },
    vm::spec::Spec,
};
use spine::id::VmId;
use std::path::PathBuf;

/// A head, as its machines see it.
#[derive(Debug)]
pub struct Host {
    /// The operator's configuration.
    pub config: Config,
    /// How guests are run here.
    pub accelerator: Accelerator,
    /// The runtime directory.
    pub files: Files,
    /// The kernel's boot.
    pub boot_id: String,
    /// What keeps machines off the discs of others.
    pub firewall: Firewall,
    /// This program.
    pub helper: PathBuf,
}

impl Host {
    /// The taps of a machine's cards.
    pub fn taps(&self, spec: &Spec, uid: u32) -> Vec<Tap> {
        let tap = |(card, bridge)| Tap { name: tap_name(uid, card), uid, bridge };
        spec.cards.iter().map(|card| card.bridge.clone()).enumerate().map(tap).collect()
    }

    /// Where a machine is started.
    pub fn place(&self, id: &VmId, spec: &Spec, uid: u32) -> Place {
        Place {
            accelerator: self.accelerator,
            cpu_model: self.config.cpu_model.clone(),
            taps: self.taps(spec, uid).into_iter().map(|tap| tap.name).collect(),
            directory: self.files.directory(id),
        }
    }

    /// Who a machine's qemu runs as.
    pub fn identity(&self, spec: &Spec, uid: u32) -> Identity {
        let kvm_group = (self.accelerator == Accelerator::Kvm).then(kvm::group).flatten();
        Identity { uid, kvm_group, network: !spec.cards.is_empty() }
    }
}
