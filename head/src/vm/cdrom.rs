//! The CD drive of a running or starting machine (R089, R095).

use super::spec::CdromUrl;
use crate::{
    disc::server,
    hypervisor::{
        command_line::CDROM_DEVICE,
        monitor::{Monitor, MonitorError},
    },
    limits::{CDROM_TIMEOUT, COMMAND_DEADLINE},
};
use serde_json::{Value, json};

/// The two names that nodes of CDs take turns with, so that the new one can be opened beside the old.
const NODES: [&str; 2] = ["cd-a", "cd-b"];

/// Puts `cd` into the drive, in place of what is there. The new one is opened first: when that fails
/// nothing has changed.
///
/// # Errors
/// What qemu said.
pub async fn change(monitor: &Monitor, cd: Option<&CdromUrl>) -> Result<(), MonitorError> {
    let old = inserted(monitor).await?;
    let node = if old.as_deref() == Some(NODES[0]) { NODES[1] } else { NODES[0] };
    if let Some(cd) = cd {
        // One that an earlier failure left behind would stand in the way.
        let _ = remove(monitor, node).await;
        monitor.execute("blockdev-add", medium(cd, node), CDROM_TIMEOUT + COMMAND_DEADLINE).await?;
    }
    let swapped = swap(monitor, old.is_some(), cd.is_some().then_some(node)).await;
    match (&swapped, &old) {
        (Ok(()), Some(old)) => remove(monitor, old).await?,
        (Err(_), _) if cd.is_some() => remove(monitor, node).await.unwrap_or_default(),
        _ => {}
    }
    swapped
}

async fn remove(monitor: &Monitor, node: &str) -> Result<(), MonitorError> {
    monitor.execute("blockdev-del", json!({"node-name": node}), COMMAND_DEADLINE).await.map(drop)
}

/// How often the guest may close the tray in between: firmware does so once or twice as it starts.
const SWAP_TRIES: usize = 5;

async fn swap(monitor: &Monitor, occupied: bool, node: Option<&str>) -> Result<(), MonitorError> {
    let mut tries = 1;
    loop {
        match try_swap(monitor, occupied, node).await {
            // An empty drive can be emptied again: nothing of the last try is in the way of the next.
            Err(MonitorError::Refused { .. }) if tries < SWAP_TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Opens the tray, by force: the guest may have locked it.
async fn try_swap(monitor: &Monitor, occupied: bool, node: Option<&str>) -> Result<(), MonitorError> {
    let drive = || json!({"id": CDROM_DEVICE});
    monitor.execute("blockdev-open-tray", json!({"id": CDROM_DEVICE, "force": true}), COMMAND_DEADLINE).await?;
    if occupied {
        monitor.execute("blockdev-remove-medium", drive(), COMMAND_DEADLINE).await?;
    }
    if let Some(node) = node {
        let insert = json!({"id": CDROM_DEVICE, "node-name": node});
        monitor.execute("blockdev-insert-medium", insert, COMMAND_DEADLINE).await?;
    }
    monitor.execute("blockdev-close-tray", drive(), COMMAND_DEADLINE).await.map(drop)
}

async fn inserted(monitor: &Monitor) -> Result<Option<String>, MonitorError> {
    let drives = monitor.execute("query-block", json!({}), COMMAND_DEADLINE).await?;
    let drive = drives.as_array().into_iter().flatten().find(|drive| drive["qdev"] == CDROM_DEVICE);
    Ok(drive.and_then(|drive| drive["inserted"]["node-name"].as_str()).map(str::to_owned))
}

fn medium(cd: &CdromUrl, node: &str) -> Value {
    match cd {
        CdromUrl::Web { driver, url } => json!({
            "driver": driver, "node-name": node, "read-only": true, "url": url, "timeout": CDROM_TIMEOUT.as_secs(),
        }),
        // A CD that goes away must not hold up its guest: unlike a disc it gives errors at once.
        CdromUrl::Nbd { address, export } => json!({
            "driver": "nbd", "node-name": node, "read-only": true, "server": server(address), "export": export,
            "open-timeout": 1,
        }),
    }
}

/// What to say when a CD cannot be read.
pub fn complaint(error: &MonitorError) -> String {
    match error {
        MonitorError::Refused { source, .. } if source.description.starts_with("Unknown driver") => {
            "cdrom_url: qemu on this head cannot read URLs: its package qemu-block-extra is not installed".to_owned()
        }
        MonitorError::Refused { source, .. } => format!("cdrom_url: the CD cannot be read: {}", source.description),
        error => format!("cdrom_url: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixListener,
    };

    #[test]
    fn r095_a_url_is_only_ever_a_url() {
        let medium = medium(&CdromUrl::parse("http://a/x.iso,driver=file?json:{}").unwrap(), "cd1");
        let wanted = json!({
            "driver": "http", "node-name": "cd1", "read-only": true, "timeout": 5,
            "url": "http://a/x.iso,driver=file?json:{}",
        });
        assert_eq!(medium, wanted);
    }
    /// qemu with a drive, and a guest that closes its tray `closings` times just before a medium goes in.
    /// Returns what it was told.
    async fn swap_while_the_guest_closes(closings: usize) -> (Result<(), MonitorError>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = tokio::spawn(async move {
            let (read, mut write) = listener.accept().await.unwrap().0.into_split();
            let (mut lines, mut told, mut closings) = (BufReader::new(read).lines(), Vec::new(), closings);
            write.write_all(b"{\"QMP\":{}}\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let command: Value = serde_json::from_str(&line).unwrap();
                let name = command["execute"].as_str().unwrap().to_owned();
                let closed = name == "blockdev-insert-medium" && closings > 0;
                closings -= usize::from(closed);
                told.push(name);
                let answer = match closed {
                    true => json!({"error": {"class": "GenericError", "desc": "closed"}, "id": command["id"]}),
                    false => json!({"return": {}, "id": command["id"]}),
                };
                write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
            told
        });
        let monitor = Monitor::connect(&path, COMMAND_DEADLINE).await.unwrap();
        let swapped = swap(&monitor, false, Some("cd-a")).await;
        drop(monitor);
        // After the handshake's two.
        (swapped, qemu.await.unwrap().split_off(2))
    }

    #[tokio::test]
    async fn r089_a_guest_that_closes_the_tray_meanwhile_gets_its_cd() {
        let (swapped, told) = swap_while_the_guest_closes(1).await;
        swapped.unwrap();
        let (open, insert) = ("blockdev-open-tray", "blockdev-insert-medium");
        assert_eq!(told, [open, insert, open, insert, "blockdev-close-tray"]);
        let (swapped, told) = swap_while_the_guest_closes(usize::MAX).await;
        assert!(swapped.is_err() && told.len() == 2 * SWAP_TRIES, "it is given up some time: {told:?}");
    }
}
