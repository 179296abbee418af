//! The process: start and ordered stop.
//!
//! The order of a start matters. The lock on the state directory comes first, so that nothing below
//! happens twice; discs are served before the brain is asked for, because they do not need one (R177).
//! The order of a stop is the reverse; the addresses stay up for the process that follows
//! (safety rule 12). A start that takes over from a running process is the same, but for when the discs are opened and
//! that nothing else is touched before it serves; see [`crate::upgrade`].

use crate::{
    address::{Addresses, KeeperConfig},
    capacity::{Allowed, Needs},
    config::Config,
    control::{
        epoch::{EpochError, Seen},
        session::{Connection, Session},
        status::{self, Source},
    },
    describe::describe,
    descriptors,
    jobs::Jobs,
    metrics::http,
    migration::{budgets::Budgets, link::Network},
    pool::{Pool, PoolError},
    shard::{ShardConfig, ShardEvent, Shards, StartError},
    store::{
        Changed, Parts, Store,
        inherit::{Heirloom, InheritError},
        start::Scan,
    },
    tls::{Front, FrontError, Identity, IdentityError, reload_on_hangup},
    upgrade::{
        giver::{self, Belongings, Report, Successor, Successors, UpgradeError},
        taker::{Loan, TakeOverError, Taker},
    },
};
use spine::{
    daemon::{self, StateDirError},
    id::PoolName,
    limits::VERSIONS,
    message::{Hello, Role},
    resource::{Attributes, migration::MIGRATION_ADDRESS},
    transport::{NodeConfig, connect_node},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    future::Future,
    io,
    net::SocketAddr,
    num::NonZeroU32,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use uuid::Uuid;

/// Why a tail did not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another one uses the state directory, or it cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The system failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A thread was not to be had.
    #[error("cannot start the thread for {what}")]
    Thread {
        /// What it is for.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Metrics cannot be told.
    #[error("cannot listen for Prometheus at metrics_listen {address}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No TLS can be offered.
    #[error(transparent)]
    Tls(#[from] FrontError),
    /// Who this tail is cannot be proved to others.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The shards did not start.
    #[error("cannot serve discs")]
    Shards(#[from] StartError),
    /// A pool cannot be used.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// At the end something in this program still had a share of the discs.
    #[error("the discs were not closed in order: a part of this program still used them")]
    StillUsed,
    /// The epoch cannot be read.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The discs of a running server cannot be taken in.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// A running server does not hand over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// The configuration of the running server differs where it must not.
    #[error("state_dir {} is not the one of the running server", .0.display())]
    OtherStateDir(PathBuf),
    /// This process was to hand over, and cannot say who serves.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
}

/// Runs a tail until `stop` is true, or until a new process has taken it over.
///
/// # Errors
/// When it cannot start, or not stop in order.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), ServerError> {
    let lock = daemon::lock_state_dir(&config.state_dir)?;
    let open_files_max = daemon::raise_open_files();
    descriptors::reserve(open_files_max);
    let seen = Seen::load(&config.state_dir)?;
    let foundation = Foundation::lay(&config)?;
    foundation.pools.values().try_for_each(Pool::sync)?;
    let front = foundation.front.clone();
    let scan = Scan::read(&foundation.pools, config.storage_prefix)?;
    let (store, shard_events) = foundation.build(&config, &scan, std::future::ready(()))?;
    store.start(scan).await;
    let control = prepare_control(&config)?.publish().map_err(no_control(&config))?;
    let metrics = config.metrics_listen.map(bind_metrics).transpose()?;
    notify("READY=1");
    Tail { config, lock, open_files_max, store, metrics, front }.serve(control, seen, shard_events, stop).await
}

/// Takes a tail over from the process that has started this one, and runs it as [`run`] does.
///
/// # Errors
/// When it cannot: the other process has been told, and serves on.
pub async fn take_over(config: Config, taker: Taker, stop: watch::Receiver<bool>) -> Result<(), ServerError> {
    let taker = Arc::new(taker);
    let taken = prepare_to_take_over(&config, &taker).await;
    let Taken { tail, control, seen, shard_events, heirloom, begin } = match taken {
        Ok(taken) => taken,
        Err(error) => {
            taker.fail(&describe(&error));
            return Err(error);
        }
    };
    // Nothing that may fail comes between this word and the work.
    taker.serving()?;
    tail.store.shards().thaw_all().await;
    tracing::info!("took over");
    // The keeper ends with the store only, which is here.
    let _ = begin.send(());
    let control = match control.publish() {
        Ok(control) => control,
        // It serves clients: that `status` is not answered must not end it.
        Err((error, control)) => {
            tracing::error!(%error, "the control socket is not at its place");
            control
        }
    };
    tail.store.begin(heirloom).await;
    tail.serve(control, seen, shard_events, stop).await
}

/// A tail that serves its discs, whether there is a brain or not.
struct Tail {
    config: Config,
    lock: File,
    open_files_max: u64,
    store: Arc<Store>,
    metrics: Option<std::net::TcpListener>,
    front: Option<Front>,
}

/// Everything of a tail that is taken over but the right to begin.
struct Taken {
    tail: Tail,
    control: status::Prepared,
    seen: Seen,
    shard_events: mpsc::Receiver<ShardEvent>,
    heirloom: Heirloom,
    begin: oneshot::Sender<()>,
}

async fn prepare_to_take_over(config: &Config, taker: &Arc<Taker>) -> Result<Taken, ServerError> {
    let open_files_max = daemon::raise_open_files();
    descriptors::reserve(open_files_max);
    let foundation = Foundation::lay(config)?;
    let front = foundation.front.clone();
    let waiting = taker.clone();
    let Loan { lock, metrics, discs } = giver::blocking(move || waiting.ready()).await?;
    check_lock(&config.state_dir, &lock)?;
    // No record changes from here on.
    let seen = Seen::load(&config.state_dir)?;
    let scan = Scan::read(&foundation.pools, config.storage_prefix)?;
    let (begin, begun) = oneshot::channel::<()>();
    let gate = async {
        if begun.await.is_err() {
            // This process ends without having begun.
            std::future::pending().await
        }
    };
    let (store, shard_events) = foundation.build(config, &scan, gate)?;
    let loan = store.borrow_discs(scan, discs).await?;
    let control = prepare_control(config)?;
    let metrics = match (config.metrics_listen, metrics) {
        (None, _) => None,
        (Some(address), Some(inherited)) if inherited.local_addr().is_ok_and(|at| at == address) => Some(inherited),
        (Some(address), _) => Some(bind_metrics(address)?),
    };
    let waiting = taker.clone();
    // From here on the clients wait.
    let carried = giver::blocking(move || waiting.take()).await?;
    let heirloom = store.inherit(loan, carried).await?;
    let tail = Tail { config: config.clone(), lock, open_files_max, store, metrics, front };
    Ok(Taken { tail, control, seen, shard_events, heirloom, begin })
}

/// The lock that was handed over must be that of our state directory, or somebody else may have ours.
fn check_lock(state_dir: &Path, lock: &File) -> Result<(), ServerError> {
    let path = state_dir.join("lock");
    let (Ok(ours), Ok(theirs)) = (fs::metadata(&path), lock.metadata()) else {
        return Err(ServerError::OtherStateDir(state_dir.to_owned()));
    };
    if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
        return Ok(());
    }
    Err(ServerError::OtherStateDir(state_dir.to_owned()))
}

impl Tail {
    /// Tells, obeys and answers until `stop` is true or another process has taken over.
    async fn serve(
        self,
        control: UnixListener,
        seen: Seen,
        shard_events: mpsc::Receiver<ShardEvent>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ServerError> {
        let (connection, connection_receiver) = watch::channel(Connection::Disconnected("not tried yet".to_owned()));
        let (requests, mut upgrades) = mpsc::channel(1);
        let source = Source {
            name: self.config.name.clone(),
            started: Instant::now(),
            store: self.store.clone(),
            connection: connection_receiver,
            open_files_max: self.open_files_max,
            successors: Successors::new(self.config.mask, requests),
            front: self.front.clone(),
        };
        let status = tokio::spawn(status::serve(control, source.clone()));
        let announcing = tokio::spawn({
            let store = self.store.clone();
            async move { store.announce_unused().await }
        });
        let reloading = tokio::spawn(reload_on_hangup(self.front.clone()));
        let mut tasks = vec![status, announcing, reloading];
        if let Some(network) = self.store.network().cloned() {
            tasks.push(tokio::spawn(receive_discs(network, self.store.clone())));
        }
        match &self.metrics {
            Some(listener) => tasks.push(start_metrics(listener, source)?),
            // What has a share of the store would keep the shards from an orderly stop.
            None => drop(source),
        }
        let discs_count = name_shortages(&self.store, Allowed::of(self.open_files_max));
        tracing::info!(name = %self.config.name, discs_count, features = self.store.shards().features(), "ready");
        let link = connect_node(node_config(&self.config, seen));
        let state_dir = self.config.state_dir.clone();
        let mut session = Session::new(link, self.store.clone(), state_dir, seen, shard_events, connection);
        loop {
            let (request, orders_ended) = {
                let (end, ended) = watch::channel(false);
                let mut running = pin!(session.run(ended));
                let request = tokio::select! {
                    _ = &mut running => unreachable!("a session ends when it is told to"),
                    _ = stop.wait_for(|stop| *stop) => None,
                    // Without anybody who could ask, the others are waited for.
                    Some(request) = upgrades.recv() => Some(request),
                };
                end.send_replace(true);
                (request, running.await)
            };
            let Some(request) = request else { break };
            match self.upgrade(request.successor, orders_ended).await {
                Ok(report) => {
                    // Before the brain says that the new process is the one that it listens to: that would be contested.
                    drop(session);
                    notify(&format!("MAINPID={}", report.pid));
                    tracing::info!(pid = report.pid, report.discs_count, report.clients_count, "handed over");
                    request.asker.tell(Ok(report)).await;
                    // What is dropped in good order would be shut down, and it is another process's now.
                    std::mem::forget(self.store);
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(error = describe(&error), "nothing was handed over");
                    request.asker.tell(Err(describe(&error))).await;
                    if matches!(error, UpgradeError::TooLate) {
                        std::mem::forget(self.store);
                        return Err(error.into());
                    }
                }
            }
        }
        let shard_events = session.end();
        tracing::info!("stopping");
        notify("STOPPING=1");
        // An aborted task ends with an error, and holds the store no longer.
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        let stopped = self.store.stop(shard_events).await;
        if let Some(front) = &self.front {
            front.drain().await;
        }
        let _ = fs::remove_file(&self.config.control_listen);
        if !stopped {
            return Err(ServerError::StillUsed);
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Hands everything over. With an error nothing has changed.
    async fn upgrade(&self, successor: Successor, orders_ended: bool) -> Result<Report, UpgradeError> {
        if !orders_ended {
            return Err(UpgradeError::Busy("an order of the brain has not ended; try again".to_owned()));
        }
        let _quiet = self.store.quiesce().map_err(UpgradeError::Busy)?;
        let shards = self.store.shards();
        let lent = shards.lend_all().await?;
        let belongings = Belongings::copy(&self.lock, self.metrics.as_ref())?;
        let heir = giver::blocking(move || successor.prepare(lent, &belongings)).await?;
        giver::hand_over(heir, shards).await
    }
}

fn prepare_control(config: &Config) -> Result<status::Prepared, ServerError> {
    status::prepare(&config.control_listen).map_err(|error| no_control(config)((error, ())))
}

/// Why nobody can ask for the status.
fn no_control<T>(config: &Config) -> impl FnOnce((io::Error, T)) -> ServerError + use<'_, T> {
    |(source, _)| ServerError::Io { verb: "listen for status at", path: config.control_listen.clone(), source }
}

fn bind_metrics(address: SocketAddr) -> Result<std::net::TcpListener, ServerError> {
    std::net::TcpListener::bind(address).map_err(|source| ServerError::Metrics { address, source })
}

fn start_metrics(listener: &std::net::TcpListener, source: Source) -> Result<JoinHandle<()>, ServerError> {
    let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let listen = || {
        // The original stays, to be handed over.
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let listener = listen().map_err(|source| ServerError::Metrics { address, source })?;
    tracing::info!(%address, "metrics are told at /metrics");
    let source = Arc::new(source);
    let text = move || {
        let source = Arc::clone(&source);
        async move { source.snapshot().await.render() }
    };
    Ok(tokio::spawn(http::serve(listener, text)))
}

fn network(config: &Config, listen: SocketAddr) -> Result<Network, ServerError> {
    let identity = config.migration_tls.clone().map(Identity::load).transpose()?.map(Arc::new);
    if identity.is_none() {
        tracing::warn!(
            "without migration_tls, discs move in the clear, and other tails are known by their addresses only"
        );
    }
    let budgets = Arc::new(Budgets::new(config.migration_mb_per_s.map(NonZeroU32::get)));
    Ok(Network { listen, own_address: config.storage_address, identity, budgets })
}

/// Waits for other tails. A predecessor may still have the port, and discs are served meanwhile.
async fn receive_discs(network: Network, store: Arc<Store>) {
    let address = network.listen;
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%address, %error, "cannot listen for other tails yet; it is tried again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_PAUSE).await;
    };
    tracing::info!(%address, "discs of other tails are taken in here");
    store.receive_discs(listener, network).await;
}

/// Between two tries to listen for other tails.
const BIND_PAUSE: Duration = Duration::from_millis(500);

/// What takes time to make and touches no disc.
struct Foundation {
    pools: BTreeMap<PoolName, Pool>,
    shards: Shards,
    shard_events: mpsc::Receiver<ShardEvent>,
    jobs: Jobs,
    front: Option<Front>,
    network: Option<Network>,
}

impl Foundation {
    fn lay(config: &Config) -> Result<Self, ServerError> {
        let pools = config.pools.iter().map(|pool| {
            let pool = Pool::open(pool, &config.state_dir)?;
            Ok((pool.name.clone(), pool))
        });
        let pools = pools.collect::<Result<_, PoolError>>()?;
        let front = config.tls.clone().map(Front::start).transpose()?;
        let (shards_count, mask, memory) = (config.shards_count, config.mask, config.memory);
        let shards = ShardConfig { shards_count, mask, memory, tls: front.clone() };
        let (shards, shard_events) = Shards::start(shards)?;
        let jobs = Jobs::start().map_err(|source| ServerError::Thread { what: "jobs", source })?;
        let network = config.migration_listen.map(|listen| network(config, listen)).transpose()?;
        Ok(Self { pools, shards, shard_events, jobs, front, network })
    }

    /// The store, which leaves the network alone before `begin` is over.
    fn build(
        self,
        config: &Config,
        scan: &Scan,
        begin: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(Arc<Store>, mpsc::Receiver<ShardEvent>), ServerError> {
        let keeper = KeeperConfig { interface: config.storage_interface.clone(), prefix: config.storage_prefix };
        let changed = Arc::new(Changed::default());
        let mark = changed.clone();
        let addresses =
            Addresses::start_after(begin, keeper, scan.addresses().collect(), move |number| mark.mark(number));
        let parts = Parts {
            prefix: config.storage_prefix,
            own_address: config.storage_address,
            images_dir: config.images_dir.clone(),
            pools: self.pools,
            shards: self.shards,
            jobs: self.jobs,
            network: self.network,
            addresses: addresses.map_err(|source| ServerError::Thread { what: "addresses", source })?,
        };
        Ok((Store::new(parts, changed), self.shard_events))
    }
}

/// Says which limits of the machine are too low for the discs that are here. Returns how many discs there are.
fn name_shortages(store: &Store, allowed: Allowed) -> usize {
    let reports = store.reports();
    let discs = reports.iter().map(|(name, report)| (name.number, report));
    for shortage in Needs::of(discs, store.shards().count()).shortages(allowed) {
        tracing::error!("{shortage}");
    }
    reports.len()
}

fn node_config(config: &Config, seen: Seen) -> NodeConfig {
    let mut extra = Attributes::new();
    extra.insert("storage_address".to_owned(), config.storage_address.to_string().into());
    if let Some(address) = config.migration_listen {
        extra.insert(MIGRATION_ADDRESS.to_owned(), address.to_string().into());
    }
    extra.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    let hello = Hello {
        node: config.name.clone(),
        role: Role::Tail,
        spine: VERSIONS,
        boot: Uuid::new_v4(),
        cluster: seen.cluster,
        epoch: seen.epoch,
        extra,
    };
    NodeConfig { brains: config.brains.clone(), bind: config.spine_address, hello }
}

/// Tells the service manager, if there is one.
pub(crate) fn notify(state: &str) {
    if let Err(error) = daemon::notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
