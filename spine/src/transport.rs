//! The only part of the spine that does I/O: it moves bytes between sockets and sessions.
//!
//! A node calls [`connect_node`] once and keeps the [`NodeLink`] for life: it connects again for
//! ever. The brain calls [`accept_node`] for each connection it accepts. Neither blocks the other
//! side: what cannot be sent is queued within the protocol's bounds, and a reader that is behind
//! stops the socket from being read.

use crate::{
    id::ResourceName,
    message::{Answer, Command, Hello, Notice, Tag, Welcome},
    session::{BrainSaid, BrainSession, NodeSaid, NodeSession, Session},
};
use bytes::{Buf, Bytes};
use serde_json::Value;
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};

/// Events that may wait for their reader before the socket is no longer read.
const EVENTS_MAX: usize = 256;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How long one attempt to connect may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last words of a closed session may take to leave.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);
/// The first wait between attempts to connect, doubled up to the last.
const BACK_OFF_FIRST: Duration = Duration::from_millis(200);
const BACK_OFF_LAST: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for this long is gone: with a power cut no FIN comes.
const USER_TIMEOUT: Duration = Duration::from_secs(25);

/// How a node finds its brain.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The brains' addresses, tried in turn.
    pub brains: Vec<SocketAddr>,
    /// The node's own address on the spine LAN; none lets the kernel choose.
    pub bind: Option<IpAddr>,
    /// Who the node is. Its `cluster` and `epoch` are raised by each welcome.
    pub hello: Hello,
}

/// What happens on a node's link.
#[derive(Debug)]
pub enum NodeEvent {
    /// Connected: call [`NodeLink::dump`] with all the node has.
    Welcomed(Welcome),
    /// An order.
    Command {
        /// For the answer.
        ticket: Ticket,
        /// What to do.
        command: Command,
    },
    /// The connection ended, or could not be made; another attempt follows by itself.
    Disconnected {
        /// For people.
        reason: String,
    },
}

/// Which command of which connection an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    connection: u64,
    tag: Tag,
}

/// A node's link to its brain, through any number of connections.
#[derive(Debug)]
pub struct NodeLink {
    events: mpsc::Receiver<(u64, NodeEvent)>,
    sender: NodeSender,
    connection: u64,
}

/// The sending half of a [`NodeLink`], for tasks that finish a command later.
#[derive(Debug, Clone)]
pub struct NodeSender {
    inputs: mpsc::UnboundedSender<NodeInput>,
}

#[derive(Debug)]
enum NodeInput {
    Dump { connection: u64, resources: Vec<(ResourceName, Value)> },
    Answer(Ticket, Answer),
    Notice(Notice),
}

impl NodeLink {
    /// The next event. It never ends.
    pub async fn next(&mut self) -> NodeEvent {
        match self.events.recv().await {
            Some((connection, event)) => {
                self.connection = connection;
                event
            }
            // The task ends only when the link is dropped.
            None => std::future::pending().await,
        }
    }

    /// Answers [`NodeEvent::Welcomed`]: sent as `created` each, then `ready`.
    pub fn dump(&self, resources: Vec<(ResourceName, Value)>) {
        self.sender.input(NodeInput::Dump { connection: self.connection, resources });
    }

    /// Answers a command.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        self.sender.answer(ticket, answer);
    }

    /// Says something untagged; dropped while there is no connection.
    pub fn notify(&self, notice: Notice) {
        self.sender.notify(notice);
    }

    /// A sender for other tasks.
    pub fn sender(&self) -> NodeSender {
        self.sender.clone()
    }
}

impl NodeSender {
    /// Answers a command. If its connection is gone the answer is dropped.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        self.input(NodeInput::Answer(ticket, answer));
    }

    /// Says something untagged; dropped while there is no connection, since the next dump says it.
    pub fn notify(&self, notice: Notice) {
        self.input(NodeInput::Notice(notice));
    }

    fn input(&self, input: NodeInput) {
        // Without a receiver the link is being dropped, and there is nobody to tell.
        let _ = self.inputs.send(input);
    }
}

/// Starts a task that keeps the node connected to its brain until the link is dropped.
pub fn connect_node(config: NodeConfig) -> NodeLink {
    let (inputs, input_receiver) = mpsc::unbounded_channel();
    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(keep_connected(config, input_receiver, event_sender));
    NodeLink { events, sender: NodeSender { inputs }, connection: 0 }
}

async fn keep_connected(
    mut config: NodeConfig,
    mut inputs: mpsc::UnboundedReceiver<NodeInput>,
    events: mpsc::Sender<(u64, NodeEvent)>,
) {
    let mut back_off = BACK_OFF_FIRST;
    for (connection, brain) in (1u64..).zip(config.brains.clone().into_iter().cycle()) {
        let attempt = timeout(CONNECT_DEADLINE, connect(brain, config.bind));
        let reason = match while_dropping(&mut inputs, attempt).await {
            None => return,
            Some(Err(_)) => format!("{brain} did not answer"),
            Some(Ok(Err(error))) => format!("cannot connect to {brain}: {error}"),
            Some(Ok(Ok(stream))) => {
                let mut node = NodeDriver { connection, welcomed: None, reason: String::new() };
                let session = NodeSession::new(config.hello.clone(), 0);
                let goes_on = drive(stream, session, &mut node, &mut inputs, &events).await;
                if let Some(welcome) = node.welcomed {
                    back_off = BACK_OFF_FIRST;
                    config.hello.cluster = Some(welcome.cluster);
                    config.hello.epoch = config.hello.epoch.max(welcome.epoch);
                }
                if !goes_on {
                    return;
                }
                node.reason
            }
        };
        if events.send((connection, NodeEvent::Disconnected { reason })).await.is_err() {
            return;
        }
        if while_dropping(&mut inputs, tokio::time::sleep(back_off)).await.is_none() {
            return;
        }
        back_off = (back_off * 2).min(BACK_OFF_LAST);
    }
}

/// Waits for `future`, dropping inputs meanwhile: without a connection they have nowhere to go.
/// None when the link was dropped.
async fn while_dropping<T>(
    inputs: &mut mpsc::UnboundedReceiver<NodeInput>,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(future);
    loop {
        tokio::select! {
            output = &mut future => return Some(output),
            input = inputs.recv() => input.map(drop)?,
        }
    }
}

async fn connect(brain: SocketAddr, bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if brain.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if let Some(address) = bind {
        socket.bind(SocketAddr::new(address, 0))?;
    }
    let stream = socket.connect(brain).await?;
    set_options(&stream)?;
    Ok(stream)
}

/// Keepalive and user timeout: a peer whose power was cut is noticed within half a minute.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// The brain's side of one connection.
#[derive(Debug)]
pub struct BrainLink {
    events: mpsc::Receiver<NodeSaid>,
    sender: BrainSender,
}

/// The sending half of a [`BrainLink`].
#[derive(Debug, Clone)]
pub struct BrainSender {
    inputs: mpsc::UnboundedSender<BrainInput>,
    next_tag: Arc<AtomicU64>,
}

#[derive(Debug)]
enum BrainInput {
    Welcome(Welcome),
    Command(Tag, Command),
    Close(String),
}

impl BrainLink {
    /// What the node said next. After [`NodeSaid::Closed`] it does not return.
    pub async fn next(&mut self) -> NodeSaid {
        match self.events.recv().await {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }

    /// Lets the node in, after [`NodeSaid::Hello`].
    pub fn welcome(&self, welcome: Welcome) {
        self.sender.input(BrainInput::Welcome(welcome));
    }

    /// Closes the connection, telling the node why.
    pub fn close(&self, reason: &str) {
        self.sender.close(reason);
    }

    /// Orders something; the tag comes back in [`NodeSaid::Answered`].
    pub fn command(&self, command: Command) -> Tag {
        self.sender.command(command)
    }

    /// A sender for other tasks.
    pub fn sender(&self) -> BrainSender {
        self.sender.clone()
    }
}

impl BrainSender {
    /// Orders something; the tag comes back in [`NodeSaid::Answered`].
    pub fn command(&self, command: Command) -> Tag {
        let tag = Tag(self.next_tag.fetch_add(1, Ordering::Relaxed));
        self.input(BrainInput::Command(tag, command));
        tag
    }

    /// Closes the connection, telling the node why.
    pub fn close(&self, reason: &str) {
        self.input(BrainInput::Close(reason.to_owned()));
    }

    fn input(&self, input: BrainInput) {
        // Without a receiver the connection is gone, which its reader is told by `Closed`.
        let _ = self.inputs.send(input);
    }
}

/// Starts a task for a connection that was just accepted.
pub fn accept_node(stream: TcpStream) -> BrainLink {
    let (inputs, mut input_receiver) = mpsc::unbounded_channel();
    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(async move {
        if let Err(error) = set_options(&stream) {
            let reason = format!("cannot set the socket's options: {error}");
            let _ = event_sender.send(NodeSaid::Closed { reason }).await;
            return;
        }
        drive(stream, BrainSession::new(0), &mut BrainDriver, &mut input_receiver, &event_sender).await;
    });
    BrainLink { events, sender: BrainSender { inputs, next_tag: Arc::new(AtomicU64::new(1)) } }
}

/// The side-specific part of [`drive`].
trait Driver {
    type Session: Session;
    type Input;
    type Output;
    fn input(&self, session: &mut Self::Session, input: Self::Input);
    fn output(&mut self, event: <Self::Session as Session>::Event) -> Option<Self::Output>;
}

struct NodeDriver {
    connection: u64,
    welcomed: Option<Welcome>,
    reason: String,
}

impl Driver for NodeDriver {
    type Session = NodeSession;
    type Input = NodeInput;
    type Output = (u64, NodeEvent);

    fn input(&self, session: &mut NodeSession, input: NodeInput) {
        match input {
            NodeInput::Dump { connection, resources } if connection == self.connection => {
                session.handle_dump(resources)
            }
            NodeInput::Answer(ticket, answer) if ticket.connection == self.connection => {
                session.handle_answer(ticket.tag, answer);
            }
            NodeInput::Notice(notice) => session.handle_notice(notice),
            NodeInput::Dump { .. } | NodeInput::Answer(..) => {}
        }
    }

    fn output(&mut self, event: BrainSaid) -> Option<(u64, NodeEvent)> {
        let event = match event {
            BrainSaid::Welcomed(welcome) => {
                self.welcomed = Some(welcome);
                NodeEvent::Welcomed(welcome)
            }
            BrainSaid::Command(tag, command) => {
                NodeEvent::Command { ticket: Ticket { connection: self.connection, tag }, command }
            }
            BrainSaid::Closed { reason } => {
                self.reason = reason;
                return None;
            }
        };
        Some((self.connection, event))
    }
}

struct BrainDriver;

impl Driver for BrainDriver {
    type Session = BrainSession;
    type Input = BrainInput;
    type Output = NodeSaid;

    fn input(&self, session: &mut BrainSession, input: BrainInput) {
        match input {
            BrainInput::Welcome(welcome) => session.handle_welcome(welcome),
            BrainInput::Command(tag, command) => session.handle_command(tag, command),
            BrainInput::Close(reason) => session.handle_close(&reason),
        }
    }

    fn output(&mut self, event: NodeSaid) -> Option<NodeSaid> {
        Some(event)
    }
}

/// Runs one connection to its end. False when nobody is interested any more: every handle is gone.
async fn drive<D: Driver>(
    mut stream: TcpStream,
    mut session: D::Session,
    driver: &mut D,
    inputs: &mut mpsc::UnboundedReceiver<D::Input>,
    events: &mpsc::Sender<D::Output>,
) -> bool {
    let started = Instant::now();
    let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0u8; READ_BYTES];
    let mut sending = Bytes::new();
    let mut interested = true;
    loop {
        while let Some(event) = session.poll_event() {
            let Some(output) = driver.output(event) else { continue };
            // While the reader is behind nothing is read; what it sends meanwhile waits in `inputs`.
            interested &= events.send(output).await.is_ok();
        }
        if !sending.has_remaining() {
            sending = session.poll_transmit().unwrap_or_default();
        }
        if session.is_closed() || !interested {
            break;
        }
        let wait_ms = session.poll_timeout().map(|at_ms| at_ms.saturating_sub(now_ms()));
        tokio::select! {
            written = writer.write_buf(&mut sending), if sending.has_remaining() => {
                if let Err(error) = written {
                    session.handle_disconnect(&format!("the connection broke: {error}"));
                }
            }
            received = reader.read(&mut buffer) => match received {
                Ok(0) => session.handle_disconnect("the peer closed the connection"),
                Ok(count) => session.handle_bytes(&buffer[..count]),
                Err(error) => session.handle_disconnect(&format!("the connection broke: {error}")),
            },
            input = inputs.recv() => match input {
                Some(input) => driver.input(&mut session, input),
                None => {
                    interested = false;
                    session.handle_close("the daemon is stopping");
                }
            },
            () = tokio::time::sleep(Duration::from_millis(wait_ms.unwrap_or(0))), if wait_ms.is_some() => {
                session.handle_timeout(now_ms());
            }
        }
    }
    let last_words = async {
        while sending.has_remaining() {
            writer.write_all_buf(&mut sending).await?;
            sending = session.poll_transmit().unwrap_or_default();
        }
        writer.shutdown().await
    };
    // The peer may be gone already; there is nothing more to be done about it.
    let _ = timeout(GOODBYE_DEADLINE, last_words).await;
    interested
}
