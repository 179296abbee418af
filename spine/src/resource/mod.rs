//! What nodes have: each resource is a name and a JSON value, and complete in itself (R069, R080).
//!
//! * [`vm`]: everything a head needs to run a machine.
//! * [`disc`]: everything a tail needs to serve a disc, and what it says of it.
//! * [`migration`]: a disc's move from one tail to another.
//! * [`global`]: load, memory and storage pools of a node.
//!
//! Attributes that this build does not know are kept in `extra` and go on with the rest (R084).

pub mod disc;
pub mod global;
pub mod migration;
pub mod vm;

use serde_json::{Map, Value};

/// The attributes of a resource, or of a partial update of one.
pub type Attributes = Map<String, Value>;

/// Applies a partial update: only what `changes` names changes (R086). A null sets null.
pub fn apply_update(attributes: &mut Attributes, changes: &Attributes) {
    for (name, value) in changes {
        attributes.insert(name.clone(), value.clone());
    }
}

/// Turns a typed resource into its attributes.
///
/// # Panics
/// When `resource` is not written as a JSON object, which the types of this module are.
pub fn to_attributes<T: serde::Serialize>(resource: &T) -> Attributes {
    match serde_json::to_value(resource) {
        Ok(Value::Object(attributes)) => attributes,
        other => panic!("a resource must be a JSON object, not {other:?}"),
    }
}

/// Reads a typed resource from its attributes.
///
/// # Errors
/// When an attribute is missing or of the wrong form: the message names it.
pub fn from_attributes<T: serde::de::DeserializeOwned>(attributes: &Attributes) -> Result<T, serde_json::Error> {
    T::deserialize(Value::Object(attributes.clone()))
}
