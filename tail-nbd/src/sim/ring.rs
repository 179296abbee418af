//! A ring without a kernel: operations take effect and complete in any order, in part, or not at all.

use super::chance::Chance;
use super::disk::Disk;
use super::network::{LinkId, Network, is_listening};
use crate::buffer::{Buffer, Pool};
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::RECEIVE_BYTES;
use crate::ring::op::{Allocate, Completion, Handle, Op, Owner};
use rustix::fs::{OFlags, fcntl_getfl};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// How often operations go wrong: once in so many times, or never when it is 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// EINTR and EAGAIN.
    pub(super) interrupt: u64,
    /// Less is done than was asked for.
    pub(super) shorten: u64,
    /// EIO, ENOSPC, EDQUOT.
    pub(super) fail: u64,
    /// A sync fails.
    pub(super) fail_sync: u64,
    /// The ring takes no more operations in this turn.
    pub(super) fill: u64,
}

/// What operations work on.
pub(super) struct Outside<'a> {
    pub(super) disks: Vec<&'a mut Disk>,
    pub(super) network: &'a mut Network,
    pub(super) chance: &'a mut Chance,
}

/// Operations in flight.
pub(super) struct Ring {
    flights: Vec<Flight>,
    receive: Pool,
    /// Which disc a file or a listener belongs to.
    names: BTreeMap<RawFd, usize>,
    /// Connections that something was submitted for.
    pub(super) kept: BTreeSet<LinkId>,
    /// What the shard did that it must never do.
    pub(super) wrong: Option<String>,
}

struct Flight {
    owner: Owner,
    op: Op,
    target: Target,
    /// It has taken effect, and completes some time.
    done: Option<Done>,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Disc(usize),
    Listener(usize),
    Link(LinkId),
}

struct Done {
    result: Result<u32, Errno>,
    socket: Option<OwnedFd>,
    received: Option<Buffer>,
}

impl From<Result<u32, i32>> for Done {
    fn from(result: Result<u32, i32>) -> Self {
        Self { result: result.map_err(Errno), socket: None, received: None }
    }
}

impl Ring {
    /// A ring whose receive buffers come from this pool.
    pub(super) fn new(receive: Pool) -> Self {
        Self { flights: Vec::new(), receive, names: BTreeMap::new(), kept: BTreeSet::new(), wrong: None }
    }

    /// A descriptor of this disc, which the shard is given.
    pub(super) fn name(&mut self, descriptor: impl AsFd, disc: usize) {
        self.names.insert(descriptor.as_fd().as_raw_fd(), disc);
    }

    pub(super) fn has_receive_buffers(&self) -> bool {
        self.receive.take_free(RECEIVE_BYTES).is_some()
    }

    /// Receive buffers that somebody has.
    pub(super) fn taken_count(&self) -> usize {
        self.receive.taken_count()
    }

    pub(super) fn in_flight_count(&self) -> usize {
        self.flights.len()
    }

    /// Operations on the file of a disc.
    pub(super) fn file_ops_count(&self, disc: usize) -> usize {
        self.flights.iter().filter(|flight| matches!(flight.target, Target::Disc(other) if other == disc)).count()
    }

    /// What is in flight, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        self.flights.iter().map(|flight| format!("{} for {:?}", name_of(&flight.op), flight.target)).collect()
    }

    /// True when an operation on this connection is in flight.
    pub(super) fn uses(&self, link: LinkId) -> bool {
        self.flights.iter().any(|flight| matches!(flight.target, Target::Link(other) if other == link))
    }

    /// What of a disc is in flight, for people: on its file, its listener or its connections.
    pub(super) fn uses_of(&self, disc: usize, network: &Network) -> Vec<&'static str> {
        let is_its = |flight: &&Flight| match flight.target {
            Target::Disc(other) | Target::Listener(other) => other == disc,
            Target::Link(id) => network.links.get(&id).is_some_and(|link| link.disc == disc),
        };
        self.flights.iter().filter(is_its).map(|flight| name_of(&flight.op)).collect()
    }

    /// Ends the operations that wait, as the kernel does.
    pub(super) fn cancel(&mut self, is_unwanted: impl Fn(Owner) -> bool) {
        for flight in self.flights.iter_mut().filter(|flight| flight.done.is_none() && is_unwanted(flight.owner)) {
            flight.done = Some(Done::from(Err(libc::ECANCELED)));
        }
    }

    /// Operations that change these bytes of a disc.
    pub(super) fn changes_count(&self, disc: usize, (start, end): (u64, u64)) -> usize {
        let changes = |flight: &&Flight| match (&flight.op, flight.target) {
            (
                Op::Write { range, .. } | Op::WriteZeroBytes { range, .. } | Op::Allocate { range, .. },
                Target::Disc(other),
            ) => other == disc && range.offset() < end && range.end() > start,
            _ => false,
        };
        self.flights.iter().filter(changes).count()
    }

    pub(super) fn submit(&mut self, owner: Owner, op: Op, network: &Network) {
        let disc = |file: &Handle| Target::Disc(self.names[&file.as_raw_fd()]);
        let target = match &op {
            Op::Accept { listener } => Target::Listener(self.names[&listener.as_raw_fd()]),
            Op::Poll { .. } => unreachable!("the simulation delivers letters itself"),
            Op::WritePages { .. } => unreachable!("there are no pipes in the simulation"),
            Op::Receive { socket, .. } | Op::ReceiveInto { socket, .. } | Op::Transmit { socket, .. } => {
                Target::Link(network.find(socket.as_raw_fd()))
            }
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::WriteZeroBytes { file, .. }
            | Op::Sync { file }
            | Op::Allocate { file, .. }
            | Op::Prefetch { file, .. } => disc(file),
        };
        if let Target::Link(id) = target {
            self.kept.insert(id);
        }
        if let (Op::Sync { .. }, Target::Disc(disc)) = (&op, target)
            && self.flights.iter().any(|f| matches!((&f.op, f.target), (Op::Sync { .. }, Target::Disc(d)) if d == disc))
        {
            self.wrong = Some("two syncs of one file at once".to_owned());
        }
        self.flights.push(Flight { owner, op, target, done: None });
    }

    /// Some operations take effect, and some of those complete.
    pub(super) fn step(&mut self, outside: &mut Outside<'_>, faults: Faults, completions: &mut Vec<Completion>) {
        let mut place = 0;
        while place < self.flights.len() {
            let flight = &mut self.flights[place];
            if flight.done.is_none() && !outside.chance.one_in(3) {
                flight.done = flight.attempt(outside, faults, &self.receive);
            }
            if flight.done.is_some() && outside.chance.one_in(2) {
                let Flight { owner, op, done, .. } = self.flights.swap_remove(place);
                let Done { result, socket, received } = done.expect("it is done");
                completions.push(Completion { owner, op, result, socket, received });
            } else {
                place += 1;
            }
        }
        outside.chance.shuffle(completions);
    }

    /// The process is gone. What it had submitted takes effect or does not.
    pub(super) fn crash(&mut self, outside: &mut Outside<'_>) {
        for mut flight in std::mem::take(&mut self.flights) {
            if flight.done.is_none() && matches!(flight.target, Target::Disc(_)) && outside.chance.one_in(2) {
                flight.done = flight.attempt(outside, Faults::default(), &self.receive);
            } else if let (Op::Sync { .. }, Target::Disc(disc), Some(Done { result: Err(Errno(libc::EIO)), .. })) =
                (&flight.op, flight.target, &flight.done)
            {
                outside.disks[disc].forget_failed_sync();
            }
        }
        self.names.clear();
    }
}

impl Flight {
    /// Lets the operation take effect; `None` when it has to wait.
    fn attempt(&mut self, outside: &mut Outside<'_>, faults: Faults, receive: &Pool) -> Option<Done> {
        if outside.chance.one_in(faults.interrupt) && !matches!(self.op, Op::Receive { .. }) {
            let errno = if outside.chance.one_in(2) { libc::EINTR } else { libc::EAGAIN };
            return Some(Done::from(Err(errno)));
        }
        match self.target {
            Target::Listener(disc) => self.accept(disc, outside.network),
            Target::Link(id) => self.exchange(id, outside, faults, receive),
            Target::Disc(disc) => Some(Done::from(self.store(disc, outside, faults))),
        }
    }

    fn accept(&mut self, disc: usize, network: &mut Network) -> Option<Done> {
        let Op::Accept { listener } = &self.op else { unreachable!("a listener accepts") };
        if !is_listening(listener) {
            return Some(Done::from(Err(libc::EINVAL)));
        }
        let socket = network.accept(disc, listener)?;
        Some(Done { result: Ok(socket.as_raw_fd() as u32), socket: Some(socket), received: None })
    }

    fn exchange(&mut self, id: LinkId, outside: &mut Outside<'_>, faults: Faults, receive: &Pool) -> Option<Done> {
        let link = outside.network.get(id);
        match &mut self.op {
            Op::Receive { bytes_max, .. } => {
                let Some(mut buffer) = receive.take_free(RECEIVE_BYTES) else {
                    return Some(Done::from(Err(libc::ENOBUFS)));
                };
                let wanted = RECEIVE_BYTES.min(*bytes_max as usize);
                let result = link.receive(&mut buffer.bytes_mut()[..wanted])?;
                // The kernel gives a buffer only together with bytes.
                let received = if matches!(result, Ok(1..)) { Some(buffer) } else { None };
                Some(Done { received, ..Done::from(result) })
            }
            Op::ReceiveInto { buffer, filled, wanted, .. } => {
                let space = &mut buffer.bytes_mut()[*filled..*wanted];
                let length = if outside.chance.one_in(faults.shorten) {
                    outside.chance.portion(space.len())
                } else {
                    space.len()
                };
                link.receive(&mut space[..length]).map(Done::from)
            }
            Op::Transmit { batch, .. } => link.send(batch.unsent(), outside.chance).map(Done::from),
            _ => unreachable!("it is not for a socket"),
        }
    }

    fn store(&mut self, disc: usize, outside: &mut Outside<'_>, faults: Faults) -> Result<u32, i32> {
        let (disk, chance) = (&mut *outside.disks[disc], &mut *outside.chance);
        let fails = chance.one_in(faults.fail);
        let block = self.op.block();
        if !self.op.is_aligned_to(block) {
            return Err(libc::EINVAL);
        }
        let portion = |chance: &mut Chance, range: &ByteRange| {
            let short = fails || chance.one_in(faults.shorten);
            let all = range.length() as usize;
            if short { chance.portion(all).next_multiple_of(block) } else { all }
        };
        let done_count = match &mut self.op {
            Op::Read { buffer, start, range, .. } => {
                let count = portion(chance, range);
                let space = &mut buffer.bytes_mut()[*start..*start + range.length() as usize];
                // What is not read must not look right by accident.
                space[count..].fill(0xa5);
                disk.read(range.offset(), &mut space[..count]);
                count
            }
            Op::Write { buffer, start, range, .. } => {
                let count = portion(chance, range);
                disk.write(range.offset(), &buffer.bytes()[*start..*start + count], chance);
                count
            }
            Op::WriteZeroBytes { range, .. } => {
                let count = portion(chance, range);
                disk.zero(range.offset(), count as u64);
                count
            }
            Op::Allocate { mode, range, .. } => {
                if !disk.can_punch {
                    return Err(libc::EOPNOTSUPP);
                }
                match mode {
                    Allocate::Punch => disk.zero(range.offset(), range.length()),
                    Allocate::Zero => {
                        disk.write(range.offset(), &vec![0; range.length() as usize], chance);
                    }
                }
                0
            }
            Op::Sync { .. } if chance.one_in(faults.fail_sync) => {
                disk.fail_sync();
                return Err(libc::EIO);
            }
            Op::Sync { .. } => {
                disk.sync();
                return Ok(0);
            }
            Op::Prefetch { .. } => 0,
            Op::Accept { .. }
            | Op::Poll { .. }
            | Op::Receive { .. }
            | Op::ReceiveInto { .. }
            | Op::Transmit { .. }
            | Op::WritePages { .. } => {
                unreachable!("it is not for a file")
            }
        };
        if fails {
            disk.failures_count += 1;
            let full = !matches!(self.op, Op::Read { .. }) && chance.one_in(2);
            return Err(if !full {
                libc::EIO
            } else if chance.one_in(2) {
                libc::ENOSPC
            } else {
                libc::EDQUOT
            });
        }
        Ok(done_count as u32)
    }
}

impl Op {
    /// What a file takes as a whole, in bytes: without the page cache a page.
    fn block(&self) -> usize {
        match self {
            Self::Read { file, .. } | Self::Write { file, .. } | Self::WriteZeroBytes { file, .. }
                if fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT)) =>
            {
                4096
            }
            _ => 1,
        }
    }

    /// As the kernel wants it without the page cache.
    fn is_aligned_to(&self, block: usize) -> bool {
        let (start, range) = match self {
            Self::Read { start, range, .. } | Self::Write { start, range, .. } => (*start, range),
            Self::WriteZeroBytes { range, .. } => (0, range),
            _ => return true,
        };
        [start as u64, range.offset(), range.length()].iter().all(|number| number.is_multiple_of(block as u64))
    }
}

fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Accept { .. } => "accept",
        Op::Poll { .. } => "poll",
        Op::Receive { .. } => "receive",
        Op::ReceiveInto { .. } => "receive into",
        Op::Transmit { .. } => "transmit",
        Op::Read { .. } => "read",
        Op::Write { .. } => "write",
        Op::WritePages { .. } => "write pages",
        Op::WriteZeroBytes { .. } => "write zeroes",
        Op::Sync { .. } => "sync",
        Op::Allocate { .. } => "allocate",
        Op::Prefetch { .. } => "prefetch",
    }
}
