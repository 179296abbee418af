//! Accepts clients, finds out what they want, and hands them to the shard that has it.

use super::exports::Exports;
use super::listen::{Accepting, Listener};
use crate::connection::Transport;
use crate::limits::{GOODBYE_SECONDS_MAX, HANDSHAKE_SECONDS_MAX, NEGOTIATING_MAX};
use crate::nbd::negotiation::Refusal;
use crate::nbd::offer::Tls;
use crate::nbd::server::{Event, Server};
use crate::shard::{Adopted, Shards, configure};
use crate::tls::Front;
use rustix::net::{RecvFlags, SendFlags, recv};
use spine::id::DiscNumber;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Longest piece of a handshake that is looked at in one go, in bytes. Options are short.
const PIECE_BYTES: usize = 1024;

/// How long to wait when the system has no descriptor for a client.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is said that the door is full.
const TELLING_PAUSE: Duration = Duration::from_secs(10);

/// Lets clients in until it is to stop; then nobody listens and no handshake is under way any more. Who is in one is
/// told, if they ask something within [`GOODBYE_SECONDS_MAX`].
pub(super) async fn run(listeners: Vec<Listener>, door: Door) {
    let places = Arc::new(Places::default());
    let mut doors = JoinSet::new();
    for listener in listeners {
        doors.spawn(accept(listener, door.clone(), Arc::clone(&places)));
    }
    while doors.join_next().await.is_some() {}
}

/// What a client that is let in needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) exports: Arc<Exports>,
    pub(super) shards: Arc<Shards>,
    /// Where they get TLS, if they do.
    pub(super) front: Option<Front>,
    /// True when it is to stop.
    pub(super) stop: watch::Receiver<bool>,
}

impl Door {
    /// Waits for the order to stop.
    async fn stopped(&mut self) {
        // An error says that the sender is gone, which means the same.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }
}

async fn accept(listener: Listener, mut door: Door, places: Arc<Places>) {
    let mut clients = JoinSet::new();
    let mut crush = Crush::default();
    loop {
        while clients.try_join_next().is_some() {}
        let accepting = async {
            match &listener.socket {
                Accepting::Tcp(listener) => listener.accept().await.map(|(stream, _)| Client::Tcp(stream)),
                Accepting::Unix(listener) => listener.accept().await.map(|(stream, _)| Client::Unix(stream)),
            }
        };
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = door.stopped() => break,
        };
        match accepted {
            Ok(client) => {
                let door = door.clone();
                let handshake = Arc::new(());
                let place = Arc::downgrade(&handshake);
                let task = clients.spawn(async move {
                    if let Err(error) = let_in(client, &door, handshake).await {
                        tracing::debug!(%error, "a client was not let in");
                    }
                });
                if places.take(Place { task, handshake: place })
                    && let Some(closed_count) = crush.handle_closed(Instant::now())
                {
                    let at = &listener.place;
                    tracing::warn!(%at, closed_count, limit = NEGOTIATING_MAX, "too many are in their handshake; who has been longest in it is closed");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(at = %listener.place, %error, "cannot accept; the next try is in a second");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let goodbyes = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(GOODBYE_SECONDS_MAX), goodbyes).await.is_err() {
        clients.shutdown().await;
    }
}

/// The handshakes under way, at all listeners. When there are too many, the one that has taken longest makes room: a
/// handshake takes milliseconds, so that is most likely somebody who is silent, and who is not gets in beside any number of them.
#[derive(Debug, Default)]
struct Places {
    oldest_first: Mutex<VecDeque<Place>>,
}

#[derive(Debug)]
struct Place {
    task: AbortHandle,
    /// The task has the other end as long as the handshake lasts.
    handshake: Weak<()>,
}

impl Places {
    /// One more. True when another was closed for it.
    fn take(&self, place: Place) -> bool {
        let mut places = self.oldest_first.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|other| other.handshake.strong_count() > 0);
        let slowest = if places.len() >= NEGOTIATING_MAX { places.pop_front() } else { None };
        places.push_back(place);
        slowest.inspect(|slowest| slowest.task.abort()).is_some()
    }
}

/// Who was closed because the door was full, which is said now and then only: clients can cause it.
#[derive(Debug, Default)]
struct Crush {
    closed_count: u64,
    told_at: Option<Instant>,
}

impl Crush {
    /// One more. The number since the last time, when it is to be said.
    fn handle_closed(&mut self, now: Instant) -> Option<u64> {
        self.closed_count += 1;
        if self.told_at.is_some_and(|at| now.duration_since(at) < TELLING_PAUSE) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.closed_count))
    }
}

/// A client before its move to a shard.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Tries a system call whenever it may do something, until it does.
    async fn when<R>(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.async_io(interest, || call(stream.as_fd())).await,
            Self::Unix(stream) => stream.async_io(interest, || call(stream.as_fd())).await,
        }
    }

    /// The client as it comes out of TLS.
    fn secured(self, front: &Front) -> io::Result<Self> {
        let plain = front.secure(self.into_socket()?)?;
        rustix::io::ioctl_fionbio(&plain, true)?;
        UnixStream::from_std(plain.into()).map(Self::Unix)
    }

    fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(stream) => stream.into_std()?.into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        })
    }
}

/// The handshake of one client, at whose end it has its place no longer, and its move to a shard.
async fn let_in(client: Client, door: &Door, place: Arc<()>) -> io::Result<()> {
    let peer = match &client {
        Client::Tcp(stream) => configure(stream)?,
        Client::Unix(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let handshake = tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), negotiate(client, door));
    let Some(Agreed { client, transport, number, server }) = handshake.await?? else { return Ok(()) };
    drop(place);
    let socket = client.into_socket()?;
    // The ring waits for it; a nonblocking socket would only answer EAGAIN.
    rustix::io::ioctl_fionbio(&socket, false)?;
    door.shards.adopt(number, Adopted { socket, server, peer, transport }).await.map_err(io::Error::other)
}

/// A client that has got an export.
struct Agreed {
    client: Client,
    transport: Transport,
    number: DiscNumber,
    server: Server,
}

/// Takes in the handshake, and not a byte more. `None` when the client leaves without an export.
async fn negotiate(mut client: Client, door: &Door) -> io::Result<Option<Agreed>> {
    let mut out = Vec::new();
    let tls = door.front.as_ref().map_or(Tls::Off, Front::offered);
    let mut server = Server::new(tls, &mut out);
    let (mut wanted, mut transport) = (None, Transport::Clear);
    loop {
        send(&client, &out).await?;
        out.clear();
        if let (Some(_), Some(number)) = (server.agreement(), wanted) {
            return Ok(Some(Agreed { client, transport, number, server }));
        }
        if let (Transport::TlsAwaited, Some(front)) = (transport, &door.front) {
            client = client.secured(front)?;
            transport = Transport::Tls;
        }
        let mut piece = [0; PIECE_BYTES];
        let count = client.when(Interest::READABLE, |fd| Ok(recv(fd, &mut piece, RecvFlags::PEEK)?.0)).await?;
        if count == 0 {
            return Ok(None);
        }
        if *door.stop.borrow() {
            server.handle_leaving();
        }
        let step = server.handle_bytes(&piece[..count], &mut out);
        let consumed = step.as_ref().map_or(count, |(consumed, _)| *consumed);
        // It is there, so it does not wait.
        client.when(Interest::READABLE, |fd| Ok(recv(fd, &mut piece[..consumed], RecvFlags::empty())?)).await?;
        match step.map_err(io::Error::other)?.1 {
            Some(Event::ExportWanted(_)) if server.is_list_wanted() => {
                server.handle_list(door.exports.listed(), &mut out);
            }
            Some(Event::ExportWanted(name)) => {
                let found = door.exports.find(&name);
                wanted = found.as_ref().map(|(number, _)| *number);
                let answer = found.map(|(_, export)| export).ok_or(Refusal::Unknown);
                server.handle_export(answer, &mut out).map_err(io::Error::other)?;
            }
            Some(Event::TlsWanted) => {
                server.handle_tls(true, &mut out);
                transport = Transport::TlsAwaited;
            }
            Some(Event::Closed) => {
                send(&client, &out).await?;
                return Ok(None);
            }
            Some(Event::Request(_) | Event::Refused(_)) => unreachable!("nothing behind the handshake is looked at"),
            None => {}
        }
    }
}

async fn send(client: &Client, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = client.when(Interest::WRITABLE, |fd| Ok(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL)?)).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_door_is_told_at_once_and_then_now_and_then() {
        let (mut crush, start) = (Crush::default(), Instant::now());
        assert_eq!(crush.handle_closed(start), Some(1));
        assert_eq!(crush.handle_closed(start + TELLING_PAUSE / 2), None);
        assert_eq!(crush.handle_closed(start + TELLING_PAUSE), Some(2));
    }
}
