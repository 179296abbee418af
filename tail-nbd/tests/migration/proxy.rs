//! A proxy between two tails that knows where each frame begins: it holds one, or cuts the connection at it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tail_nbd::migration::wire::{HEADER_BYTES, Header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// Where proxies connect from, and where they listen for the source of a move to either tail.
pub const OWN: &str = "fd00:b16:0:2::1";
pub const TO_TAIL1: &str = "[fd00:b16:0:2::1]:7781";
pub const TO_TAIL2: &str = "[fd00:b16:0:2::1]:7782";

/// What becomes of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All of them pass.
    Pass,
    /// The first that says this, and whatever follows, waits.
    Hold(&'static str),
    /// The connection is cut at the first that says this.
    CutAt(&'static str),
    /// So many pass, then the connection is cut.
    CutAfter(usize),
    /// Nobody gets through: connections are closed at once.
    Refuse,
}

/// The proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    reached: Condvar,
    changed: Notify,
    ended: Notify,
}

struct State {
    rule: Rule,
    frames_count: usize,
    is_reached: bool,
}

impl Proxy {
    /// In the clients' namespace, in front of tail1.
    pub fn to_tail1(namespace: &str) -> Self {
        Self::start(namespace, TO_TAIL1, "[fd00:b16:0:2::21]:7771".parse().unwrap())
    }

    /// In the clients' namespace, in front of tail2.
    pub fn to_tail2(namespace: &str) -> Self {
        Self::start(namespace, TO_TAIL2, "[fd00:b16:0:2::22]:7771".parse().unwrap())
    }

    fn start(namespace: &str, listen: &'static str, tail: SocketAddr) -> Self {
        let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
        let state = Mutex::new(State { rule: Rule::Pass, frames_count: 0, is_reached: false });
        let (reached, changed, ended) = (Condvar::new(), Notify::new(), Notify::new());
        let shared = Arc::new(Shared { state, reached, changed, ended });
        let its = shared.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(listen).await.unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    () = serve(listener, tail, &its) => {}
                    () = its.ended.notified() => {}
                }
            });
        });
        is_ready.recv().expect("it listens");
        Self { shared, thread: Some(thread) }
    }

    /// From now on this holds, and frames are counted anew. What was held is dropped with its connection.
    pub fn rule(&self, rule: Rule) {
        *self.shared.lock() = State { rule, frames_count: 0, is_reached: false };
        self.shared.changed.notify_waiters();
    }

    /// Waits until a frame was held, or a connection cut; false when that does not happen in time.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        while !state.is_reached {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.reached.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// True when a frame was held, or a connection cut.
    pub fn is_reached(&self) -> bool {
        self.shared.lock().is_reached
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody gets through from now on.
    fn cut(&self, state: &mut State) -> io::Error {
        (state.is_reached, state.rule) = (true, Rule::Refuse);
        self.reached.notify_all();
        self.changed.notify_waiters();
        io::ErrorKind::ConnectionAborted.into()
    }

    /// Decides about a frame: `Err` cuts the connection.
    async fn pass(&self, says: &str) -> io::Result<()> {
        let changed = self.changed.notified();
        let holds = {
            let mut state = self.lock();
            let holds = match state.rule {
                Rule::Pass => false,
                Rule::Hold(what) => state.is_reached || what == says,
                Rule::CutAt(what) if what == says => return Err(self.cut(&mut state)),
                Rule::CutAfter(count) if state.frames_count == count => return Err(self.cut(&mut state)),
                Rule::CutAt(_) | Rule::CutAfter(_) => false,
                Rule::Refuse => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            state.frames_count += 1;
            state.is_reached |= holds;
            holds
        };
        if holds {
            self.reached.notify_all();
            changed.await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

async fn serve(listener: TcpListener, tail: SocketAddr, shared: &Arc<Shared>) {
    let own = listener.local_addr().unwrap().ip();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        tokio::spawn(async move {
            if shared.lock().rule != Rule::Refuse {
                // Whatever ends it, both ends are told.
                let _ = connect(stream, own, tail, &shared).await;
            }
        });
    }
}

async fn connect(source: TcpStream, own: IpAddr, tail: SocketAddr, shared: &Shared) -> io::Result<()> {
    let socket = TcpSocket::new_v6()?;
    socket.bind((own, 0).into())?;
    let target = socket.connect(tail).await?;
    source.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let ((from_source, to_source), (from_target, to_target)) = (source.into_split(), target.into_split());
    tokio::select! {
        ended = pump(from_source, to_target, shared) => ended,
        ended = pump(from_target, to_source, shared) => ended,
        () = is_refused(shared) => Ok(()),
    }
}

async fn is_refused(shared: &Shared) {
    loop {
        let changed = shared.changed.notified();
        if shared.lock().rule == Rule::Refuse {
            return;
        }
        changed.await;
    }
}

/// Passes frames on, each whole.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> io::Result<()> {
    loop {
        let mut frame = vec![0; HEADER_BYTES];
        from.read_exact(&mut frame).await?;
        let header = Header::parse(frame[..].try_into().unwrap()).map_err(io::Error::other)?;
        frame.resize(HEADER_BYTES + header.payload_bytes(), 0);
        from.read_exact(&mut frame[HEADER_BYTES..]).await?;
        shared.pass(&says(frame[4], &frame[HEADER_BYTES..])).await?;
        to.write_all(&frame).await?;
    }
}

fn says(kind: u8, payload: &[u8]) -> String {
    match kind {
        1 => {
            let control: Value = serde_json::from_slice(payload).unwrap();
            control["say"].as_str().unwrap().to_owned()
        }
        2 => "data".to_owned(),
        _ => "hole".to_owned(),
    }
}
