//! A brain that does what a test tells it to.

use serde_json::{Value, json};
use spine::{
    id::{Epoch, ResourceName},
    message::{Answer, Command, Hello, Welcome},
    resource::{Attributes, apply_update},
    session::NodeSaid,
    transport::{BrainLink, accept_node},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use uuid::Uuid;

/// Nothing that a tail does in these tests takes longer, also on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A listening brain, and its picture of the tail that is connected.
pub struct Brain {
    listener: TcpListener,
    link: Option<BrainLink>,
    /// How the tail introduced itself.
    pub hello: Option<Hello>,
    /// What it has.
    pub resources: BTreeMap<ResourceName, Value>,
    /// The epoch of the next welcome.
    pub epoch: u64,
}

impl Brain {
    /// Listens; nobody is connected yet.
    pub async fn listen() -> Self {
        Self::listen_for(1).await
    }

    /// Listens for that tail.
    pub async fn listen_for(number: u16) -> Self {
        let address = format!("[fd00:b16:0:2::1]:{}", 7769 + number);
        let listener = TcpListener::bind(address).await.unwrap();
        Self { listener, link: None, hello: None, resources: BTreeMap::new(), epoch: 1 }
    }

    /// Waits for the tail and for everything it has.
    pub async fn connect(&mut self) {
        self.link = None;
        self.resources.clear();
        let (stream, _) = timeout(DEADLINE, self.listener.accept()).await.expect("the tail connects").unwrap();
        let link = self.link.insert(accept_node(stream));
        match timeout(DEADLINE, link.next()).await.expect("the tail says hello") {
            NodeSaid::Hello(hello) => self.hello = Some(hello),
            other => panic!("{other:?} came before hello"),
        }
        link.welcome(Welcome { spine: 1, cluster: Uuid::from_u128(7), epoch: Epoch(self.epoch) });
        while !self.step().await {}
    }

    /// Lets go of the tail, as a brain that ends.
    pub fn lose(&mut self) {
        self.link = None;
    }

    /// Applies one message; true when it was `ready`.
    async fn step(&mut self) -> bool {
        let said = timeout(DEADLINE, self.link.as_mut().unwrap().next()).await.expect("the tail says something");
        matches!(self.apply(said), Some(NodeSaid::Ready))
    }

    /// Keeps the picture; gives back what is not part of it.
    fn apply(&mut self, said: NodeSaid) -> Option<NodeSaid> {
        match said {
            NodeSaid::Created(name, value) => {
                assert!(self.resources.insert(name.clone(), value).is_none(), "{name} was created twice");
            }
            NodeSaid::Updated(name, changes) => {
                let value = self.resources.get_mut(&name).unwrap_or_else(|| panic!("{name} is updated before created"));
                match (value, changes) {
                    (Value::Object(value), Value::Object(changes)) => apply_update(value, &changes),
                    (value, changes) => *value = changes,
                }
            }
            NodeSaid::Destroyed(name, _) => {
                assert!(self.resources.remove(&name).is_some(), "{name} is destroyed and was not there");
            }
            other => return Some(other),
        }
        None
    }

    /// Sends a command and waits for its answer.
    pub async fn order(&mut self, command: Command) -> Answer {
        let wanted = self.link.as_mut().unwrap().command(command.clone());
        let answered = async {
            loop {
                let said = self.link.as_mut().unwrap().next().await;
                match self.apply(said) {
                    Some(NodeSaid::Answered { tag, answer }) if tag == wanted => return answer,
                    Some(other) => panic!("{other:?} instead of an answer"),
                    None => {}
                }
            }
        };
        // The whole wait, for the tail says other things every few seconds.
        timeout(DEADLINE, answered).await.unwrap_or_else(|_| panic!("no answer to {command:?}"))
    }

    /// Sends `create NAME value` and does not wait for the answer.
    pub fn send_create(&mut self, name: &str, value: Value) {
        let _ = self.link.as_mut().unwrap().command(Command::Create(name.parse().unwrap(), object(value)));
    }

    /// `create NAME value`.
    pub async fn create(&mut self, name: &str, value: Value) -> Answer {
        self.order(Command::Create(name.parse().unwrap(), object(value))).await
    }

    /// `update NAME value`.
    pub async fn update(&mut self, name: &str, value: Value) -> Answer {
        self.order(Command::Update(name.parse().unwrap(), object(value))).await
    }

    /// `remove NAME {"generation":…}`.
    pub async fn remove(&mut self, name: &str, generation: u64) -> Answer {
        self.order(Command::Remove(name.parse().unwrap(), object(json!({ "generation": generation })))).await
    }

    /// What the tail says of a resource.
    pub fn resource(&self, name: &str) -> Option<&Value> {
        self.resources.get(&name.parse().unwrap())
    }

    /// Takes messages in until the picture is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !wanted(self) {
                self.step().await;
            }
        };
        let done = timeout(DEADLINE, waiting).await.is_ok();
        assert!(done, "{what} does not happen; the brain's picture: {:#?}", self.resources);
    }
}

/// Asserts that an answer is `ok`.
#[track_caller]
pub fn ok(answer: Answer) -> Attributes {
    match answer {
        Answer::Ok(attributes) => attributes,
        other => panic!("{other:?}"),
    }
}

/// Asserts that an answer is `no` with this word, and returns the message.
#[track_caller]
pub fn no(answer: Answer, word: &str) -> String {
    match answer {
        Answer::No(refusal) if refusal.error == word => refusal.message,
        other => panic!("{other:?} instead of no {word}"),
    }
}

fn object(value: Value) -> Attributes {
    match value {
        Value::Object(attributes) => attributes,
        other => panic!("{other} is no object"),
    }
}
