//! Clients that go on through TLS: their sockets are handed over, and what comes out at the other end takes their
//! place.

use super::owner::Shard;
use crate::connection::Transport;
use crate::nbd::offer::Tls;
use crate::ring::slots::Token;
use std::os::fd::AsFd as _;
use std::rc::Rc;

impl Shard {
    /// What clients are offered.
    pub(super) fn tls_offered(&self) -> Tls {
        self.front.as_ref().map_or(Tls::Off, |front| front.offered())
    }

    /// Answers a client that wants TLS. Nothing costs as much as its handshake, so only those whom the disc knows get
    /// it.
    pub(super) fn answer_tls(&mut self, token: Token) {
        let Some(connection) = self.connections.get(token) else { return };
        // A client from another process may have been offered what this one does not have.
        let accepted = self.front.is_some()
            && self.discs.get(connection.disc).is_some_and(|disc| disc.access.knows(connection.peer));
        let mut batch = match self.connections.get_mut(token).and_then(|connection| connection.filling.take()) {
            Some(batch) => batch,
            None => self.spare_batch(),
        };
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.server.handle_tls(accepted, batch.headers());
        connection.filling = Some(batch);
        if accepted {
            connection.transport = Transport::TlsAwaited;
        }
    }

    /// Hands a client over that has been told to go on through TLS. Harmless for all others.
    pub(super) fn secure(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let told = connection.transport == Transport::TlsAwaited && connection.is_drained();
        if !told || !connection.is_reading() || connection.held {
            return;
        }
        assert!(!connection.receiving && connection.input.is_none(), "nothing in the clear comes behind STARTTLS");
        let handed = match &self.front {
            Some(front) => connection.socket.as_fd().try_clone_to_owned().and_then(|socket| front.secure(socket)),
            None => unreachable!("without it none is accepted"),
        };
        match handed {
            Ok(plain) => {
                connection.socket = Rc::new(plain);
                connection.transport = Transport::Tls;
            }
            Err(error) => {
                tracing::warn!(peer = %connection.peer, %error, "a client cannot go on through TLS");
                self.cut(token);
            }
        }
    }
}
