//! `bigv-brain run`: from the lock to the orderly stop.

use crate::database;
use anyhow::{Context as _, Result, bail};
use brain::{
    config::Config,
    fleet::{Registry, session},
    http::{self, AppState},
    reconcile::{Poke, Reconciler, ReconcilerConfig},
    store::{Store, cluster::Active, nodes},
};
use spine::daemon;
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::info;

/// How long requests that are being answered may still take at a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long nodes have to be told why their connections end.
const GOODBYE: Duration = Duration::from_millis(200);

/// The TCP sockets that a service manager passed to this process. To be called once, before anything
/// else opens a descriptor.
pub fn passed_listeners() -> Result<Vec<std::net::TcpListener>> {
    let listener = |(number, socket)| {
        let listener = std::net::TcpListener::from(socket);
        listener.local_addr().with_context(|| format!("descriptor {number} of LISTEN_FDS is no TCP socket"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let sockets = daemon::passed_sockets().context("cannot take the sockets that were passed")?;
    sockets.into_iter().map(listener).collect()
}

/// Runs the active brain until SIGTERM, SIGINT, or the loss of the right to be active.
pub async fn run(config: Config, embedded: Option<&Path>, sockets: Vec<std::net::TcpListener>) -> Result<()> {
    let _lock = daemon::lock_state_dir(&config.state_dir)?;
    let open_files_max = daemon::raise_open_files();
    let (store, server) = database(&config, embedded).await?;
    let result = serve(config, store, sockets, open_files_max).await;
    if let Some(server) = server {
        server.stop().await?;
    }
    result
}

async fn serve(config: Config, store: Store, sockets: Vec<std::net::TcpListener>, open_files_max: u64) -> Result<()> {
    store.check_schema().await?;
    let mut stop_signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut active = Active::acquire(store.config(), config.name.as_str()).await?;
    info!(brain = %config.name, cluster = %active.cluster, epoch = %active.epoch, "active");
    all_offline(&store).await?;

    let (spine, http) = listen(&config, sockets).await?;
    let (registry, poke) = (Registry::default(), Poke::default());
    let fleet = session::Fleet {
        registry: registry.clone(),
        store: store.clone(),
        poke: poke.clone(),
        cluster: active.cluster,
        epoch: active.epoch,
        nodes_lock: Arc::default(),
    };
    let mut tasks = JoinSet::new();
    for listener in spine {
        tasks.spawn(session::listen(listener, fleet.clone()));
    }
    let reconciler = Reconciler::new(store.clone(), registry.clone(), poke.clone(), ReconcilerConfig::of(&config));
    tasks.spawn(reconciler.run());
    let (stop, stopping) = watch::channel(false);
    let state = AppState { store: store.for_api()?, poke, registry: registry.clone(), config: Arc::new(config) };
    let api = serve_http(http, state, &stopping, open_files_max);

    daemon::notify("READY=1").context("cannot tell the service manager that the brain is ready")?;
    info!("ready");
    let lost = tokio::select! {
        _ = stop_signals.0.recv() => None,
        _ = stop_signals.1.recv() => None,
        reason = active.lost() => Some(reason),
        Some(ended) = tasks.join_next() => Some(format!("a part of the brain ended: {ended:?}")),
    };
    let reason = lost.as_deref().unwrap_or("the brain is stopping");
    info!(reason, "stopping");
    // Whatever the manager makes of it, the stop goes on.
    let _ = daemon::notify("STOPPING=1");
    tasks.abort_all();
    registry.close_all(reason);
    let _ = stop.send(true);
    let _ = tokio::time::timeout(STOP_DEADLINE, api.join_all()).await;
    tokio::time::sleep(GOODBYE).await;
    match lost {
        None => Ok(()),
        Some(reason) => bail!("this brain is no longer active: {reason}"),
    }
}

async fn all_offline(store: &Store) -> Result<()> {
    let mut client = store.client().await?;
    let tx = client.transaction().await?;
    nodes::all_offline(&tx).await?;
    tx.commit().await?;
    Ok(())
}

/// All sockets at once: a brain that cannot have one of them does not start.
async fn listen(config: &Config, sockets: Vec<std::net::TcpListener>) -> Result<(Vec<TcpListener>, Vec<TcpListener>)> {
    let spine = bind(&config.spine_listen, "spine_listen").await?;
    let mut http = bind(&config.http_listen, "http_listen").await?;
    for socket in sockets {
        http.push(TcpListener::from_std(socket).context("cannot use a socket that was passed in")?);
    }
    if http.is_empty() {
        bail!("the API has no socket: set http_listen, or have the service manager pass one");
    }
    for listener in spine.iter().chain(&http) {
        info!(address = %listener.local_addr()?, "listening");
    }
    Ok((spine, http))
}

async fn bind(addresses: &[SocketAddr], field: &str) -> Result<Vec<TcpListener>> {
    let mut listeners = vec![];
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("cannot listen on {address} ({field})"))?);
    }
    Ok(listeners)
}

fn serve_http(
    listeners: Vec<TcpListener>,
    state: AppState,
    stopping: &watch::Receiver<bool>,
    open_files_max: u64,
) -> JoinSet<()> {
    let router = http::router(state);
    let connections_max = http::serve::connections_max(open_files_max, listeners.len());
    let mut tasks = JoinSet::new();
    for listener in listeners {
        let router = router.clone();
        let mut stopping = stopping.clone();
        tasks.spawn(async move {
            let stop = async move {
                // An error means that the sender is gone: the process is ending.
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            http::serve::serve(listener, router, connections_max, stop).await;
        });
    }
    tasks
}
