//! Connections that deliver in arbitrary pieces and break anywhere.
//!
//! Each connection has a real socket on loopback, because the shard asks the kernel who its peer is, and shuts it
//! down to end it. No byte goes over it.

use super::chance::Chance;
use rustix::net::{RecvFlags, accept, recv, sockopt};
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Names a connection; no two have the same name.
pub(super) type LinkId = u64;

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) disc: usize,
    source: Ipv4Addr,
    /// The client's socket, and a share of the server's, once it is accepted.
    ends: Option<(Socket, OwnedFd)>,
    /// On its way to the server; the first `arrived_count` bytes are there.
    pub(super) to_server: VecDeque<u8>,
    pub(super) arrived_count: usize,
    pub(super) to_client: VecDeque<u8>,
    /// The client has closed its side, after all that it has sent.
    pub(super) finished: bool,
    /// The network has cut it.
    pub(super) broken: bool,
    /// The server has shut it down.
    pub(super) shut: bool,
    /// There is a reason for the server to shut it down.
    pub(super) excused: bool,
}

/// All connections, by name.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) links: BTreeMap<LinkId, Link>,
    sockets: BTreeMap<RawFd, LinkId>,
    last: LinkId,
}

/// How many bytes a socket takes that nobody reads.
const WINDOW_BYTES: usize = 96 << 10;

impl Network {
    /// A client calls a disc.
    pub(super) fn dial(&mut self, disc: usize, source: Ipv4Addr) -> LinkId {
        self.last += 1;
        let link = Link {
            disc,
            source,
            ends: None,
            to_server: VecDeque::new(),
            arrived_count: 0,
            to_client: VecDeque::new(),
            finished: false,
            broken: false,
            shut: false,
            excused: false,
        };
        self.links.insert(self.last, link);
        self.last
    }

    /// The server takes the next call of a disc, if there is one.
    pub(super) fn accept(&mut self, disc: usize, listener: impl AsFd) -> Option<OwnedFd> {
        let waiting = |link: &&mut Link| link.disc == disc && link.ends.is_none() && !link.broken;
        let (id, link) = self.links.iter_mut().map(|(id, link)| (*id, link)).find(|(_, link)| waiting(link))?;
        let address = rustix::net::getsockname(&listener).ok().and_then(|address| SocketAddr::try_from(address).ok());
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.set_linger(Some(Duration::ZERO)).expect("nothing stays behind");
        client.bind(&SocketAddr::from((link.source, 0)).into()).expect("loopback has this address");
        client.connect(&address.expect("it is bound").into()).expect("it listens");
        let socket = accept(&listener).expect("somebody calls");
        self.sockets.insert(socket.as_raw_fd(), id);
        link.ends = Some((client, socket.try_clone().expect("a descriptor")));
        Some(socket)
    }

    /// The server has another descriptor of a socket. Returns whose it is.
    pub(super) fn rename(&mut self, socket: &OwnedFd) -> LinkId {
        let inode = |socket: &OwnedFd| rustix::fs::fstat(socket).expect("it is open").st_ino;
        let wanted = inode(socket);
        let is_it = |link: &Link| link.ends.as_ref().is_some_and(|(_, server)| inode(server) == wanted);
        let (id, _) = self.links.iter().find(|(_, link)| is_it(link)).expect("every socket is a link's");
        self.sockets.insert(socket.as_raw_fd(), *id);
        *id
    }

    /// Whose socket this is.
    pub(super) fn find(&self, socket: RawFd) -> LinkId {
        self.sockets[&socket]
    }

    pub(super) fn get(&mut self, id: LinkId) -> &mut Link {
        self.links.get_mut(&id).expect("a link stays until it is shut")
    }

    /// Looks which connections the server has shut down since the last time.
    pub(super) fn look(&mut self) {
        for link in self.links.values_mut().filter(|link| !link.shut) {
            let Some((_, server)) = &link.ends else { continue };
            link.shut = is_shut(server);
        }
    }

    /// Every client loses its connection.
    pub(super) fn cut_all(&mut self) {
        self.links.values_mut().for_each(|link| (link.broken, link.excused) = (true, true));
    }

    /// The server is gone, and so is every connection.
    pub(super) fn crash(&mut self) {
        for link in self.links.values_mut().filter(|link| link.ends.is_some()) {
            (link.shut, link.excused) = (true, true);
            link.to_client.clear();
        }
    }

    /// TCP gives up on clients that have read nothing for as long as the shard has told it to wait. True if there were
    /// any.
    pub(super) fn time_out(&mut self) -> bool {
        let is_full = |link: &&mut Link| !link.shut && !link.broken && link.to_client.len() >= WINDOW_BYTES;
        let full = self.links.values_mut().filter(is_full);
        full.map(|link| (link.broken, link.excused) = (true, true)).count() > 0
    }

    /// A connection that the server did not keep, without a word: it is not among those that it has submitted
    /// anything for.
    pub(super) fn refuse(&mut self, id: LinkId) {
        self.get(id).shut = true;
    }

    /// Bytes arrive.
    pub(super) fn deliver(&mut self, chance: &mut Chance) {
        for link in self.links.values_mut() {
            let left_count = link.to_server.len() - link.arrived_count;
            if left_count > 0 && chance.one_in(2) {
                link.arrived_count += chance.portion(left_count);
            }
        }
    }
}

impl Link {
    pub(super) fn is_accepted(&self) -> bool {
        self.ends.is_some()
    }

    /// The server receives up to so many bytes; `None` when it has to wait.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Option<Result<u32, i32>> {
        if self.broken {
            return Some(Err(libc::ECONNRESET));
        }
        if self.arrived_count > 0 {
            let count = into.len().min(self.arrived_count);
            self.arrived_count -= count;
            take(&mut self.to_server, &mut into[..count]);
            return Some(Ok(count as u32));
        }
        (self.shut || (self.finished && self.to_server.is_empty())).then_some(Ok(0))
    }

    /// The server sends; `None` when it has to wait.
    pub(super) fn send<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        chance: &mut Chance,
    ) -> Option<Result<u32, i32>> {
        if self.broken || self.shut {
            return Some(Err(libc::EPIPE));
        }
        let room = WINDOW_BYTES.saturating_sub(self.to_client.len());
        if room == 0 {
            return None;
        }
        let mut room = if chance.one_in(4) { chance.portion(room) } else { room };
        let before = self.to_client.len();
        for part in parts {
            let count = part.len().min(room);
            self.to_client.extend(&part[..count]);
            room -= count;
            if room == 0 {
                break;
            }
        }
        Some(Ok((self.to_client.len() - before) as u32))
    }
}

/// Takes as many bytes as there is room for.
pub(super) fn take(from: &mut VecDeque<u8>, into: &mut [u8]) {
    let (left, right) = from.as_slices();
    let cut = left.len().min(into.len());
    let (first, second) = into.split_at_mut(cut);
    first.copy_from_slice(&left[..cut]);
    second.copy_from_slice(&right[..second.len()]);
    from.drain(..into.len());
}

/// True when our side was shut down. It is asked of the kernel; as nothing is ever sent, there is nothing to wait for.
fn is_shut(socket: &OwnedFd) -> bool {
    let looked = recv(socket, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(looked, Ok((0, _)))
}

/// True while a listener takes connections.
pub(super) fn is_listening(listener: impl AsFd) -> bool {
    sockopt::socket_acceptconn(listener).unwrap_or(false)
}
