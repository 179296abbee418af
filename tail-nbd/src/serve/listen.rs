//! Where clients connect: TCP, unix sockets, and sockets that somebody else opened (sd_listen_fds(3)).

use crate::shard::never_pace;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname};
use socket2::{Domain, SockAddr, Socket, Type};
use spine::daemon;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: lacks the path of the socket".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("{text:?} is neither ADDRESS:PORT, such as 127.0.0.1:10809 or [::1]:10809, nor unix:PATH")
            }),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a place cannot be listened at.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The system refused.
    #[error("cannot listen at {place}")]
    At {
        /// The place.
        place: Listen,
        /// What the system says.
        source: io::Error,
    },
    /// A passed descriptor is of no use.
    #[error("cannot use descriptor {number} of LISTEN_FDS: it is no listening socket")]
    Passed {
        /// Its number.
        number: i32,
        /// What the system says.
        source: io::Error,
    },
    /// Sockets were announced that are not there.
    #[error("cannot take the sockets that were passed")]
    Announced(#[source] io::Error),
    /// No place at all.
    #[error("nowhere to listen: give --listen, or pass a socket by LISTEN_FDS")]
    Nowhere,
    /// Two answers to one question.
    #[error("--listen and sockets passed by LISTEN_FDS exclude each other")]
    Both,
}

/// A listening socket. Its path, if it made one, goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Accepting,
    /// Where, for people.
    pub(super) place: String,
    path: Option<PathBuf>,
}

/// The socket of a [`Listener`], in nonblocking mode.
#[derive(Debug)]
pub(super) enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        match getsockname(&socket)?.address_family() {
            AddressFamily::UNIX => UnixListener::from_std(socket.into()).map(Self::Unix),
            _ => {
                never_pace(&socket);
                TcpListener::from_std(socket.into()).map(Self::Tcp)
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // An error says that it is gone.
            let _ = fs::remove_file(path);
        }
    }
}

/// True when a service manager passes sockets to this process.
pub fn is_activated() -> bool {
    daemon::passed_sockets_count() > 0
}

/// Opens every place, or takes the sockets that were passed.
pub(super) fn open(places: &[Listen]) -> Result<Vec<Listener>, ListenError> {
    match (places, daemon::passed_sockets_count()) {
        ([], 0) => Err(ListenError::Nowhere),
        ([], _) => passed(),
        (_, 0) => places.iter().map(bind).collect(),
        _ => Err(ListenError::Both),
    }
}

fn bind(place: &Listen) -> Result<Listener, ListenError> {
    let socket = match place {
        Listen::Tcp(address) => bind_tcp(*address),
        Listen::Unix(path) => bind_unix(path),
    };
    let socket = socket.and_then(|socket| Accepting::new(socket.into()));
    let socket = socket.map_err(|source| ListenError::At { place: place.clone(), source })?;
    let path = if let Listen::Unix(path) = place { Some(path.clone()) } else { None };
    // The port may have been chosen by the kernel.
    let place = match &socket {
        Accepting::Tcp(socket) => socket.local_addr().map_or(place.to_string(), |address| address.to_string()),
        Accepting::Unix(_) => place.to_string(),
    };
    Ok(Listener { socket, place, path })
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A socket that nobody listens at is in the way of nobody: its server was killed.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let left_behind = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if left_behind {
        fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn passed() -> Result<Vec<Listener>, ListenError> {
    let sockets = daemon::passed_sockets().map_err(ListenError::Announced)?;
    let listener = |(number, socket): (i32, OwnedFd)| {
        let failed = |source: io::Error| ListenError::Passed { number, source };
        if socket_type(&socket).map_err(|e| failed(e.into()))? != SocketType::STREAM
            || !socket_acceptconn(&socket).map_err(|e| failed(e.into()))?
        {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let socket = Accepting::new(socket).map_err(failed)?;
        Ok(Listener { place: format!("descriptor {number}"), socket, path: None })
    };
    sockets.into_iter().map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_told_as_they_are_written() {
        for text in ["127.0.0.1:10809", "[::1]:0", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for text in ["", "10809", "localhost:10809", "unix:", "/run/x.sock"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = Listen::Unix(folder.path().join("s"));
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap());
        let listener = bind(&place).unwrap();
        assert!(matches!(bind(&place), Err(ListenError::At { .. })), "it is in use");
        drop(listener);
        assert!(!folder.path().join("s").exists());
        fs::write(folder.path().join("s"), b"a file").unwrap();
        assert!(bind(&place).is_err());
        assert_eq!(fs::read(folder.path().join("s")).unwrap(), b"a file");
    }
}
