//! Observes and changes network interfaces, with the `ip` program: netlink cannot make a tap that
//! belongs to a user.

use super::plan::{Change, Link, Tap, plan, uid_of};
use serde::Deserialize;
use std::{collections::BTreeSet, io, ops::RangeInclusive, process::Stdio, time::Duration};
use thiserror::Error;
use tokio::{process::Command, time::timeout};

/// Why the network is not as wanted.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// `ip` cannot be run.
    #[error("cannot run ip (of the package iproute2)")]
    Run(#[source] io::Error),
    /// It did not come back.
    #[error("ip {0} did not end within {seconds} s", seconds = IP_DEADLINE.as_secs())]
    Late(String),
    /// It refused.
    #[error("ip {arguments} failed: {complaint}")]
    Refused {
        /// What was asked.
        arguments: String,
        /// What it said.
        complaint: String,
    },
    /// Its answer is not what it should be.
    #[error("ip link show gave an answer that cannot be read")]
    Answer(#[source] serde_json::Error),
}

/// `ip` works on local tables only; it waits for nothing but the kernel's lock on them.
const IP_DEADLINE: Duration = Duration::from_secs(20);

/// Brings the taps of the machines with `uids` to what is desired. Once it fails, what is there is
/// what was done so far: call it again with nothing desired.
///
/// # Errors
/// The first step that failed.
pub async fn ensure(desired: &[Tap], uids: &RangeInclusive<u32>) -> Result<(), NetworkError> {
    for change in plan(desired, &observe().await?, uids) {
        apply(&change).await?;
    }
    Ok(())
}

/// Every interface of this network namespace.
///
/// # Errors
/// When `ip` fails.
pub async fn observe() -> Result<Vec<Link>, NetworkError> {
    #[derive(Deserialize)]
    struct Row {
        ifname: String,
        master: Option<String>,
    }
    let rows: Vec<Row> = serde_json::from_slice(&ip(&["-j", "link", "show"]).await?).map_err(NetworkError::Answer)?;
    Ok(rows.into_iter().map(|row| Link { name: row.ifname, master: row.master }).collect())
}

async fn apply(change: &Change) -> Result<(), NetworkError> {
    match change {
        Change::Delete(name) => ip(&["link", "delete", "dev", name]).await?,
        Change::Create(tap) => {
            ip(&["tuntap", "add", "dev", &tap.name, "mode", "tap", "user", &tap.uid.to_string()]).await?;
            // The guest's network must not find the head on it. IPv6 may be off altogether.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.name), "1");
            attach(tap).await?
        }
        Change::Attach(tap) => attach(tap).await?,
    };
    Ok(())
}

async fn attach(tap: &Tap) -> Result<Vec<u8>, NetworkError> {
    ip(&["link", "set", "dev", &tap.name, "master", &tap.bridge, "up"]).await
}

async fn ip(arguments: &[&str]) -> Result<Vec<u8>, NetworkError> {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(IP_DEADLINE, command.output())
        .await
        .map_err(|_| NetworkError::Late(arguments.join(" ")))?
        .map_err(NetworkError::Run)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(NetworkError::Refused { arguments: arguments.join(" "), complaint })
        }
    }
}

/// Removes every tap of a machine with `uids`, but for those of the uids in `keep`: what a crash left.
///
/// # Errors
/// The first that could not be removed.
pub async fn remove_strays(uids: &RangeInclusive<u32>, keep: &BTreeSet<u32>) -> Result<(), NetworkError> {
    let mut links = observe().await?;
    links.retain(|link| uid_of(&link.name).is_some_and(|uid| !keep.contains(&uid)));
    for change in plan(&[], &links, uids) {
        apply(&change).await?;
    }
    Ok(())
}
