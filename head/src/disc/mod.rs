//! A machine's discs as qemu sees them: NBD exports that it connects to again for ever (R119, R174).
//!
//! * How one is opened: [`open`]. The key goes over the monitor only (safety rule 6). Through what: [`tls`].
//! * Whether its tail can be reached: [`reachable`]. Asked before every monitor command that waits for
//!   requests in flight, because with a disc away such a command never comes back (safety rule 14).
//! * How a new size gets to the guest: [`resize`].
//!
//! Deliberately absent: caches and formats. What a tail serves is what the guest reads.

pub mod tls;

use crate::{
    hypervisor::{
        command_line::{disc_device, disc_node},
        monitor::{Monitor, MonitorError},
    },
    limits::{
        COMMAND_DEADLINE, DISC_OPEN_TIMEOUT, DISC_PROBE_DEADLINE, RECONNECT_DELAY_S, RESIZE_DEADLINE, RESIZE_PAUSE,
    },
    vm::spec::Disc,
};
use serde_json::{Value, json};
use spine::resource::vm::NbdAddress;
use std::time::Duration;
use thiserror::Error;
use tls::{CREDENTIALS, DiscTls};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// A disc that is not as the guest needs it.
#[derive(Debug, Error)]
pub enum DiscError {
    /// qemu could not open it.
    #[error("disc {number} at {address} cannot be opened: {reason}")]
    Open {
        /// Which of the machine's, from 1.
        number: usize,
        /// Where.
        address: NbdAddress,
        /// What qemu said, without the key.
        reason: String,
    },
    /// It did not show its new size in time.
    #[error("disc {number} at {address} does not have its new size of {size} bytes: {reason}")]
    Resize {
        /// Which of the machine's, from 1.
        number: usize,
        /// Where.
        address: NbdAddress,
        /// In bytes.
        size: u64,
        /// What stood in the way last.
        reason: String,
    },
}

/// What qemu is told of disc `n` (safety rule 13).
pub fn node(n: usize, disc: &Disc, tls: Option<&DiscTls>) -> Value {
    let mut node = json!({
        "driver": "nbd",
        "node-name": disc_node(n),
        "server": server(&disc.address),
        "export": disc.key.reveal(),
        "reconnect-delay": RECONNECT_DELAY_S,
        "open-timeout": DISC_OPEN_TIMEOUT.as_secs(),
        // The guest's TRIM makes holes at the tail.
        "discard": "unmap",
    });
    if let Some(tls) = tls {
        node["tls-creds"] = json!(CREDENTIALS);
        if let Some(name) = &tls.hostname {
            node["tls-hostname"] = json!(name);
        }
    }
    node
}

/// An NBD server's address as qemu is told it. Without keep-alive a tail that lost its power is never
/// noticed (safety rule 13).
pub fn server(address: &NbdAddress) -> Value {
    json!({"type": "inet", "host": address.host, "port": address.port.to_string(), "keep-alive": true})
}

/// Opens disc `n`, before the machine has devices.
///
/// # Errors
/// When there is no such disc, or no right to it.
pub async fn open(monitor: &Monitor, n: usize, disc: &Disc, tls: Option<&DiscTls>) -> Result<(), DiscError> {
    let deadline = DISC_OPEN_TIMEOUT + COMMAND_DEADLINE;
    let opened = monitor.execute("blockdev-add", node(n, disc, tls), deadline).await;
    opened.map(drop).map_err(|error| DiscError::Open {
        number: n + 1,
        address: disc.address.clone(),
        reason: without_key(&error.to_string(), disc),
    })
}

/// qemu repeats the export's name in its complaints.
fn without_key(text: &str, disc: &Disc) -> String {
    match disc.key.reveal() {
        "" => text.to_owned(),
        key => text.replace(key, "…"),
    }
}

/// True when the disc's tail takes a connection.
pub async fn reachable(address: &NbdAddress) -> bool {
    let connect = TcpStream::connect((address.host.as_str(), address.port));
    matches!(timeout(DISC_PROBE_DEADLINE, connect).await, Ok(Ok(_)))
}

/// Those whose tail takes no connection. All are asked at once.
pub async fn away(discs: &[Disc]) -> Vec<NbdAddress> {
    let asked: Vec<_> = discs
        .iter()
        .map(|disc| {
            let address = disc.address.clone();
            tokio::spawn(async move { (!reachable(&address).await).then_some(address) })
        })
        .collect();
    let mut away = Vec::new();
    for answer in asked {
        away.extend(answer.await.ok().flatten());
    }
    away
}

/// Passes a disc's new size on to the guest (R087, safety rule 15).
///
/// qemu learns the size when it connects, and an idle qemu connects only for its next request: so a read
/// is caused, and `block_resize` repeated until it works.
///
/// # Errors
/// When it has not worked by the deadline.
pub async fn resize(monitor: &Monitor, n: usize, disc: &Disc, size: u64) -> Result<(), DiscError> {
    let deadline = Instant::now() + RESIZE_DEADLINE;
    loop {
        let reason = match try_resize(monitor, n, disc, size).await {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        };
        if Instant::now() >= deadline {
            return Err(DiscError::Resize { number: n + 1, address: disc.address.clone(), size, reason });
        }
        sleep(RESIZE_PAUSE).await;
    }
}

async fn try_resize(monitor: &Monitor, n: usize, disc: &Disc, size: u64) -> Result<(), String> {
    if !reachable(&disc.address).await {
        return Err("its tail does not answer".to_owned());
    }
    let text = |error: MonitorError| without_key(&error.to_string(), disc);
    // Not waited for: with the disc on its way back the read comes back with it.
    let read = format!("qemu-io -d {} \"aio_read -q 0 512\"", disc_device(n, disc));
    monitor.execute("human-monitor-command", json!({"command-line": read}), COMMAND_DEADLINE).await.map_err(text)?;
    let change = json!({"node-name": disc_node(n), "size": size});
    monitor.execute("block_resize", change, RESIZE_COMMAND_DEADLINE).await.map_err(text)?;
    match virtual_size(monitor, n).await.map_err(text)? {
        Some(seen) if seen < size => Err(format!("qemu sees {seen} bytes")),
        _ => Ok(()),
    }
}

/// It waits for the requests in flight, and those for the connection.
const RESIZE_COMMAND_DEADLINE: Duration = Duration::from_secs(20);

async fn virtual_size(monitor: &Monitor, n: usize) -> Result<Option<u64>, MonitorError> {
    let nodes = monitor.execute("query-named-block-nodes", json!({"flat": true}), COMMAND_DEADLINE).await?;
    let name = disc_node(n);
    let node = nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == name.as_str());
    Ok(node.and_then(|node| node["image"]["virtual-size"].as_u64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::profile::DiscModel;
    use spine::secret::Secret;

    fn disc() -> Disc {
        Disc {
            address: "nbd:[fd00::8]:10809".parse().unwrap(),
            model: DiscModel::Virtio,
            serial: None,
            key: Secret::new("sesame"),
            size: None,
        }
    }

    #[test]
    fn r106_r119_rule_13_what_qemu_is_told_of_a_disc() {
        let wanted = json!({
            "driver": "nbd", "node-name": "disc2", "export": "sesame", "discard": "unmap",
            "server": {"type": "inet", "host": "fd00::8", "port": "10809", "keep-alive": true},
            "reconnect-delay": 4_294_967_295u32, "open-timeout": 10,
        });
        assert_eq!(node(2, &disc(), None), wanted);
        let mut tls = DiscTls { folder: "/etc/tls".into(), hostname: None };
        let mut wanted = wanted;
        wanted["tls-creds"] = json!("disc-tls");
        assert_eq!(node(2, &disc(), Some(&tls)), wanted);
        tls.hostname = Some("tails".to_owned());
        wanted["tls-hostname"] = json!("tails");
        assert_eq!(node(2, &disc(), Some(&tls)), wanted);
    }

    #[test]
    fn rule_6_complaints_do_not_show_the_key() {
        let text = without_key("Server error: export 'sesame' not present", &disc());
        assert_eq!(text, "Server error: export '…' not present");
    }

    #[tokio::test]
    async fn rule_14_discs_that_do_not_answer_are_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = NbdAddress { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let not_there = NbdAddress { host: "127.0.0.1".into(), port: gone.local_addr().unwrap().port() };
        drop(gone);
        let discs = [there, not_there.clone()].map(|address| Disc { address, ..disc() });
        assert_eq!(away(&discs).await, [not_there]);
    }
}
