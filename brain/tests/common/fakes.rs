//! Heads and tails that keep their state in memory, speak the real spine over real TCP, and stop
//! answering when a test wants them to.

use serde_json::{Map, Value, json};
use spine::{
    id::{NodeName, ResourceName},
    limits::VERSIONS,
    message::{Answer, Command, Hello, Notice, Refusal, Role},
    resource::apply_update,
    secret::Secret,
    transport::{NodeConfig, NodeEvent, NodeLink, connect_node},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{sync::Notify, task::JoinHandle};

/// What a fake node has, and what it was told.
#[derive(Default)]
pub struct State {
    /// Its discs or VMs.
    pub resources: BTreeMap<ResourceName, Map<String, Value>>,
    /// Every command, in order.
    pub commands: Vec<Command>,
}

/// Counts commands over all fakes, and makes the one of a chosen number the last before silence.
#[derive(Default)]
pub struct Fuse {
    left: Mutex<Option<u32>>,
    /// Told when the command of that number has been carried out, and will not be answered.
    pub blown: Notify,
}

impl Fuse {
    /// The command after `count` others is carried out and not answered.
    pub fn set(&self, count: u32) {
        *self.left.lock().unwrap() = Some(count);
    }

    /// True when a command is to be answered.
    fn burn(&self) -> bool {
        let mut left = self.left.lock().unwrap();
        match *left {
            None => true,
            Some(0) => {
                *left = None;
                self.blown.notify_one();
                false
            }
            Some(count) => {
                *left = Some(count - 1);
                true
            }
        }
    }
}

/// A fake head or tail. Dropping it cuts its connection, as a power cut would.
pub struct Fake {
    /// What it has.
    pub state: Arc<Mutex<State>>,
    hello: Hello,
    brain: SocketAddr,
    fuse: Arc<Fuse>,
    orders: Option<tokio::sync::mpsc::UnboundedSender<Notice>>,
    task: Option<JoinHandle<()>>,
}

impl Fake {
    /// A node that is not connected yet.
    pub fn new(name: &str, role: Role, address: &str, brain: SocketAddr, fuse: &Arc<Fuse>) -> Self {
        let mut extra = Map::new();
        extra.insert("storage_address".to_owned(), json!(address));
        if role == Role::Tail {
            extra.insert("migration_address".to_owned(), json!(format!("[{address}]:7771")));
        }
        if role == Role::Head {
            extra.insert("memory_total".to_owned(), json!(4096));
            extra.insert("cores".to_owned(), json!(4));
        }
        let hello = Hello {
            node: name.parse().unwrap(),
            role,
            spine: VERSIONS,
            boot: uuid::Uuid::new_v4(),
            cluster: None,
            epoch: Default::default(),
            extra,
        };
        Self { state: Arc::default(), hello, brain, fuse: Arc::clone(fuse), orders: None, task: None }
    }

    /// As a tail that is older than moves are.
    pub fn takes_no_discs(&mut self) {
        self.hello.extra.remove("migration_address");
    }

    /// Something about what it has changes by itself.
    pub fn say(&self, name: &str, changes: &Value) {
        let (name, changes): (ResourceName, _) = (name.parse().unwrap(), changes.as_object().unwrap());
        apply_update(self.state.lock().unwrap().resources.get_mut(&name).unwrap(), changes);
        if let Some(orders) = &self.orders {
            let _ = orders.send(Notice::Updated(name, json!(changes)));
        }
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.hello.node
    }

    /// Connects, and stays connected.
    pub fn connect(&mut self) {
        let config = NodeConfig { brains: vec![self.brain], bind: None, hello: self.hello.clone() };
        let (orders, mut notices) = tokio::sync::mpsc::unbounded_channel();
        let (state, fuse, role) = (Arc::clone(&self.state), Arc::clone(&self.fuse), self.hello.role);
        self.orders = Some(orders);
        self.task = Some(tokio::spawn(async move {
            let mut link = connect_node(config);
            loop {
                tokio::select! {
                    event = link.next() => handle(&mut link, event, role, &state, &fuse),
                    Some(notice) = notices.recv() => link.notify(notice),
                }
            }
        }));
    }

    /// Cuts the connection; what it has stays.
    pub fn disconnect(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.orders = None;
    }

    /// A VM ends by itself.
    pub fn vm_ends(&self, vm: &str, reason: &str) {
        let name: ResourceName = vm.parse().unwrap();
        self.state.lock().unwrap().resources.remove(&name);
        if let Some(orders) = &self.orders {
            let _ = orders.send(Notice::Destroyed(name, json!({"reason": reason})));
        }
    }

    /// What it has under a name.
    pub fn get(&self, name: &str) -> Option<Map<String, Value>> {
        self.state.lock().unwrap().resources.get(&name.parse().unwrap()).cloned()
    }

    /// True when it was told to send a disc with this attribute.
    pub fn orders_with(&self, attribute: &str, value: &Value) -> bool {
        self.state.lock().unwrap().commands.iter().any(|command| match command {
            Command::Update(_, changes) => changes.get("migration").is_some_and(|order| order[attribute] == *value),
            Command::Create(..) | Command::Remove(..) => false,
        })
    }

    /// How many commands of one kind it was given.
    pub fn count(&self, kind: fn(&Command) -> bool) -> usize {
        self.state.lock().unwrap().commands.iter().filter(|command| kind(command)).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.disconnect();
    }
}

fn handle(link: &mut NodeLink, event: NodeEvent, role: Role, state: &Mutex<State>, fuse: &Fuse) {
    let mut state = state.lock().unwrap();
    match event {
        NodeEvent::Welcomed(_) => {
            let own = state.resources.iter().map(|(name, value)| (name.clone(), Value::Object(value.clone())));
            let mut all: Vec<_> = own.collect();
            all.push(match role {
                Role::Tail => ("global.storage_pools".parse().unwrap(), pools()),
                Role::Head => ("global.memory".parse().unwrap(), json!(4096)),
            });
            link.dump(all);
        }
        NodeEvent::Command { ticket, command } => {
            state.commands.push(command.clone());
            let (answer, notices) = match role {
                Role::Tail => tail(&mut state, command),
                Role::Head => head(&mut state, command),
            };
            if fuse.burn() {
                link.answer(ticket, answer);
                notices.into_iter().for_each(|notice| link.notify(notice));
            }
        }
        NodeEvent::Disconnected { .. } => {}
    }
}

fn pools() -> Value {
    let pool = |grade: &str| json!({"grade": grade, "size": 100u64 << 30, "free": 90u64 << 30, "allocated": 0, "promised": 0, "discs": 0});
    json!({"sata1": pool("sata"), "ssd1": pool("ssd")})
}

fn no(error: &str) -> Answer {
    Answer::No(Refusal { error: error.to_owned(), message: format!("a fake node says {error}") })
}

fn tail(state: &mut State, command: Command) -> (Answer, Vec<Notice>) {
    let ok = Answer::Ok(Map::new());
    match command {
        Command::Create(name, order) => {
            let address = "fd00:b16:0:d::1";
            let answer = Answer::Ok(Map::from_iter([("address".to_owned(), json!(address))]));
            if state.resources.contains_key(&name) {
                return (answer, vec![]);
            }
            let incoming = order.contains_key("incoming");
            let imports = order.get("image").is_some_and(|image| !image.is_null());
            let mut report = Map::new();
            for attribute in ["size", "storage_pool", "generation"] {
                report.insert(attribute.to_owned(), order[attribute].clone());
            }
            report.extend([
                ("attachments_version".to_owned(), json!(0)),
                ("attachments".to_owned(), json!([])),
                ("address".to_owned(), json!(address)),
                ("allocated".to_owned(), json!(0)),
                ("state".to_owned(), json!("serving")),
            ]);
            if incoming {
                report.remove("attachments");
                report.extend([("state".to_owned(), json!("receiving")), ("owner".to_owned(), json!("incoming"))]);
            }
            state.resources.insert(name.clone(), report.clone());
            let mut notices = vec![];
            if imports {
                report.insert("state".to_owned(), json!("importing"));
                notices.push(Notice::Created(name.clone(), Value::Object(report)));
                notices.push(Notice::Updated(name.clone(), json!({"progress": 50})));
                notices.push(Notice::Updated(name, json!({"state": "serving", "progress": null, "allocated": 4096})));
            } else {
                notices.push(Notice::Created(name, Value::Object(report)));
            }
            (answer, notices)
        }
        Command::Update(name, mut changes) => {
            let Some(report) = state.resources.get_mut(&name) else { return (no("not-found"), vec![]) };
            let lower = |attribute: &str| {
                let new = changes.get(attribute).and_then(Value::as_u64);
                new.is_some_and(|new| new < report[attribute].as_u64().unwrap())
            };
            if lower("attachments_version") {
                return (no("stale-attachments"), vec![]);
            }
            if let Some(order) = changes.remove("migration") {
                if report.get("owner").is_some_and(|owner| owner != "owner") {
                    return (no("moved"), vec![]);
                }
                changes.insert("migration".to_owned(), sending(report, &order));
            }
            if let Some(order) = changes.remove("promote") {
                changes.extend([
                    ("owner".to_owned(), json!("owner")),
                    ("state".to_owned(), json!("serving")),
                    ("generation".to_owned(), order["generation"].clone()),
                    ("attachments".to_owned(), json!([])),
                    ("attachments_version".to_owned(), order["attachments_version"].clone()),
                ]);
            }
            if let Some(order) = changes.remove("retire") {
                changes.extend([
                    ("owner".to_owned(), json!("retired")),
                    ("state".to_owned(), json!("moved")),
                    ("generation".to_owned(), order["generation"].clone()),
                ]);
            }
            changes.remove("image");
            changes.remove("force");
            hash_keys(&mut changes);
            apply_update(report, &changes);
            (ok, vec![Notice::Updated(name, Value::Object(changes))])
        }
        Command::Remove(name, _) => match state.resources.remove(&name) {
            None => (no("not-found"), vec![]),
            Some(_) => (ok, vec![Notice::Destroyed(name, json!({}))]),
        },
    }
}

/// What a source says of a move that it was ordered to make, or to make no more.
fn sending(report: &Map<String, Value>, order: &Value) -> Value {
    if order.is_null() {
        let mut own = report.get("migration").cloned().unwrap_or_default();
        if own.is_object() {
            own["phase"] = json!("failed");
            own["error"] = json!({"kind": "cancelled", "message": "it was called off"});
        }
        return own;
    }
    json!({"id": order["id"], "role": "source", "peer": order["target"], "generation": order["generation"],
        "phase": "copying", "pass": 1, "bytes_copied": 1, "bytes_left": 9})
}

fn head(state: &mut State, command: Command) -> (Answer, Vec<Notice>) {
    let ok = Answer::Ok(Map::new());
    match command {
        Command::Create(name, _) if state.resources.contains_key(&name) => (no("exists"), vec![]),
        Command::Create(name, mut resource) => {
            resource.remove("management_ssh_keys");
            hash_keys(&mut resource);
            state.resources.insert(name.clone(), resource.clone());
            (ok, vec![Notice::Created(name, Value::Object(resource))])
        }
        Command::Update(name, mut changes) => {
            let Some(resource) = state.resources.get_mut(&name) else { return (no("not-found"), vec![]) };
            if changes.remove("signal").is_some() {
                return (ok, vec![]);
            }
            hash_keys(&mut changes);
            apply_update(resource, &changes);
            (ok, vec![Notice::Updated(name, Value::Object(changes))])
        }
        Command::Remove(name, why) => match state.resources.remove(&name) {
            None => (no("not-found"), vec![]),
            Some(_) => (ok, vec![Notice::Destroyed(name, Value::Object(why))]),
        },
    }
}

fn hash_keys(attributes: &mut Map<String, Value>) {
    if let Some(Value::String(key)) = attributes.remove("key") {
        attributes.insert("key_hash".to_owned(), json!(Secret::new(key).hash()));
    }
    attributes.remove("password");
    for value in attributes.values_mut() {
        match value {
            Value::Object(inner) => hash_keys(inner),
            Value::Array(items) => items.iter_mut().filter_map(Value::as_object_mut).for_each(hash_keys),
            _ => {}
        }
    }
}
