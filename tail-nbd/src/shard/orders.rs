//! Orders of the control side, and what follows from them.

use super::access::Access;
use super::error::ShardError;
use super::handle::{ClientStatus, DiscStatus, OpenDisc};
use super::owner::Shard;
use crate::buffer::Holder;
use crate::connection;
use crate::disc::barrier::Barrier;
use crate::disc::locks::Locks;
use crate::disc::mode;
use crate::disc::sparse::Sparse;
use crate::disc::warmth::Warmth;
use crate::disc::{Disc, State, Withdrawal};
use crate::error::Errno;
use crate::geometry::DiscSize;
use crate::jobs::import::next_extent;
use crate::mailbox::{Letter, Reply};
use crate::metrics::{AtOnce, DiscCounters};
use crate::ring::op::{Op, Owner};
use crate::ring::slots::Token;
use spine::id::DiscNumber;
use std::io;
use std::rc::Rc;

impl Shard {
    /// Carries out one order. An order that is not answered at once is answered by [`Shard::progress`] or when
    /// the last connection of a withdrawal is gone.
    pub(super) fn handle_letter(&mut self, letter: Letter) {
        self.current = None;
        match letter {
            Letter::Open(disc, reply) => {
                let answer = self.open(*disc, State::Serving).map(drop);
                // Nobody may be waiting for an answer any more, here and below.
                let _ = reply.send(answer);
            }
            Letter::Adopt(number, client, reply) => {
                let answer = self.adopt(number, *client);
                let _ = reply.send(answer);
            }
            Letter::SetAccess(number, access, reply) => self.set_access(number, access, reply),
            Letter::Resize(number, size_bytes, reply) => self.resize(number, size_bytes, true, reply),
            Letter::ResizeKeepingData(number, size_bytes, reply) => self.resize(number, size_bytes, false, reply),
            Letter::Close(number, reply) => match self.find(number) {
                Ok(token) => self.close(token, Some(reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Letter::Freeze(number, reply) => self.freeze(number, reply),
            Letter::Thaw(number, reply) => drop(reply.send(self.thaw(number))),
            Letter::FreezeAll(reply) => self.freeze_all(reply),
            Letter::ThawAll(reply) => {
                self.thaw_all();
                let _ = reply.send(Ok(()));
            }
            Letter::DrainUncarried(reply) => drop(reply.send(self.drain_uncarried())),
            Letter::LendAll(reply) => drop(reply.send(self.lend_all())),
            Letter::BorrowAll(discs, reply) => drop(reply.send(self.borrow_all(discs))),
            Letter::CarryAll(reply) => drop(reply.send(self.carry_all())),
            Letter::InheritAll(discs, reply) => drop(reply.send(self.inherit_all(discs))),
            Letter::Track(number, map, reply) => {
                let answer = self.track(number, map);
                let _ = reply.send(answer);
            }
            Letter::Brake(number, bytes_per_s, reply) => {
                let answer = self.brake(number, bytes_per_s);
                let _ = reply.send(answer);
            }
            Letter::TakeWritten(number, bytes_max, reply) => {
                drop(reply.send(self.take_written(number, bytes_max)));
            }
            Letter::Status(reply) => drop(reply.send(self.status())),
            Letter::Stop(reply) => self.stop(Some(reply)),
            #[cfg(test)]
            Letter::Panic(number) => self.panic_on_request = Some(number),
        }
    }

    /// Closes everything; the shard is finished when all of it is closed.
    pub(super) fn stop(&mut self, reply: Option<tokio::sync::oneshot::Sender<()>>) {
        self.stopping = Some(reply.unwrap_or_else(|| tokio::sync::oneshot::channel().0));
        let discs: Vec<Token> = self.discs.iter().map(|(token, _)| token).collect();
        for token in discs {
            if !self.discs.get(token).is_some_and(|disc| matches!(disc.state, State::Closing { .. })) {
                self.close(token, None);
            }
        }
    }

    pub(super) fn find(&self, number: DiscNumber) -> Result<Token, ShardError> {
        self.numbers.get(&number).copied().ok_or(ShardError::NotOpen(number))
    }

    /// Takes a disc in, which is being served or frozen from the start. If it is frozen, another process may read and
    /// write the file, and how that is done stays as it is.
    pub(super) fn open(&mut self, open: OpenDisc, state: State) -> Result<Token, ShardError> {
        let number = open.number;
        if self.stopping.is_some() {
            return Err(ShardError::Stopped(number));
        }
        if self.numbers.contains_key(&number) {
            return Err(ShardError::AlreadyOpen(number));
        }
        let size = checked_size(number, open.size_bytes)?;
        let os = |source| ShardError::Os { number, what: "the listener has no address", source };
        let address = match &open.listener {
            Some(listener) => listener.local_addr().map_err(os)?.ip(),
            None => open.own_address,
        };
        let is_file = open.data.metadata().is_ok_and(|metadata| metadata.is_file());
        let mut disc = Disc {
            number,
            data: Rc::new(open.data.into()),
            io: open.io,
            listener: open.listener.map(|listener| Rc::new(listener.into())),
            size,
            access: open.access,
            address: address.to_canonical(),
            own_address: open.own_address.to_canonical(),
            barrier: Barrier::new(open.sync_failed.then_some(Errno(libc::EIO))),
            changes_count: 0,
            referred: Vec::new(),
            block_bytes: None,
            locks: Locks::default(),
            sparse: Sparse::default(),
            dirty: None,
            brake: None,
            connections: Vec::new(),
            state,
            accepting: false,
            withdrawals: Vec::new(),
            suspended: Vec::new(),
            frozen_at: None,
            holder: Holder::default(),
            window: None,
            warmth: Warmth::default(),
            is_file,
            counters: DiscCounters::default(),
            at_once: AtOnce::default(),
        };
        if !disc.is_frozen() {
            disc.set_mode();
        }
        let full = |_| ShardError::Full { number, limit: "DISCS_MAX" };
        let token = self.discs.insert(disc).map_err(full)?;
        self.numbers.insert(number, token);
        self.accept(token);
        Ok(token)
    }

    fn set_access(&mut self, number: DiscNumber, access: Access, reply: Reply) {
        let token = match self.find(number) {
            Ok(token) => token,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Some(disc) = self.discs.get_mut(token) else { return };
        if matches!(disc.state, State::Panicked | State::Closing { .. }) {
            return drop(reply.send(Err(ShardError::Busy(number))));
        }
        disc.access = access;
        let connections = disc.connections.clone();
        let mut waiting_for = Vec::new();
        for id in connections {
            let (Some(disc), Some(connection)) = (self.discs.get(token), self.connections.get(id)) else { continue };
            let Some(grant) = &connection.grant else { continue };
            // Those that an earlier change has cut, and that are not gone, count for this one too.
            if connection.state == connection::State::Cut || !disc.access.still_grants(grant) {
                waiting_for.push(id);
                self.cut(id);
            }
        }
        if waiting_for.is_empty() {
            return drop(reply.send(Ok(())));
        }
        if let Some(disc) = self.discs.get_mut(token) {
            disc.withdrawals.push(Withdrawal { waiting_for, reply });
        }
    }

    fn resize(&mut self, number: DiscNumber, size_bytes: u64, cuts: bool, reply: Reply) {
        let found = self.find(number).and_then(|token| Ok((token, checked_size(number, size_bytes)?)));
        let (token, size) = match found {
            Ok(found) => found,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Some(disc) = self.discs.get_mut(token) else { return };
        if !matches!(disc.state, State::Serving) {
            return drop(reply.send(Err(ShardError::Busy(number))));
        }
        if !cuts && disc.size == size {
            return drop(reply.send(Ok(())));
        }
        disc.state = State::Resizing { size, cuts, reply };
        for connection in self.granted(token) {
            self.drain(connection);
        }
        self.progress(token);
    }

    fn close(&mut self, token: Token, reply: Option<Reply>) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        let orphans = match disc.state {
            State::Closing { .. } | State::Resizing { .. } if reply.is_some() => {
                return drop(reply.map(|reply| reply.send(Err(ShardError::Busy(disc.number)))));
            }
            State::Panicked => true,
            _ => false,
        };
        let was_frozen = disc.is_frozen();
        disc.state = State::Closing { reply, syncing: false, orphans };
        disc.stop_listening();
        if orphans {
            self.look_again(token);
        }
        for connection in self.connections_of(token) {
            match (was_frozen, self.stopping.is_some()) {
                (true, _) => self.cut(connection),
                (false, true) => self.leave(connection),
                (false, false) => self.drain(connection),
            }
        }
        self.progress(token);
    }

    fn connections_of(&self, token: Token) -> Vec<Token> {
        self.discs.get(token).map(|disc| disc.connections.clone()).unwrap_or_default()
    }

    /// The connections of a disc that have been let in.
    fn granted(&self, token: Token) -> Vec<Token> {
        let mut connections = self.connections_of(token);
        connections.retain(|id| self.connections.get(*id).is_some_and(|connection| connection.grant.is_some()));
        connections
    }

    /// Goes on with a resize or a close when its clients are gone. Harmless when spurious.
    pub(super) fn progress(&mut self, token: Token) {
        let Some(disc) = self.discs.get_mut(token) else { return };
        match &mut disc.state {
            State::Serving | State::Panicked | State::Freezing { .. } | State::Frozen => {}
            State::Resizing { .. } => self.finish_resize(token),
            State::Closing { .. } if !disc.connections.is_empty() => {}
            // Its completion comes back here.
            State::Closing { .. } if disc.accepting => {}
            State::Closing { orphans: true, .. } if Rc::strong_count(&disc.data) > 1 => self.look_again(token),
            State::Closing { syncing: true, .. } => {}
            State::Closing { syncing, .. } if disc.barrier.failed().is_none() => {
                *syncing = true;
                let file = Rc::clone(&disc.data);
                self.outbox.push_back((Owner::Sync(token), Op::Sync { file }));
            }
            State::Closing { .. } => {
                let errno = disc.barrier.failed().unwrap_or(Errno(libc::EIO));
                self.remove(token, Err(errno));
            }
        }
    }

    fn finish_resize(&mut self, token: Token) {
        if !self.granted(token).is_empty() {
            return;
        }
        let Some(disc) = self.discs.get_mut(token) else { return };
        let State::Resizing { size, cuts, reply } = std::mem::replace(&mut disc.state, State::Serving) else { return };
        let answer = if cuts { cut(disc, size) } else { check_kept(disc, size) };
        if answer.is_ok() {
            disc.size = size;
            disc.set_mode();
            disc.sparse = Sparse::default();
        }
        let _ = reply.send(answer);
        for connection in self.connections_of(token) {
            self.decide(connection);
            self.touch(connection);
        }
    }

    /// The last sync of a disc that is being closed.
    pub(super) fn finish_close(&mut self, token: Token, result: Result<u32, Errno>) {
        let Some(disc) = self.discs.get(token) else { return };
        if matches!(disc.state, State::Closing { syncing: true, .. }) {
            // Whoever asked may be gone, and when the shard stops nobody asked: it must not only be answered.
            self.note_synced(token, result);
            self.remove(token, result);
        }
    }

    fn remove(&mut self, token: Token, result: Result<u32, Errno>) {
        let Some(disc) = self.discs.remove(token) else { return };
        let number = disc.number;
        self.numbers.remove(&number);
        let answer = result.map(|_| ()).map_err(|errno| ShardError::Os {
            number,
            what: "the last fdatasync failed",
            source: io::Error::from_raw_os_error(errno.0),
        });
        let State::Closing { reply, .. } = disc.state else { return };
        // Who has a share of it still, may write anything to it.
        mode::end_direct(&disc.data);
        // The file is given up before the answer: whoever asked may take the lock at once.
        drop((disc.data, disc.window, disc.listener));
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        } else if let Err(error) = answer {
            tracing::error!(disc = %number, error = &error as &dyn std::error::Error, "closed badly");
        }
    }

    pub(super) fn disc_status(&self, disc: &Disc) -> DiscStatus {
        let connections = disc.connections.iter().filter_map(|token| self.connections.get(*token));
        let clients = connections.map(|connection| ClientStatus {
            peer: connection.peer,
            attached: connection.grant.is_some(),
            requests_in_flight_count: connection.in_flight_count,
        });
        DiscStatus {
            number: disc.number,
            size_bytes: disc.size.bytes(),
            clients: clients.collect(),
            counters: disc.counters,
            sync_failed: disc.barrier.failed().is_some(),
            panicked: matches!(disc.state, State::Panicked),
        }
    }
}

/// Gives the file of a disc a length.
fn cut(disc: &Disc, size: DiscSize) -> Result<(), ShardError> {
    let number = disc.number;
    rustix::fs::ftruncate(&disc.data, size.bytes()).map_err(|errno| ShardError::Os {
        number,
        what: "cannot set the length of the data file",
        source: errno.into(),
    })
}

/// Refuses a size that the data of a disc does not fit into, or that its file does not have. Nobody writes now.
fn check_kept(disc: &Disc, size: DiscSize) -> Result<(), ShardError> {
    let number = disc.number;
    let os = |what| move |source| ShardError::Os { number, what, source };
    let length_bytes =
        rustix::fs::fstat(&disc.data).map_err(|errno| os("cannot look at the data file")(errno.into()))?;
    if (length_bytes.st_size as u64) < size.bytes() {
        return Err(os("the data file is shorter than that")(io::ErrorKind::InvalidInput.into()));
    }
    let beyond = next_extent(&disc.data, size.bytes(), disc.size.bytes()).map_err(os("cannot look for data in it"))?;
    beyond.map_or(Ok(()), |(at, _)| Err(ShardError::WouldLoseData { number, at }))
}

fn checked_size(number: DiscNumber, size_bytes: u64) -> Result<DiscSize, ShardError> {
    DiscSize::from_bytes(size_bytes).ok_or_else(|| ShardError::Os {
        number,
        what: "no file can be that large",
        source: io::Error::from_raw_os_error(libc::EFBIG),
    })
}
