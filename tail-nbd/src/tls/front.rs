//! Where TLS ends for NBD clients: threads that decrypt and encrypt, beside those that serve discs.

use super::identity::{Files, Identity, IdentityError};
use super::psk::{self, Keys, PskError};
use crate::limits::{
    DRAIN_SECONDS_MAX, HANDSHAKE_SECONDS_MAX, TLS_CONNECTIONS_MAX, TLS_COPY_BYTES, TLS_STALL_SECONDS_MAX,
};
use crate::nbd::offer::Tls;
use openssl::ssl::SslContext;
use rustix::net::{AddressFamily, getsockname};
use rustls::ServerConfig;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as PlainStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// What clients are offered, and what they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontConfig {
    /// It is not [`Tls::Off`].
    pub offered: Tls,
    /// Where what we show and what we expect is read from.
    pub credentials: Credentials,
}

/// What proves to clients who we are, and to us who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Our certificate, and whose certificates clients must have, if they must have one.
    Certificates(Files),
    /// A file of names, and of the keys that we share with those who have them.
    Keys(PathBuf),
}

/// Why clients cannot be offered TLS.
#[derive(Debug, Error)]
pub enum FrontError {
    /// A file cannot be used.
    #[error("cannot offer TLS")]
    Identity(#[from] IdentityError),
    /// The file of keys cannot be used.
    #[error("cannot offer TLS")]
    Keys(#[from] PskError),
    /// Threads were not to be had.
    #[error("cannot start the threads for TLS")]
    Threads(#[source] io::Error),
}

/// What has come through, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontStatus {
    /// Connections now, with those in their handshake.
    pub connections_count: u64,
    /// Handshakes that went well.
    pub handshakes_count: u64,
    /// Handshakes that did not: a wrong certificate, no TLS at all, too slow.
    pub failures_count: u64,
    /// Connections closed on because there were too many.
    pub refused_count: u64,
}

/// Takes clients' sockets, and gives in their place those where the plain text comes out. May be used on any thread;
/// the threads behind it end with the last clone, and the connections with them.
#[derive(Clone, Debug)]
pub struct Front {
    shared: Arc<Shared>,
    runtime: Handle,
    // Dropped, it ends the threads.
    _stop: Arc<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Shared {
    config: FrontConfig,
    acceptor: Mutex<Acceptor>,
    places: Arc<Semaphore>,
    handshakes_count: AtomicU64,
    failures_count: AtomicU64,
    refused_count: AtomicU64,
}

/// How handshakes are done.
#[derive(Clone)]
enum Acceptor {
    Certificates(Arc<ServerConfig>),
    Keys(SslContext),
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There are keys in it.
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    fn load(credentials: &Credentials) -> Result<Self, FrontError> {
        Ok(match credentials {
            Credentials::Certificates(files) => Self::Certificates(Identity::load(files.clone())?.server_config()?),
            Credentials::Keys(path) => Self::Keys(Keys::load(path)?.into_context()?),
        })
    }
}

impl Front {
    /// Reads the files and starts the threads.
    ///
    /// # Errors
    /// When a file cannot be used, with its name, or there are no threads to be had.
    pub fn start(config: FrontConfig) -> Result<Self, FrontError> {
        let acceptor = Acceptor::load(&config.credentials)?;
        let (stop, stopped) = oneshot::channel();
        let runtime = start_threads(stopped).map_err(FrontError::Threads)?;
        let shared = Shared {
            config,
            acceptor: Mutex::new(acceptor),
            places: Arc::new(Semaphore::new(TLS_CONNECTIONS_MAX)),
            handshakes_count: AtomicU64::new(0),
            failures_count: AtomicU64::new(0),
            refused_count: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared), runtime, _stop: Arc::new(stop) })
    }

    /// What clients are offered.
    pub fn offered(&self) -> Tls {
        self.shared.config.offered
    }

    /// Reads the files again. They count from the next handshake on.
    ///
    /// # Errors
    /// When a file cannot be used: what was read before stays in use.
    pub fn reload(&self) -> Result<(), FrontError> {
        let acceptor = Acceptor::load(&self.shared.config.credentials)?;
        *self.shared.acceptor.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = acceptor;
        Ok(())
    }

    /// Takes the socket of a client that was told to go on through TLS, and gives the one, in blocking mode, at which
    /// its plain text comes out. Does not wait: a handshake that fails is an end of file there.
    ///
    /// # Errors
    /// When there are too many such connections, or no descriptors. The client is closed on.
    pub fn secure(&self, socket: OwnedFd) -> io::Result<OwnedFd> {
        let Ok(place) = Arc::clone(&self.shared.places).try_acquire_owned() else {
            self.shared.refused_count.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other(format!("there are {TLS_CONNECTIONS_MAX} already")));
        };
        rustix::io::ioctl_fionbio(&socket, true)?;
        let (ours, theirs) = PlainStream::pair()?;
        theirs.set_nonblocking(true)?;
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            if let Err(error) = shared.serve(socket, theirs).await {
                tracing::debug!(%error, "a connection through TLS has ended");
            }
            drop(place);
        });
        Ok(ours.into())
    }

    /// What has come through.
    pub fn status(&self) -> FrontStatus {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FrontStatus {
            connections_count: (TLS_CONNECTIONS_MAX - self.shared.places.available_permits()) as u64,
            handshakes_count: read(&self.shared.handshakes_count),
            failures_count: read(&self.shared.failures_count),
            refused_count: read(&self.shared.refused_count),
        }
    }

    /// Waits until clients have got what was sent to them, after everybody who served them has closed on them; for a
    /// bounded time.
    pub async fn drain(&self) {
        let all = u32::try_from(TLS_CONNECTIONS_MAX).expect("it is a small number");
        if timeout(Duration::from_secs(DRAIN_SECONDS_MAX), self.shared.places.acquire_many(all)).await.is_err() {
            tracing::warn!("clients that take nothing through TLS are cut off");
        }
    }
}

/// Has the files of certificates read again whenever this process gets SIGHUP, until it is aborted. Without TLS the
/// signal means nothing.
pub async fn reload_on_hangup(front: Option<Front>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::warn!(%error, "cannot wait for SIGHUP: new certificates need a restart"),
    };
    while hangup.recv().await.is_some() {
        match front.as_ref().map(Front::reload) {
            None => tracing::info!("SIGHUP: there are no certificates to be read again"),
            Some(Ok(())) => tracing::info!("SIGHUP: the certificates were read again"),
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "SIGHUP: those that were read before stay in use");
            }
        }
    }
}

/// Threads that run until `stopped` is. A runtime must not be dropped where others wait for it, so it has a thread for
/// that.
fn start_threads(stopped: oneshot::Receiver<()>) -> io::Result<Handle> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let run = move || match Builder::new_multi_thread().thread_name("tls").enable_all().build() {
        Ok(runtime) => {
            let handle = Ok(runtime.handle().clone());
            if sender.send(handle).is_ok() {
                // An error says that the sender was dropped, which is what is waited for.
                let _ = runtime.block_on(stopped);
            }
        }
        Err(error) => drop(sender.send(Err(error))),
    };
    std::thread::Builder::new().name("tls-stop".to_owned()).spawn(run)?;
    receiver.recv().map_err(io::Error::other)?
}

impl Shared {
    async fn serve(&self, socket: OwnedFd, plain: PlainStream) -> io::Result<()> {
        let plain = UnixStream::from_std(plain)?;
        match getsockname(&socket)?.address_family() {
            AddressFamily::UNIX => self.accept(UnixStream::from_std(socket.into())?, plain).await,
            _ => self.accept(TcpStream::from_std(socket.into())?, plain).await,
        }
    }

    async fn accept(&self, client: impl AsyncRead + AsyncWrite + Unpin, plain: UnixStream) -> io::Result<()> {
        let acceptor = self.acceptor.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        match acceptor {
            Acceptor::Certificates(config) => self.open(TlsAcceptor::from(config).accept(client), plain).await,
            Acceptor::Keys(context) => self.open(psk::accept(&context, client), plain).await,
        }
    }

    async fn open<S: AsyncRead + AsyncWrite>(
        &self,
        handshake: impl Future<Output = io::Result<S>>,
        plain: UnixStream,
    ) -> io::Result<()> {
        let handshake = timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), handshake);
        let accepted = tokio::select! {
            accepted = handshake => accepted.unwrap_or_else(|late| Err(late.into())),
            // Nothing is said to a client before it has asked, so this is the end.
            _ = plain.readable() => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let count = if accepted.is_ok() { &self.handshakes_count } else { &self.failures_count };
        count.fetch_add(1, Ordering::Relaxed);
        relay(accepted?, plain).await
    }
}

/// Copies both ways until the plain side has ended and the client has got all that came from there.
async fn relay(client: impl AsyncRead + AsyncWrite, plain: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_plain, mut to_plain) = plain.into_split();
    let up = async {
        // The plain side may make a client wait for as long as it likes.
        let copied = copy(&mut from_client, &mut to_plain, Duration::MAX).await;
        // However it ended, the plain side hears of it; it may have gone before.
        let _ = to_plain.shutdown().await;
        copied
    };
    let down = async {
        let stall = Duration::from_secs(TLS_STALL_SECONDS_MAX);
        copy(&mut from_plain, &mut to_client, stall).await?;
        timeout(stall, to_client.shutdown()).await?
    };
    tokio::pin!(up, down);
    tokio::select! {
        upward = &mut up => down.await.and(upward),
        downward = &mut down => downward,
    }
}

/// Copies until the end of `from`, or until `to` takes nothing for `patience`.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    patience: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; TLS_COPY_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let write = async {
            to.write_all(&buffer[..count]).await?;
            to.flush().await
        };
        timeout(patience, write).await??;
    }
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
