//! `disc.GRADE.N`: one disc on a tail (R074, R082, R113–R116; safety rules 1, 2, 6).

use super::{
    Attributes,
    migration::{IncomingOrder, MigrationReport, Ownership},
};
use crate::{
    id::{AttachmentsVersion, Generation, ImageName, PoolName},
    secret::{Secret, SecretHash},
};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr};

/// What the brain orders in `create disc.GRADE.N`. An `update` names any of `size`, `attachments`
/// with `attachments_version`, `access_control_list`, `generation`, and once `force`; and what moves a disc between
/// tails ([`super::migration`]): `migration`, `commit`, `promote`, `retire`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscOrder {
    /// Size in bytes, a multiple of 512 (R113).
    pub size: u64,
    /// The pool it lives in (R114).
    pub storage_pool: PoolName,
    /// Who owns it: the tail refuses one lower than it has.
    pub generation: Generation,
    /// The version of `attachments`; the tail refuses a lower one.
    #[serde(default)]
    pub attachments_version: AttachmentsVersion,
    /// Who may use it. Never together with `access_control_list`; neither: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
    /// Addresses of plain NBD clients that may use it without a key (R115).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_control_list: Option<Vec<IpAddr>>,
    /// The disc's own address (R116). None: computed from its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv6Addr>,
    /// A system image to write onto the new disc, holes kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// Allows a shrink that cuts off data (R088).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// The disc is not made but comes from another tail (R130). Then `generation` is the one of which this tail is to
    /// become the owner, and neither `attachments` nor `access_control_list` nor `image` may be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<IncomingOrder>,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// One right to use a disc: from this address, with this key as the export name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The head's address on the storage LAN.
    pub head: IpAddr,
    /// Made anew by the brain for each start of a VM.
    pub key: Secret,
}

/// An attachment as a tail keeps and shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentReport {
    /// The head's address on the storage LAN.
    pub head: IpAddr,
    /// The hash of the key.
    pub key_hash: SecretHash,
}

/// What a tail says of a disc in `created` and `updated`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscReport {
    /// Size in bytes.
    pub size: u64,
    /// The pool it lives in.
    pub storage_pool: PoolName,
    /// Newest generation this tail was given.
    pub generation: Generation,
    /// Version of `attachments`.
    pub attachments_version: AttachmentsVersion,
    /// Who may use it, with the keys hashed; none when the access list is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<AttachmentReport>>,
    /// Plain clients that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_control_list: Option<Vec<IpAddr>>,
    /// Where it is served.
    pub address: Ipv6Addr,
    /// Bytes allocated in the pool.
    pub allocated: u64,
    /// What it is doing.
    pub state: DiscState,
    /// Why, when it is not serving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Percent of the image written, while importing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// What this tail is to the disc.
    #[serde(default)]
    pub owner: Ownership,
    /// The move that is under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationReport>,
    /// Percent moved, while it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_progress: Option<u8>,
    /// Seconds until the move is over, as far as can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_eta: Option<u64>,
    /// How fast the move goes, in 10⁶ bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_speed: Option<u64>,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// What a disc is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiscState {
    /// Its image is being written; nobody is let in.
    Importing,
    /// Clients with a right to it are let in.
    Serving,
    /// It comes from another tail; nobody is let in before it is this tail's.
    Receiving,
    /// It was given to another tail, and what is left of it here waits for its removal.
    Moved,
    /// It is here and cannot be served: `reason` says why.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_as_written() {
        let text = r#"{"size":26843545600,"storage_pool":"sata1","generation":1,"attachments_version":3,"attachments":[{"head":"fd00::1","key":"k"}],"address":"fd00::8","image":"tiny"}"#;
        let order: DiscOrder = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&order).unwrap(), text);
    }

    #[test]
    fn r130_an_order_for_a_disc_that_comes_from_another_tail_reads_back() {
        let text = r#"{"size":26843545600,"storage_pool":"sata1","generation":8,"attachments_version":0,"incoming":{"id":"00000000-0000-0000-0000-00000000002a","source":"tail1","address":"fd00::21"}}"#;
        let order: DiscOrder = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&order).unwrap(), text);
    }

    #[test]
    fn reports_are_golden_and_those_of_older_tails_are_read() {
        let text = r#"{"size":512,"storage_pool":"sata1","generation":8,"attachments_version":3,"address":"fd00::8","allocated":0,"state":"moved","owner":"fenced","migration":{"id":"00000000-0000-0000-0000-00000000002a","role":"source","peer":"tail2","generation":9,"phase":"handover","pass":3,"bytes_copied":7,"bytes_left":0},"migration_progress":99,"migration_eta":0,"migration_speed":110}"#;
        let report: DiscReport = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
        let old = r#"{"size":512,"storage_pool":"sata1","generation":8,"attachments_version":3,"address":"fd00::8","allocated":0,"state":"serving"}"#;
        let report: DiscReport = serde_json::from_str(old).unwrap();
        assert_eq!((report.owner, report.migration), (Ownership::Owner, None));
    }

    #[test]
    fn figure_6_lacks_only_the_generation() {
        let text = r#"{"size":10000,"storage_pool":"sata","generation":1,"access_control_list":["44.43.0.1"]}"#;
        let order: DiscOrder = serde_json::from_str(text).unwrap();
        assert_eq!(order.access_control_list.unwrap().len(), 1);
    }
}
