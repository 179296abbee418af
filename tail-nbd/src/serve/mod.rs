//! The stand-alone server: files over NBD for whoever can connect, without a brain and without root.
//!
//! ```text
//!   listeners (TCP, unix, socket activation)
//!       │ accept                                        one thread (tokio)
//!       ▼
//!     door ── handshake: which export? ──▶ exports (name → file, locked)
//!       │ Shards::adopt: socket + agreement
//!       ▼
//!     shard of that file                                the same data plane as under a brain
//! ```
//!
//! A disc of a tail has an address and a listener of its own, so its shard knows from the start whose client it
//! accepts. Here one listener leads to many files, and which one a client wants is known only after its handshake.
//! So the handshake happens at the door, and then the socket moves to the shard that has the file, for good.
//!
//! Invariants:
//! * a file belongs to one shard, is locked through the very description that serves it, and is opened once;
//! * nothing behind the handshake is received at the door, so nothing has to be carried over but the agreement;
//! * who is silent at the door is closed, and not more than a fixed number can stand there.
//!
//! Deliberately absent: access lists (listen where only friends can connect), files that appear later, resizing.

mod door;
mod error;
mod exports;
mod listen;

pub use error::ServeError;
pub use listen::{Listen, ListenError, is_activated};

use crate::capacity::exports_shortage;
use crate::disc::mode::IoMode;
use crate::metrics::{http, text::Snapshot};
use crate::server::notify;
use crate::shard::{ShardConfig, ShardEvent, Shards};
use crate::sole;
use crate::tls::{Front, FrontConfig, reload_on_hangup};
use door::Door;
use exports::Exports;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// What to serve.
    pub source: Source,
    /// Nobody may change anything.
    pub read_only: bool,
    /// How the files are read and written.
    pub io: IoMode,
    /// Where to listen. None: at the sockets that were passed by a service manager.
    pub listen: Vec<Listen>,
    /// Threads that serve files. A file is served by one of them.
    pub shards_count: usize,
    /// What TLS clients get; none: there is none.
    pub tls: Option<FrontConfig>,
    /// Where Prometheus asks; none: nobody is told.
    pub metrics_listen: Option<SocketAddr>,
    /// Which features of the kernel are left alone.
    pub mask: crate::ring::probe::Mask,
}

/// Where the bytes are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, which gets the empty export name, or a directory, of which each file gets its own name.
    Path(PathBuf),
    /// Nowhere: so many bytes of zeroes, under the empty export name, in which writes are lost and of which nothing
    /// can be synced. It shows what all but the file costs.
    Null(u64),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Null(bytes) => write!(f, "{bytes} bytes of nothing"),
        }
    }
}

/// How long a stop waits for what still looks at the shards.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Serves until `stop` is true.
///
/// # Errors
/// When something cannot be opened, locked, or listened on; when it cannot stop in order.
pub async fn run(config: ServeConfig, stop: watch::Receiver<bool>) -> Result<(), ServeError> {
    let open_files_max = spine::daemon::raise_open_files();
    crate::descriptors::reserve(open_files_max);
    let exports = Arc::new(Exports::open(&config.source, config.read_only, config.io)?);
    if let Some(shortage) = exports_shortage(exports.len(), open_files_max) {
        tracing::warn!("{shortage}");
    }
    let listeners = listen::open(&config.listen)?;
    let front = config.tls.map(Front::start).transpose()?;
    let shards_count = Some(config.shards_count);
    let shard_config = ShardConfig { shards_count, mask: config.mask, ..ShardConfig::default() };
    let (shards, events) = Shards::start(shard_config)?;
    let shards = Arc::new(shards);
    for disc in exports.discs() {
        shards.open(disc?).await?;
    }
    let mut tasks = JoinSet::new();
    if let Some(front) = &front {
        tasks.spawn(reload_on_hangup(Some(front.clone())));
    }
    if let Some(address) = config.metrics_listen {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServeError::Metrics { address, source })?;
        let at = listener.local_addr().unwrap_or(address);
        tracing::info!(%at, "metrics are told at /metrics");
        tasks.spawn(tell_metrics(listener, Arc::clone(&shards), Arc::clone(&exports), front.clone()));
    }
    tasks.spawn(watch_shards(events, Arc::clone(&shards), Arc::clone(&exports)));
    for listener in &listeners {
        tracing::info!(at = %listener.place, source = %config.source, exports = exports.len(), "listening");
    }
    let door = Door { exports, shards: Arc::clone(&shards), front: front.clone(), stop };
    notify("READY=1");
    door::run(listeners, door).await;
    tracing::info!("stopping");
    notify("STOPPING=1");
    tasks.shutdown().await;
    sole::take(shards, STOP_DEADLINE).await.ok_or(ServeError::StillUsed)?.stop().await;
    if let Some(front) = front {
        front.drain().await;
    }
    tracing::info!("stopped");
    Ok(())
}

async fn tell_metrics(listener: TcpListener, shards: Arc<Shards>, exports: Arc<Exports>, front: Option<Front>) {
    let text = move || {
        let (shards, exports, front) = (Arc::clone(&shards), Arc::clone(&exports), front.clone());
        async move {
            let names = exports.labels().collect();
            let tls = front.map(|front| front.status());
            Snapshot { shards: shards.status().await, names, tls, ..Snapshot::default() }.render()
        }
    };
    http::serve(listener, text).await;
}

/// Sync failures are in the log already. A file whose shard panicked is closed and opened again.
async fn watch_shards(mut events: tokio::sync::mpsc::Receiver<ShardEvent>, shards: Arc<Shards>, exports: Arc<Exports>) {
    while let Some(event) = events.recv().await {
        let ShardEvent::Panicked { number, .. } = event else { continue };
        let reopen = async {
            shards.close(number).await?;
            shards.open(exports.disc(number)?).await?;
            Ok::<(), ServeError>(())
        };
        if let Err(error) = reopen.await {
            tracing::error!(%number, error = &error as &dyn std::error::Error, "a file is not served any more");
        }
    }
}
