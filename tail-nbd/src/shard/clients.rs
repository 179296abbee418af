//! From a new connection to a started request.

use super::access::{Grant, Refusal};
use super::error::ShardError;
use super::handle::Adopted;
use super::owner::{Shard, Waiter};
use super::transfers::Payload;
use crate::connection::receive::{Input, Landing};
use crate::connection::transfer::Transfer;
use crate::connection::{self, Connection, Transport};
use crate::disc::extents::{self, Run};
use crate::disc::{Disc, State};
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::{
    CONNECTIONS_PER_DISC_MAX, EXTENTS_PER_TURN_MAX, KEEPALIVE, LARGE_WRITE_BYTES, NEGOTIATING_PER_DISC_MAX,
    PACED_CONGESTION_CONTROL, PIECE_BUFFER_BYTES, RECEIVE_AFTER_LARGE_BYTES, TCP_USER_TIMEOUT_MS,
};
use crate::metrics::Limit;
use crate::nbd::negotiation;
use crate::nbd::option::Export;
use crate::nbd::reply::Extent;
use crate::nbd::request::{Command, Request};
use crate::nbd::server::Event;
use crate::nbd::wire::{Error, STATE_HOLE, STATE_ZERO};
use crate::ring::op::{Completion, Op, Owner};
use crate::ring::pipe::Pipes;
use crate::ring::slots::Token;
use rustix::net::sockopt;
use spine::id::DiscNumber;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

impl Shard {
    /// Has the kernel take the next connection of a disc. Harmless when it does already.
    pub(super) fn accept(&mut self, token: Token) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        if let Some(listener) = &disc.listener
            && !disc.accepting
            && disc.is_accepting()
            && !disc.is_frozen()
        {
            let listener = Rc::clone(listener);
            disc.accepting = true;
            self.outbox.push_back((Owner::Listener(token), Op::Accept { listener }));
        }
    }

    pub(super) fn handle_accepted(&mut self, token: Token, completion: Completion) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        self.current = Some(token);
        disc.accepting = false;
        match completion.result {
            Ok(_) => {
                if let Some(socket) = completion.socket {
                    self.welcome(token, socket);
                }
                self.accept(token);
            }
            // The peer was gone before we looked.
            Err(errno) if matches!(errno.0, libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::ECANCELED) => {
                self.accept(token)
            }
            Err(errno) if disc.is_accepting() => {
                tracing::warn!(disc = %disc.number, %errno, "cannot accept; the next try is in a second");
                self.look_again(token);
            }
            Err(_) => {}
        }
        // A disc that is being closed has waited for it, whatever the result is.
        self.progress(token);
    }

    /// A new connection: it gets the greeting and a deadline, or, beyond a limit, is closed.
    fn welcome(&mut self, token: Token, socket: OwnedFd) {
        let Some(disc) = self.discs.get(token) else { return };
        let Ok(peer) = configure(&socket) else { return };
        let peer = if peer == disc.address { disc.own_address } else { peer };
        let known = disc.access.knows(peer);
        let negotiating_count = disc
            .connections
            .iter()
            .filter_map(|other| self.connections.get(*other))
            // Those that are cut off and wait for their last operation take nobody's place.
            .filter(|other| other.state == connection::State::Open)
            .filter(|other| other.server.is_negotiating() && other.known == known)
            .count();
        if !disc.is_accepting() {
            return;
        }
        if negotiating_count >= NEGOTIATING_PER_DISC_MAX {
            return self.shortages.note(Limit::Negotiating);
        }
        if self.connections.is_full() {
            return self.shortages.note(Limit::Connections);
        }
        let batch = self.spare_batch();
        let mut connection = Connection::new(token, Rc::new(socket), peer, known, self.tls_offered(), batch);
        connection.held = self.discs.get(token).is_some_and(Disc::is_frozen);
        let Ok(connection) = self.connections.insert(connection) else { return };
        if let Some(disc) = self.discs.get_mut(token) {
            disc.connections.push(connection);
        }
        self.set_deadline(connection, self.patience.handshake_seconds);
        self.touch(connection);
    }

    /// A client that was accepted, and let in, elsewhere.
    pub(super) fn adopt(&mut self, number: DiscNumber, client: Adopted) -> Result<(), ShardError> {
        let token = self.find(number)?;
        let Adopted { socket, server, peer, transport } = client;
        let Some(disc) = self.discs.get_mut(token) else { return Err(ShardError::NotOpen(number)) };
        if !matches!(disc.state, State::Serving) || server.agreement().is_none_or(|agreed| agreed.size != disc.size) {
            return Err(ShardError::Busy(number));
        }
        if disc.connections.len() >= CONNECTIONS_PER_DISC_MAX {
            return Err(ShardError::Full { number, limit: "CONNECTIONS_PER_DISC_MAX" });
        }
        let connection = Connection::adopted(token, Rc::new(socket), peer, server, Some(Grant::Adopted));
        let connection = Connection { transport, ..connection };
        let full = |_| ShardError::Full { number, limit: "CONNECTIONS_MAX" };
        let connection = self.connections.insert(connection).map_err(full)?;
        disc.connections.push(connection);
        self.touch(connection);
        Ok(())
    }

    pub(super) fn handle_received(&mut self, token: Token, completion: Completion) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        self.current = Some(connection.disc);
        connection.receiving = false;
        self.portion.handle_received(token);
        // The deadline of a connection that is being closed stays, and so does that of one which sent nothing.
        let interrupted = matches!(completion.result, Err(Errno(libc::EINTR | libc::EAGAIN)));
        // That there is something to receive is not yet a whole piece.
        let announced = matches!(completion.op, Op::Poll { .. });
        if connection.server.is_midway() && connection.state == connection::State::Open && !interrupted && !announced {
            connection.deadline = None;
        }
        let count = match completion.result {
            Ok(count) => count as usize,
            Err(errno) if errno.0 == libc::ENOBUFS => return self.starve(token),
            Err(errno) if matches!(errno.0, libc::EINTR | libc::EAGAIN | libc::ECANCELED) => 0,
            Err(_) => return self.cut(token),
        };
        let at_end = completion.result == Ok(0);
        match (completion.op, completion.received) {
            _ if at_end => self.cut(token),
            (Op::Receive { .. }, Some(buffer)) if connection.is_reading() => {
                connection.input = Some(Input::new(buffer, count));
                connection.arrived = self.now;
                self.touch(token);
            }
            (Op::ReceiveInto { buffer, .. }, _) if connection.is_reading() => {
                connection.server.handle_payload(count as u32);
                let landing = connection.landing.as_mut().expect("an open connection keeps its landing");
                landing.filled += count;
                landing.buffer = Some(buffer);
                self.touch(token);
            }
            (Op::Poll { .. }, _) => {
                if let Some(landing) = &mut connection.landing {
                    landing.announced = count > 0;
                }
                self.touch(token);
            }
            _ => self.touch(token),
        }
    }

    /// Looks at what has arrived until there is nothing left or something has to be waited for.
    pub(super) fn process_input(&mut self, token: Token) {
        loop {
            let Some(connection) = self.connections.get_mut(token) else { return };
            self.current = Some(connection.disc);
            if !connection.is_reading() || connection.held {
                return;
            }
            if let Some(request) = connection.pending.take() {
                if !self.start(token, request) {
                    return;
                }
                continue;
            }
            if connection.landing.is_some() {
                if !self.land(token) {
                    return;
                }
                continue;
            }
            if connection.input.is_none() || connection.asked.is_some() || !connection.has_room() {
                return;
            }
            self.parse(token);
        }
    }

    /// One step of the protocol.
    fn parse(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let Some(mut input) = connection.input.take() else { return };
        let mut batch = match connection.filling.take() {
            Some(batch) => batch,
            None => self.spare_batch(),
        };
        let Some(connection) = self.connections.get_mut(token) else { return };
        let step = connection.server.handle_bytes(input.bytes(), batch.headers());
        connection.filling = Some(batch);
        let event = match step {
            Ok((consumed, event)) => {
                if !input.consume(consumed) {
                    connection.input = Some(input);
                }
                event
            }
            Err(violation) => {
                tracing::debug!(peer = %connection.peer, %violation, "a client broke the protocol");
                return self.drain(token);
            }
        };
        match event {
            Some(Event::Request(request)) => {
                connection.pending = Some(request);
            }
            Some(Event::ExportWanted(name)) => {
                connection.asked = Some(name);
                self.decide(token);
            }
            Some(Event::TlsWanted) => self.answer_tls(token),
            Some(Event::Refused(error)) => {
                let disc = connection.disc;
                if let Some(disc) = self.discs.get_mut(disc) {
                    disc.counters.errors.record(error);
                }
            }
            Some(Event::Closed) => self.drain(token),
            None => {}
        }
    }

    /// May this client use the disc? (R117) While the disc is being resized the answer waits: it tells the size.
    pub(super) fn decide(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let Some(disc) = self.discs.get_mut(connection.disc) else { return };
        if matches!(disc.state, State::Resizing { .. }) {
            return;
        }
        let Some(name) = connection.asked.take() else { return };
        if connection.filling.is_none() {
            connection.filling = Some(self.batches.pop().unwrap_or_default());
        }
        let others = disc.connections.iter().filter_map(|other| self.connections.get(*other));
        let granted_count = others.filter(|other| other.grant.is_some()).count();
        let Some(connection) = self.connections.get_mut(token) else { return };
        let decision = disc.access.decide(connection.peer, &name);
        let answer = match &decision {
            _ if connection.state == connection::State::Leaving => Err(negotiation::Refusal::Leaving),
            Ok(_) if granted_count >= CONNECTIONS_PER_DISC_MAX => Err(negotiation::Refusal::Policy),
            Ok(_) => Ok(Export { size: disc.size, description: format!("disc {}", disc.number), read_only: false }),
            Err(Refusal::Address) => Err(negotiation::Refusal::Policy),
            Err(Refusal::Name) => Err(negotiation::Refusal::Unknown),
        };
        if answer.is_err() {
            disc.counters.refused_count += 1;
        }
        if decision.is_ok() && granted_count >= CONNECTIONS_PER_DISC_MAX {
            self.shortages.note(Limit::DiscConnections);
        }
        let Some(batch) = &mut connection.filling else { return };
        if connection.server.handle_export(answer, batch.headers()).is_err() {
            return self.drain(token);
        }
        if connection.server.agreement().is_some() {
            connection.grant = decision.ok();
            connection.deadline = None;
        }
    }

    /// Starts a request. False when it has to wait; then it is in the queue.
    fn start(&mut self, token: Token, request: Request) -> bool {
        let Some(connection) = self.connections.get_mut(token) else { return true };
        let disc = connection.disc;
        #[cfg(test)]
        if self.panic_on_request.is_some() && self.panic_on_request == self.discs.get(disc).map(|disc| disc.number) {
            self.panic_on_request = None;
            panic!("a panic that a test ordered");
        }
        let transfer = Transfer::new(token, disc, request, connection.arrived);
        if let Some(range) = transfer.range()
            && range.length() == 0
        {
            connection.after_large = false;
            self.answer_nothing(token, request);
            return true;
        }
        let looks_enough =
            matches!(request.command, Command::BlockStatus { .. }) && self.extents_count >= EXTENTS_PER_TURN_MAX;
        if looks_enough || self.portion.is_enough(token) {
            connection.pending = Some(request);
            self.wait_for_turn(token);
            return false;
        }
        if let Some(range) = transfer.range()
            && matches!(request.command, Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. })
            && self.discs.get(disc).is_some_and(|disc| disc.referred.iter().any(|other| other.overlaps(range)))
        {
            connection.pending = Some(request);
            self.wait_for_buffer(token);
            return false;
        }
        // What needs memory gets it before anything else happens.
        let part = matches!(request.command, Command::Read { .. })
            .then(|| Self::next_part(&mut self.discs, &transfer, connection.style()));
        let data = part.filter(|part| !part.hole).map(|part| part.range);
        // TLS encrypts what it has read once: a copy (safety rule 24).
        let may_refer = connection.transport != Transport::Tls;
        let pages = data.filter(|_| may_refer).and_then(|range| self.find_pages(disc, range));
        let bytes = data.filter(|_| pages.is_none()).map_or(0, |range| self.room_for(disc, range));
        let buffer = if bytes == 0 { None } else { self.take_buffer(disc, bytes) };
        let Some(connection) = self.connections.get_mut(token) else { return true };
        let short_of_memory = bytes > 0 && buffer.is_none();
        if short_of_memory || self.transfers.is_full() {
            self.shortages.note(if short_of_memory { Limit::Data } else { Limit::Transfers });
            connection.pending = Some(request);
            self.wait_for_buffer(token);
            self.look_for_whole_soon(bytes);
            return false;
        }
        connection.after_large =
            matches!(request.command, Command::Write { range, .. } if range.length() >= LARGE_WRITE_BYTES);
        connection.in_flight_count += 1;
        let is_read = matches!(request.command, Command::Read { .. });
        self.portion.handle_started(transfer.range().filter(|_| is_read).map_or(0, ByteRange::length));
        let id = self.transfers.insert(transfer).expect("it is not full");
        match (request.command, buffer) {
            (Command::Read { range, .. }, Some(buffer)) => self.submit_read(id, buffer, data.unwrap_or(range)),
            (Command::Read { .. }, None) => match pages {
                Some(pipe) => self.answer_read(id, pipe.left() as u64, |batch| batch.push_pages(pipe)),
                None => self.continue_read(id),
            },
            (Command::Write { range, .. }, _) => {
                connection.landing = Some(Landing::new(id, range, 0));
            }
            (Command::BlockStatus { range, one }, _) => self.answer_status(id, range, one),
            (Command::Flush, _) => self.sync(id),
            _ => self.continue_simple(id),
        }
        true
    }

    /// Goes on with the payload that is arriving. True when what follows it may be looked at.
    fn land(&mut self, token: Token) -> bool {
        let Some(connection) = self.connections.get_mut(token) else { return false };
        if connection.receiving {
            return false;
        }
        if connection.landing.as_ref().is_none_or(|landing| landing.wants_place()) && !self.find_place(token) {
            return false;
        }
        let Some(connection) = self.connections.get_mut(token) else { return false };
        match connection.land() {
            Ok(true) => {}
            // It lands in a buffer after all.
            Ok(false) if connection.landing.as_ref().is_some_and(|landing| landing.wants_place()) => return true,
            Ok(false) => return false,
            Err(_) => {
                self.cut(token);
                return false;
            }
        }
        let Some(landing) = &mut connection.landing else { return true };
        let (transfer, piece) = (landing.transfer, landing.piece());
        let payload = match (landing.buffer.take(), landing.pages.take()) {
            (Some(buffer), _) => Payload::Copied(buffer),
            (None, Some(pipe)) => Payload::Pages(pipe),
            (None, None) => return true,
        };
        landing.done += piece.length();
        landing.filled = 0;
        let whole = landing.done == landing.range.length();
        if whole {
            connection.landing = None;
        }
        if connection.state == connection::State::Open {
            connection.deadline = None;
        }
        self.submit_write(transfer, payload, piece, whole);
        true
    }

    /// Finds a pipe or a buffer for the piece that is arriving. False when it has to wait; then it is in the queue.
    fn find_place(&mut self, token: Token) -> bool {
        let Some(connection) = self.connections.get(token) else { return false };
        let Some(landing) = &connection.landing else { return false };
        let (disc, piece) = (connection.disc, landing.piece());
        // What is in memory already is not worth a pipe.
        let arrived = connection.input.as_ref().map_or(0, |input| input.bytes().len());
        let by_reference = piece.length() >= LARGE_WRITE_BYTES
            && arrived <= RECEIVE_AFTER_LARGE_BYTES as usize
            && !landing.copied
            && connection.transport == Transport::Clear
            && self.discs.get(disc).is_some_and(Disc::may_refer);
        let pages = self.pipes.as_ref().filter(|_| by_reference).and_then(Pipes::take);
        if by_reference && pages.is_none() && self.pipes.as_ref().is_some_and(Pipes::are_taken) {
            self.shortages.note(Limit::Pipes);
        }
        let room = self.room_for(disc, piece);
        let refused = pages.is_none() && self.refuses_payload(disc, room);
        let buffer = if pages.is_some() || refused { None } else { self.take_buffer(disc, room) };
        if pages.is_none() && buffer.is_none() {
            if !refused {
                self.shortages.note(Limit::Data);
            }
            self.wait_for_buffer(token);
            return false;
        }
        let connection = self.connections.get_mut(token);
        if let Some(landing) = connection.and_then(|connection| connection.landing.as_mut()) {
            (landing.buffer, landing.pages) = (buffer, pages);
        }
        true
    }

    /// A request about no bytes is done.
    fn answer_nothing(&mut self, token: Token, request: Request) {
        self.reply(token, &request, |batch, answer| match request.command {
            Command::Read { range, .. } => answer.write_data_header(batch.headers(), range.offset(), 0, true),
            _ => answer.write_done(batch.headers()),
        });
    }

    fn answer_status(&mut self, id: Token, range: ByteRange, one: bool) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let (connection, request) = (transfer.connection, transfer.request);
        let Some(disc) = self.discs.get(transfer.disc) else { return };
        match extents::runs(&disc.data, range, one) {
            Ok(runs) => {
                self.extents_count += runs.len();
                let extents: Vec<Extent> = runs.iter().map(extent).collect();
                self.reply(connection, &request, |batch, answer| answer.write_block_status(batch.headers(), &extents));
            }
            Err(errno) => {
                tracing::warn!(disc = %disc.number, %errno, "cannot tell what is allocated");
                transfer.error = Some(Error::Eio);
                self.reply_error(id);
            }
        }
        self.finish(id);
    }

    /// The one buffer for long replies may come back from another shard, which tells nobody.
    fn look_for_whole_soon(&mut self, bytes: usize) {
        if bytes > PIECE_BUFFER_BYTES {
            self.look_soon();
        }
    }

    /// Has a READ wait for a buffer of so many bytes for its next piece.
    pub(super) fn queue_read(&mut self, id: Token, bytes: usize) {
        self.shortages.note(Limit::Data);
        self.look_for_whole_soon(bytes);
        self.waiting.push_back(Waiter::Transfer(id));
    }
}

fn extent(run: &Run) -> Extent {
    let state = if run.hole { STATE_HOLE | STATE_ZERO } else { 0 };
    Extent { length: run.length, state }
}

/// Has a socket, or what a listening one accepts, send as fast as the network takes it. It comes before the connection: the
/// pacing of one that has begun is never switched off (seen on Linux 6.18).
pub(crate) fn never_pace(socket: &impl AsFd) {
    if sockopt::tcp_congestion(socket).is_ok_and(|name| name.starts_with(PACED_CONGESTION_CONTROL)) {
        // With neither, all is slower, and works.
        let _ = sockopt::set_tcp_congestion(socket, "cubic").or_else(|_| sockopt::set_tcp_congestion(socket, "reno"));
    }
}

/// Sets the socket up, and says who is at the other end.
pub(crate) fn configure(socket: &impl AsFd) -> rustix::io::Result<IpAddr> {
    let (idle, interval, probes) = KEEPALIVE;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(idle))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(interval))?;
    sockopt::set_tcp_keepcnt(socket, probes)?;
    sockopt::set_tcp_user_timeout(socket, TCP_USER_TIMEOUT_MS)?;
    let peer = rustix::net::getpeername(socket)?.ok_or(rustix::io::Errno::NOTCONN)?;
    let peer = SocketAddr::try_from(peer)?;
    Ok(peer.ip().to_canonical())
}
