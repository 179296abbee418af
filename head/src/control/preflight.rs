//! What is checked before the first machine: errors and warnings an operator can act on.

use crate::{
    config::Config,
    disc::tls::{DiscTls, Unreadable},
};
use spine::daemon::{StateDirError, lock_state_dir};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};
use thiserror::Error;

/// Why a head does not start.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// A directory cannot be had.
    #[error("cannot use the directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another supervisor runs, or the state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Machines' uids cannot reach their own directories.
    #[error("runtime_dir: other users may not pass through {path}: chmod o+x {path}, or choose another place")]
    Closed {
        /// The directory in the way.
        path: PathBuf,
    },
    /// qemu cannot be run.
    #[error("cannot run {qemu}: install the package qemu-system-x86")]
    NoQemu {
        /// Which.
        qemu: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// qemu is too old, or something else.
    #[error("{qemu} says {said:?}: qemu 7.2 or later is needed")]
    Qemu {
        /// Which.
        qemu: PathBuf,
        /// Its version, or what it said instead.
        said: String,
    },
    /// Discs are to be reached through TLS, and what that needs is not there.
    #[error(transparent)]
    DiscTls(#[from] Unreadable),
    /// It does not run as root.
    #[error("bigv-head must run as root: it gives each machine a uid of its own")]
    NotRoot,
}

/// Takes the directories. The lock is held as long as the file is open.
///
/// # Errors
/// When one cannot be had, or another supervisor has them.
pub fn take_directories(config: &Config) -> Result<File, PreflightError> {
    if !rustix::process::geteuid().is_root() {
        return Err(PreflightError::NotRoot);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PreflightError::Directory { path, source }
    };
    let make = |path: &Path, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed(path));
    let file = lock_state_dir(&config.state_dir)?;
    make(&config.runtime_dir, 0o711)?;
    // Names of machines are not everybody's business; passing through is needed.
    let mode = fs::Permissions::from_mode(0o711);
    fs::set_permissions(&config.runtime_dir, mode).map_err(failed(&config.runtime_dir))?;
    for path in config.runtime_dir.ancestors() {
        let mode = fs::metadata(path).map_err(failed(path))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Err(PreflightError::Closed { path: path.to_owned() });
        }
    }
    Ok(file)
}

/// Looks for what the configuration needs to reach discs.
///
/// # Errors
/// With the file that cannot be read.
pub fn check_disc_tls(config: &Config) -> Result<(), PreflightError> {
    Ok(config.disc_tls.as_ref().map_or(Ok(()), DiscTls::check)?)
}

/// Asks qemu for its version.
///
/// # Errors
/// When it is not there, or too old.
pub fn qemu_version(qemu: &Path) -> Result<String, PreflightError> {
    let output = Command::new(qemu)
        .arg("--version")
        .output()
        .map_err(|source| PreflightError::NoQemu { qemu: qemu.to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let first = said.lines().next().unwrap_or_default();
    version(first).map(str::to_owned).ok_or_else(|| {
        let said = first.chars().take(100).collect();
        PreflightError::Qemu { qemu: qemu.to_owned(), said }
    })
}

/// The version in qemu's first line, if it is new enough.
fn version(line: &str) -> Option<&str> {
    let version = line.strip_prefix("QEMU emulator version ")?.split_ascii_whitespace().next()?;
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    ((major, minor) >= (7, 2)).then_some(version)
}

/// The kernel's boot.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A limit of the kernel's that safety rule 13 and the number of discs ask for.
struct Sysctl {
    name: &'static str,
    wanted: u64,
    /// Larger values do as well.
    at_least: bool,
}

/// Neighbours: one a disc and one a head, several thousand of each. Keep-alive: a tail that lost its
/// power is noticed after 10 + 3 × 5 s. Retransmissions: 6 take 25 s as well, the default takes 15
/// minutes.
const SYSCTLS: [Sysctl; 10] = [
    Sysctl { name: "net.ipv4.neigh.default.gc_thresh1", wanted: 4096, at_least: true },
    Sysctl { name: "net.ipv4.neigh.default.gc_thresh2", wanted: 8192, at_least: true },
    Sysctl { name: "net.ipv4.neigh.default.gc_thresh3", wanted: 16384, at_least: true },
    Sysctl { name: "net.ipv6.neigh.default.gc_thresh1", wanted: 4096, at_least: true },
    Sysctl { name: "net.ipv6.neigh.default.gc_thresh2", wanted: 8192, at_least: true },
    Sysctl { name: "net.ipv6.neigh.default.gc_thresh3", wanted: 16384, at_least: true },
    Sysctl { name: "net.ipv4.tcp_keepalive_time", wanted: 10, at_least: false },
    Sysctl { name: "net.ipv4.tcp_keepalive_intvl", wanted: 5, at_least: false },
    Sysctl { name: "net.ipv4.tcp_keepalive_probes", wanted: 3, at_least: false },
    Sysctl { name: "net.ipv4.tcp_retries2", wanted: 6, at_least: false },
];

impl Sysctl {
    fn is_met(&self, value: u64) -> bool {
        if self.at_least { value >= self.wanted } else { value <= self.wanted }
    }
}

/// Sets or warns of the kernel's limits, and warns of bridges that are not there.
pub fn check_surroundings(config: &Config) {
    for sysctl in &SYSCTLS {
        let path = format!("/proc/sys/{}", sysctl.name.replace('.', "/"));
        // Some exist only outside network namespaces.
        let Some(value) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) else { continue };
        if sysctl.is_met(value) {
            continue;
        }
        match config.manage_sysctls.then(|| fs::write(&path, sysctl.wanted.to_string())) {
            Some(Ok(())) => tracing::info!(name = sysctl.name, was = value, now = sysctl.wanted, "sysctl set"),
            Some(Err(error)) => tracing::warn!(name = sysctl.name, value, %error, "sysctl cannot be set"),
            None => tracing::warn!(
                name = sysctl.name,
                value,
                wanted = sysctl.wanted,
                "sysctl: with this value discs that move or lose their tail are noticed late (manage_sysctls sets it)"
            ),
        }
    }
    for network in &config.networks {
        if nix::net::if_::if_nametoindex(network.bridge.as_str()).is_err() {
            tracing::warn!(
                network.vlan,
                network.bridge,
                "this network's bridge does not exist: machines on it will not start"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_must_be_new_enough() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"), Some("7.2.22"));
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian)"), Some("10.0.2"));
        for bad in ["QEMU emulator version 5.2.0", "QEMU emulator version x", "nbdkit 1.32", ""] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn rule_13_limits_count_from_the_right_side() {
        let neighbours = &SYSCTLS[0];
        assert!(neighbours.is_met(100_000) && !neighbours.is_met(128));
        let keepalive = &SYSCTLS[6];
        assert!(keepalive.is_met(5) && !keepalive.is_met(7200));
    }
}
