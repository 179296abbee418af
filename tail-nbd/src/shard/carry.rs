//! Discs as values: what another process needs to go on with them and with their clients, and going on.
//!
//! First a disc is *lent* while it serves, with its clients ([`lend`](super::lend)): the other process opens it frozen, and
//! does nothing with it. When it is frozen here, what has changed since is carried. So clients wait only for those of them
//! that are waiting for something, or came meanwhile.
//!
//! The descriptors are copies, so the discs here stay whole: they go on when the other process fails. How a file is read
//! and written is a property of its open file description, which both processes have: until the disc is carried it is
//! left as it is.
//!
//! ```text
//!   what there is                                   how it is carried
//!   bytes received, payload of an unfinished piece  input: as if nothing of it had been looked at
//!   replies, headers and pages, partly sent         output: the bytes that are left
//!   a request, waiting or under way                 the header that asks for it, which is checked again, and how much is done
//!   a write whose payload is arriving               the same; its pieces that were written count as done
//!   a FLUSH that waits for a sync                   the same; it waits for the first sync of the other process
//! ```
//!
//! Clients that are not let in and whose address the disc does not know are not carried: they lose nothing. Nor are
//! those whose TLS ends in this process: they are closed before, when what they have asked for is answered, and connect
//! again (safety rule 26).

use super::access::Grant;
use super::error::ShardError;
use super::owner::Shard;
use crate::connection::receive::{Input, Landing};
use crate::connection::transfer::Transfer;
use crate::connection::{self, Connection, Transport};
use crate::disc::barrier::Barrier;
use crate::disc::{Disc, State};
use crate::error::Errno;
use crate::limits::{CONNECTIONS_PER_DISC_MAX, NEGOTIATING_PER_DISC_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::metrics::DiscCounters;
use crate::nbd::negotiation::Agreement;
use crate::nbd::request::{Checked, Command, Header, Request};
use crate::nbd::server::Server;
use crate::nbd::wire::Error;
use crate::ring::slots::Token;
use serde::{Deserialize, Serialize};
use spine::id::DiscNumber;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A frozen disc that was lent before.
#[derive(Debug)]
pub struct CarriedDisc {
    /// What is known of it.
    pub facts: DiscFacts,
    /// Clients that were lent and of which there is nothing to say: what they were called then.
    pub kept: Vec<u64>,
    /// Its other clients.
    pub clients: Vec<CarriedClient>,
}

/// What is known of a frozen disc.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiscFacts {
    /// Its number.
    pub number: DiscNumber,
    /// As when it was lent.
    pub incarnation: u64,
    /// As when it was lent, in bytes.
    pub size_bytes: u64,
    /// An fsync has failed, and nobody has put it right (safety rule 17).
    pub sync_failed: bool,
    /// What it has done; `None` when that is what it had done when it was lent. Not one of its attributes when it is
    /// written down: see [`crate::upgrade::state`].
    #[serde(skip)]
    pub counters: Option<DiscCounters>,
}

/// A client of a frozen disc.
#[derive(Debug)]
pub struct CarriedClient {
    /// What is known of it.
    pub facts: ClientFacts,
    /// Its socket.
    pub socket: OwnedFd,
    /// Bytes that were received and come before those in the socket.
    pub input: Vec<u8>,
    /// Bytes to be sent before all others.
    pub output: Vec<u8>,
}

/// What is known of a client of a frozen disc.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientFacts {
    /// Where it comes from.
    pub peer: IpAddr,
    /// What it was let in by; none during its handshake.
    pub grant: Option<Grant>,
    /// It has said good-bye: nothing new is started.
    pub draining: bool,
    /// The protocol.
    pub server: Server,
    /// A request that waits for memory.
    pub pending: Option<Header>,
    /// A write whose payload is arriving.
    pub landing: Option<Suspended>,
    /// Requests under way.
    pub suspended: Vec<Suspended>,
}

/// A request between two operations.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Suspended {
    /// What it asks for.
    pub header: Header,
    /// Bytes of it that are done.
    pub done: u64,
    /// What went wrong with them.
    pub error: Option<Error>,
}

impl Shard {
    /// Closes the clients that cannot be carried, once what they have asked for is answered. Returns how many are left.
    pub(super) fn drain_uncarried(&mut self) -> usize {
        let uncarried = self.connections.iter().filter(|(_, connection)| connection.transport != Transport::Clear);
        let uncarried: Vec<Token> = uncarried.map(|(token, _)| token).collect();
        for token in &uncarried {
            self.drain(*token);
        }
        uncarried.len()
    }

    /// Copies all discs, which are frozen and were lent.
    pub(super) fn carry_all(&mut self) -> Result<Vec<CarriedDisc>, ShardError> {
        let tokens: Vec<Token> = self.discs.iter().map(|(token, _)| token).collect();
        tokens.into_iter().map(|token| self.carry(token)).collect()
    }

    fn carry(&mut self, token: Token) -> Result<CarriedDisc, ShardError> {
        let disc = self.discs.get(token).expect("it was just listed");
        let number = disc.number;
        let os = |what| move |source| ShardError::Os { number, what, source };
        if !matches!(disc.state, State::Frozen) {
            return Err(ShardError::Busy(number));
        }
        let facts = DiscFacts {
            number,
            incarnation: token.to_u64(),
            size_bytes: disc.size.bytes(),
            sync_failed: disc.barrier.failed().is_some(),
            counters: Some(disc.counters),
        };
        let (mut kept, mut clients) = (Vec::new(), Vec::new());
        let access = disc.access.clone();
        for id in disc.connections.clone() {
            let Some(connection) = self.connections.get(id) else { continue };
            if let Some(key) = connection.lent.filter(|_| connection.is_at_rest()) {
                kept.push(key);
                continue;
            }
            let stranger = connection.grant.is_none() && !access.knows(connection.peer);
            let in_clear = connection.transport == Transport::Clear;
            if !stranger
                && in_clear
                && matches!(connection.state, connection::State::Open | connection::State::Draining)
            {
                clients.push(self.carry_client(token, id).map_err(os("cannot copy the state of a client"))?);
            }
        }
        Ok(CarriedDisc { facts, kept, clients })
    }

    fn carry_client(&mut self, disc: Token, id: Token) -> std::io::Result<CarriedClient> {
        let suspended = self.suspended_of(disc, id);
        let connection = self.connections.get_mut(id).expect("it was just found");
        connection.return_pages().map_err(|errno| std::io::Error::from_raw_os_error(errno.0))?;
        let mut output = Vec::new();
        for batch in [&mut connection.unsent, &mut connection.filling].into_iter().flatten() {
            batch.flatten().map_err(|errno| std::io::Error::from_raw_os_error(errno.0))?;
            batch.unsent().for_each(|part| output.extend_from_slice(part));
        }
        let (mut server, mut input, mut landing) = (connection.server.clone(), Vec::new(), None);
        if let Some(arriving) = &connection.landing {
            // What of a piece is there is given back, since pieces are written whole.
            let filled = arriving.buffer.as_ref().map_or(&[][..], |buffer| &buffer.bytes()[..arriving.filled]);
            input.extend_from_slice(filled);
            server.handle_payload_returned(filled.len() as u32);
            let transfer = self.transfers.get(arriving.transfer);
            landing = transfer.map(|transfer| Suspended::of(transfer, arriving.done));
        }
        input.extend_from_slice(connection.input.as_ref().map_or(&[], Input::bytes));
        let facts = ClientFacts {
            peer: connection.peer,
            grant: connection.grant.clone(),
            draining: connection.state == connection::State::Draining,
            server,
            pending: connection.pending.map(|request| request.header()),
            landing,
            suspended,
        };
        Ok(CarriedClient { facts, socket: connection.socket.try_clone()?, input, output })
    }

    /// The requests of a client that are under way, without the write whose payload is arriving.
    fn suspended_of(&self, disc: Token, connection: Token) -> Vec<Suspended> {
        let Some(disc) = self.discs.get(disc) else { return Vec::new() };
        let of_disc = disc.suspended.iter().chain(disc.barrier.waiting());
        let transfers = of_disc.filter_map(|id| self.transfers.get(*id));
        let its = transfers.filter(|transfer| transfer.connection == connection);
        its.map(|transfer| Suspended::of(transfer, transfer.done)).collect()
    }

    /// Takes in what borrowed discs have become, and their clients. All of them or, with an error, some: then the process
    /// is to end.
    pub(super) fn inherit_all(&mut self, discs: Vec<CarriedDisc>) -> Result<(), ShardError> {
        discs.into_iter().try_for_each(|carried| self.inherit(carried))
    }

    fn inherit(&mut self, carried: CarriedDisc) -> Result<(), ShardError> {
        let CarriedDisc { facts: DiscFacts { number, size_bytes, sync_failed, counters, .. }, kept, clients } = carried;
        let token = self.find(number)?;
        let Some(disc) = self.discs.get_mut(token) else { return Err(ShardError::NotOpen(number)) };
        if !matches!(disc.state, State::Frozen) || disc.size.bytes() != size_bytes {
            return Err(ShardError::Unsound(number));
        }
        disc.counters = counters.unwrap_or(disc.counters);
        if sync_failed {
            disc.barrier = Barrier::new(Some(Errno(libc::EIO)));
        }
        // From here on nobody else reads and writes it.
        disc.set_mode();
        self.keep_clients(number, token, &kept)?;
        if kept.len() + clients.len() > CONNECTIONS_PER_DISC_MAX + NEGOTIATING_PER_DISC_MAX {
            return Err(ShardError::Full { number, limit: "CONNECTIONS_PER_DISC_MAX" });
        }
        clients.into_iter().try_for_each(|client| self.inherit_client(number, token, client))
    }

    fn inherit_client(&mut self, number: DiscNumber, token: Token, client: CarriedClient) -> Result<(), ShardError> {
        let Some(disc) = self.discs.get(token) else { return Err(ShardError::NotOpen(number)) };
        let CarriedClient { facts, socket, input, output } = client;
        if facts.grant.as_ref().is_some_and(|grant| !disc.access.still_grants(grant)) {
            // It lost its right and was not told yet; it learns it by the end of this process's copy of its socket.
            return Ok(());
        }
        let plan = Plan::of(&facts, disc).ok_or(ShardError::Unsound(number))?;
        let known = facts.grant.is_some() || disc.access.knows(facts.peer);
        let mut connection = Connection::adopted(token, Rc::new(socket), facts.peer, facts.server, facts.grant);
        (connection.known, connection.held, connection.arrived) = (known, true, self.now);
        if facts.draining {
            connection.state = connection::State::Draining;
        }
        (connection.input, connection.pending) = (Input::carried(input), plan.pending);
        let mut batch = self.spare_batch();
        batch.headers().extend_from_slice(&output);
        connection.filling = Some(batch);
        let negotiating = connection.server.is_negotiating();
        let full = |_| ShardError::Full { number, limit: "CONNECTIONS_MAX" };
        let id = self.connections.insert(connection).map_err(full)?;
        if let Some(disc) = self.discs.get_mut(token) {
            disc.connections.push(id);
        }
        if negotiating {
            self.set_deadline(id, self.patience.handshake_seconds);
        } else if facts.draining {
            self.set_deadline(id, self.patience.drain_seconds);
        }
        if let Some((request, carried)) = plan.landing {
            let transfer = self.inherit_transfer(number, token, id, request, carried)?;
            if let (Some(connection), Command::Write { range, .. }) = (self.connections.get_mut(id), request.command) {
                connection.landing = Some(Landing::new(transfer, range, carried.done));
            }
        }
        for (request, carried) in plan.suspended {
            let transfer = self.inherit_transfer(number, token, id, request, carried)?;
            let Some(disc) = self.discs.get_mut(token) else { continue };
            match request.command {
                Command::Write { .. } | Command::Flush => disc.barrier.add(transfer),
                _ => disc.suspended.push(transfer),
            }
        }
        Ok(())
    }

    fn inherit_transfer(
        &mut self,
        number: DiscNumber,
        disc: Token,
        connection: Token,
        request: Request,
        carried: Suspended,
    ) -> Result<Token, ShardError> {
        let mut transfer = Transfer::new(connection, disc, request, self.now);
        (transfer.done, transfer.error) = (carried.done, carried.error);
        let full = |_| ShardError::Full { number, limit: "TRANSFERS_MAX" };
        let id = self.transfers.insert(transfer).map_err(full)?;
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.in_flight_count += 1;
        }
        Ok(id)
    }
}

impl Suspended {
    fn of(transfer: &Transfer, done: u64) -> Self {
        Self { header: transfer.request.header(), done, error: transfer.error }
    }

    /// The request, if this can be one that is under way.
    fn check(self, agreement: &Agreement) -> Option<(Request, Self)> {
        let request = checked(self.header, agreement)?;
        (self.done <= self.header.length).then_some((request, self))
    }
}

/// The requests of a client, checked.
struct Plan {
    pending: Option<Request>,
    landing: Option<(Request, Suspended)>,
    suspended: Vec<(Request, Suspended)>,
}

impl Plan {
    /// `None` when the facts do not fit together, or not to the disc.
    fn of(facts: &ClientFacts, disc: &Disc) -> Option<Self> {
        let none = Self { pending: None, landing: None, suspended: Vec::new() };
        if !facts.server.is_sound() {
            return None;
        }
        let idle = facts.pending.is_none() && facts.landing.is_none() && facts.suspended.is_empty();
        let Some(agreement) = facts.server.agreement() else { return idle.then_some(none) };
        if agreement.size != disc.size
            || facts.grant.is_none()
            || facts.suspended.len() > REQUESTS_IN_FLIGHT_MAX as usize
        {
            return None;
        }
        let pending = match facts.pending {
            Some(header) => Some(checked(header, agreement)?),
            None => None,
        };
        let landing = match facts.landing {
            Some(landing) => Some(landing.check(agreement)?),
            None => None,
        };
        let suspended = facts.suspended.iter().map(|suspended| suspended.check(agreement));
        let plan = Self { pending, landing, suspended: suspended.collect::<Option<_>>()? };
        let is_write = |request: &Request| matches!(request.command, Command::Write { .. });
        // The bytes that come next belong to at most one write.
        let awaited = match (&plan.pending, &plan.landing) {
            (Some(_), Some(_)) => return None,
            (Some(request), None) if is_write(request) => facts.pending?.length,
            (None, Some((request, landing))) => {
                if !is_write(request) || landing.done >= landing.header.length {
                    return None;
                }
                landing.header.length - landing.done
            }
            (_, None) => 0,
        };
        let may_wait = |(request, _): &(Request, Suspended)| !matches!(request.command, Command::BlockStatus { .. });
        let is_sound = u64::from(facts.server.payload_remaining()) == awaited
            && plan.suspended.iter().all(may_wait)
            && (!facts.draining || (plan.pending.is_none() && plan.landing.is_none()));
        is_sound.then_some(plan)
    }
}

fn checked(header: Header, agreement: &Agreement) -> Option<Request> {
    match header.check(agreement) {
        Ok(Checked::Request(request)) => Some(request),
        Ok(Checked::Rejected { .. } | Checked::Disconnect) | Err(_) => None,
    }
}
