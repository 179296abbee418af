//! A brain that only knows what the tail tells it, and passes orders on.

use super::net;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use spine::{
    id::{Epoch, ResourceName},
    message::{Answer, Command, Tag, Welcome},
    resource::Attributes,
    session::NodeSaid,
    transport::{BrainLink, accept_node},
};
use std::{
    collections::{BTreeSet, HashMap},
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
    picture: Arc<Mutex<Picture>>,
}

/// An order that was sent.
#[derive(Debug)]
pub struct Pending {
    what: String,
    answer: mpsc::Receiver<Answer>,
}

#[derive(Debug)]
struct Order {
    command: Command,
    answer: mpsc::Sender<Answer>,
}

/// What the tail has said.
#[derive(Debug, Default)]
struct Picture {
    ready: bool,
    discs: BTreeSet<ResourceName>,
}

impl Brain {
    /// Starts it in the network namespace of this thread.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Self> {
        let (orders, receiver) = unbounded_channel();
        let picture: Arc<Mutex<Picture>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(net::BRAIN)).context("the brain cannot listen")?;
        let shared = picture.clone();
        let run = move || runtime.block_on(run(&listener, receiver, &shared));
        thread::Builder::new().name("brain".into()).spawn(run)?;
        Ok(Self { orders, picture })
    }

    /// Waits until the tail is connected and has told everything; says how many discs it has.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub fn wait_ready(&self) -> Result<usize> {
        let until = Instant::now() + DEADLINE;
        loop {
            let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
            if picture.ready {
                return Ok(picture.discs.len());
            }
            drop(picture);
            if Instant::now() >= until {
                bail!("the tail has not told its brain everything after {DEADLINE:?}");
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Orders a disc that the clients may use with `key`.
    pub fn create(&self, number: u64, size_bytes: u64, key: &str) -> Pending {
        let attributes = serde_json::json!({
            "size": size_bytes, "storage_pool": "scale", "generation": 1, "attachments_version": 1,
            "attachments": [{"head": net::CLIENT, "key": key}],
        });
        self.send(Command::Create(name(number), object(attributes)))
    }

    /// Orders the end of a disc.
    pub fn remove(&self, number: u64) -> Pending {
        self.send(Command::Remove(name(number), object(serde_json::json!({"generation": 1}))))
    }

    fn send(&self, command: Command) -> Pending {
        let (sender, answer) = mpsc::channel();
        let what = format!("{command:?}");
        // If the thread has ended there will be no answer, and the wait for it says so.
        let _ = self.orders.send(Order { command, answer: sender });
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

async fn run(listener: &TcpListener, mut orders: UnboundedReceiver<Order>, picture: &Mutex<Picture>) {
    let mut link: Option<BrainLink> = None;
    let mut unanswered: HashMap<Tag, mpsc::Sender<Answer>> = HashMap::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                link = Some(accept_node(stream));
                unanswered.clear();
            }
            said = said(&mut link) => {
                if let NodeSaid::Answered { tag, answer } = said {
                    // Whoever asked may have given up.
                    let _ = unanswered.remove(&tag).map(|sender| sender.send(answer));
                    continue;
                }
                let gone = matches!(said, NodeSaid::Closed { .. });
                apply(said, link.as_ref(), picture);
                if gone {
                    link = None;
                    unanswered.clear();
                }
            }
            order = orders.recv() => {
                let Some(Order { command, answer }) = order else { return };
                if let Some(link) = &link {
                    unanswered.insert(link.command(command), answer);
                }
            }
        }
    }
}

async fn said(link: &mut Option<BrainLink>) -> NodeSaid {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

fn apply(said: NodeSaid, link: Option<&BrainLink>, picture: &Mutex<Picture>) {
    let mut picture = picture.lock().unwrap_or_else(PoisonError::into_inner);
    match said {
        NodeSaid::Hello(_) => {
            *picture = Picture::default();
            if let Some(link) = link {
                link.welcome(Welcome { spine: 1, cluster: Uuid::from_u128(1), epoch: Epoch(1) });
            }
        }
        NodeSaid::Created(name @ ResourceName::Disc(_), _) => drop(picture.discs.insert(name)),
        NodeSaid::Destroyed(name, _) => drop(picture.discs.remove(&name)),
        NodeSaid::Ready => picture.ready = true,
        NodeSaid::Closed { .. } => *picture = Picture::default(),
        NodeSaid::Created(..) | NodeSaid::Updated(..) | NodeSaid::Answered { .. } => {}
    }
}

fn name(number: u64) -> ResourceName {
    format!("disc.scale.{number}").parse().expect("it is the name of a disc")
}

fn object(value: Value) -> Attributes {
    match value {
        Value::Object(attributes) => attributes,
        _ => unreachable!("an object was written"),
    }
}
