//! What a service manager gives a daemon, and wants to be told: listening sockets (sd_listen_fds(3))
//! and readiness (sd_notify(3)).

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::{
    env, io,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The first descriptor that is passed.
const FIRST: i32 = 3;
/// More sockets than anyone passes.
const SOCKETS_MAX: i32 = 64;

/// The TCP sockets that were passed to this process. To be called once, before anything is started.
///
/// # Errors
/// When a descriptor that was announced is not a listening TCP socket.
pub fn listeners() -> io::Result<Vec<TcpListener>> {
    let ours = env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    if !ours || count == 0 {
        return Ok(vec![]);
    }
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    (FIRST..FIRST.saturating_add(i32::min(count, SOCKETS_MAX)))
        .map(|number| {
            // A copy is ours by type; the original must go, or children would inherit it.
            let copy = pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?;
            nix::unistd::close(number)?;
            let listener = TcpListener::from(copy);
            listener.local_addr().map_err(|error| {
                io::Error::new(error.kind(), format!("descriptor {number} of LISTEN_FDS is no TCP socket: {error}"))
            })?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
}

/// Sends `state`, such as `READY=1`, to the service manager, if there is one.
///
/// # Errors
/// When its socket does not take it.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
