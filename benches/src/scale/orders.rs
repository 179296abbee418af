//! What the tail of a measurement is ordered.

use super::net;
use crate::brain::object;
use spine::{
    id::{NodeName, ResourceName},
    message::Command,
};

/// Whom orders go to.
pub fn tail_name() -> NodeName {
    net::TAIL_NAME.parse().expect("it is a name")
}

/// A disc of `size_bytes` that the clients may use with `key`.
pub fn create(number: u64, size_bytes: u64, key: &str) -> Command {
    let attributes = serde_json::json!({
        "size": size_bytes, "storage_pool": "scale", "generation": 1, "attachments_version": 1,
        "attachments": [{"head": net::CLIENT, "key": key}],
    });
    Command::Create(disc_name(number), object(attributes))
}

/// The end of a disc.
pub fn remove(number: u64) -> Command {
    Command::Remove(disc_name(number), object(serde_json::json!({"generation": 1})))
}

fn disc_name(number: u64) -> ResourceName {
    format!("disc.scale.{number}").parse().expect("it is the name of a disc")
}
