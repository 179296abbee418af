//! Network namespaces that a measurement makes for itself.

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{fs::File, os::fd::AsFd as _, process::Command};

/// Makes one, with its loopback up.
///
/// # Errors
/// When `ip` fails, as it does without root.
pub fn make(name: &str) -> Result<()> {
    ip(&["netns", "add", name])?;
    ip(&["-n", name, "link", "set", "lo", "up"])
}

/// Moves this thread, and those that it starts from now on, into one.
///
/// # Errors
/// When the kernel refuses.
pub fn enter(name: &str) -> Result<()> {
    let namespace = File::open(format!("/run/netns/{name}"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the network namespace {name}"))
}

/// Removes one, if it is there.
pub fn remove(name: &str) {
    // What was never made cannot be deleted.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// Runs `ip`.
///
/// # Errors
/// When it fails; with what it says.
pub fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot run ip (Debian: iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
