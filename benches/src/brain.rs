//! A brain that only knows what the tails tell it, and passes orders on.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use spine::{
    id::{Epoch, NodeName, ResourceName},
    message::{Answer, Command, Tag, Welcome},
    resource::Attributes,
    session::NodeSaid,
    transport::{BrainLink, accept_node},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use uuid::Uuid;

/// No order takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The brain, which runs on a thread of its own until this is dropped.
#[derive(Debug)]
pub struct Brain {
    orders: UnboundedSender<Order>,
    pictures: Arc<Mutex<Pictures>>,
}

/// What each tail that is connected has said.
type Pictures = BTreeMap<NodeName, Picture>;

/// An order that was sent.
#[derive(Debug)]
pub struct Pending {
    what: String,
    answer: mpsc::Receiver<Answer>,
}

#[derive(Debug)]
struct Order {
    node: NodeName,
    command: Command,
    answer: mpsc::Sender<Answer>,
}

/// What a tail has said.
#[derive(Debug, Default)]
struct Picture {
    hello: Attributes,
    ready: bool,
    discs: BTreeMap<ResourceName, Attributes>,
}

impl Brain {
    /// Starts it in the network namespace of this thread.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(address: SocketAddr) -> Result<Self> {
        let (orders, receiver) = unbounded_channel();
        let pictures: Arc<Mutex<Pictures>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address)).context("the brain cannot listen")?;
        let shared = pictures.clone();
        let run = move || runtime.block_on(run(&listener, receiver, &shared));
        thread::Builder::new().name("brain".into()).spawn(run)?;
        Ok(Self { orders, pictures })
    }

    /// Waits until a tail is connected and has told everything; says how many discs it has.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub fn wait_ready(&self, node: &NodeName) -> Result<usize> {
        let until = Instant::now() + DEADLINE;
        loop {
            let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(picture) = pictures.get(node).filter(|picture| picture.ready) {
                return Ok(picture.discs.len());
            }
            drop(pictures);
            if Instant::now() >= until {
                bail!("{node} has not told its brain everything after {DEADLINE:?}");
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// What a tail said when it connected.
    pub fn hello(&self, node: &NodeName) -> Attributes {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        pictures.get(node).map(|picture| picture.hello.clone()).unwrap_or_default()
    }

    /// What a tail says of a resource now.
    pub fn report(&self, node: &NodeName, name: &ResourceName) -> Option<Attributes> {
        let pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        pictures.get(node)?.discs.get(name).cloned()
    }

    /// Sends an order to a tail.
    pub fn order(&self, node: &NodeName, command: Command) -> Pending {
        let (sender, answer) = mpsc::channel();
        let what = format!("{node}: {command:?}");
        // If the thread has ended there will be no answer, and the wait for it says so.
        let _ = self.orders.send(Order { node: node.clone(), command, answer: sender });
        Pending { what, answer }
    }
}

impl Pending {
    /// Waits for the answer, which must be a consent.
    ///
    /// # Errors
    /// When it is a refusal, or there is none.
    pub fn wait(self) -> Result<()> {
        match self.answer.recv_timeout(DEADLINE) {
            Ok(Answer::Ok(_)) => Ok(()),
            Ok(refusal) => bail!("{}: {refusal:?}", self.what),
            Err(_) => bail!("{}: no answer", self.what),
        }
    }
}

async fn run(listener: &TcpListener, mut orders: UnboundedReceiver<Order>, pictures: &Mutex<Pictures>) {
    let (sender, mut said) = unbounded_channel();
    let mut links: HashMap<usize, Link> = HashMap::new();
    let mut nodes: HashMap<NodeName, usize> = HashMap::new();
    let mut accepted_count = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                accepted_count += 1;
                let (commands, receiver) = unbounded_channel();
                tokio::spawn(serve(accepted_count, accept_node(stream), receiver, sender.clone()));
                links.insert(accepted_count, Link { commands, node: None });
            }
            Some((number, said)) = said.recv() => {
                let Some(link) = links.get_mut(&number) else { continue };
                if let NodeSaid::Hello(hello) = &said {
                    link.node = Some(hello.node.clone());
                    nodes.insert(hello.node.clone(), number);
                }
                let Some(node) = link.node.clone() else { continue };
                // What an older connection of the same tail says does not count.
                let current = nodes.get(&node) == Some(&number);
                if matches!(said, NodeSaid::Closed { .. }) {
                    links.remove(&number);
                }
                if current {
                    apply(node, said, &mut pictures.lock().unwrap_or_else(PoisonError::into_inner));
                }
            }
            order = orders.recv() => {
                let Some(order) = order else { return };
                if let Some(link) = nodes.get(&order.node).and_then(|number| links.get(number)) {
                    // Its task has ended: the answer's sender is dropped, which whoever waits is told of.
                    let _ = link.commands.send((order.command, order.answer));
                }
            }
        }
    }
}

struct Link {
    commands: UnboundedSender<(Command, mpsc::Sender<Answer>)>,
    node: Option<NodeName>,
}

/// One connection.
async fn serve(
    number: usize,
    mut link: BrainLink,
    mut commands: UnboundedReceiver<(Command, mpsc::Sender<Answer>)>,
    said: UnboundedSender<(usize, NodeSaid)>,
) {
    let mut unanswered: HashMap<Tag, mpsc::Sender<Answer>> = HashMap::new();
    loop {
        tokio::select! {
            news = link.next() => {
                if let NodeSaid::Hello(_) = news {
                    link.welcome(Welcome { spine: 1, cluster: Uuid::from_u128(1), epoch: Epoch(1) });
                }
                let over = matches!(news, NodeSaid::Closed { .. });
                if let NodeSaid::Answered { tag, answer } = news {
                    // Whoever asked may have given up.
                    let _ = unanswered.remove(&tag).map(|sender| sender.send(answer));
                } else if said.send((number, news)).is_err() || over {
                    return;
                }
            }
            order = commands.recv() => {
                let Some((command, answer)) = order else { return };
                unanswered.insert(link.command(command), answer);
            }
        }
    }
}

fn apply(node: NodeName, said: NodeSaid, pictures: &mut Pictures) {
    match said {
        NodeSaid::Hello(hello) => {
            pictures.insert(node, Picture { hello: hello.extra, ..Picture::default() });
        }
        NodeSaid::Closed { .. } => drop(pictures.remove(&node)),
        said => {
            let picture = pictures.entry(node).or_default();
            match said {
                NodeSaid::Created(name @ ResourceName::Disc(_), value) => {
                    picture.discs.insert(name, object(value));
                }
                NodeSaid::Updated(name @ ResourceName::Disc(_), value) => {
                    picture.discs.entry(name).or_default().extend(object(value));
                }
                NodeSaid::Destroyed(name, _) => drop(picture.discs.remove(&name)),
                NodeSaid::Ready => picture.ready = true,
                _ => {}
            }
        }
    }
}

/// The attributes that a JSON object has.
pub fn object(value: Value) -> Attributes {
    match value {
        Value::Object(attributes) => attributes,
        _ => Attributes::default(),
    }
}
