//! What runs between fork and qemu: `bigv-head exec-qemu`, a process of its own that gives up every
//! right and then becomes qemu.
//!
//! A closure between fork and exec would have to be `unsafe`, and would run in a copy of a process with
//! threads; a fresh process has neither trouble. It opens no file: 0, 1, 2 and 3 are what qemu gets.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::{
    fs::{CWD, FileType, Mode, chown, makedev, mknodat},
    process::{Resource, Rlimit, Uid, setrlimit, setsid, umask},
    thread::{
        CapabilitySet, CapabilitySets, Gid, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use std::{ffi::OsString, io, os::unix::process::CommandExt, path::Path, process::Command};
use thiserror::Error;

/// Who qemu runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The uid, which is the gid as well.
    pub uid: u32,
    /// The group that may open /dev/kvm, when it is needed.
    pub kvm_group: Option<u32>,
    /// It may open the taps that belong to its uid.
    pub network: bool,
}

/// Why qemu was not reached.
#[derive(Debug, Error)]
pub enum ExecError {
    /// A right could not be given up.
    #[error("cannot {what}: {source}")]
    Drop {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot run {program}: {source}")]
    Exec {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
}

/// Becomes `program` as `identity`, in a session of its own. Returns only when that failed.
pub fn exec(identity: Identity, program: &Path, arguments: &[OsString]) -> ExecError {
    if let Err(error) = drop_rights(identity) {
        return error;
    }
    let source = Command::new(program).args(arguments).exec();
    ExecError::Exec { program: program.display().to_string(), source }
}

fn drop_rights(identity: Identity) -> Result<(), ExecError> {
    let uid = Uid::from_raw(identity.uid);
    let gid = Gid::from_raw(identity.uid);
    let groups: Vec<Gid> = identity.kvm_group.map(Gid::from_raw).into_iter().collect();
    // The supervisor's own session and terminal must not reach a guest (a machine outlives it).
    step("start a session", setsid().map(drop))?;
    umask(Mode::from_raw_mode(0o077));
    if identity.network {
        private_tun(uid, gid)?;
    }
    // A core dump would be a copy of the guest's memory.
    step("forbid core dumps", setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }))?;
    step("give up new privileges", set_no_new_privs(true))?;
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // An older kernel does not know the newest capabilities.
            Err(rustix::io::Errno::INVAL) => {}
            result => step("empty the bounding set", result)?,
        }
    }
    step("clear the ambient capabilities", clear_ambient_capability_set())?;
    step("leave all groups", set_thread_groups(&groups))?;
    step("change the group", set_thread_res_gid(gid, gid, gid))?;
    step("change the user", set_thread_res_uid(uid, uid, uid))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("give up capabilities", set_capabilities(None, none))?;
    match capabilities(None) {
        Ok(left) if left.permitted.is_empty() => Ok(()),
        Ok(_) => step("give up capabilities", Err(rustix::io::Errno::PERM)),
        Err(error) => step("read the capabilities", Err(error)),
    }
}

/// Gives the machine a /dev/net/tun of its own, which no other uid sees: qemu opens its taps by name, and
/// the system's own may be root's alone. A tap still belongs to one uid only.
fn private_tun(uid: Uid, gid: Gid) -> Result<(), ExecError> {
    let step = |what, result: nix::Result<()>| {
        result.map_err(|errno| ExecError::Drop { what, source: io::Error::from_raw_os_error(errno as i32) })
    };
    let none = None::<&str>;
    step("leave the mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    // What the system unmounts later is not kept busy by machines.
    step("detach the mounts", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    step("mount over /dev/net", mount(Some("tun"), "/dev/net", Some("tmpfs"), flags, Some("size=4k,mode=755")))?;
    let mode = Mode::from_raw_mode(0o600);
    // Character device 10, 200 (the kernel's admin-guide/devices.txt).
    let made = mknodat(CWD, TUN, FileType::CharacterDevice, mode, makedev(10, 200));
    self::step("make /dev/net/tun", made)?;
    self::step("give away /dev/net/tun", chown(TUN, Some(uid), Some(gid)))
}

const TUN: &str = "/dev/net/tun";

fn step(what: &'static str, result: rustix::io::Result<()>) -> Result<(), ExecError> {
    result.map_err(|errno| ExecError::Drop { what, source: errno.into() })
}
