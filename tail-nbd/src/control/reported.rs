//! What the brain was told, and what it has yet to be told; no I/O.

use serde_json::{Map, Value, json};
use spine::{
    id::{DiscNumber, ResourceName},
    message::Notice,
};
use std::collections::BTreeMap;

/// All that was said on the present connection.
#[derive(Debug, Default)]
pub struct Reported {
    said: BTreeMap<ResourceName, Value>,
}

impl Reported {
    /// Starts with a dump.
    pub fn new(dump: &[(ResourceName, Value)]) -> Self {
        Self { said: dump.iter().cloned().collect() }
    }

    /// The notice that makes the brain's picture of `name` agree with `now`; none when it does already.
    pub fn tell(&mut self, name: ResourceName, now: Option<Value>) -> Option<Notice> {
        let before = match &now {
            Some(value) => self.said.insert(name.clone(), value.clone()),
            None => self.said.remove(&name),
        };
        match (before, now) {
            (None, None) => None,
            (None, Some(value)) => Some(Notice::Created(name, value)),
            (Some(_), None) => Some(Notice::Destroyed(name, json!({}))),
            (Some(before), Some(now)) if before == now => None,
            (Some(Value::Object(before)), Some(Value::Object(now))) => {
                Some(Notice::Updated(name, Value::Object(difference(&before, &now))))
            }
            (Some(_), Some(now)) => Some(Notice::Updated(name, now)),
        }
    }

    /// As [`Reported::tell`] for a disc that is gone, of which only the number is known.
    pub fn tell_gone(&mut self, number: DiscNumber) -> Option<Notice> {
        let of_number = |name: &&ResourceName| matches!(name, ResourceName::Disc(disc) if disc.number == number);
        let name = self.said.keys().find(of_number).cloned()?;
        self.tell(name, None)
    }
}

/// The attributes that differ; one that is no more becomes null.
fn difference(before: &Map<String, Value>, now: &Map<String, Value>) -> Map<String, Value> {
    let changed = now.iter().filter(|(name, value)| before.get(*name) != Some(value));
    let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    changed.map(|(name, value)| (name.clone(), value.clone())).chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spine::resource::apply_update;

    fn name() -> ResourceName {
        "disc.sata.7".parse().unwrap()
    }

    #[test]
    fn only_differences_are_told() {
        let mut reported = Reported::new(&[]);
        let value = json!({"size": 512, "reason": "x"});
        assert_eq!(reported.tell(name(), Some(value.clone())), Some(Notice::Created(name(), value.clone())));
        assert_eq!(reported.tell(name(), Some(value)), None);
        let told = reported.tell(name(), Some(json!({"size": 1024})));
        assert_eq!(told, Some(Notice::Updated(name(), json!({"size": 1024, "reason": null}))));
        assert_eq!(reported.tell_gone(DiscNumber(8)), None);
        assert_eq!(reported.tell_gone(DiscNumber(7)), Some(Notice::Destroyed(name(), json!({}))));
        assert_eq!(reported.tell(name(), None), None);
    }

    #[test]
    fn a_value_that_is_no_object_is_told_whole() {
        let load: ResourceName = "global.load".parse().unwrap();
        let mut reported = Reported::new(&[(load.clone(), json!([0.0, 0.0, 0.0]))]);
        let told = reported.tell(load.clone(), Some(json!([0.5, 0.0, 0.0])));
        assert_eq!(told, Some(Notice::Updated(load, json!([0.5, 0.0, 0.0]))));
    }

    proptest! {
        #[test]
        fn r068_the_brains_picture_agrees(values in proptest::collection::vec(
            proptest::option::of(proptest::collection::btree_map("[ab]", 0u8..3, 0..3)), 1..10))
        {
            let mut reported = Reported::new(&[]);
            let mut picture: Option<Map<String, Value>> = None;
            for value in values {
                let now: Option<Map<String, Value>> =
                    value.map(|map| map.into_iter().map(|(name, value)| (name, value.into())).collect());
                match reported.tell(name(), now.clone().map(Value::Object)) {
                    Some(Notice::Created(_, Value::Object(value))) => {
                        prop_assert!(picture.replace(value).is_none(), "created twice");
                    }
                    Some(Notice::Updated(_, Value::Object(changes))) => {
                        apply_update(picture.as_mut().expect("it must exist to be updated"), &changes);
                    }
                    Some(Notice::Destroyed(..)) => prop_assert!(picture.take().is_some(), "destroyed twice"),
                    None => {}
                    other => panic!("{other:?}"),
                }
                // A null stands for an attribute that is no more.
                let shown = picture.clone().map(|map| map.into_iter().filter(|(_, v)| !v.is_null()).collect());
                prop_assert_eq!(&shown, &now);
            }
        }
    }
}
