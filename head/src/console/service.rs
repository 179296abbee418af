//! The public face of a machine's console: start, change the users, stop.

use super::{
    address::{AddressError, Claim},
    connection::{Shared, serve, server_config, stopped},
    host_keys::{self, NoHostKey},
    limits::{NAME_CHARS_MAX, STRANGERS_MAX, UNREAD_MAX, VIEWERS_MAX},
    serial::Serial,
    users::ConsoleUsers,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use spine::secret::Secret;
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
};

/// All that a console needs.
#[derive(Clone, Debug)]
pub struct ConsoleConfig {
    /// The machine's management address, and the port to listen on (R109).
    pub listen: SocketAddr,
    /// The interface that the address is put on, and announced from, while the console runs.
    /// None: the address is there already.
    pub interface: Option<String>,
    /// The SSH host keys, as OpenSSH or PEM private keys (R110).
    pub host_keys: Vec<Secret>,
    /// Who may come in (R111, R112).
    pub users: ConsoleUsers,
    /// qemu's listening unix socket for the guest's first serial line. The console is its one
    /// client.
    pub serial: PathBuf,
    /// The machine's display name, for people and logs.
    pub name: String,
}

/// Why a console could not start. Nothing is left over then.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// The host keys are unusable.
    #[error("the console of {name}")]
    HostKeys {
        /// The machine.
        name: String,
        /// What is wrong with them.
        source: NoHostKey,
    },
    /// The port could not be had.
    #[error("the console of {name} cannot listen on {listen}")]
    Listen {
        /// The machine.
        name: String,
        /// The address and port.
        listen: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The address could not be put on the interface.
    #[error("the console of {name} has no address")]
    Address {
        /// The machine.
        name: String,
        /// What failed.
        source: AddressError,
    },
}

/// A running console. [`Console::stop`] ends it in order; dropped, it stops serving too, but its
/// address stays.
#[derive(Debug)]
pub struct Console {
    users: watch::Sender<Arc<ConsoleUsers>>,
    stopping: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    serial: AbortHandle,
    claim: Option<Claim>,
    listen: SocketAddr,
}

impl Console {
    /// Connects to the serial line, if qemu listens already, listens for viewers, and puts the
    /// address up. The serial line is held from here on, also with no viewer.
    ///
    /// # Errors
    /// [`ConsoleError`]; a serial socket that is not there yet is none.
    pub async fn start(config: ConsoleConfig) -> Result<Self, ConsoleError> {
        let ConsoleConfig { listen, interface, host_keys, users, serial, name } = config;
        // It is shown on the users' terminals.
        let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        let keys = host_keys::read(&host_keys, &name)
            .map_err(|source| ConsoleError::HostKeys { name: name.clone(), source })?;
        let refused = |source| ConsoleError::Listen { name: name.clone(), listen, source };
        let listener = open_listener(listen).map_err(refused)?;
        let listen = listener.local_addr().map_err(refused)?;
        let claim = match interface {
            None => None,
            Some(interface) => Some(
                Claim::make(listen.ip(), &interface)
                    .await
                    .map_err(|source| ConsoleError::Address { name: name.clone(), source })?,
            ),
        };
        let (serial, serial_task) = Serial::start(serial, name.clone()).await;
        let users = watch::Sender::new(Arc::new(users));
        let stopping = watch::Sender::new(false);
        let shared = Shared {
            machine: name,
            config: Arc::new(server_config(keys)),
            serial,
            users: users.subscribe(),
            stopping: stopping.subscribe(),
            places: Arc::new(Semaphore::new(VIEWERS_MAX)),
        };
        let accepting = tokio::spawn(accept(listener, Arc::new(shared)));
        Ok(Self { users, stopping, accepting, serial: serial_task, claim, listen })
    }

    /// Where it listens: with the port that was chosen, when 0 was asked for.
    pub fn listens_on(&self) -> SocketAddr {
        self.listen
    }

    /// Puts other users in force. Connections whose proof would not be accepted any more are
    /// closed.
    pub fn set_users(&self, users: ConsoleUsers) {
        self.users.send_replace(Arc::new(users));
    }

    /// Closes the viewers, who are told, leaves the serial line and takes the address down.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        let _ = (&mut self.accepting).await;
        if let Some(claim) = self.claim.take() {
            claim.withdraw().await;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
        self.serial.abort();
    }
}

/// The address may still be on its way to the interface, or on another head: binding does not wait.
fn open_listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match listen {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections in until the console stops, then waits for the last of them.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut stopping = shared.stopping.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes, but not at once.
                tracing::warn!(machine = shared.machine, "console: cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(stranger) = Arc::clone(&strangers).try_acquire_owned() else {
            tracing::debug!(machine = shared.machine, %peer, "console: too many connections wait to log in");
            continue;
        };
        if let Err(error) = bound_silence(&stream) {
            tracing::debug!(machine = shared.machine, %peer, "console: {error}");
            continue;
        }
        connections.spawn(serve(stream, peer, Arc::clone(&shared), stranger));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// A client that takes nothing off its socket is cut off by the kernel.
fn bound_silence(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD_MAX))
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 32;

/// How long a failed accept is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
