//! Discs and clients that two processes know at once: one serves them, the other has them open and does nothing with them.
//!
//! What is lent goes on being served, so copying it costs no client anything but a moment. Later, when the discs are frozen,
//! what has not changed since is not said again ([`carry`](super::carry)): a client that waits for nothing is a number then.
//!
//! All clients that were let in are lent. One that rests when the disc is frozen (no request of it is under way or has arrived in
//! part, and nothing is left to send) is known by what it agreed on.

use super::access::Grant;
use super::carry::DiscFacts;
use super::error::ShardError;
use super::handle::OpenDisc;
use super::owner::Shard;
use crate::connection::{self, Connection, Transport};
use crate::disc::State;
use crate::metrics::DiscCounters;
use crate::nbd::negotiation::Agreement;
use crate::nbd::server::Server;
use crate::ring::slots::Token;
use serde::{Deserialize, Serialize};
use spine::id::DiscNumber;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A disc that is being served, for another process to open.
#[derive(Debug)]
pub struct LentDisc {
    /// What is known of it.
    pub facts: LentFacts,
    /// Its file, with the lock.
    pub data: OwnedFd,
    /// Its listening socket.
    pub listener: TcpListener,
    /// Those of its clients that were let in.
    pub clients: Vec<LentClient>,
}

/// What is known of a disc that is being served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentFacts {
    /// Its number.
    pub number: DiscNumber,
    /// Another one each time the disc is opened: what is carried later must be of the file that was lent.
    pub incarnation: u64,
    /// The size that clients were told, in bytes.
    pub size_bytes: u64,
    /// What it has done; left out when that is nothing. Numbers that another version counts in another way begin again.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_default")]
    pub counters: DiscCounters,
}

/// A client that is being served.
#[derive(Debug)]
pub struct LentClient {
    /// What is known of it.
    pub facts: LentClientFacts,
    /// Its socket.
    pub socket: OwnedFd,
}

/// What is known of a client whatever it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentClientFacts {
    /// What it is called later, as no other client of its disc is.
    pub key: u64,
    /// Where it comes from.
    pub peer: IpAddr,
    /// What it was let in by.
    pub grant: Grant,
    /// What it agreed on.
    pub agreement: Agreement,
}

/// A disc that another process has lent, for [`Shards::borrow_all`](super::Shards::borrow_all).
#[derive(Debug)]
pub struct Borrowed {
    /// As for a disc of our own.
    pub disc: OpenDisc,
    /// What it has done.
    pub counters: DiscCounters,
    /// Its clients.
    pub clients: Vec<LentClient>,
}

impl LentFacts {
    /// True when what is carried is of the disc that was lent, and as large.
    pub fn is_of(&self, carried: &DiscFacts) -> bool {
        (self.number, self.incarnation, self.size_bytes) == (carried.number, carried.incarnation, carried.size_bytes)
    }
}

fn or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DiscCounters, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

fn is_default(counters: &DiscCounters) -> bool {
    *counters == DiscCounters::default()
}

impl Shard {
    /// Copies what another process needs to open the discs, which go on.
    pub(super) fn lend_all(&mut self) -> Result<Vec<LentDisc>, ShardError> {
        let tokens: Vec<Token> = self.discs.iter().map(|(token, _)| token).collect();
        tokens.into_iter().map(|token| self.lend(token)).collect()
    }

    fn lend(&mut self, token: Token) -> Result<LentDisc, ShardError> {
        let disc = self.discs.get(token).expect("it was just listed");
        let number = disc.number;
        let os = |what| move |source| ShardError::Os { number, what, source };
        let (State::Serving, Some(listener)) = (&disc.state, &disc.listener) else {
            return Err(ShardError::Busy(number));
        };
        let data = disc.data.try_clone().map_err(os("cannot copy the descriptor of its data"))?;
        let listener = listener.try_clone().map_err(os("cannot copy its listener"))?.into();
        let size_bytes = disc.size.bytes();
        let facts = LentFacts { number, incarnation: token.to_u64(), size_bytes, counters: disc.counters };
        let mut clients = Vec::new();
        for id in &disc.connections {
            let Some(connection) = self.connections.get_mut(*id) else { continue };
            let lent = lend_client(id.to_u64(), connection).transpose().map_err(os("cannot copy a client's socket"))?;
            connection.lent = lent.as_ref().map(|client| client.facts.key);
            clients.extend(lent);
        }
        Ok(LentDisc { facts, data, listener, clients })
    }

    /// Opens discs that another process serves, with their clients. They are frozen until they are inherited and thawed. All
    /// of them or, with an error, some: then the process is to end.
    pub(super) fn borrow_all(&mut self, discs: Vec<Borrowed>) -> Result<(), ShardError> {
        for Borrowed { disc, counters, clients } in discs {
            let number = disc.number;
            let token = self.open(disc, State::Frozen)?;
            if let Some(disc) = self.discs.get_mut(token) {
                disc.counters = counters;
            }
            clients.into_iter().try_for_each(|client| self.borrow_client(number, token, client))?;
        }
        Ok(())
    }

    fn borrow_client(&mut self, number: DiscNumber, token: Token, client: LentClient) -> Result<(), ShardError> {
        let LentClient { facts: LentClientFacts { key, peer, grant, agreement }, socket } = client;
        let Some(disc) = self.discs.get_mut(token) else { return Err(ShardError::NotOpen(number)) };
        if agreement.size != disc.size {
            return Err(ShardError::Unsound(number));
        }
        let server = Server::agreed(agreement);
        let mut connection = Connection::adopted(token, Rc::new(socket), peer, server, Some(grant));
        (connection.held, connection.lent) = (true, Some(key));
        let full = |_| ShardError::Full { number, limit: "CONNECTIONS_MAX" };
        disc.connections.push(self.connections.insert(connection).map_err(full)?);
        Ok(())
    }

    /// Keeps those clients of a borrowed disc that are as they were, and forgets the others: they are gone, or are handed
    /// over anew. One that lost its right and was not told yet learns it by the end of this process's copy of its socket.
    pub(super) fn keep_clients(&mut self, number: DiscNumber, token: Token, kept: &[u64]) -> Result<(), ShardError> {
        let Some(disc) = self.discs.get_mut(token) else { return Err(ShardError::NotOpen(number)) };
        let mut found_count = 0;
        for id in std::mem::take(&mut disc.connections) {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            let is_kept = connection.lent.take().is_some_and(|key| kept.contains(&key));
            found_count += usize::from(is_kept);
            if is_kept && connection.grant.as_ref().is_some_and(|grant| disc.access.still_grants(grant)) {
                disc.connections.push(id);
            } else {
                self.connections.remove(id);
            }
        }
        if found_count == kept.len() { Ok(()) } else { Err(ShardError::Unsound(number)) }
    }
}

fn lend_client(key: u64, connection: &Connection) -> Option<std::io::Result<LentClient>> {
    let (Some(grant), Some(agreement)) = (&connection.grant, connection.server.agreement()) else { return None };
    if connection.state != connection::State::Open || connection.transport != Transport::Clear {
        return None;
    }
    let facts = LentClientFacts { key, peer: connection.peer, grant: grant.clone(), agreement: *agreement };
    Some(connection.socket.try_clone().map(|socket| LentClient { facts, socket }))
}
