//! Many discs in one shard without a kernel, where what something costs is counted and not timed.

use super::engine::{Census, Engine};
use super::handle::{Adopted, OpenDisc, Patience};
use super::{Access, ShardError};
use crate::buffer::Pool;
use crate::connection::{Connection, Transport};
use crate::disc::Disc;
use crate::disc::mode::IoMode;
use crate::error::Errno;
use crate::limits::{EXTENTS_MAX, EXTENTS_PER_TURN_MAX, PAYLOAD_BYTES_MAX, RECEIVE_BYTES, STALL_SECONDS_MAX};
use crate::mailbox::{Letter, Reply};
use crate::nbd::client::Client;
use crate::nbd::offer::{Style, Tls};
use crate::nbd::option::Export;
use crate::nbd::request::Header;
use crate::nbd::server::{Event, Server};
use crate::nbd::wire::{command_flag, command_type, option_type};
use crate::ring::op::{Completion, Handle, Op, Owner};
use crate::ring::slots::Token;
use crate::time::Instant;
use spine::id::DiscNumber;
use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(super) const DISC_BYTES: u64 = 1 << 20;

/// How long each turn takes.
const TURN: Duration = Duration::from_micros(7);

/// A shard whose discs have one client each, let in already. All share one file and one socket, which nothing but
/// `lseek` and `shutdown` is done with: 40,000 of each are more than a process may have open.
pub(super) struct Crowd {
    pub(super) engine: Engine,
    receive: Pool,
    clients: Vec<Token>,
    /// What each client waits to receive with.
    pub(super) armed: HashMap<Token, Op>,
    pub(super) now: Instant,
}

/// What some work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    turns_count: u64,
    pub(super) ops_count: u64,
    /// Places of the shard's tables that were looked at.
    looks_count: u64,
    pub(super) sent_bytes: u64,
}

impl Crowd {
    pub(super) fn new(discs_count: u64, data: File) -> Self {
        Self::with_pool(discs_count, data, Pool::new(&[(8 << 10, 16), (1 << 20, 1), (PAYLOAD_BYTES_MAX as usize, 1)]))
    }

    pub(super) fn with_pool(discs_count: u64, data: File, pool: Pool) -> Self {
        let (events, _) = mpsc::channel(1);
        let engine = Engine::new(events, Patience::default(), pool);
        let receive = Pool::new(&[(RECEIVE_BYTES, 4)]);
        let mut crowd = Self { engine, receive, clients: vec![], armed: HashMap::new(), now: Instant::default() };
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let (shared_file, shared_socket): (Handle, Handle) =
            (Rc::new(data.try_clone().unwrap().into()), Rc::new(socket.try_clone().unwrap().into()));
        let server = server(Style::Structured);
        for number in (1..=discs_count).map(DiscNumber) {
            crowd.engine.deliver(open(number, data.try_clone().unwrap(), None));
            let (socket, transport) = (OwnedFd::from(socket.try_clone().unwrap()), Transport::Clear);
            let client = Adopted { socket, server: server(), peer: LOOPBACK, transport };
            crowd.engine.deliver(Letter::Adopt(number, Box::new(client), oneshot::channel().0));
            let shard = &mut crowd.engine.shard;
            let disc = shard.discs.get_mut(shard.numbers[&number]).unwrap();
            disc.data = Rc::clone(&shared_file);
            let client = disc.connections[0];
            shard.connections.get_mut(client).unwrap().socket = Rc::clone(&shared_socket);
            crowd.clients.push(client);
        }
        crowd.run(vec![]);
        assert_eq!(crowd.armed.len(), discs_count as usize, "all wait for requests");
        crowd
    }

    /// A client sends this, and everything that follows from it is done.
    pub(super) fn send(&mut self, client: usize, bytes: &[u8]) -> Cost {
        let received = self.receive(client, bytes);
        self.run(vec![received])
    }

    fn receive(&mut self, client: usize, bytes: &[u8]) -> Completion {
        let client = self.clients[client];
        let mut buffer = self.receive.take_free(RECEIVE_BYTES).unwrap();
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Completion {
            owner: Owner::Receive(client),
            op: self.armed.remove(&client).expect("it waits for a request"),
            result: Ok(bytes.len() as u32),
            socket: None,
            received: Some(buffer),
        }
    }

    /// An order, and what follows from it. It is answered at once.
    pub(super) fn order(&mut self, letter: impl FnOnce(Reply) -> Letter) -> Result<(), ShardError> {
        let (reply, mut answer) = oneshot::channel();
        self.engine.deliver(letter(reply));
        self.run(vec![]);
        answer.try_recv().expect("it is answered")
    }

    /// Turns, until nothing is left to do.
    pub(super) fn run(&mut self, mut completions: Vec<Completion>) -> Cost {
        let (mut cost, looks_before) = (Cost::default(), self.looks_count());
        loop {
            cost.turns_count += 1;
            completions = self.turn(completions, &mut cost);
            if completions.is_empty() && self.engine.wake_at().is_none_or(|at| at > self.now) {
                cost.looks_count = self.looks_count() - looks_before;
                return cost;
            }
        }
    }

    fn turn(&mut self, completions: Vec<Completion>, cost: &mut Cost) -> Vec<Completion> {
        self.engine.begin(self.now);
        completions.into_iter().for_each(|completion| self.engine.apply(completion));
        self.engine.maintain(true);
        let mut done = vec![];
        while let Some((owner, op)) = self.engine.next_op() {
            cost.ops_count += 1;
            let count = match &op {
                Op::Receive { .. } => {
                    let Owner::Receive(client) = owner else { panic!("a client receives") };
                    self.armed.insert(client, op);
                    continue;
                }
                Op::Read { range, .. } | Op::Write { range, .. } => range.length(),
                Op::Transmit { batch, .. } => batch.unsent().map(|bytes| bytes.len() as u64).sum(),
                Op::Sync { .. } | Op::Allocate { .. } => 0,
                other => panic!("{other:?} is not expected"),
            };
            if matches!(op, Op::Transmit { .. }) {
                cost.sent_bytes += count;
            }
            done.push(Completion { owner, op, result: Ok(count as u32), socket: None, received: None });
        }
        self.engine.end(self.now.plus(TURN));
        done
    }

    fn looks_count(&self) -> u64 {
        let shard = &self.engine.shard;
        shard.discs.looks_count() + shard.connections.looks_count() + shard.transfers.looks_count()
    }
}

/// A server that has agreed with its client, as often as it is wanted.
fn server(style: Style) -> impl Fn() -> Server {
    move || {
        let (mut client, mut sent, mut out) = (Client::new(), vec![], vec![]);
        let mut server = Server::new(Tls::Off, &mut out);
        client.write_flags(&mut sent);
        if style.has_chunks() {
            client.write_option(&mut sent, option_type::STRUCTURED_REPLY, &[]);
            client.write_contexts(&mut sent, option_type::SET_META_CONTEXT, "", &["base:allocation"]);
        }
        client.write_go(&mut sent, option_type::GO, "", &[]);
        let wanted = server.handle_bytes(&sent, &mut out).unwrap();
        assert!(matches!(wanted, (_, Some(Event::ExportWanted(_)))));
        let size = crate::geometry::DiscSize::from_bytes(DISC_BYTES).unwrap();
        let export = Export { size, description: String::new(), read_only: false };
        server.handle_export(Ok(export), &mut out).unwrap();
        server
    }
}

fn open(number: DiscNumber, data: File, listener: Option<TcpListener>) -> Letter {
    let disc = OpenDisc {
        number,
        data,
        io: IoMode::default(),
        size_bytes: DISC_BYTES,
        listener,
        access: Access::Nobody,
        own_address: LOOPBACK,
        sync_failed: false,
    };
    Letter::Open(Box::new(disc), oneshot::channel().0)
}

fn request(command: u16, flags: u16, length: u64) -> Vec<u8> {
    let mut bytes = vec![];
    Header { flags, command, cookie: 1, offset: 0, length }.write(&mut bytes, Style::Structured);
    if command == command_type::WRITE {
        bytes.resize(bytes.len() + length as usize, 7);
    }
    bytes
}

pub(super) fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(DISC_BYTES).unwrap();
    file
}

/// Every second 4 KiB block is a hole.
fn file_with_holes() -> File {
    let file = file();
    (0..DISC_BYTES / 8192).for_each(|pair| file.write_all_at(&[1; 4096], pair * 8192).unwrap());
    file
}

#[test]
fn a_request_costs_the_same_among_forty_thousand_discs() {
    let costs = |discs_count: u64| {
        let mut crowd = Crowd::new(discs_count, file());
        let client = crowd.clients.len() / 2;
        let idle = crowd.run(vec![]);
        assert_eq!((idle.ops_count, idle.looks_count), (0, 0), "an idle disc costs nothing");
        assert_eq!(crowd.engine.wake_at(), None, "and wakes nobody");
        let requests = [
            request(command_type::READ, 0, 4096),
            request(command_type::WRITE, 0, 4096),
            request(command_type::WRITE, command_flag::FUA, 4096),
            request(command_type::FLUSH, 0, 0),
            request(command_type::BLOCK_STATUS, 0, DISC_BYTES),
        ];
        requests.map(|bytes| crowd.send(client, &bytes))
    };
    let alone = costs(1);
    assert!(alone[0].sent_bytes > 4096 && alone[0].looks_count > 0);
    assert_eq!(costs(40_000), alone);
}

#[test]
fn a_deadline_costs_nobody_anything_before_it_is_due() {
    let mut crowd = Crowd::new(40_000, file());
    let half = &request(command_type::READ, 0, 4096)[..10];
    for client in 0..40_000 {
        crowd.send(client, half);
    }
    let mut wakes_count = 0;
    while let Some(at) = crowd.engine.wake_at() {
        crowd.now = at;
        wakes_count += 1;
        let is_due = at >= Instant::default().plus_seconds(STALL_SECONDS_MAX);
        let cost = crowd.turn(vec![], &mut Cost::default()).len();
        assert!(is_due && cost == 0);
        assert!(wakes_count < 10, "they are looked at together");
        let Census { connections_count, .. } = crowd.engine.census();
        // Each has a receive in the kernel, which its end interrupts.
        assert_eq!(connections_count, 40_000);
    }
    let interrupted: Vec<_> = crowd.armed.drain().collect();
    let interrupted = interrupted.into_iter().map(|(client, op)| Completion {
        owner: Owner::Receive(client),
        op,
        result: Ok(0),
        socket: None,
        received: None,
    });
    crowd.run(interrupted.collect());
    assert_eq!(crowd.engine.census().connections_count, 0, "all were too slow");
}

#[test]
fn one_deadline_among_forty_thousand_clients_is_found_without_looking_at_them() {
    let mut crowd = Crowd::new(40_000, file());
    crowd.send(7, &request(command_type::READ, 0, 4096)[..10]);
    let before = crowd.looks_count();
    crowd.now = crowd.engine.wake_at().unwrap();
    crowd.run(vec![]);
    assert!(crowd.looks_count() - before < 20, "{} places were looked at", crowd.looks_count() - before);
}

#[test]
fn an_idle_disc_with_a_client_needs_little_memory_and_no_buffer() {
    let crowd = Crowd::new(1000, file());
    let nothing_else = Census { discs_count: 1000, connections_count: 1000, ..Census::default() };
    assert_eq!(crowd.engine.census(), nothing_else);
    let bytes = size_of::<Disc>() + size_of::<Connection>() + size_of::<Op>();
    assert!(bytes <= 4096, "{bytes} bytes for a disc, its client, and what it waits with");
}

/// A read that the page cache answers at once is not told as if it had taken no time.
#[test]
fn a_latency_is_of_the_turn_or_of_the_turns_in_between() {
    let mut crowd = Crowd::new(1, file());
    let counters = |crowd: &Crowd| crowd.engine.shard.status().discs[0].counters;
    let reads: Vec<u8> = std::iter::repeat_n(request(command_type::READ, 0, 4096), 3).flatten().collect();
    crowd.send(0, &reads);
    let read = counters(&crowd).read_latency_us;
    assert_eq!((read.count(), read.sum()), (3, 3 * 7), "they were there in one turn");
    let written = crowd.receive(0, &request(command_type::WRITE, 0, 4096));
    let done = crowd.turn(vec![written], &mut Cost::default());
    crowd.now = crowd.now.plus(Duration::from_micros(100));
    crowd.run(done);
    let write = counters(&crowd).write_latency_us;
    assert_eq!((write.count(), write.sum()), (1, 100), "the next turn began so much later");
}

#[test]
fn who_asks_for_extents_only_does_not_keep_others_waiting() {
    let mut crowd = Crowd::new(2, file_with_holes());
    let question = request(command_type::BLOCK_STATUS, 0, DISC_BYTES);
    let questions: Vec<u8> = std::iter::repeat_n(question, 40).flatten().collect();
    let received = crowd.receive(0, &questions);
    let mut cost = Cost::default();
    crowd.turn(vec![received], &mut cost);
    let looked_up_max = EXTENTS_PER_TURN_MAX + EXTENTS_MAX;
    assert!((EXTENTS_PER_TURN_MAX..=looked_up_max).contains(&crowd.engine.shard.extents_count));
    assert_eq!(crowd.engine.wake_at(), Some(crowd.now), "the next turn follows at once");
    let received = crowd.receive(1, &request(command_type::FLUSH, 0, 0));
    let done = crowd.turn(vec![received], &mut cost);
    assert!(done.iter().any(|completion| matches!(completion.op, Op::Sync { .. })), "the neighbour is served");
}

#[test]
fn all_questions_for_extents_are_answered() {
    let mut crowd = Crowd::new(1, file_with_holes());
    let question = request(command_type::BLOCK_STATUS, 0, DISC_BYTES);
    let answer_bytes = crowd.send(0, &question).sent_bytes;
    let questions: Vec<u8> = std::iter::repeat_n(question, 40).flatten().collect();
    let cost = crowd.send(0, &questions);
    assert_eq!(cost.sent_bytes, 40 * answer_bytes);
    assert_eq!(crowd.engine.census().waiting_count, 0);
}

#[test]
fn whatever_an_accept_ends_with_it_does_not_keep_a_disc_open_that_closes() {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let _late = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    close_during_accept(Ok(0), Some(OwnedFd::from(accepted)));
    for errno in [libc::EINTR, libc::EAGAIN, libc::ECONNABORTED, libc::EINVAL, libc::EMFILE] {
        close_during_accept(Err(Errno(errno)), None);
    }
}

fn close_during_accept(result: Result<u32, Errno>, socket: Option<OwnedFd>) {
    let mut crowd = Crowd::new(0, file());
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    crowd.engine.deliver(open(DiscNumber(1), file(), Some(listener)));
    let (owner, op) = crowd.engine.next_op().expect("it accepts");
    assert!(matches!(op, Op::Accept { .. }));
    let (reply, mut answer) = oneshot::channel::<Result<(), ShardError>>();
    crowd.engine.deliver(Letter::Close(DiscNumber(1), reply));
    assert!(answer.try_recv().is_err(), "the accept is in the kernel");
    crowd.run(vec![Completion { owner, op, result, socket, received: None }]);
    assert!(matches!(answer.try_recv(), Ok(Ok(()))), "it is closed, though the accept ended with {result:?}");
}
