//! Proves that KVM runs a guest: /dev/kvm may be there, be opened, and hang whatever is run with it.
//!
//! The proof is a guest of seven bytes that ends qemu by itself, with a deadline. Its answer is kept for
//! as long as neither the kernel, nor qemu, nor the rights to /dev/kvm change.

use super::{
    command_line::Accelerator,
    exec::Identity,
    process::{Exit, Launch, Qemu},
};
use crate::limits::KVM_PROOF_DEADLINE;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};
use tokio::time::timeout;

/// What a proof is made with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// This program.
    pub helper: &'a Path,
    /// qemu.
    pub qemu: &'a Path,
    /// A uid that no machine has.
    pub uid: u32,
    /// A directory that every uid may pass through.
    pub runtime_dir: &'a Path,
    /// Where the answer is kept.
    pub state_dir: &'a Path,
}

/// An answer that is remembered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    boot_id: String,
    qemu_version: String,
    /// /dev/kvm's mode and group.
    device: Option<(u32, u32)>,
    works: bool,
}

/// True when KVM runs guests here. Asks the file first; proves, and writes it, when that is of another
/// boot or qemu.
pub async fn works(bench: &Bench<'_>, boot_id: &str, qemu_version: &str) -> bool {
    let file = bench.state_dir.join("kvm.json");
    let device = fs::metadata("/dev/kvm").ok().map(|device| (device.mode(), device.gid()));
    let known = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    let holds =
        |known: &Verdict| known.boot_id == boot_id && known.qemu_version == qemu_version && known.device == device;
    if let Some(known) = known.filter(holds) {
        return known.works;
    }
    let proof = prove(bench, Accelerator::Kvm).await;
    if let Err(reason) = &proof {
        tracing::warn!(%reason, "KVM does not run guests here: qemu's translator is used, which is slow");
    }
    let works = proof.is_ok();
    let verdict = Verdict { boot_id: boot_id.into(), qemu_version: qemu_version.into(), device, works };
    if let Err(error) = fs::write(&file, serde_json::to_vec(&verdict).expect("a verdict has string keys only")) {
        tracing::warn!(file = %file.display(), %error, "cannot keep the answer to whether KVM works");
    }
    verdict.works
}

/// The group that may open /dev/kvm, when its owner's rights are not enough for a machine's uid.
pub fn group() -> Option<u32> {
    let metadata = fs::metadata("/dev/kvm").ok()?;
    let group_may = metadata.mode() & 0o060 == 0o060;
    (metadata.file_type().is_char_device() && group_may && metadata.gid() != 0).then_some(metadata.gid())
}

/// Starts the guest and waits for its end.
///
/// # Errors
/// Why it is not proven, for people.
pub async fn prove(bench: &Bench<'_>, accelerator: Accelerator) -> Result<(), String> {
    let sector = bench.runtime_dir.join("kvm-proof.img");
    let log = bench.runtime_dir.join("kvm-proof.log");
    let result = run(bench, accelerator, &sector, &log).await;
    let complaint = super::process::last_line(&log).map(|line| format!(": {line}")).unwrap_or_default();
    let _ = (fs::remove_file(&sector), fs::remove_file(&log));
    match result {
        Err(error) => Err(format!("the proof cannot be made: {error}")),
        Ok(Some(Exit::Code(EXIT_CODE))) => Ok(()),
        Ok(Some(exit)) => Err(format!("the guest's qemu ended with {exit}{complaint}")),
        Ok(None) => Err(format!("the guest did not end within {} s", KVM_PROOF_DEADLINE.as_secs())),
    }
}

async fn run(bench: &Bench<'_>, accelerator: Accelerator, sector: &Path, log: &Path) -> io::Result<Option<Exit>> {
    fs::write(sector, boot_sector())?;
    // The firmware finds no geometry for a disc of one sector.
    File::options().write(true).open(sector)?.set_len(1 << 20)?;
    fs::set_permissions(sector, fs::Permissions::from_mode(0o644))?;
    let kvm_group = if accelerator == Accelerator::Kvm { group() } else { None };
    let arguments = arguments(accelerator, sector);
    let mut qemu = Qemu::spawn(Launch {
        helper: bench.helper,
        identity: Identity { uid: bench.uid, kvm_group, network: false },
        qemu: bench.qemu,
        arguments: &arguments,
        stdin: None,
        stdout: None,
        connection: None,
        log: File::create(log)?,
    })?;
    match timeout(KVM_PROOF_DEADLINE, qemu.wait()).await {
        Ok(exit) => Ok(Some(exit)),
        Err(_) => {
            qemu.kill();
            // One that hangs in the kernel is left to it.
            let _ = timeout(KVM_PROOF_DEADLINE, qemu.wait()).await;
            Ok(None)
        }
    }
}

fn arguments(accelerator: Accelerator, sector: &Path) -> Vec<String> {
    let path = sector.to_string_lossy().replace(',', ",,");
    [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "pc-i440fx-7.2",
        "-m",
        "size=16M",
        "-accel",
        accelerator.as_str(),
        "-blockdev",
        &format!("driver=file,node-name=sector,read-only=on,filename={path}"),
        "-device",
        "virtio-blk-pci,drive=sector,bootindex=0,addr=0x10",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x01",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What isa-debug-exit makes of the 0x10 that the guest writes: twice it, and one.
const EXIT_CODE: i32 = 0x10 * 2 + 1;

/// `mov al, 0x10; mov dx, 0xf4; out dx, al; hlt`, and the BIOS's signature.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..7].copy_from_slice(&[0xb0, 0x10, 0xba, 0xf4, 0x00, 0xee, 0xf4]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
