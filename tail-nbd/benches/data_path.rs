//! What the pure parts of the data path cost: codec, buffer pool, dirty map, and requests through a whole shard whose
//! ring does nothing. No kernel is asked for anything but memory, so the figures are of this code alone.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spine::id::DiscNumber;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tail_nbd::buffer::{Holder, Pool};
use tail_nbd::connection::Transport;
use tail_nbd::disc::dirty::Dirty;
use tail_nbd::disc::mode::IoMode;
use tail_nbd::geometry::DiscSize;
use tail_nbd::limits::{PIECE_BYTES, RECEIVE_BYTES};
use tail_nbd::mailbox::Letter;
use tail_nbd::nbd::client::Client;
use tail_nbd::nbd::offer::{Style, Tls};
use tail_nbd::nbd::option::Export;
use tail_nbd::nbd::reply::Answer;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::server::{Event, Server};
use tail_nbd::nbd::wire::{command_type, option_type};
use tail_nbd::ring::op::{Completion, Op, Owner};
use tail_nbd::shard::engine::Engine;
use tail_nbd::shard::{Access, Adopted, OpenDisc, Patience};
use tail_nbd::time::Instant;
use tokio::sync::{mpsc, oneshot};

const DISC_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 4096;
/// Requests that come together: what four connections of a busy disc have in flight.
const REQUESTS: u64 = 32;
/// Writes that come together: as many as a receive buffer holds, about.
const WRITES: u64 = 8;
/// Sizes and counts of data buffers.
const BUFFERS: [(usize, usize); 3] = [(8 << 10, 64), (64 << 10, 4), (PIECE_BYTES, 1)];
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn size(bytes: u64) -> DiscSize {
    DiscSize::from_bytes(bytes).expect("a legal size")
}

/// Offsets all over a disc, always the same ones.
fn offsets(disc_bytes: u64) -> impl Iterator<Item = u64> {
    let blocks = disc_bytes / BLOCK_BYTES;
    let step =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(1), step).map(move |state| (state >> 33) % blocks * BLOCK_BYTES)
}

fn requests(command: u16, count: u64, style: Style) -> Vec<u8> {
    let mut bytes = vec![];
    for (cookie, offset) in (0..count).zip(offsets(DISC_BYTES)) {
        Header { flags: 0, command, cookie, offset, length: BLOCK_BYTES }.write(&mut bytes, style);
        if command == command_type::WRITE {
            bytes.resize(bytes.len() + BLOCK_BYTES as usize, 7);
        }
    }
    bytes
}

/// A server whose client has been let in.
fn agreed(style: Style) -> Server {
    let (mut client, mut sent, mut out) = (Client::new(), vec![], vec![]);
    let mut server = Server::new(Tls::Off, &mut out);
    client.write_flags(&mut sent);
    match style {
        Style::Simple => {}
        Style::Structured => client.write_option(&mut sent, option_type::STRUCTURED_REPLY, &[]),
        Style::Extended => client.write_option(&mut sent, option_type::EXTENDED_HEADERS, &[]),
    }
    client.write_go(&mut sent, option_type::GO, "", &[]);
    let asked = server.handle_bytes(&sent, &mut out).expect("a legal handshake");
    assert!(matches!(asked, (_, Some(Event::ExportWanted(_)))));
    let export = Export { size: size(DISC_BYTES), description: String::new(), read_only: false };
    server.handle_export(Ok(export), &mut out).expect("GO may be granted");
    server
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.bench_function("handshake", |bencher| bencher.iter(|| agreed(black_box(Style::Structured))));
    group.throughput(Throughput::Elements(REQUESTS));
    for (name, style) in [("simple", Style::Simple), ("structured", Style::Structured), ("extended", Style::Extended)] {
        let (mut server, bytes, mut out) = (agreed(style), requests(command_type::READ, REQUESTS, style), vec![]);
        group.bench_function(format!("parse_{REQUESTS}_requests_{name}"), |bencher| {
            bencher.iter(|| {
                let (mut rest, mut count) = (black_box(&bytes[..]), 0);
                while !rest.is_empty() {
                    let (consumed, event) = server.handle_bytes(rest, &mut out).expect("legal requests");
                    rest = &rest[consumed..];
                    count += u64::from(event.is_some());
                }
                assert_eq!(count, REQUESTS);
            });
        });
        let mut out = Vec::with_capacity(4096);
        group.bench_function(format!("write_{REQUESTS}_reply_headers_{name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                for cookie in 0..REQUESTS {
                    let answer = Answer { style, cookie: black_box(cookie), offset: 0 };
                    answer.write_data_header(&mut out, 0, BLOCK_BYTES as u32, true);
                }
                out.len()
            });
        });
    }
    group.finish();
}

fn pool(criterion: &mut Criterion) {
    let (pool, holder) = (Pool::new(&BUFFERS), Holder::default());
    criterion.bench_function("pool/take_and_give_back", |bencher| {
        bencher.iter(|| pool.take(black_box(BLOCK_BYTES as usize), &holder).expect("it is not empty"));
    });
}

fn dirty(criterion: &mut Criterion) {
    let disc = size(1 << 40);
    let mut group = criterion.benchmark_group("dirty");
    let mut map = Dirty::new(disc);
    let mut places = offsets(disc.bytes());
    group.bench_function("mark_4k_of_1_TiB", |bencher| {
        bencher.iter(|| map.mark(disc.range(places.next().expect("no end"), BLOCK_BYTES).expect("inside")));
    });
    const MARKS: u64 = 1000;
    group.throughput(Throughput::Elements(MARKS));
    group.bench_function(format!("mark_and_take_{MARKS}_of_1_TiB"), |bencher| {
        let mut map = Dirty::new(disc);
        bencher.iter(|| {
            for offset in offsets(disc.bytes()).take(MARKS as usize) {
                map.mark(disc.range(offset, BLOCK_BYTES).expect("inside"));
            }
            let mut runs_count = 0;
            while map.bytes() > 0 {
                runs_count += map.take(1 << 20, 64).len();
            }
            runs_count
        });
    });
    group.finish();
}

/// A shard with one client, and a ring that says at once that all went well.
struct Desk {
    engine: Engine,
    receive: Pool,
    /// What the client waits for its next request with.
    armed: Option<(Owner, Op)>,
    completions: Vec<Completion>,
    done: Vec<Completion>,
}

impl Desk {
    fn new(style: Style) -> Self {
        let (events, _) = mpsc::channel(1);
        let mut engine = Engine::new(events, Patience::default(), Pool::new(&BUFFERS));
        let data = tempfile::tempfile().expect("a file");
        data.set_len(DISC_BYTES).expect("a sparse file");
        let disc = OpenDisc {
            number: DiscNumber(1),
            data,
            io: IoMode::default(),
            size_bytes: DISC_BYTES,
            listener: None,
            access: Access::Nobody,
            own_address: LOOPBACK,
            sync_failed: false,
        };
        engine.deliver(Letter::Open(Box::new(disc), oneshot::channel().0));
        let (socket, _) = UnixStream::pair().expect("a socket");
        let (socket, transport) = (socket.into(), Transport::Clear);
        let client = Adopted { socket, server: agreed(style), peer: LOOPBACK, transport };
        engine.deliver(Letter::Adopt(DiscNumber(1), Box::new(client), oneshot::channel().0));
        let receive = Pool::new(&[(RECEIVE_BYTES, 2)]);
        let mut desk = Self { engine, receive, armed: None, completions: vec![], done: vec![] };
        desk.run();
        desk
    }

    /// The client sends this. Returns how many bytes it is answered with, when all is done.
    fn serve(&mut self, bytes: &[u8]) -> usize {
        let mut buffer = self.receive.take_free(bytes.len()).expect("one is free");
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let (owner, op) = self.armed.take().expect("it waits for requests");
        let received = Some(buffer);
        self.completions.push(Completion { owner, op, result: Ok(bytes.len() as u32), socket: None, received });
        self.run()
    }

    fn run(&mut self) -> usize {
        let mut sent_bytes = 0;
        loop {
            self.engine.begin(Instant::default());
            self.completions.drain(..).for_each(|completion| self.engine.apply(completion));
            self.engine.maintain(true);
            while let Some((owner, op)) = self.engine.next_op() {
                let count = match &op {
                    Op::Receive { .. } => {
                        self.armed = Some((owner, op));
                        continue;
                    }
                    Op::Read { range, .. } | Op::Write { range, .. } => range.length() as usize,
                    Op::Transmit { batch, .. } => batch.unsent().map(<[u8]>::len).sum(),
                    other => panic!("{other:?} is not expected"),
                };
                sent_bytes += if matches!(op, Op::Transmit { .. }) { count } else { 0 };
                self.done.push(Completion { owner, op, result: Ok(count as u32), socket: None, received: None });
            }
            self.engine.end(Instant::default());
            if self.done.is_empty() {
                return sent_bytes;
            }
            std::mem::swap(&mut self.completions, &mut self.done);
        }
    }
}

fn shard(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    for (name, command, count, style, answer_bytes) in [
        ("read_4k_simple", command_type::READ, REQUESTS, Style::Simple, 16 + BLOCK_BYTES),
        ("read_4k_structured", command_type::READ, REQUESTS, Style::Structured, 28 + BLOCK_BYTES),
        ("write_4k_simple", command_type::WRITE, WRITES, Style::Simple, 16),
    ] {
        let (mut desk, bytes) = (Desk::new(style), requests(command, count, style));
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{name}_x{count}"), |bencher| {
            bencher.iter(|| assert_eq!(desk.serve(&bytes) as u64, count * answer_bytes));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = codec, pool, dirty, shard
}
criterion_main!(benches);
