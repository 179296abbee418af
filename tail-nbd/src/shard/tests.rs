//! What only the inside can provoke.

#![allow(clippy::print_stderr, reason = "a test that cannot run here says so")]

use super::*;
use crate::disc::mode;
use crate::nbd::client::{Client, Reply};
use crate::nbd::request::Header;
use crate::nbd::wire::{command_type, option_reply, option_type};
use crate::shard::{Borrowed, CarriedDisc, DiscFacts};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Peer {
    socket: TcpStream,
    client: Client,
}

impl Peer {
    /// A client that has been greeted, and has asked for nothing yet.
    fn greet(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut peer, mut out) = (Self { socket, client: Client::new() }, vec![]);
        peer.client.write_flags(&mut out);
        peer.socket.write_all(&out).unwrap();
        assert!(matches!(peer.next(), Some(Reply::Greeting(_))));
        peer
    }

    fn connect(address: SocketAddr) -> Self {
        let (mut peer, mut out) = (Self::greet(address), vec![]);
        peer.client.write_go(&mut out, option_type::GO, "", &[]);
        peer.socket.write_all(&out).unwrap();
        while !matches!(peer.next(), Some(Reply::Option { reply: option_reply::ACK, .. })) {}
        peer
    }

    fn next(&mut self) -> Option<Reply> {
        let (mut byte, mut replies) = ([0], vec![]);
        while replies.is_empty() {
            if self.socket.read(&mut byte).ok()? == 0 {
                return None;
            }
            self.client.handle_bytes(&byte, &mut replies).unwrap();
        }
        replies.pop()
    }

    /// Sends one option without data; the code of the reply.
    fn option(&mut self, option: u32) -> Option<u32> {
        let mut out = vec![];
        self.client.write_option(&mut out, option, &[]);
        self.socket.write_all(&out).ok()?;
        match self.next()? {
            Reply::Option { reply, .. } => Some(reply),
            other => panic!("{other:?}"),
        }
    }

    fn flush(&mut self) -> Option<Reply> {
        let mut out = vec![];
        let header = Header { flags: 0, command: command_type::FLUSH, cookie: 1, offset: 0, length: 0 };
        self.client.write_request(&mut out, header);
        self.socket.write_all(&out).ok()?;
        self.next()
    }
}

async fn open(shards: &Shards, number: u64) -> SocketAddr {
    let data = tempfile::tempfile().unwrap();
    data.set_len(1 << 20).unwrap();
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (number, access) = (DiscNumber(number), Access::List(vec![LOOPBACK]));
    let disc = OpenDisc {
        number,
        data,
        io: IoMode::default(),
        size_bytes: 1 << 20,
        listener: Some(listener),
        access,
        own_address: LOOPBACK,
        sync_failed: false,
    };
    shards.open(disc).await.unwrap();
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule27_a_panic_ends_one_disc_and_no_other() {
    let (shards, mut events) = Shards::start(ShardConfig { shards_count: Some(1), ..ShardConfig::default() }).unwrap();
    let (bad, good) = (open(&shards, 1).await, open(&shards, 2).await);
    let (mut victims, mut neighbour) = ([Peer::connect(bad), Peer::connect(bad)], Peer::connect(good));
    shards.shards[0].mailbox.send(Letter::Panic(DiscNumber(1))).await.unwrap();
    // The order is carried out before any request that comes after this answer.
    assert_eq!(shards.status().await.len(), 1);

    assert!(victims[0].flush().is_none(), "its clients are cut off");
    assert!(victims[1].next().is_none());
    let told = events.recv().await.unwrap();
    assert!(matches!(told, ShardEvent::Panicked { number: DiscNumber(1), .. }), "{told:?}");
    assert!(matches!(neighbour.flush(), Some(Reply::Simple { error: 0, .. })), "the neighbour did not notice");
    let busy = shards.set_access(DiscNumber(1), Access::Nobody).await;
    assert!(matches!(busy, Err(ShardError::Busy(_))));

    shards.close(DiscNumber(1)).await.unwrap();
    let again = open(&shards, 1).await;
    assert!(Peer::connect(again).flush().is_some(), "it is served again");
    shards.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule17_a_last_sync_that_fails_is_told_also_when_nobody_asked() {
    let (shards, mut events) = Shards::start(ShardConfig { shards_count: Some(1), ..ShardConfig::default() }).unwrap();
    // A socket cannot be synced: EINVAL.
    for number in [1, 2] {
        let disc = OpenDisc {
            number: DiscNumber(number),
            data: std::fs::File::from(OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0)),
            io: IoMode::default(),
            size_bytes: 1 << 20,
            listener: None,
            access: Access::Nobody,
            own_address: LOOPBACK,
            sync_failed: false,
        };
        shards.open(disc).await.unwrap();
    }
    assert!(matches!(shards.close(DiscNumber(1)).await, Err(ShardError::Os { .. })));
    let told = |number| ShardEvent::SyncFailed { number: DiscNumber(number), errno: libc::EINVAL };
    assert_eq!(events.recv().await.unwrap(), told(1));
    shards.stop().await;
    assert_eq!(events.recv().await.unwrap(), told(2), "a stop forgets no failure");
    assert_eq!(events.recv().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn at_a_stop_handshakes_are_refused_and_told_why() {
    let config = ShardConfig { shards_count: Some(1), ..ShardConfig::default() };
    // Time enough, however busy this machine is.
    let patience = Patience { goodbye_seconds: 60, ..Patience::default() };
    let (shards, _events) = Shards::start_with(config.clone(), patience).unwrap();
    let address = open(&shards, 1).await;
    let mut asking = Peer::greet(address);
    assert_eq!(asking.option(option_type::STRUCTURED_REPLY), Some(option_reply::ACK));
    let stopping = tokio::spawn(shards.stop());
    // The listener goes with the order to stop.
    while TcpStream::connect(address).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(asking.option(option_type::LIST), Some(option_reply::ERR_SHUTDOWN));
    assert_eq!(asking.option(option_type::ABORT), Some(option_reply::ACK));
    assert!(asking.next().is_none());
    stopping.await.unwrap();

    let (shards, _events) = Shards::start(config).unwrap();
    let mut silent = Peer::greet(open(&shards, 1).await);
    shards.stop().await;
    assert!(silent.next().is_none(), "who asks nothing is not waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule26_a_borrowed_disc_is_left_as_it_is_until_it_is_inherited() {
    let data = tempfile::tempfile().unwrap();
    data.set_len(1 << 20).unwrap();
    if let Err(error) = mode::begin_direct(&data, 1 << 20) {
        return eprintln!("skipped: no O_DIRECT for temporary files: {error}");
    }
    let is_direct = || rustix::fs::fcntl_getfl(&data).unwrap().contains(rustix::fs::OFlags::DIRECT);
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let disc = OpenDisc {
        number: DiscNumber(1),
        data: data.try_clone().unwrap(),
        // The other process may be configured otherwise.
        io: IoMode::Cached,
        size_bytes: 1 << 20,
        listener: Some(listener.try_clone().unwrap()),
        access: Access::List(vec![LOOPBACK]),
        own_address: LOOPBACK,
        sync_failed: false,
    };
    let config = ShardConfig { shards_count: Some(1), ..ShardConfig::default() };
    let (shards, _events) = Shards::start(config).unwrap();
    shards.borrow_all(vec![Borrowed { disc, counters: DiscCounters::default(), clients: vec![] }]).await.unwrap();
    assert!(is_direct(), "whoever serves it reads and writes whole blocks");
    let facts = |size_bytes| DiscFacts {
        number: DiscNumber(1),
        incarnation: 1,
        size_bytes,
        sync_failed: true,
        counters: Some(DiscCounters { reads_count: 3, ..DiscCounters::default() }),
    };
    let carried = |size_bytes| CarriedDisc { facts: facts(size_bytes), kept: vec![], clients: vec![] };
    assert!(matches!(shards.inherit(vec![carried(2 << 20)]).await, Err(ShardError::Unsound(_))));
    assert!(is_direct());
    let unknown = CarriedDisc { kept: vec![7], ..carried(1 << 20) };
    assert!(matches!(shards.inherit(vec![unknown]).await, Err(ShardError::Unsound(_))), "nobody was lent");
    shards.inherit(vec![carried(1 << 20)]).await.unwrap();
    assert!(!is_direct());
    let status = &shards.status().await[0].discs[0];
    assert!(status.sync_failed && status.counters.reads_count == 3, "{status:?}");
    drop(shards);
    assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok(), "it listens for whoever has it");
}
