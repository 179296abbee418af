//! Who is connected, what they have, and which commands wait for their answer.

use crate::{
    limits::{REASON_CHARS_MAX, SIGNAL_DEADLINE},
    model::work::vm_name,
};
use serde_json::{Value, json};
use spine::{
    id::{DiscName, NodeName, ResourceName, VmId},
    message::{Answer, Command, Role, Tag},
    resource::{Attributes, disc::DiscReport, global::StoragePools, vm::Signal},
    session::{NodeSaid, View},
    transport::BrainSender,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::oneshot;

/// Why a command has no good answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FleetError {
    /// It is not connected, or has not said yet what it has.
    #[error("{0} is not connected")]
    NotConnected(NodeName),
    /// The connection ended before the answer: the command may have been carried out.
    #[error("{0} went away before it answered")]
    WentAway(NodeName),
    /// No answer in time: the command may still be carried out.
    #[error("{node} did not answer within {seconds} s")]
    Deadline {
        /// Who was asked.
        node: NodeName,
        /// How long it had.
        seconds: u64,
    },
    /// The node said no.
    #[error("{node} refused: {message} ({error})")]
    Refused {
        /// Who was asked.
        node: NodeName,
        /// A word: `pool-full`.
        error: String,
        /// A sentence.
        message: String,
    },
    /// The node did not understand.
    #[error("{node} did not understand: {message}")]
    NotUnderstood {
        /// Who was asked.
        node: NodeName,
        /// What it said.
        message: String,
    },
    /// No head has the VM.
    #[error("no connected head has this VM")]
    NotRunning,
}

/// What is known of one node, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// What it is for.
    pub role: Role,
    /// True while its resources count.
    pub ready: bool,
    /// Since when it is ready, or away.
    pub since: OffsetDateTime,
    /// MiB of RAM free for VMs, as a ready head says.
    pub free_memory_mib: Option<u64>,
    /// How many discs or VMs it has.
    pub resources_count: usize,
    /// Why its last connection ended or was refused.
    pub last_words: Option<String>,
}

/// The sessions of all nodes. Clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    nodes: Arc<Mutex<HashMap<NodeName, Node>>>,
}

#[derive(Debug)]
struct Node {
    role: Role,
    since: OffsetDateTime,
    last_words: Option<String>,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    sender: BrainSender,
    view: View,
    /// Why VMs that this connection told of are gone.
    gone: BTreeMap<VmId, String>,
    pending: HashMap<Tag, Pending>,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    reply: oneshot::Sender<Result<Attributes, FleetError>>,
}

/// Whether a node counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Connected, and it has said all it has.
    Ready,
    /// Not connected, or still telling; since when, where that is known.
    Away(Option<OffsetDateTime>),
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in under its node's name. An older one is closed and told why.
    pub fn connect(&self, name: &NodeName, role: Role, number: u64, sender: BrainSender) {
        let mut nodes = self.lock();
        let node = nodes.entry(name.clone()).or_insert_with(|| Node {
            role,
            since: OffsetDateTime::now_utc(),
            last_words: None,
            connection: None,
        });
        if let Some(older) = node.connection.take() {
            older.sender.close("a newer connection has come under this name");
            node.since = OffsetDateTime::now_utc();
        }
        node.role = role;
        node.connection =
            Some(Connection { number, sender, view: View::default(), gone: BTreeMap::new(), pending: HashMap::new() });
    }

    /// Applies what a connection said. False when the connection is an older one and does not
    /// count any more.
    ///
    /// # Errors
    /// When the node has too many resources, and is to be disconnected.
    pub fn apply(&self, name: &NodeName, number: u64, said: NodeSaid) -> Result<bool, String> {
        let mut nodes = self.lock();
        let Some(node) = nodes.get_mut(name) else { return Ok(false) };
        let Some(connection) = node.connection.as_mut().filter(|connection| connection.number == number) else {
            return Ok(false);
        };
        match said {
            NodeSaid::Answered { tag, answer } => connection.answered(name, tag, answer),
            said => {
                connection.remember_destroyed(&said);
                connection.view.apply(&said).map_err(|error| error.to_string())?;
                if matches!(said, NodeSaid::Ready) {
                    node.since = OffsetDateTime::now_utc();
                }
            }
        }
        Ok(true)
    }

    /// Ends a connection: all that its node had is gone (R034), and every command in flight fails.
    /// False when it did not count any more.
    pub fn disconnect(&self, name: &NodeName, number: u64, reason: &str) -> bool {
        let mut nodes = self.lock();
        let Some(node) = nodes.get_mut(name) else { return false };
        if node.connection.as_ref().is_none_or(|connection| connection.number != number) {
            return false;
        }
        let ended = node.connection.take();
        node.since = OffsetDateTime::now_utc();
        node.last_words = Some(shorten(reason));
        for (_, pending) in ended.into_iter().flat_map(|connection| connection.pending) {
            let _ = pending.reply.send(Err(FleetError::WentAway(name.clone())));
        }
        true
    }

    /// Remembers why a node was not let in; what it has been before stays.
    pub fn refuse(&self, name: &NodeName, role: Role, reason: &str) {
        let mut nodes = self.lock();
        let node = nodes.entry(name.clone()).or_insert_with(|| Node {
            role,
            since: OffsetDateTime::now_utc(),
            last_words: None,
            connection: None,
        });
        node.last_words = Some(shorten(reason));
    }

    /// Closes every connection, telling each node why.
    pub fn close_all(&self, reason: &str) {
        for node in self.lock().values() {
            if let Some(connection) = &node.connection {
                connection.sender.close(reason);
            }
        }
    }

    /// Orders something of a ready node and waits for its answer.
    ///
    /// # Errors
    /// That it is not there, went away, took too long, or what it said instead of `ok`.
    pub async fn command(
        &self,
        name: &NodeName,
        command: Command,
        deadline: Duration,
    ) -> Result<Attributes, FleetError> {
        let (answer, tag, number) = self.send(name, command)?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(FleetError::WentAway(name.clone())),
            Err(_) => {
                self.forget(name, number, tag);
                Err(FleetError::Deadline { node: name.clone(), seconds: deadline.as_secs() })
            }
        }
    }

    #[allow(clippy::type_complexity)] // Used once, four lines above.
    fn send(
        &self,
        name: &NodeName,
        command: Command,
    ) -> Result<(oneshot::Receiver<Result<Attributes, FleetError>>, Tag, u64), FleetError> {
        let mut nodes = self.lock();
        let connection =
            nodes.get_mut(name).and_then(Node::ready_mut).ok_or_else(|| FleetError::NotConnected(name.clone()))?;
        let (reply, answer) = oneshot::channel();
        // The lock is held: the answer cannot be looked up before its tag is written down.
        let tag = connection.sender.command(command.clone());
        connection.pending.insert(tag, Pending { command, reply });
        Ok((answer, tag, connection.number))
    }

    fn forget(&self, name: &NodeName, number: u64, tag: Tag) {
        let mut nodes = self.lock();
        let connection = nodes.get_mut(name).and_then(|node| node.connection.as_mut());
        if let Some(connection) = connection.filter(|connection| connection.number == number)
            && let Some(pending) = connection.pending.get_mut(&tag)
        {
            // The command stays: should the node still say `ok`, the view has to follow.
            pending.reply = oneshot::channel().0;
        }
    }

    /// Sends a signal to a running VM, wherever it runs.
    ///
    /// # Errors
    /// When no head has it, or the head's refusal.
    pub async fn signal_vm(&self, vm_id: i64, signal: Signal) -> Result<(), FleetError> {
        let id = vm_name(vm_id);
        let head = self.heads_with(&id).into_iter().next().map(|(head, _)| head).ok_or(FleetError::NotRunning)?;
        let mut attributes = Attributes::new();
        attributes.insert(spine::resource::vm::SIGNAL.to_owned(), json!(signal));
        self.command(&head, Command::Update(ResourceName::Vm(id), attributes), SIGNAL_DEADLINE).await.map(drop)
    }

    /// All nodes that have connected, or tried to, since this brain started; by name.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let nodes = self.lock();
        let mut infos: Vec<NodeInfo> = nodes.iter().map(|(name, node)| node.info(name)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// True while a connection is let in under the name, ready or not.
    pub fn is_connected(&self, name: &NodeName) -> bool {
        self.lock().get(name).is_some_and(|node| node.connection.is_some())
    }

    /// Whether a node counts.
    pub fn presence(&self, name: &NodeName) -> Presence {
        match self.lock().get(name) {
            Some(node) if node.ready().is_some() => Presence::Ready,
            Some(node) => Presence::Away(Some(node.since)),
            None => Presence::Away(None),
        }
    }

    /// What a ready tail says of a disc: none when it has it not, or says what cannot be read.
    pub fn disc(&self, tail: &NodeName, disc: &DiscName) -> Option<DiscReport> {
        let nodes = self.lock();
        let value = nodes.get(tail)?.ready()?.view.get(&ResourceName::Disc(disc.clone()))?;
        serde::Deserialize::deserialize(value).ok()
    }

    /// True when a ready tail has something under the disc's name, readable or not.
    pub fn has_disc(&self, tail: &NodeName, disc: &DiscName) -> bool {
        let nodes = self.lock();
        let connection = nodes.get(tail).and_then(Node::ready);
        connection.is_some_and(|connection| connection.view.get(&ResourceName::Disc(disc.clone())).is_some())
    }

    /// The ready heads that have the VM, and what they say of it.
    pub fn heads_with(&self, vm: &VmId) -> Vec<(NodeName, Value)> {
        let resource = ResourceName::Vm(vm.clone());
        let nodes = self.lock();
        let mut heads: Vec<_> = nodes
            .iter()
            .filter(|(_, node)| node.role == Role::Head)
            .filter_map(|(name, node)| Some((name.clone(), node.ready()?.view.get(&resource)?.clone())))
            .collect();
        heads.sort_by(|a, b| a.0.cmp(&b.0));
        heads
    }

    /// Why a ready head no longer has a VM, if it has said so.
    pub fn gone(&self, head: &NodeName, vm: &VmId) -> Option<String> {
        self.lock().get(head)?.ready()?.gone.get(vm).cloned()
    }

    /// MiB of RAM free for VMs, as a ready head says.
    pub fn free_memory_mib(&self, head: &NodeName) -> Option<u64> {
        self.lock().get(head)?.info(head).free_memory_mib
    }

    /// Every VM and disc that ready nodes have.
    pub fn resources(&self) -> Vec<(NodeName, ResourceName)> {
        let nodes = self.lock();
        let mut all = Vec::new();
        for (name, connection) in nodes.iter().filter_map(|(name, node)| Some((name, node.ready()?))) {
            let own = connection.view.iter().map(|(resource, _)| resource).filter(|resource| is_vm_or_disc(resource));
            all.extend(own.map(|resource| (name.clone(), resource.clone())));
        }
        all
    }

    /// The pools of a ready tail; none when what it says cannot be read.
    pub fn pools(&self, tail: &NodeName) -> Option<StoragePools> {
        let nodes = self.lock();
        let value = nodes.get(tail)?.ready()?.view.get(&ResourceName::Global("storage_pools".to_owned()))?;
        serde::Deserialize::deserialize(value).ok()
    }
}

fn is_vm_or_disc(resource: &ResourceName) -> bool {
    matches!(resource, ResourceName::Vm(_) | ResourceName::Disc(_))
}

/// A bounded part of a text that a node chose.
pub fn shorten(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

impl Node {
    fn ready(&self) -> Option<&Connection> {
        self.connection.as_ref().filter(|connection| connection.view.is_ready())
    }

    fn ready_mut(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut().filter(|connection| connection.view.is_ready())
    }

    fn info(&self, name: &NodeName) -> NodeInfo {
        let view = self.ready().map(|connection| &connection.view);
        let memory = view.and_then(|view| view.get(&ResourceName::Global("memory".to_owned())));
        NodeInfo {
            name: name.clone(),
            role: self.role,
            ready: view.is_some(),
            since: self.since,
            free_memory_mib: memory.and_then(Value::as_u64),
            resources_count: view.map_or(0, |view| view.iter().filter(|(name, _)| is_vm_or_disc(name)).count()),
            last_words: self.last_words.clone(),
        }
    }
}

impl Connection {
    fn remember_destroyed(&mut self, said: &NodeSaid) {
        match said {
            NodeSaid::Created(ResourceName::Vm(id), _) => drop(self.gone.remove(id)),
            NodeSaid::Destroyed(ResourceName::Vm(id), why) => {
                let reason = why.get("reason").and_then(Value::as_str).unwrap_or("no reason was given");
                self.gone.insert(id.clone(), shorten(reason));
            }
            _ => {}
        }
    }

    fn answered(&mut self, name: &NodeName, tag: Tag, answer: Answer) {
        let Some(Pending { command, reply }) = self.pending.remove(&tag) else { return };
        let result = match answer {
            Answer::Ok(attributes) => {
                self.carried_out(command, &attributes);
                Ok(attributes)
            }
            Answer::No(refusal) => Err(FleetError::Refused {
                node: name.clone(),
                error: shorten(&refusal.error),
                message: shorten(&refusal.message),
            }),
            Answer::Bad(complaint) => {
                Err(FleetError::NotUnderstood { node: name.clone(), message: shorten(&complaint.message) })
            }
        };
        // Whoever asked may have given up.
        let _ = reply.send(result);
    }

    /// Puts into the view what an `ok` means, should the node's own notice come after it.
    fn carried_out(&mut self, command: Command, answer: &Attributes) {
        let said = match command {
            Command::Create(name, mut value) if self.view.get(&name).is_none() => {
                value.extend(answer.clone());
                NodeSaid::Created(name.clone(), expected(&name, value))
            }
            Command::Create(..) => return,
            Command::Update(name, _) if self.view.get(&name).is_none() => return,
            // A tail tells what an order changed before it answers: by now the view may be ahead of the
            // order, as when an image is on a disc already.
            Command::Update(ResourceName::Disc(_), _) => return,
            Command::Update(name, changes) => NodeSaid::Updated(name.clone(), expected(&name, changes)),
            Command::Remove(name, why) => NodeSaid::Destroyed(name, Value::Object(why)),
        };
        self.remember_destroyed(&said);
        // A view that is too full is noticed at the node's next message.
        let _ = self.view.apply(&said);
    }
}

/// What a node will say of a resource that it was ordered to have: secrets replaced by their hashes.
fn expected(name: &ResourceName, mut attributes: Attributes) -> Value {
    if let ResourceName::Disc(_) = name {
        let imports = attributes.remove("image").is_some_and(|image| !image.is_null());
        attributes.remove("force");
        if attributes.remove("incoming").is_some_and(|incoming| !incoming.is_null()) {
            attributes.insert("state".to_owned(), json!("receiving"));
            attributes.insert("owner".to_owned(), json!("incoming"));
        } else if imports {
            attributes.insert("state".to_owned(), json!("importing"));
            attributes.insert("progress".to_owned(), json!(0));
        } else if attributes.contains_key("storage_pool") {
            attributes.insert("state".to_owned(), json!("serving"));
        }
        if attributes.contains_key("storage_pool") {
            attributes.entry("allocated").or_insert(json!(0));
        }
    } else {
        attributes.remove(spine::resource::vm::SIGNAL);
        attributes.remove("management_ssh_keys");
    }
    let mut value = Value::Object(attributes);
    hash_keys(&mut value);
    value
}

/// Replaces every `key` by its `key_hash`, and drops passwords.
fn hash_keys(value: &mut Value) {
    match value {
        Value::Object(attributes) => {
            if let Some(Value::String(key)) = attributes.remove("key") {
                attributes.insert("key_hash".to_owned(), json!(spine::secret::Secret::new(key).hash()));
            }
            attributes.remove("password");
            attributes.values_mut().for_each(hash_keys);
        }
        Value::Array(items) => items.iter_mut().for_each(hash_keys),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_of_a_node_holds_no_secret() {
        let order = json!({"size": 1, "storage_pool": "a", "image": "tiny",
            "attachments": [{"head": "fd00::1", "key": "topsecret"}]});
        let Value::Object(order) = order else { unreachable!() };
        let value = expected(&"disc.sata.1".parse().unwrap(), order);
        assert_eq!(value["state"], "importing");
        assert!(!value.to_string().contains("topsecret"));
        assert_eq!(value["attachments"][0]["key_hash"], json!(spine::secret::Secret::new("topsecret").hash()));
        let Value::Object(vm) = json!({"memory": 1, "management_ssh_keys": ["k"], "discs": [{"key": "topsecret"}],
            "user_authentication": {"amy": {"password": "R0ry"}}})
        else {
            unreachable!()
        };
        let value = expected(&"vm.1".parse().unwrap(), vm).to_string();
        assert!(!value.contains("topsecret") && !value.contains("R0ry") && !value.contains("management_ssh_keys"));
    }
}
