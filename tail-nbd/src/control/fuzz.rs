//! What must hold whatever the brain orders. A fuzz target is one call of this; the tests call it too.

use super::command::Order;
use crate::sidecar::{Record, slots::encode_slot};
use crate::store::change::record_of;
use spine::{
    message::{Answer, Command},
    resource::{Attributes, disc::DiscOrder},
};

/// Carries out a command about one disc, as far as that needs no I/O: the first byte says which, the others are its
/// attributes.
///
/// # Panics
/// When the disc of an order that is taken has no legal record, or one too long for its sidecar; when a number falls;
/// or when a refusal gives no reason.
pub fn fuzz_command(bytes: &[u8]) {
    let Some((verb, json)) = bytes.split_first() else { return };
    let Ok(attributes) = serde_json::from_slice::<Attributes>(json) else { return };
    let name = "disc.sata.7".parse().expect("a valid name");
    let command = match verb % 4 {
        0 => Command::Create(name, attributes),
        1 => Command::Update(name, attributes),
        2 => Command::Remove(name, attributes),
        _ => Command::Update("vm.7".parse().expect("a valid name"), attributes),
    };
    match Order::parse(&command) {
        Ok(Order::Create(name, order)) => {
            let prefix = "fd00:b16:0:d::/64".parse().expect("a valid prefix");
            if let Ok(record) = record_of(&name, &order, prefix) {
                assert_legal(&record);
            }
        }
        Ok(Order::Update(_, changes)) => {
            let old = a_record();
            if let Ok(new) = changes.apply(&old) {
                assert_legal(&new);
                assert!(new.generation >= old.generation && new.attachments_version >= old.attachments_version);
                assert!((&new.name(), &new.pool, new.address) == (&old.name(), &old.pool, old.address));
            }
        }
        Ok(Order::Remove(..)) => {}
        Err(Answer::No(refusal)) => assert!(!refusal.error.is_empty() && !refusal.message.is_empty()),
        Err(Answer::Bad(complaint)) => assert!(!complaint.message.is_empty()),
        Err(other) => panic!("{other:?} is no refusal"),
    }
}

fn assert_legal(record: &Record) {
    assert_eq!(record.check(), Ok(()));
    assert!(encode_slot(record, u64::MAX).is_ok(), "it does not fit: {record:?}");
}

/// A disc that somebody is attached to.
fn a_record() -> Record {
    let order: DiscOrder = serde_json::from_str(
        r#"{"size":1048576,"storage_pool":"sata1","generation":3,"attachments_version":5,
            "attachments":[{"head":"fd00:b16:0:2::11","key":"key"}],"colour":"red"}"#,
    )
    .expect("a valid order");
    let prefix = "fd00:b16:0:d::/64".parse().expect("a valid prefix");
    record_of(&"sata.7".parse().expect("a valid name"), &order, prefix).expect("a valid order")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn attributes_that_are_nearly_right_will_do(
            verb: u8,
            attributes in prop::collection::btree_map(
                prop::sample::select(vec![
                    "size", "storage_pool", "generation", "attachments", "attachments_version", "access_control_list",
                    "address", "image", "force", "state", "colour",
                ]),
                prop::sample::select(vec![
                    "512", "1048576", "-1", "0", "5", "18446744073709551615", "1e99", "null", "true", "[]", "{}",
                    r#""sata1""#, r#""../x""#, r#""""#, r#""fd00:b16:0:d::7""#, r#"["fd00::1","10.0.0.1"]"#,
                    r#"[{"head":"fd00::1","key":"k"}]"#, r#"[{"head":"fd00::1","key":"k"},{"head":"::","key":"k"}]"#,
                ]),
                0..8,
            ),
        ) {
            let attributes: Vec<String> = attributes.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
            let json = format!("{{{}}}", attributes.join(","));
            super::fuzz_command(&[&[verb], json.as_bytes()].concat());
        }
    }
}
