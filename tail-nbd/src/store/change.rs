//! Orders about a disc, and the record that follows from each; no I/O.

use super::refusal::Refusal;
use crate::sidecar::{
    Owner, Record, RecordedAccess,
    record::{DISC_BYTES_MAX, check_size},
};
use serde::{Deserialize, Deserializer};
use spine::{
    address::StoragePrefix,
    id::{AttachmentsVersion, DiscName, Generation, ImageName},
    resource::{
        Attributes,
        disc::{Attachment, AttachmentReport, DiscOrder},
        migration::{CommitOrder, MigrationOrder, PromoteOrder, RetireOrder},
    },
};
use std::{collections::BTreeSet, net::IpAddr};

/// Attachments of one disc: one, two during a VM's live migration, and room for mishaps. Bounded so
/// that they fit into a sidecar.
pub const ATTACHMENTS_MAX: usize = 16;

/// Addresses of an access list, bounded likewise.
pub const LIST_ADDRESSES_MAX: usize = 48;

/// Longest key: it is compared with an NBD export name, and 256 bytes is the longest that clients
/// are sure to send (the NBD protocol allows 4,096).
pub const KEY_BYTES_MAX: usize = 256;

/// Room for attributes that this build does not know, in bytes of JSON.
const EXTRA_BYTES_MAX: usize = 512;

/// Attributes of the report that no order sets: an unknown attribute of that name would hide them.
const NOT_TO_SET: [&str; 11] = [
    "storage_pool",
    "address",
    "allocated",
    "state",
    "reason",
    "progress",
    "owner",
    "migration",
    "migration_progress",
    "migration_eta",
    "migration_speed",
];

/// What an `update disc.GRADE.N` changes: only what it names (R086).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Changes {
    /// The new size in bytes.
    pub size: Option<u64>,
    /// Allows a shrink that cuts off data.
    #[serde(default)]
    pub force: bool,
    /// The new owner's number; no lower than the one in force.
    pub generation: Option<Generation>,
    /// Who may use it from now on.
    pub attachments: Option<Vec<Attachment>>,
    /// The version of `attachments`.
    pub attachments_version: Option<AttachmentsVersion>,
    /// Plain clients that may use it from now on.
    pub access_control_list: Option<Vec<IpAddr>>,
    /// An image to write onto it, in place of all that is there.
    pub image: Option<ImageName>,
    /// Move it to another tail; null ends that.
    #[serde(default, deserialize_with = "named")]
    pub migration: Option<Option<MigrationOrder>>,
    /// The source has given it up: it is this tail's.
    pub commit: Option<CommitOrder>,
    /// The other end of its move is lost for good: it is this tail's.
    pub promote: Option<PromoteOrder>,
    /// It was given to another tail when this one was away.
    pub retire: Option<RetireOrder>,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}

/// Tells a null from an attribute that is not named.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Changes {
    /// True when it says who may use the disc, be it the same as before.
    pub fn names_access(&self) -> bool {
        self.attachments.is_some() || self.access_control_list.is_some()
    }

    /// The record that is to be in force afterwards.
    ///
    /// # Errors
    /// When the order is stale or a value will not do.
    pub fn apply(&self, old: &Record) -> Result<Record, Refusal> {
        let mut new = old.clone();
        if let Some(given) = self.generation {
            if given < old.generation {
                return Err(Refusal::StaleGeneration { name: old.name(), own: old.generation, given });
            }
            new.generation = given;
        }
        if let Some(size_bytes) = self.size {
            new.size_bytes = checked_size(&old.name(), size_bytes)?;
        }
        if self.names_access() || self.attachments_version.is_some() {
            self.apply_access(old, &mut new)?;
        }
        for (attribute, value) in &self.extra {
            new.extra.insert(attribute.clone(), value.clone());
        }
        check_extra(&new.extra)?;
        if let Some(image) = &self.image {
            if !new.access.is_nobody() {
                return Err(Refusal::Busy {
                    name: old.name(),
                    reason: "somebody has a right to it, and an image replaces all that is on it".into(),
                });
            }
            new.importing = Some(image.clone());
        }
        Ok(new)
    }

    fn apply_access(&self, old: &Record, new: &mut Record) -> Result<(), Refusal> {
        let given = match self.attachments_version {
            Some(given) => given,
            None if self.attachments.is_some() => {
                let reason = "it must come with attachments".into();
                return Err(Refusal::BadValue { attribute: "attachments_version", reason });
            }
            None => old.attachments_version,
        };
        if self.names_access() {
            new.access = recorded_access(self.attachments.as_deref(), self.access_control_list.as_deref())?;
        }
        // The same version may be repeated, but it never means two things. A plain list may change
        // without a version, for it has no keys that could be of former times.
        let differs = new.access != old.access && self.attachments_version.is_some();
        if given < old.attachments_version || (given == old.attachments_version && differs) {
            return Err(Refusal::StaleAttachments { name: old.name(), own: old.attachments_version, given });
        }
        new.attachments_version = given;
        Ok(())
    }
}

/// The record of a disc that is made as ordered.
///
/// # Errors
/// When a value will not do.
pub fn record_of(name: &DiscName, order: &DiscOrder, prefix: StoragePrefix) -> Result<Record, Refusal> {
    let address = prefix.address_of(name.number);
    if order.address.is_some_and(|wanted| wanted != address) {
        let reason = format!("the address of disc {name} follows from its number and is {address}");
        return Err(Refusal::BadValue { attribute: "address", reason });
    }
    check_extra(&order.extra)?;
    Ok(Record {
        number: name.number,
        grade: name.grade.clone(),
        pool: order.storage_pool.clone(),
        owner: order.incoming.clone().map_or(Owner::Owner, Owner::Incoming),
        generation: order.generation,
        attachments_version: order.attachments_version,
        access: recorded_access(order.attachments.as_deref(), order.access_control_list.as_deref())?,
        size_bytes: checked_size(name, order.size)?,
        address,
        importing: order.image.clone(),
        flush_failed: false,
        extra: order.extra.clone(),
    })
}

fn checked_size(name: &DiscName, size_bytes: u64) -> Result<u64, Refusal> {
    if size_bytes > DISC_BYTES_MAX {
        let largest_bytes = DISC_BYTES_MAX;
        let reason = "no disc may be larger";
        return Err(Refusal::TooBig { what: format!("disc {name}"), size_bytes, largest_bytes, reason });
    }
    let bad =
        |reason: &str| Refusal::BadValue { attribute: "size", reason: format!("{size_bytes} will not do: {reason}") };
    check_size(size_bytes).map_err(bad)?;
    Ok(size_bytes)
}

fn recorded_access(attachments: Option<&[Attachment]>, list: Option<&[IpAddr]>) -> Result<RecordedAccess, Refusal> {
    match (attachments, list) {
        (Some(_), Some(_)) => Err(Refusal::BadValue {
            attribute: "access_control_list",
            reason: "a disc has attachments or an access list, never both".into(),
        }),
        (None, Some(list)) => checked_list(list).map(RecordedAccess::List),
        (attachments, None) => checked_attachments(attachments.unwrap_or_default()).map(RecordedAccess::Attachments),
    }
}

fn checked_list(list: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    if list.len() > LIST_ADDRESSES_MAX {
        let reason = format!("{} addresses are more than {LIST_ADDRESSES_MAX}", list.len());
        return Err(Refusal::BadValue { attribute: "access_control_list", reason });
    }
    Ok(list.to_vec())
}

fn checked_attachments(attachments: &[Attachment]) -> Result<Vec<AttachmentReport>, Refusal> {
    let bad = |reason: String| Err(Refusal::BadValue { attribute: "attachments", reason });
    if attachments.len() > ATTACHMENTS_MAX {
        return bad(format!("{} attachments are more than {ATTACHMENTS_MAX}", attachments.len()));
    }
    let keys: BTreeSet<&str> = attachments.iter().map(|attachment| attachment.key.reveal()).collect();
    if keys.len() != attachments.len() {
        return bad("two attachments have the same key".into());
    }
    if keys.iter().any(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
        return bad(format!("a key must have 1 to {KEY_BYTES_MAX} bytes"));
    }
    let report = |attachment: &Attachment| AttachmentReport { head: attachment.head, key_hash: attachment.key.hash() };
    Ok(attachments.iter().map(report).collect())
}

fn check_extra(extra: &Attributes) -> Result<(), Refusal> {
    if let Some(attribute) = NOT_TO_SET.iter().find(|attribute| extra.contains_key(**attribute)) {
        return Err(Refusal::BadValue { attribute, reason: "it cannot be changed".to_owned() });
    }
    let length = serde_json::to_string(extra).map_or(usize::MAX, |text| text.len());
    if length > EXTRA_BYTES_MAX {
        let reason =
            format!("attributes that this tail does not know take {length} bytes, more than {EXTRA_BYTES_MAX}");
        return Err(Refusal::BadValue { attribute: "extra", reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::slots::{encode_slot, tests::record};
    use proptest::prelude::*;
    use serde_json::json;

    fn changes(value: serde_json::Value) -> Changes {
        serde_json::from_value(value).unwrap()
    }

    fn apply(value: serde_json::Value) -> Result<Record, Refusal> {
        changes(value).apply(&record(7))
    }

    fn word(value: serde_json::Value) -> &'static str {
        apply(value).unwrap_err().word()
    }

    fn attachment(key: &str) -> serde_json::Value {
        json!({"head": "fd00:b16:0:2::11", "key": key})
    }

    #[test]
    fn r086_only_what_is_named_changes() {
        let mut wanted = record(7);
        wanted.size_bytes = 512;
        assert_eq!(apply(json!({"size": 512})).unwrap(), wanted);
        assert_eq!(apply(json!({})).unwrap(), record(7));
    }

    #[test]
    fn rule1_numbers_only_rise() {
        assert_eq!(word(json!({"generation": 0})), "stale-generation");
        assert_eq!(apply(json!({"generation": 2})).unwrap().generation, Generation(2));
        assert_eq!(word(json!({"attachments": [], "attachments_version": 2})), "stale-attachments");
        assert_eq!(word(json!({"attachments": [], "attachments_version": 3})), "stale-attachments", "other content");
        assert_eq!(word(json!({"attachments_version": 2})), "stale-attachments");
        let same = json!({"attachments": [attachment("key")], "attachments_version": 3});
        assert_eq!(apply(same).unwrap(), record(7), "the same may be said again");
        let new = apply(json!({"attachments": [], "attachments_version": 4})).unwrap();
        assert!(new.access.is_nobody());
        assert_eq!(word(json!({"attachments": []})), "bad-value", "attachments without a version");
    }

    #[test]
    fn rule6_attachments_or_a_list() {
        assert_eq!(word(json!({"attachments": [], "access_control_list": [], "attachments_version": 4})), "bad-value");
        let list = apply(json!({"access_control_list": ["10.0.0.1"]})).unwrap();
        assert_eq!(list.access, RecordedAccess::List(vec!["10.0.0.1".parse().unwrap()]));
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(word(json!({"size": 0})), "bad-value");
        assert_eq!(word(json!({"size": 1000})), "bad-value");
        assert_eq!(word(json!({"size": 1u64 << 60})), "too-big");
        let twice = json!({"attachments": [attachment("a"), attachment("a")], "attachments_version": 4});
        assert_eq!(word(twice), "bad-value");
        assert_eq!(word(json!({"attachments": [attachment("")], "attachments_version": 4})), "bad-value");
        assert_eq!(word(json!({"note": "x".repeat(600)})), "bad-value");
        assert_eq!(word(json!({"state": "serving"})), "bad-value");
        assert_eq!(word(json!({"storage_pool": "other"})), "bad-value");
        assert_eq!(word(json!({"image": "tiny"})), "busy", "somebody is attached");
        let image = json!({"image": "tiny", "attachments": [], "attachments_version": 4});
        assert!(apply(image).unwrap().importing.is_some());
    }

    #[test]
    fn r084_unknown_attributes_are_kept() {
        assert_eq!(apply(json!({"colour": "red"})).unwrap().extra["colour"], "red");
    }

    #[test]
    fn an_address_that_does_not_follow_from_the_number_is_refused() {
        let order = json!({"size": 512, "storage_pool": "sata1", "generation": 1, "address": "fd00:b16:0:d::8"});
        let order: DiscOrder = serde_json::from_value(order).unwrap();
        let prefix = "fd00:b16:0:d::/64".parse().unwrap();
        assert!(record_of(&"sata.8".parse().unwrap(), &order, prefix).is_ok());
        assert_eq!(record_of(&"sata.9".parse().unwrap(), &order, prefix).unwrap_err().word(), "bad-value");
    }

    #[test]
    fn the_longest_access_fits_into_a_sidecar() {
        let mut longest = record(u64::MAX);
        let word = "x".repeat(63);
        longest.grade = word.parse().unwrap();
        longest.pool = word.parse().unwrap();
        longest.importing = Some(word.parse().unwrap());
        longest.flush_failed = true;
        (longest.generation, longest.attachments_version) = (Generation(u64::MAX), AttachmentsVersion(u64::MAX));
        longest.size_bytes = DISC_BYTES_MAX;
        let address: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        longest.extra.insert("note".into(), "x".repeat(EXTRA_BYTES_MAX - 11).into());
        let attachments =
            (0..ATTACHMENTS_MAX).map(|n| Attachment { head: address, key: spine::secret::Secret::new(n.to_string()) });
        let attachments: Vec<_> = attachments.collect();
        longest.access = RecordedAccess::Attachments(checked_attachments(&attachments).unwrap());
        check_extra(&longest.extra).unwrap();
        let order = json!({
            "id": uuid::Uuid::max(), "target": word, "address": format!("[{address}]:65535"),
            "generation": u64::MAX, "limit_mb_per_s": u32::MAX, "pause_ms": u32::MAX
        });
        let attempt = crate::migration::handover::Attempt(uuid::Uuid::max());
        longest.owner = Owner::Fenced(serde_json::from_value(order).unwrap(), attempt);
        encode_slot(&longest, u64::MAX).unwrap();
        longest.access = RecordedAccess::List(vec![address; LIST_ADDRESSES_MAX]);
        encode_slot(&longest, u64::MAX).unwrap();
    }

    proptest! {
        #[test]
        fn rule1_no_order_lowers_a_number(generation in proptest::option::of(0u64..4), version in proptest::option::of(0u64..6), nobody: bool) {
            let mut order = json!({});
            if let Some(generation) = generation { order["generation"] = generation.into(); }
            if let Some(version) = version { order["attachments_version"] = version.into(); }
            if nobody { order["attachments"] = json!([]); }
            let old = record(7);
            if let Ok(new) = changes(order).apply(&old) {
                prop_assert!(new.generation >= old.generation);
                prop_assert!(new.attachments_version >= old.attachments_version);
                prop_assert!(new.access == old.access || new.attachments_version > old.attachments_version);
            }
        }
    }
}
