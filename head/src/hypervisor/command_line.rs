//! A machine and its place on this head → qemu's arguments: a pure function (R079), for qemu 7.2 and
//! later.
//!
//! Every text that is not ours goes through [`escaped`], and no argument that holds one starts with
//! it: a comma in a name stays a comma in a name.
//!
//! ```text
//!   PCI slots:  02 VGA   03–0a cards   0b balloon   0c rng   0d AHCI   10–17 discs
//!   boot order: the CD, then the discs in their order
//! ```

use super::{
    process::CONNECTION_FD,
    profile::{DiscModel, Profile},
};
use crate::vm::spec::{Card, Disc, Spec};
use std::path::{Path, PathBuf};

/// Where on this head a machine is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What runs the guest's code.
    pub accelerator: Accelerator,
    /// The CPU model that the operator chose.
    pub cpu_model: Option<String>,
    /// The tap of each card, in order.
    pub taps: Vec<String>,
    /// The directory that belongs to the machine's uid.
    pub directory: PathBuf,
}

/// What runs a guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// qemu's translator.
    Tcg,
}

impl Accelerator {
    /// qemu's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl Place {
    /// The socket of the graphical console, which qemu makes itself.
    pub fn vnc_socket(&self) -> PathBuf {
        self.directory.join("vnc")
    }
}

/// The listening socket of the monitor is qemu's stdin, that of the serial port its stdout: qemu can neither
/// move nor replace the sockets.
///
/// The head that starts qemu talks to a monitor of its own, over a connection that is there from the beginning.
/// The listening one is for the heads that come after it: for a moment at its start, two of qemu's threads wait at
/// that socket and change what is waited for, and a connection that comes then crashes or stops qemu (10 in 6,000
/// starts of qemu 10.0.2; none over a connection).
const MONITOR_FD: u8 = 0;
const SERIAL_FD: u8 = 1;

/// The block node of disc `n`, which is added over the monitor before its device is made.
pub fn disc_node(n: usize) -> String {
    format!("disc{n}")
}

/// What the monitor calls the block device behind disc `n`.
pub fn disc_device(n: usize, disc: &Disc) -> String {
    match disc.model {
        DiscModel::Virtio => format!("/machine/peripheral/disc{n}/virtio-backend"),
        DiscModel::Ide => format!("disc{n}"),
    }
}

/// The CD drive's name in the monitor.
pub const CDROM_DEVICE: &str = "cdrom0";

/// The arguments that make qemu this machine, its own name not among them.
///
/// # Panics
/// When `place` does not have one tap for each card.
pub fn arguments(spec: &Spec, place: &Place) -> Vec<String> {
    assert_eq!(spec.cards.len(), place.taps.len(), "one tap a card");
    let mut list = List::default();
    list.flag("-nodefaults").flag("-no-user-config").flag("-preconfig").flag("-S");
    list.pair("-name", format!("guest={},debug-threads=on", escaped(&spec.display_name)));
    list.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    machine(&mut list, spec, place);
    consoles(&mut list, spec, place);
    for (n, (card, tap)) in spec.cards.iter().zip(&place.taps).enumerate() {
        add_card(&mut list, n, card, tap, spec.profile);
    }
    list.pair("-object", "rng-builtin,id=rng0");
    list.pair("-device", format!("virtio-rng-pci,rng=rng0,addr=0x0c{}", legacy(spec.profile)));
    if spec.balloon_on {
        let legacy = legacy(spec.profile);
        list.pair("-device", format!("virtio-balloon-pci,id=balloon0,addr=0x0b,deflate-on-oom=on{legacy}"));
    }
    list.pair("-device", format!("ide-cd,id={CDROM_DEVICE},bus=ide.1,unit=1,bootindex=0"));
    discs(&mut list, spec);
    list.arguments
}

fn machine(list: &mut List, spec: &Spec, place: &Place) {
    let cores = spec.cores;
    let model = match (&place.cpu_model, place.accelerator) {
        (Some(model), _) => model.as_str(),
        (None, Accelerator::Kvm) => "host",
        (None, Accelerator::Tcg) => "max",
    };
    list.pair("-machine", format!("{},usb=off,vmport=off", spec.profile.machine));
    list.pair("-accel", place.accelerator.as_str());
    list.pair("-cpu", model);
    list.pair("-smp", format!("cpus={cores},sockets=1,cores={cores},threads=1"));
    list.pair("-m", format!("size={}M", spec.memory_mib));
    list.pair("-rtc", "base=utc");
    list.pair("-boot", "strict=on");
    // A guest that panics says so here, and the brain is told why the machine stopped.
    list.pair("-device", "pvpanic");
}

fn consoles(list: &mut List, spec: &Spec, place: &Place) {
    list.pair("-chardev", format!("socket,id=monitor,fd={MONITOR_FD},server=on,wait=off"));
    list.pair("-mon", "chardev=monitor,mode=control");
    list.pair("-chardev", format!("socket,id=connection,fd={CONNECTION_FD},server=off"));
    list.pair("-mon", "chardev=connection,mode=control");
    list.pair("-chardev", format!("socket,id=serial0,fd={SERIAL_FD},server=on,wait=off"));
    list.pair("-serial", "chardev:serial0");
    list.pair("-device", "VGA,addr=0x02");
    list.pair("-display", "none");
    list.pair("-vnc", format!("unix:{}", path(&place.vnc_socket())));
    if let Some(keymap) = spec.keymap {
        list.pair("-k", keymap);
    }
}

fn add_card(list: &mut List, n: usize, card: &Card, tap: &str, profile: &Profile) {
    let (device, mac, slot) = (card.model.device(), card.mac, 0x03 + n);
    let legacy = if device.starts_with("virtio") { legacy(profile) } else { "" };
    list.pair("-netdev", format!("tap,id=net{n},ifname={},script=no,downscript=no", escaped(tap)));
    // No boot ROM: machines start from their discs or the CD.
    list.pair("-device", format!("{device},id=card{n},netdev=net{n},mac={mac},addr={slot:#04x},romfile={legacy}"));
}

fn discs(list: &mut List, spec: &Spec) {
    let mut ide = 0;
    for (n, disc) in spec.discs.iter().enumerate() {
        let node = disc_node(n);
        let serial = disc.serial.as_deref().map(|serial| format!(",serial={}", escaped(serial))).unwrap_or_default();
        let common = format!("id=disc{n},drive={node},bootindex={}{serial}", n + 1);
        match disc.model {
            DiscModel::Virtio => {
                let (slot, legacy) = (0x10 + n, legacy(spec.profile));
                list.pair("-device", format!("virtio-blk-pci,{common},addr={slot:#04x}{legacy}"));
            }
            DiscModel::Ide => {
                if ide == IDE_PLACES.len() {
                    list.pair("-device", "ich9-ahci,id=ahci0,addr=0x0d");
                }
                let bus = match IDE_PLACES.get(ide) {
                    Some(place) => (*place).to_owned(),
                    None => format!("bus=ahci0.{}", ide - IDE_PLACES.len()),
                };
                list.pair("-device", format!("ide-hd,{common},{bus}"));
                ide += 1;
            }
        }
    }
}

/// The ends of the two IDE cables that the CD drive leaves free.
const IDE_PLACES: [&str; 3] = ["bus=ide.0,unit=0", "bus=ide.0,unit=1", "bus=ide.1,unit=0"];

fn legacy(profile: &Profile) -> &'static str {
    if profile.virtio_legacy { ",disable-modern=on,disable-legacy=off" } else { "" }
}

/// qemu's option parser ends a value at a comma, unless it is doubled.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

fn path(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

#[derive(Default)]
struct List {
    arguments: Vec<String>,
}

impl List {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.arguments.push(flag.to_owned());
        self
    }

    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.arguments.extend([option.to_owned(), value.into()]);
    }
}

#[cfg(test)]
mod tests;
