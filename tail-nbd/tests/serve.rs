//! Real shards, real files, real sockets.

mod common;

use common::{LOOPBACK, MIB, PATIENCE, Tail, pattern};
use spine::id::DiscNumber;
use spine::secret::Secret;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use tail_nbd::limits::{PAYLOAD_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};
use tail_nbd::nbd::client::Reply;
use tail_nbd::nbd::offer::Style;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{Error, chunk_type, command_flag, command_type, option_reply, option_type};
use tail_nbd::ring::probe::Mask;
use tail_nbd::shard::{Access, OpenDisc, Patience, ShardConfig, ShardError, ShardEvent, Shards};

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

#[test]
fn what_is_written_is_read_back() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    let mut peer = disc.connect();
    // Around the sizes of buffers, receive buffers and pieces, at odd offsets.
    for (seed, length) in
        [1, 511, 512, 4096, 8192, 8193, 65_500, 65_536, 131_072, 131_073, 1 << 20, (1 << 20) + 1, 3 << 20]
            .iter()
            .enumerate()
    {
        let (offset, bytes) = (seed as u64 * 4 * MIB + 7, pattern(seed as u64, *length));
        peer.write(offset, &bytes);
        assert_eq!(peer.read(offset, *length as u32), bytes, "{length} bytes at {offset}");
        let mut stored = vec![0; *length];
        tail.file(1).read_exact_at(&mut stored, offset).unwrap();
        assert_eq!(stored, bytes, "{length} bytes in the file");
    }
    let counters = tail.status(disc.number).counters;
    assert_eq!((counters.reads_count, counters.writes_count, counters.errors.count()), (13, 13, 0));
}

#[test]
fn the_longest_read_and_write_with_both_kinds_of_replies() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 72 * MIB);
    let bytes = pattern(3, PAYLOAD_BYTES_MAX as usize);
    let mut simple = disc.connect_with(Style::Simple);
    simple.write(5, &bytes);
    assert!(simple.read(5, PAYLOAD_BYTES_MAX) == bytes, "simple replies");
    let mut structured = disc.connect();
    assert!(structured.read(5, PAYLOAD_BYTES_MAX) == bytes, "chunks");
    let (error, data) = structured.ask(command_type::READ, command_flag::DF, 5, PAYLOAD_BYTES_MAX.into(), &[]);
    assert!(error == 0 && data == bytes, "one chunk");
    assert_eq!(structured.read(5, 0), b"", "nothing");
}

#[test]
fn a_write_cut_at_any_byte_arrives_whole() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, MIB);
    let mut peer = disc.connect();
    let bytes = pattern(9, 40);
    for cut in 1..68 {
        let header = Header { flags: 0, command: command_type::WRITE, cookie: cut, offset: cut * 64, length: 40 };
        let mut out = vec![];
        peer.client.write_request(&mut out, header);
        out.extend_from_slice(&bytes);
        peer.socket.set_nodelay(true).unwrap();
        peer.socket.write_all(&out[..cut as usize]).unwrap();
        std::thread::yield_now();
        peer.socket.write_all(&out[cut as usize..]).unwrap();
        assert_eq!(peer.next().unwrap().error(), 0, "cut at {cut}");
        assert_eq!(peer.read(cut * 64, 40), bytes, "cut at {cut}");
    }
}

#[test]
fn many_requests_in_flight_get_each_its_own_answer() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 16 * MIB);
    let mut peer = disc.connect_with(Style::Simple);
    let bytes = pattern(1, 16 << 20);
    peer.write(0, &bytes);
    let count = u64::from(REQUESTS_IN_FLIGHT_MAX) * 4;
    let header = |cookie: u64| Header {
        flags: 0,
        command: command_type::READ,
        cookie,
        offset: (cookie * 7919 * 512) % (15 << 20),
        length: 512 + (cookie % 17) * 4096,
    };
    let mut out = vec![];
    (0..count).for_each(|cookie| peer.client.write_request(&mut out, header(cookie)));
    let mut sender = peer.socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || sender.write_all(&out));
    for _ in 0..count {
        let Some(Reply::Simple { cookie, error: 0, data }) = peer.next() else { panic!("a good answer") };
        let Header { offset, length, .. } = header(cookie);
        assert!(data == bytes[offset as usize..][..length as usize], "request {cookie}");
    }
    writing.join().unwrap().unwrap();
}

#[test]
fn a_client_that_reads_nothing_starves_no_other() {
    let tail = Tail::start(1);
    let (greedy, modest) = (tail.serve(1, 64 * MIB), tail.serve(2, 64 * MIB));
    // Holes would cost nothing.
    tail.file(1).write_all_at(&vec![1; 64 << 20], 0).unwrap();
    let mut peers = vec![];
    for _ in 0..3 {
        let mut peer = greedy.connect();
        // Each of these asks for 512 MiB and takes nothing.
        for cookie in 0..16 {
            let header =
                Header { flags: 0, command: command_type::READ, cookie, offset: 0, length: PAYLOAD_BYTES_MAX.into() };
            peer.send(header, &[]);
        }
        peers.push(peer);
    }
    tail.wait_for(greedy.number, "the greedy requests are being worked on", |status| {
        status.clients.len() == 3 && status.clients.iter().any(|client| client.requests_in_flight_count > 0)
    });
    let mut peer = modest.connect();
    let bytes = pattern(5, 1 << 20);
    peer.write(0, &bytes);
    assert!(peer.read(0, 1 << 20) == bytes);
    // And a withdrawal does not wait for them to read.
    tail.runtime.block_on(tail.shards().set_access(greedy.number, Access::Nobody)).unwrap();
    assert!(tail.status(greedy.number).clients.is_empty());
}

#[test]
fn zeroes_holes_and_what_block_status_says() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 8 * MIB);
    let mut peer = disc.connect();
    peer.write(0, &pattern(1, 4 << 20));
    let allocated = || tail.file(1).metadata().unwrap().blocks() * 512;
    tail.file(1).sync_all().unwrap();
    assert_eq!(allocated(), 4 * MIB);

    let hole = |peer: &mut common::Peer, command, flags, offset| peer.ask(command, flags, offset, 1 << 20, &[]).0;
    assert_eq!(hole(&mut peer, command_type::WRITE_ZEROES, 0, 0), 0);
    assert_eq!(hole(&mut peer, command_type::TRIM, 0, MIB), 0);
    assert_eq!(allocated(), 2 * MIB, "zeroes and trims make holes");
    assert_eq!(hole(&mut peer, command_type::WRITE_ZEROES, command_flag::NO_HOLE, 2 * MIB), 0);
    assert_eq!(allocated(), 2 * MIB, "NO_HOLE keeps what is allocated");
    assert_eq!(hole(&mut peer, command_type::WRITE_ZEROES, command_flag::NO_HOLE | command_flag::FUA, 7 * MIB), 0);
    assert_eq!(allocated(), 3 * MIB, "NO_HOLE allocates");
    assert!(peer.read(0, 3 << 20).iter().all(|byte| *byte == 0));
    assert!(peer.read(3 * MIB, 1 << 20) == pattern(1, 4 << 20)[3 << 20..], "the neighbour is whole");

    let (error, data) = peer.ask(command_type::BLOCK_STATUS, 0, 0, 8 << 20, &[]);
    let fields: Vec<u32> = data.chunks(4).map(|field| u32::from_be_bytes(field.try_into().unwrap())).collect();
    assert_eq!((error, fields.chunks(2).map(|extent| extent[0]).sum::<u32>()), (0, 8 << 20));
    // Zeroes that stay allocated, but were never written, may count as one too.
    assert!(fields[0] >= 2 << 20 && fields[1] == 3, "a hole that reads as zeroes comes first: {fields:?}");
    let (_, one) = peer.ask(command_type::BLOCK_STATUS, command_flag::REQ_ONE, 3 * MIB, 5 << 20, &[]);
    assert_eq!(one, [(1u32 << 20).to_be_bytes(), 0u32.to_be_bytes()].concat(), "REQ_ONE: one extent");
    assert_eq!(peer.ask(command_type::CACHE, 0, 0, 8 << 20, &[]).0, 0);
    assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, 0);
}

#[test]
fn a_refusal_leaves_the_connection_usable() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, MIB);
    for style in STYLES {
        let mut peer = disc.connect_with(style);
        assert_eq!(peer.try_write(MIB - 1, b"xy"), Error::Enospc.code(), "past the end");
        assert_eq!(peer.ask(command_type::READ, 0, MIB, 1, &[]).0, Error::Einval.code());
        let unknown_flag = peer.ask(command_type::WRITE_ZEROES, command_flag::REQ_ONE, 0, 1, &[]);
        assert_eq!(unknown_flag.0, Error::Einval.code());
        assert_eq!(peer.ask(12, 0, 0, 0, &[]).0, Error::Einval.code(), "an unknown command");
        // 65 MiB: drained, refused, and the next request is understood.
        let long = vec![1; 65 << 20];
        assert_eq!(peer.try_write(0, &long), Error::Einval.code());
        assert_eq!(peer.read(0, 16), [0; 16], "nothing of it was written");
    }
    let errors = tail.status(disc.number).counters.errors;
    let counted: Vec<_> = errors.by_kind().filter(|(_, count)| *count > 0).collect();
    let styles_count = STYLES.len() as u64;
    assert_eq!(counted, [("EINVAL", 4 * styles_count), ("ENOSPC", styles_count)], "by what clients are told");
}

/// Whether a read fails is known before anything of its reply is sent that could not be taken back.
#[test]
fn fault12_a_file_that_is_too_short_is_an_error_and_not_zeroes() {
    let tail = Tail::start(1);
    let (file, bytes) = (tail.file(1), pattern(7, 1 << 20));
    file.write_all_at(&bytes, 0).unwrap();
    let disc = tail.serve_file(1, file, 8 * MIB, Access::List(vec![LOOPBACK]));
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let mut peer = disc.connect_with(style);
        // The file is shorter than the disc: an error of ours, and never made-up bytes.
        for (offset, length) in [(2 * MIB, 512), (MIB - 512, 1024), (MIB - 4096, 128 << 10), (0, 6 * MIB)] {
            let error = peer.ask(command_type::READ, 0, offset, length, &[]).0;
            assert_eq!(error, Error::Eio.code(), "{style:?}: {length} bytes at {offset}");
            assert!(peer.read(MIB - 4096, 4096) == bytes[(1 << 20) - 4096..], "{style:?}: the connection lives");
        }
    }
}

#[test]
fn r117_r131_attachments_decide_who_may_connect() {
    let tail = Tail::start(1);
    let file = tail.file(1);
    file.set_len(MIB).unwrap();
    let key = Secret::new("the-key-of-this-start");
    let access = Access::Attachments(vec![(LOOPBACK, key.hash())]);
    let disc = tail.serve_file(1, file, MIB, access);
    assert_eq!(disc.connect_as("", Style::Structured).err(), Some(option_reply::ERR_UNKNOWN));
    assert_eq!(disc.connect_as("another key", Style::Structured).err(), Some(option_reply::ERR_UNKNOWN));
    let mut peers: Vec<_> = (0..4).map(|_| disc.connect_as(key.reveal(), Style::Structured).unwrap()).collect();
    peers.iter_mut().for_each(|peer| peer.write(0, b"as many connections as it likes"));

    let new_key = Secret::new("the key of the next start");
    let access = Access::Attachments(vec![(LOOPBACK, new_key.hash())]);
    tail.runtime.block_on(tail.shards().set_access(disc.number, access)).unwrap();
    assert_eq!(tail.status(disc.number).clients, [], "the withdrawal was answered when they were gone");
    assert!(peers.iter_mut().all(|peer| peer.is_closed()), "those of the old key are cut off");
    assert_eq!(disc.connect_as(key.reveal(), Style::Structured).err(), Some(option_reply::ERR_UNKNOWN));
    disc.connect_as(new_key.reveal(), Style::Structured).unwrap();

    let elsewhere = Access::Attachments(vec![("192.0.2.1".parse().unwrap(), new_key.hash())]);
    tail.runtime.block_on(tail.shards().set_access(disc.number, elsewhere)).unwrap();
    assert_eq!(disc.connect_as(new_key.reveal(), Style::Structured).err(), Some(option_reply::ERR_POLICY));
    assert_eq!(tail.status(disc.number).counters.refused_count, 4);
}

#[test]
fn a_change_of_access_leaves_those_who_keep_their_right_alone() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, MIB);
    let mut peer = disc.connect();
    let longer = Access::List(vec!["192.0.2.1".parse().unwrap(), LOOPBACK]);
    tail.runtime.block_on(tail.shards().set_access(disc.number, longer)).unwrap();
    peer.write(0, b"still here");
}

#[test]
fn rule4_a_withdrawn_client_writes_nothing_after_the_answer() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    let peer = disc.connect();
    let mut socket = peer.socket.try_clone().unwrap();
    let (mut client, started) = (peer.client, std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let count = std::sync::Arc::clone(&started);
    // Writes without end, until it is cut off.
    let writing = std::thread::spawn(move || {
        for cookie in 0u64.. {
            let mut out = vec![];
            let offset = cookie % 512 * 131_072;
            client.write_request(
                &mut out,
                Header { flags: 0, command: command_type::WRITE, cookie, offset, length: 131_072 },
            );
            out.resize(out.len() + 131_072, 0xee);
            if socket.write_all(&out).is_err() {
                return;
            }
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let mut replies = peer.socket.try_clone().unwrap();
    let reading = std::thread::spawn(move || while matches!(replies.read(&mut [0; 65_536]), Ok(1..)) {});
    tail.wait_for(disc.number, "it writes", |status| status.counters.writes_count > 50);
    tail.runtime.block_on(tail.shards().set_access(disc.number, Access::Nobody)).unwrap();
    let file = tail.file(1);
    file.write_all_at(&vec![0x11; 64 << 20], 0).unwrap();
    writing.join().unwrap();
    reading.join().unwrap();
    let stored = std::fs::read(tail.path(1)).unwrap();
    assert!(stored.iter().all(|byte| *byte == 0x11), "a late write of the withdrawn client");
}

#[test]
fn rule15_after_a_resize_the_listener_is_the_same_and_the_size_is_new() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, MIB);
    let mut peer = disc.connect();
    peer.write(0, b"before");
    tail.runtime.block_on(tail.shards().resize(disc.number, 4 * MIB)).unwrap();
    assert!(peer.is_closed(), "its connections are closed");
    let mut peer = disc.connect();
    peer.write(4 * MIB - 3, b"end");
    assert_eq!(peer.read(0, 6), b"before");
    tail.runtime.block_on(tail.shards().resize(disc.number, 2 * MIB)).unwrap();
    let mut peer = disc.connect();
    assert_eq!(peer.try_write(4 * MIB - 3, b"end"), Error::Enospc.code());
    assert_eq!(tail.file(1).metadata().unwrap().len(), 2 * MIB);
    let refused = tail.runtime.block_on(tail.shards().resize(disc.number, u64::MAX));
    assert!(matches!(refused, Err(ShardError::Os { .. })));
    assert_eq!(peer.read(0, 6), b"before", "a refused resize closes nobody");
}

#[test]
fn rule15_data_that_came_before_the_clients_were_gone_is_not_cut_off() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 4 * MIB);
    let mut peer = disc.connect();
    peer.write(3 * MIB, b"late");
    let fit = |size_bytes| tail.runtime.block_on(tail.shards().resize_keeping_data(disc.number, size_bytes));
    let refused = fit(2 * MIB);
    assert!(
        matches!(refused, Err(ShardError::WouldLoseData { at, .. }) if (2 * MIB..=3 * MIB).contains(&at)),
        "{refused:?}"
    );
    assert!(peer.is_closed(), "whether there is data is only known when nobody writes");
    let mut peer = disc.connect();
    assert_eq!(peer.read(3 * MIB, 4), b"late", "the size is as it was");
    fit(4 * MIB).unwrap();
    assert_eq!(peer.read(3 * MIB, 4), b"late", "the size that it has closes nobody");
    assert!(matches!(fit(5 * MIB), Err(ShardError::Os { .. })), "the file is not that long");
    tail.file(1).set_len(5 * MIB).unwrap();
    fit(5 * MIB).unwrap();
    disc.connect().write(5 * MIB - 3, b"end");
}

#[test]
fn rule15_who_comes_back_during_a_resize_is_told_the_new_size() {
    let patience = Patience { drain_seconds: 2, ..Patience::default() };
    let tail = Tail::start_with(1, patience);
    let disc = tail.serve(1, 64 * MIB);
    tail.file(1).write_all_at(&vec![1; 64 << 20], 0).unwrap();
    // This one takes no replies, so the resize waits for its deadline.
    let mut slow = disc.connect();
    let header =
        Header { flags: 0, command: command_type::READ, cookie: 1, offset: 0, length: PAYLOAD_BYTES_MAX.into() };
    slow.send(header, &[]);
    tail.wait_for(disc.number, "it is being worked on", |s| s.clients[0].requests_in_flight_count == 1);
    // And this one is in the middle of a write of several pieces.
    let mut writer = disc.connect();
    let header = Header { flags: 0, command: command_type::WRITE, cookie: 2, offset: 0, length: 4 << 20 };
    writer.send(header, &pattern(1, 2 << 20));
    tail.wait_for(disc.number, "both are at work", |s| {
        s.clients.iter().filter(|c| c.requests_in_flight_count == 1).count() == 2
    });
    let resized = tail.runtime.block_on(async {
        let resize = tail.shards().resize(disc.number, 65 * MIB);
        let late = tokio::task::spawn_blocking(move || {
            assert!(writer.is_closed(), "a write that did not come whole has no answer, not even an error");
            disc.connect().write(65 * MIB - 1, b"x");
        });
        let (resized, late) = tokio::join!(resize, late);
        late.unwrap();
        resized
    });
    resized.unwrap();
    assert_eq!(tail.status(disc.number).counters.errors.count(), 0);
}

#[test]
fn a_close_answers_what_is_in_flight_and_gives_up_the_lock() {
    let tail = Tail::start(1);
    let file = tail.file(1);
    file.set_len(MIB).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let disc = tail.serve_file(1, file, MIB, Access::List(vec![LOOPBACK]));
    let second = tail.file(1);
    let try_lock = || rustix::fs::flock(&second, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(try_lock().is_err(), "rule 10: its I/O holds the lock");
    let mut peer = disc.connect();
    peer.write(0, b"x");
    tail.runtime.block_on(tail.shards().close(disc.number)).unwrap();
    assert!(peer.is_closed());
    assert!(try_lock().is_ok(), "the lock is given up before the answer");
    assert!(std::net::TcpStream::connect(disc.address).is_err(), "nobody listens");
    let again = tail.runtime.block_on(tail.shards().close(disc.number));
    assert!(matches!(again, Err(ShardError::NotOpen(_))));
}

#[test]
fn a_number_is_open_once_and_orders_about_others_are_refused() {
    let tail = Tail::start(2);
    let disc = tail.serve(7, MIB);
    let listener = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let open = OpenDisc {
        number: disc.number,
        data: tail.file(7),
        io: tail.io,
        size_bytes: MIB,
        listener: Some(listener),
        access: Access::Nobody,
        own_address: LOOPBACK,
        sync_failed: false,
    };
    let second = tail.runtime.block_on(tail.shards().open(open));
    assert!(matches!(second, Err(ShardError::AlreadyOpen(DiscNumber(7)))));
    let other = tail.runtime.block_on(tail.shards().set_access(DiscNumber(8), Access::Nobody));
    assert!(matches!(other, Err(ShardError::NotOpen(DiscNumber(8)))));
}

#[test]
fn rule17_a_sync_that_failed_before_fails_every_flush_and_fua() {
    let tail = Tail::start(1);
    let file = tail.file(1);
    file.set_len(MIB).unwrap();
    let listener = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let disc = common::Served { number: DiscNumber(1), address: listener.local_addr().unwrap() };
    let access = Access::List(vec![LOOPBACK]);
    let open = OpenDisc {
        number: disc.number,
        data: file,
        io: tail.io,
        size_bytes: MIB,
        listener: Some(listener),
        access,
        own_address: LOOPBACK,
        sync_failed: true,
    };
    tail.runtime.block_on(tail.shards().open(open)).unwrap();
    let mut peer = disc.connect();
    assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, Error::Eio.code());
    assert_eq!(peer.ask(command_type::WRITE, command_flag::FUA, 0, 1, b"x").0, Error::Eio.code());
    peer.write(0, b"a write without FUA goes on");
    assert!(tail.status(disc.number).sync_failed);
    assert!(tail.runtime.block_on(tail.shards().close(disc.number)).is_err(), "the close says so too");
}

#[test]
fn rule17_a_failed_sync_is_told_once_and_stays() {
    let mut tail = Tail::start(1);
    // A pipe cannot be synced, which is as good as a disc that fails to.
    let (_reader, writer) = std::io::pipe().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    let disc = tail.serve_file(1, file, MIB, Access::List(vec![LOOPBACK]));
    let mut peer = disc.connect();
    for _ in 0..3 {
        assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, Error::Eio.code());
    }
    let told = tail.runtime.block_on(tail.events.recv()).unwrap();
    assert_eq!(told, ShardEvent::SyncFailed { number: disc.number, errno: 22 });
    assert!(tail.events.try_recv().is_err(), "once");
    assert!(tail.status(disc.number).sync_failed);
}

#[test]
fn rule12_a_client_that_comes_from_the_discs_own_address_is_this_machine() {
    let tail = Tail::start(1);
    let file = tail.file(1);
    file.set_len(MIB).unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.7", 0)).unwrap();
    let disc = common::Served { number: DiscNumber(1), address: listener.local_addr().unwrap() };
    let own_address = "192.0.2.9".parse().unwrap();
    let access = Access::List(vec![own_address]);
    let open = OpenDisc {
        number: disc.number,
        data: file,
        io: tail.io,
        size_bytes: MIB,
        listener: Some(listener),
        access,
        own_address,
        sync_failed: false,
    };
    tail.runtime.block_on(tail.shards().open(open)).unwrap();
    // The kernel takes 127.0.0.1 as the source here, which is another machine's as far as the disc knows.
    assert_eq!(disc.connect_as("", Style::Structured).err(), Some(option_reply::ERR_POLICY));
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.7:0".parse::<std::net::SocketAddr>().unwrap()).unwrap();
    rustix::net::connect(&socket, &disc.address).unwrap();
    let mut peer = common::Peer { socket: socket.into(), client: Default::default(), replies: vec![] };
    let mut out = vec![];
    peer.client.write_flags(&mut out);
    peer.client.write_go(&mut out, option_type::GO, "", &[]);
    peer.socket.write_all(&out).unwrap();
    assert!(matches!(peer.next(), Some(Reply::Greeting(_))));
    assert!(matches!(peer.next(), Some(Reply::Option { reply: option_reply::INFO, .. })));
    assert_eq!(tail.status(disc.number).clients.last().unwrap().peer, own_address);
}

#[test]
fn fault17_idle_connections_cost_no_turns() {
    let tail = Tail::start(1);
    let discs: Vec<_> = (0..40).map(|number| tail.serve(number, MIB)).collect();
    let mut peers: Vec<_> = (0..400).map(|index| discs[index % 40].connect()).collect();
    let turns = |tail: &Tail| tail.runtime.block_on(tail.shards().status())[0].turns_count;
    let before = turns(&tail);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(turns(&tail) - before < 5, "an idle shard sleeps");
    for peer in &mut peers {
        peer.write(0, b"still there");
    }
}

#[test]
fn r127_a_thousand_discs_in_one_process() {
    let tail = Tail::start(2);
    let discs: Vec<_> = (0..1000).map(|number| tail.serve(number, MIB)).collect();
    for disc in discs.iter().step_by(50) {
        let bytes = pattern(disc.number.0, 4096);
        disc.connect().write(0, &bytes);
        let mut stored = vec![0; 4096];
        tail.file(disc.number.0).read_exact_at(&mut stored, 0).unwrap();
        assert!(stored == bytes, "disc {} has its own bytes", disc.number);
    }
}

#[test]
fn list_names_no_key_and_names_the_plain_export() {
    let tail = Tail::start(1);
    let plain = tail.serve(1, MIB);
    let attached = tail.file(2);
    attached.set_len(MIB).unwrap();
    let access = Access::Attachments(vec![(LOOPBACK, Secret::new("secret").hash())]);
    let attached = tail.serve_file(2, attached, MIB, access);
    for (disc, wanted) in [(plain, 1), (attached, 0)] {
        let mut peer = common::Peer { socket: disc.socket(), client: Default::default(), replies: vec![] };
        let mut out = vec![];
        peer.client.write_flags(&mut out);
        peer.client.write_option(&mut out, option_type::LIST, &[]);
        peer.client.write_option(&mut out, option_type::ABORT, &[]);
        peer.socket.write_all(&out).unwrap();
        let replies: Vec<Reply> = std::iter::from_fn(|| peer.next()).collect();
        let count =
            |kind| replies.iter().filter(|r| matches!(r, Reply::Option { reply, .. } if *reply == kind)).count();
        assert_eq!((count(option_reply::SERVER), count(option_reply::ACK)), (wanted, 2), "rule 6: {replies:?}");
        assert!(!format!("{replies:?}").contains("secret"));
    }
}

#[test]
fn a_stop_ends_all_threads_with_clients_still_there() {
    let tail = Tail::start(2);
    let mut peers: Vec<_> = (0..4).map(|number| tail.serve(number, MIB).connect()).collect();
    let start = std::time::Instant::now();
    drop(tail);
    assert!(start.elapsed() < PATIENCE);
    assert!(peers.iter_mut().all(|peer| peer.is_closed()));
}

/// The chunks of a READ: offset, length, and whether it is a hole.
fn chunks_of_read(peer: &mut common::Peer, flags: u16, offset: u64, length: u64) -> Vec<(u64, u64, bool)> {
    peer.send(Header { flags, command: command_type::READ, cookie: 9, offset, length }, &[]);
    let mut chunks = vec![];
    loop {
        let Some(Reply::Chunk { done, kind, data, .. }) = peer.next() else { panic!("a chunk") };
        let at = u64::from_be_bytes(data[..8].try_into().unwrap());
        match kind {
            chunk_type::OFFSET_HOLE => {
                chunks.push((at, u32::from_be_bytes(data[8..].try_into().unwrap()).into(), true));
            }
            chunk_type::OFFSET_DATA => chunks.push((at, data.len() as u64 - 8, false)),
            other => panic!("chunk type {other}"),
        }
        if done {
            return chunks;
        }
    }
}

#[test]
fn a_read_leaves_out_holes_unless_it_must_be_whole() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    for style in [Style::Structured, Style::Extended] {
        let mut peer = disc.connect_with(style);
        assert_eq!(peer.ask(command_type::TRIM, 0, 0, 64 * MIB, &[]).0, 0);
        assert_eq!(chunks_of_read(&mut peer, 0, 0, 64 * MIB), [(0, 64 * MIB, true)], "64 MiB in one chunk of 12 bytes");
        peer.write(2 * MIB, &pattern(1, 1 << 20));
        let wanted = [(0, 2 * MIB, true), (2 * MIB, MIB, false), (3 * MIB, 61 * MIB, true)];
        assert_eq!(chunks_of_read(&mut peer, 0, 0, 64 * MIB), wanted, "{style:?}");
        let odd = [(MIB + 1, MIB - 1, true), (2 * MIB, 5, false)];
        assert_eq!(chunks_of_read(&mut peer, 0, MIB + 1, MIB + 4), odd);
        let whole = chunks_of_read(&mut peer, command_flag::DF, 0, 4 * MIB);
        assert_eq!(whole, [(0, 4 * MIB, false)], "DF: one chunk with the zeroes in it");
        assert!(peer.read(2 * MIB, 1 << 20) == pattern(1, 1 << 20));
    }
}

#[test]
fn a_write_that_was_answered_is_in_every_later_read() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    let (mut writer, mut reader) = (disc.connect(), disc.connect_with(Style::Extended));
    // The reader looks at the hole again and again while it is being filled.
    for step in 0..64u64 {
        let offset = (step * 37 % 64) * MIB + 4096;
        assert_eq!(reader.read(offset - 4096, 65_536).iter().filter(|byte| **byte != 0).count(), 0);
        for cookie in 0..4 {
            let header = Header { flags: 0, command: command_type::READ, cookie, offset: 0, length: 32 * MIB };
            reader.send(header, &[]);
        }
        writer.write(offset, &[0xab; 512]);
        let mut answered = 0;
        while answered < 4 {
            answered += usize::from(!matches!(reader.next().unwrap(), Reply::Chunk { done: false, .. }));
        }
        assert_eq!(reader.read(offset - 4096, 65_536)[4096..4608], [0xab; 512], "step {step}");
    }
}

#[test]
fn fault13_only_flush_and_fua_sync() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 4 * MIB);
    let mut peer = disc.connect_with(Style::Extended);
    let syncs = || tail.status(disc.number).counters.syncs_count;
    for block in 0..500 {
        peer.write(block * 4096, &[1; 4096]);
    }
    assert_eq!(peer.ask(command_type::WRITE_ZEROES, 0, 0, MIB, &[]).0, 0);
    assert_eq!(peer.ask(command_type::TRIM, 0, MIB, MIB, &[]).0, 0);
    assert_eq!(syncs(), 0, "no write, zero or trim is synced of itself");
    assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, 0);
    assert_eq!(syncs(), 1);
    for (step, command) in [command_type::WRITE, command_type::WRITE_ZEROES, command_type::TRIM].iter().enumerate() {
        let payload: &[u8] = if *command == command_type::WRITE { b"fua!" } else { &[] };
        assert_eq!(peer.ask(*command, command_flag::FUA, 0, 4, payload).0, 0);
        assert_eq!(syncs(), 2 + step as u64);
    }
    assert_eq!(peer.ask(command_type::READ, command_flag::FUA, 0, 4, &[]).0, 0, "FUA means nothing to a read");
    assert_eq!(syncs(), 4);
}

#[test]
fn a_stop_finishes_what_is_in_flight_and_refuses_the_rest_but_no_guest_sees_an_error() {
    let key = Secret::new("a machine's key");
    for guest in [false, true] {
        let mut tail = Tail::start(1);
        let file = tail.file(1);
        file.write_all_at(&vec![1; 24 << 20], 0).unwrap();
        let access = match guest {
            true => Access::Attachments(vec![(LOOPBACK, key.hash())]),
            false => Access::List(vec![LOOPBACK]),
        };
        let disc = tail.serve_file(1, file, 24 * MIB, access);
        let mut peer = disc.connect_as(if guest { key.reveal() } else { "" }, Style::Extended).unwrap();
        let read = |cookie| Header { flags: 0, command: command_type::READ, cookie, offset: 0, length: 24 * MIB };
        // More than the sockets hold, so that it is in flight until we take it.
        peer.send(read(1), &[]);
        tail.wait_for(disc.number, "it is worked on", |s| s.clients.iter().any(|c| c.requests_in_flight_count == 1));
        let stopped = tail.begin_stop();
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(disc.address).is_ok() {
            assert!(std::time::Instant::now() < deadline, "nobody is accepted after the stop");
        }
        peer.send(read(2), &[]);
        let (mut bytes, mut late) = (0, vec![]);
        while let Some(reply) = peer.next() {
            match &reply {
                Reply::Chunk { cookie: 1, kind: chunk_type::OFFSET_DATA, data, .. } => bytes += data.len() as u64 - 8,
                other => late.push(other.error()),
            }
        }
        assert_eq!(bytes, 24 * MIB, "what was in flight is answered");
        assert_eq!(late, if guest { vec![] } else { vec![Error::Eshutdown.code()] }, "guest: {guest}");
        tail.runtime.block_on(stopped).unwrap();
    }
}

#[test]
fn rule28_what_newer_kernels_have_can_be_left_alone() {
    let config = ShardConfig { shards_count: Some(1), mask: "6.1".parse().unwrap(), memory: None, tls: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (shards, _events) = Shards::start(config).unwrap();
    for newer in ["send_zc", "bundles", "minimum wait"] {
        assert!(!shards.features().contains(newer), "{}", shards.features());
    }
    runtime.block_on(shards.stop());
    assert!("5.4".parse::<Mask>().is_err());
}

/// Safety rule 24: large reads go out by reference when the page cache has all of them, and are copied otherwise; the bytes
/// are the same, wherever they begin and however slowly they are taken.
#[test]
fn large_reads_by_reference_are_the_bytes_of_the_disc() {
    let tail = Tail::start(1);
    let disc = tail.serve(1, 8 * MIB);
    let mut peer = disc.connect();
    let bytes = pattern(24, 5 * MIB as usize);
    peer.write(0, &bytes);
    let ranges = [(0, 16 << 10), (1, 16 << 10), (4095, 70_000), (123_457, 1 << 20), (1 << 20, 1 << 20), (77, 3 << 20)];
    for (offset, length) in ranges {
        assert!(peer.read(offset, length) == bytes[offset as usize..][..length as usize], "{length} at {offset}");
    }
    assert!(peer.read(6 * MIB, 1 << 20).iter().all(|byte| *byte == 0), "a hole");

    // Far more than the socket takes, before the first reply is read.
    let requests = 20;
    for cookie in 0..requests {
        let header = Header { flags: 0, command: command_type::READ, cookie, offset: cookie * 4099, length: 1 << 20 };
        peer.send(header, &[]);
    }
    let mut arrived = std::collections::HashMap::<u64, Vec<u8>>::new();
    while arrived.values().map(Vec::len).sum::<usize>() < requests as usize * MIB as usize {
        match peer.next().expect("an answer") {
            Reply::Chunk { kind: 1, cookie, data, .. } => {
                let at = u64::from_be_bytes(data[..8].try_into().unwrap()) - cookie * 4099;
                let reply = arrived.entry(cookie).or_default();
                assert_eq!(at, reply.len() as u64, "the pieces of {cookie} come in order");
                reply.extend_from_slice(&data[8..]);
            }
            other => panic!("{other:?}"),
        }
    }
    for (cookie, data) in arrived {
        assert!(data == bytes[cookie as usize * 4099..][..MIB as usize], "request {cookie}");
    }
}
