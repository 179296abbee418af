//! What a node has, as its messages tell it (R068).

use super::NodeSaid;
use crate::{id::ResourceName, limits::RESOURCES_MAX, resource::apply_update};
use serde_json::Value;
use std::collections::BTreeMap;

/// A node's resources. It counts only while [`is_ready`](Self::is_ready).
///
/// Every sequence of messages has a defined result: `created` replaces, `updated` of something new
/// creates it, `destroyed` of something unknown does nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    resources: BTreeMap<ResourceName, Value>,
    ready: bool,
}

/// The node has more resources than the protocol allows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the node has more than {RESOURCES_MAX} resources")]
pub struct TooMany;

impl View {
    /// Applies what the node said.
    ///
    /// # Errors
    /// [`TooMany`]: the node is to be disconnected.
    pub fn apply(&mut self, said: &NodeSaid) -> Result<(), TooMany> {
        match said {
            NodeSaid::Created(name, value) => {
                self.resources.insert(name.clone(), value.clone());
            }
            NodeSaid::Updated(name, changes) => match (self.resources.get_mut(name), changes) {
                (Some(Value::Object(attributes)), Value::Object(changes)) => apply_update(attributes, changes),
                _ => {
                    self.resources.insert(name.clone(), changes.clone());
                }
            },
            NodeSaid::Destroyed(name, _) => {
                self.resources.remove(name);
            }
            NodeSaid::Ready => self.ready = true,
            NodeSaid::Closed { .. } => *self = Self::default(),
            NodeSaid::Hello(_) | NodeSaid::Answered { .. } => {}
        }
        if self.resources.len() > RESOURCES_MAX { Err(TooMany) } else { Ok(()) }
    }

    /// True between `ready` and the end of the connection.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// One resource.
    pub fn get(&self, name: &ResourceName) -> Option<&Value> {
        self.resources.get(name)
    }

    /// All resources in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceName, &Value)> {
        self.resources.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}
