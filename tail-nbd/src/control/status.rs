//! What `tail-nbd status` and `tail-nbd reload` ask: a unix socket that takes one line of JSON from each
//! connection and answers with another. An empty line, or none, asks for the status.

use super::{facts::Facts, rates::Rates, session::Connection};
use crate::{
    describe::describe,
    metrics::{Histogram, text::Snapshot},
    shard::{DiscStatus, ShardStatus},
    store::{Store, change},
    tls::Front,
    upgrade::giver::{Order, Report, Successors},
};
use serde::{Deserialize, Serialize};
use spine::{
    id::{DiscNumber, Grade, NodeName},
    resource::{disc::DiscReport, global::StoragePools},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};

/// Who may ask at a time; the others wait.
const CLIENTS_MAX: usize = 8;

/// How long one may take to read its answer, and how long the asking side waits for it.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a reload may take: it waits for the disc's requests in flight and for its lock.
const RELOAD_DEADLINE: Duration = Duration::from_secs(60);

/// Longest question in bytes: it may have two paths of 4 KiB.
const QUESTION_BYTES_MAX: u64 = 16 << 10;

/// How long the asking side waits for an upgrade: all of its deadlines together.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(150);

/// Of a longer question so many bytes are read, and not looked at.
const IGNORED_BYTES_MAX: u64 = 64 << 10;

/// Longest answer that is believed: [`spine::limits::RESOURCES_MAX`] discs of a few hundred bytes each
/// with some clients.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// How the tail does: a [`Status`].
    Status,
    /// Open a disc again, and forget that a flush of it failed: an [`Outcome`].
    Reload(DiscNumber),
    /// Have another program take over: a [`Report`], or why not.
    Upgrade(Order),
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Outcome {
    /// Why it was not done; none when it was.
    error: Option<String>,
}

/// The state of a tail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it is called.
    pub name: NodeName,
    /// The version of the program.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// The connection to the brain: `connected`, or why not.
    pub brain: String,
    /// What of io_uring is used.
    pub features: String,
    /// Load of the machine.
    pub load: [f64; 3],
    /// The storage pools.
    pub pools: StoragePools,
    /// The discs, by number.
    pub discs: Vec<Disc>,
    /// The shards, in order.
    pub shards: Vec<Shard>,
    /// Limits that an operator may meet, by name.
    pub limits: BTreeMap<String, u64>,
    /// Those that were met since the start, and how often; each try of whoever waits counts.
    #[serde(default)]
    pub shortages: BTreeMap<String, u64>,
}

/// One disc.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disc {
    /// Its number.
    pub number: DiscNumber,
    /// Its grade.
    pub grade: Grade,
    /// What the brain is told of it.
    pub report: DiscReport,
    /// Addresses of the clients that are let in, one for each connection.
    pub clients: Vec<IpAddr>,
    /// Their requests that are being worked on.
    pub requests_in_flight_count: u64,
    /// What it has done since it was opened.
    pub counters: Counters,
    /// What it did each second between two looks, for who has looked twice. The tail itself tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// Totals of a disc since it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// READ requests.
    pub reads_count: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// How long they took.
    pub read_latency_us: Latency,
    /// WRITE requests.
    pub writes_count: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// How long they took.
    pub write_latency_us: Latency,
    /// Flushes.
    pub flushes_count: u64,
    /// How long they took.
    pub flush_latency_us: Latency,
    /// TRIM and WRITE_ZEROES requests.
    pub zeroes_count: u64,
    /// How long they took.
    pub zero_latency_us: Latency,
    /// Requests answered with an error.
    pub errors_count: u64,
    /// The same by what the client was told: EIO, ENOSPC, and so on.
    pub errors: BTreeMap<String, u64>,
    /// Clients that were refused.
    pub refused_count: u64,
    /// Clients that were cut off because they did not take their replies.
    #[serde(default)]
    pub deaf_count: u64,
}

/// How long requests took, from arrival to answer, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// On average.
    pub mean: u64,
    /// Half of them were no slower than this; none when there were none, or it is more than a second.
    pub p50: Option<u64>,
    /// 99 of 100 were no slower than this.
    pub p99: Option<u64>,
}

/// One shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Discs that it has open.
    pub discs_count: usize,
    /// Their connections.
    pub clients_count: usize,
    /// Turns of its loop.
    pub turns_count: u64,
    /// Completions that it worked on in those turns.
    pub completions_count: u64,
    /// Sends, each with all replies of a connection that were ready.
    pub sends_count: u64,
    /// Data buffers in use now.
    pub buffers_taken_count: usize,
    /// Requests and connections that wait for a buffer now.
    pub waiting_count: usize,
}

/// What a status is made from.
#[derive(Debug, Clone)]
pub struct Source {
    /// What the tail is called.
    pub name: NodeName,
    /// When it was started.
    pub started: Instant,
    /// The discs.
    pub store: Arc<Store>,
    /// The connection to the brain.
    pub connection: watch::Receiver<Connection>,
    /// Files that the process may have open.
    pub open_files_max: u64,
    /// Who may take over.
    pub successors: Successors,
    /// Where clients get TLS, if they do.
    pub front: Option<Front>,
}

impl Source {
    async fn status(&self) -> Status {
        let store = self.store.clone();
        let facts = tokio::task::spawn_blocking(move || Facts::look(&store)).await.unwrap_or_default();
        let shards = self.store.shards().status().await;
        let served = || shards.iter().flat_map(|shard| &shard.discs);
        let served: BTreeMap<DiscNumber, &DiscStatus> = served().map(|disc| (disc.number, disc)).collect();
        let discs = self.store.reports().into_iter().map(|(name, report)| {
            let served = served.get(&name.number).copied();
            let attached = |served: &DiscStatus| {
                served.clients.iter().filter(|client| client.attached).map(|client| client.peer).collect()
            };
            let in_flight = |served: &DiscStatus| {
                served.clients.iter().map(|client| u64::from(client.requests_in_flight_count)).sum()
            };
            Disc {
                number: name.number,
                grade: name.grade,
                report,
                clients: served.map(attached).unwrap_or_default(),
                requests_in_flight_count: served.map_or(0, in_flight),
                counters: served.map(Counters::of).unwrap_or_default(),
                rates: None,
            }
        });
        let discs = discs.collect();
        Status {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            brain: match &*self.connection.borrow() {
                Connection::Connected => "connected".to_owned(),
                Connection::Disconnected(reason) => reason.clone(),
            },
            features: self.store.shards().features().to_owned(),
            load: facts.load,
            pools: facts.pools,
            discs,
            shards: shards.iter().map(Shard::of).collect(),
            limits: self.limits(),
            shortages: shortages(&shards),
        }
    }

    /// What Prometheus is told.
    pub async fn snapshot(&self) -> Snapshot {
        let store = self.store.clone();
        let facts = tokio::task::spawn_blocking(move || Facts::look(&store)).await.unwrap_or_default();
        Snapshot {
            shards: self.store.shards().status().await,
            names: BTreeMap::new(),
            pools: facts.pools,
            brain_connected: Some(matches!(*self.connection.borrow(), Connection::Connected)),
            tls: self.front.as_ref().map(Front::status),
        }
    }

    fn limits(&self) -> BTreeMap<String, u64> {
        let limits = [
            ("open_files_max", self.open_files_max),
            ("receive_mib", self.store.shards().memory().receive_mib as u64),
            ("data_mib", self.store.shards().memory().data_mib as u64),
            ("resources_max", spine::limits::RESOURCES_MAX as u64),
            ("disc_bytes_max", crate::sidecar::record::DISC_BYTES_MAX),
            ("attachments_max", change::ATTACHMENTS_MAX as u64),
            ("access_list_max", change::LIST_ADDRESSES_MAX as u64),
            ("imports_max", crate::jobs::JOBS_MAX as u64),
            ("orders_max", super::lanes::ORDERS_MAX as u64),
        ];
        limits.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What was short on any shard, without what never was.
fn shortages(shards: &[ShardStatus]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in shards.iter().flat_map(|shard| shard.shortages.by_name()).filter(|(_, count)| *count > 0) {
        *sums.entry(name.to_owned()).or_insert(0) += count;
    }
    sums
}

impl Counters {
    fn of(disc: &DiscStatus) -> Self {
        let counters = &disc.counters;
        let by_kind = counters.errors.by_kind().filter(|(_, count)| *count > 0);
        Self {
            reads_count: counters.reads_count,
            read_bytes: counters.read_bytes,
            read_latency_us: Latency::of(&counters.read_latency_us),
            writes_count: counters.writes_count,
            written_bytes: counters.written_bytes,
            write_latency_us: Latency::of(&counters.write_latency_us),
            flushes_count: counters.flushes_count,
            flush_latency_us: Latency::of(&counters.flush_latency_us),
            zeroes_count: counters.zeroes_count,
            zero_latency_us: Latency::of(&counters.zero_latency_us),
            errors_count: counters.errors.count(),
            errors: by_kind.map(|(kind, count)| (kind.to_owned(), count)).collect(),
            refused_count: counters.refused_count,
            deaf_count: counters.deaf_count,
        }
    }
}

impl Latency {
    fn of(latency: &Histogram) -> Self {
        let mean = latency.sum().checked_div(latency.count()).unwrap_or(0);
        Self { mean, p50: latency.bound_of(0.5), p99: latency.bound_of(0.99) }
    }
}

impl Shard {
    fn of(shard: &ShardStatus) -> Self {
        Self {
            discs_count: shard.discs.len(),
            clients_count: shard.discs.iter().map(|disc| disc.clients.len()).sum(),
            turns_count: shard.turns_count,
            completions_count: shard.completions_per_turn.sum(),
            sends_count: shard.sends_count,
            buffers_taken_count: shard.buffers_taken_count,
            waiting_count: shard.waiting_count,
        }
    }
}

/// A socket that listens, and that nobody finds yet.
#[derive(Debug)]
pub struct Prepared {
    listener: UnixListener,
    at: PathBuf,
    path: PathBuf,
}

/// Listens beside `path`; only its owner may ask. The caller has the lock of the state directory, or is to get it.
///
/// # Errors
/// What the system says.
pub fn prepare(path: &Path) -> io::Result<Prepared> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
    }
    let at = path.with_file_name(NEW_SOCKET);
    match fs::remove_file(&at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&at)?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o600))?;
    Ok(Prepared { listener, at, path: path.to_owned() })
}

/// Shorter than the usual names, so that it fits wherever those do.
const NEW_SOCKET: &str = ".new";

impl Prepared {
    /// Takes the place of whoever listened at the path.
    ///
    /// # Errors
    /// What the system says; whoever asks does not find the listener then.
    pub fn publish(self) -> Result<UnixListener, (io::Error, UnixListener)> {
        match fs::rename(&self.at, &self.path) {
            Ok(()) => Ok(self.listener),
            Err(error) => Err((error, self.listener)),
        }
    }
}

/// Answers until the task is aborted.
pub async fn serve(listener: UnixListener, source: Source) {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut answering = tokio::task::JoinSet::new();
    loop {
        while answering.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                answering.spawn(async move {
                    if let Err(error) = answer(stream, &source).await {
                        tracing::debug!(%error, "an operator's question could not be answered");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the status socket");
                // Out of descriptors, most likely: not at once again.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, source: &Source) -> io::Result<()> {
    // Dropped when the answer is told.
    let (_telling, told) = oneshot::channel();
    let question = timeout(DEADLINE, hear(&mut stream)).await??;
    let question = match question.trim() {
        "" => Ok(Question::Status),
        text => serde_json::from_str(text),
    };
    let mut line = match question {
        Ok(Question::Status) => serde_json::to_vec(&timeout(DEADLINE, source.status()).await?)?,
        Ok(Question::Reload(number)) => {
            let reloaded = timeout(RELOAD_DEADLINE, source.store.reload_for_operator(number)).await;
            let error = match reloaded {
                Ok(reloaded) => reloaded.err().map(|refusal| describe(&refusal)),
                Err(_) => Some("it is not done yet, and goes on: the status will tell".to_owned()),
            };
            serde_json::to_vec(&Outcome { error })?
        }
        Ok(Question::Upgrade(order)) => serde_json::to_vec(&source.successors.install(order, told).await)?,
        Err(error) => serde_json::to_vec(&Outcome { error: Some(format!("the question is not understood: {error}")) })?,
    };
    line.push(b'\n');
    let told = async {
        stream.write_all(&line).await?;
        stream.shutdown().await?;
        // A socket that is closed with something unread takes the answer back from its reader.
        tokio::io::copy(&mut stream.take(IGNORED_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
    };
    timeout(DEADLINE, told).await?
}

async fn hear(stream: &mut UnixStream) -> io::Result<String> {
    let mut question = String::new();
    BufReader::new(stream.take(QUESTION_BYTES_MAX)).read_line(&mut question).await?;
    Ok(question)
}

/// Asks the tail that listens at `path`. Blocks, with a deadline.
///
/// # Errors
/// When no tail answers there.
pub fn ask(path: &Path) -> io::Result<Status> {
    Ok(serde_json::from_slice(&exchange(path, Question::Status, DEADLINE)?)?)
}

/// Has the tail that listens at `path` open a disc again, and returns why it did not, if so. Blocks, with a
/// deadline.
///
/// # Errors
/// When no tail answers there.
pub fn reload(path: &Path, number: DiscNumber) -> io::Result<Result<(), String>> {
    let answer = exchange(path, Question::Reload(number), RELOAD_DEADLINE + DEADLINE)?;
    let Outcome { error } = serde_json::from_slice(&answer)?;
    Ok(error.map_or(Ok(()), Err))
}

/// Has another program take over the discs of the tail that listens at `path`. The inner error says why it did not: the
/// tail serves on. Blocks, with a deadline.
///
/// # Errors
/// When no tail answers there.
pub fn upgrade(path: &Path, order: Order) -> io::Result<Result<Report, String>> {
    Ok(serde_json::from_slice(&exchange(path, Question::Upgrade(order), UPGRADE_DEADLINE)?)?)
}

fn exchange(path: &Path, question: Question, deadline: Duration) -> io::Result<Vec<u8>> {
    let mut stream = BlockingStream::connect(path)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(&question)?).as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
