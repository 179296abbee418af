//! The process: start and ordered stop.
//!
//! The order of a start matters. The lock on the state directory comes first, so that nothing below
//! happens twice; discs are served before the brain is asked for, because they do not need one (R177).
//! The order of a stop is the reverse; the addresses stay up for the process that follows
//! (safety rule 12).

use crate::{
    address::{Addresses, KeeperConfig},
    capacity::{Allowed, Needs},
    config::Config,
    control::{
        epoch::{EpochError, Seen},
        session::{Connection, Session},
        status::{self, Source},
    },
    jobs::Jobs,
    metrics::http,
    pool::{Pool, PoolError},
    shard::{ShardConfig, ShardEvent, Shards, StartError},
    store::{Changed, Parts, Store, start::Scan},
};
use spine::{
    daemon::{self, StateDirError},
    limits::VERSIONS,
    message::{Hello, Role},
    resource::Attributes,
    transport::{NodeConfig, connect_node},
};
use std::{collections::BTreeMap, fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
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
}

/// Runs a tail until `stop` is true.
///
/// # Errors
/// When it cannot start, or not stop in order.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), ServerError> {
    let started = Instant::now();
    let _lock = daemon::lock_state_dir(&config.state_dir)?;
    let open_files_max = daemon::raise_open_files();
    let seen = Seen::load(&config.state_dir)?;
    let (store, shard_events) = start_store(&config).await?;
    let (connection, connection_receiver) = watch::channel(Connection::Disconnected("not tried yet".to_owned()));
    let listener = status::listen(&config.control_listen).map_err(|source| ServerError::Io {
        verb: "listen for status at",
        path: config.control_listen.clone(),
        source,
    })?;
    let source = Source {
        name: config.name.clone(),
        started,
        store: store.clone(),
        connection: connection_receiver,
        open_files_max,
    };
    let status = tokio::spawn(status::serve(listener, source.clone()));
    let announcing = tokio::spawn({
        let store = store.clone();
        async move { store.announce_unused().await }
    });
    let mut tasks = vec![status, announcing];
    match config.metrics_listen {
        Some(address) => tasks.push(start_metrics(address, source).await?),
        // What has a share of the store would keep the shards from an orderly stop.
        None => drop(source),
    }
    let link = connect_node(node_config(&config, seen));
    let discs_count = name_shortages(&store, Allowed::of(open_files_max));
    tracing::info!(name = %config.name, discs_count, features = store.shards().features(), "ready");
    notify("READY=1");
    let state_dir = config.state_dir.clone();
    let session = Session { link, store: store.clone(), state_dir, seen, shard_events, connection };
    let shard_events = session.run(stop).await;
    tracing::info!("stopping");
    notify("STOPPING=1");
    // An aborted task ends with an error, and holds the store no longer.
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    let stopped = store.stop(shard_events).await;
    let _ = fs::remove_file(&config.control_listen);
    if !stopped {
        return Err(ServerError::StillUsed);
    }
    tracing::info!("stopped");
    Ok(())
}

async fn start_metrics(address: SocketAddr, source: Source) -> Result<JoinHandle<()>, ServerError> {
    let failed = |source| ServerError::Metrics { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    tracing::info!(%address, "metrics are told at /metrics");
    let source = Arc::new(source);
    let text = move || {
        let source = Arc::clone(&source);
        async move { source.snapshot().await.render() }
    };
    Ok(tokio::spawn(http::serve(listener, text)))
}

/// Everything up to discs being served.
async fn start_store(config: &Config) -> Result<(Arc<Store>, mpsc::Receiver<ShardEvent>), ServerError> {
    let pools = config.pools.iter().map(|pool| {
        let pool = Pool::open(pool, &config.state_dir)?;
        Ok((pool.name.clone(), pool))
    });
    let pools: BTreeMap<_, _> = pools.collect::<Result<_, PoolError>>()?;
    let scan = Scan::read(&pools, config.storage_prefix)?;
    let (shards, shard_events) =
        Shards::start(ShardConfig { shards_count: config.shards_count, mask: config.mask, memory: config.memory })?;
    let jobs = Jobs::start().map_err(|source| ServerError::Thread { what: "jobs", source })?;
    let keeper = KeeperConfig { interface: config.storage_interface.clone(), prefix: config.storage_prefix };
    let changed = Arc::new(Changed::default());
    let mark = changed.clone();
    let addresses = Addresses::start(keeper, scan.addresses().collect(), move |number| mark.mark(number));
    let parts = Parts {
        prefix: config.storage_prefix,
        own_address: config.storage_address,
        images_dir: config.images_dir.clone(),
        pools,
        shards,
        jobs,
        addresses: addresses.map_err(|source| ServerError::Thread { what: "addresses", source })?,
    };
    let store = Store::new(parts, changed);
    store.start(scan).await;
    Ok((store, shard_events))
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
