//! Two real tails, the brains of a test, and NBD clients that go on while a disc moves (R120, R130).
#![allow(clippy::print_stderr, reason = "how long a pause was is part of the result")]

mod netns;

use netns::{
    brain::{Brain, no, ok},
    lan::Lan,
    tail::{Tail, allocated},
};
use serde_json::{Value, json};
use spine::message::Command;
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tail_nbd::nbd::{
    client::{Client, Reply},
    request::Header,
    wire::{command_type, option_reply, option_type},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;
const DISC: &str = "disc.sata.7";
const KEY: &str = "key";

fn id(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// Two tails, each with its brain.
struct Pair {
    lan: Lan,
    tails: [Tail; 2],
    brains: Option<[Brain; 2]>,
}

impl Pair {
    fn new() -> Self {
        let lan = Lan::new();
        let tails = [Tail::numbered(&lan.tails[0], 1), Tail::numbered(&lan.tails[1], 2)];
        Self { lan, tails, brains: None }
    }

    async fn start(&mut self) {
        let mut brains = [Brain::listen_for(1).await, Brain::listen_for(2).await];
        for (tail, brain) in self.tails.iter_mut().zip(&mut brains) {
            tail.start();
            brain.connect().await;
        }
        self.brains = Some(brains);
    }

    fn brain(&mut self, number: usize) -> &mut Brain {
        &mut self.brains.as_mut().unwrap()[number - 1]
    }

    /// A disc on tail1, and some data with holes between.
    async fn make_disc(&mut self) {
        let order = json!({
            "size": SIZE, "storage_pool": "sata1", "generation": 1,
            "attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}], "attachments_version": 4
        });
        ok(self.brain(1).create(DISC, order).await);
        let file = File::options().write(true).open(self.file(1)).unwrap();
        for place in 0..5u64 {
            let bytes: Vec<u8> = (0..3 * MIB + 4096).map(|at| (at % 251 + place) as u8).collect();
            file.write_all_at(&bytes, place * 24 * MIB).unwrap();
        }
        file.sync_all().unwrap();
    }

    fn file(&self, number: usize) -> std::path::PathBuf {
        self.tails[number - 1].file("7.data")
    }

    async fn expect_at_target(&mut self, attempt: u32, generation: u64) -> spine::message::Answer {
        let order = json!({
            "size": SIZE, "storage_pool": "sata1", "generation": generation,
            "incoming": {"id": id(attempt), "source": "tail1", "address": "fd00:b16:0:2::21"}
        });
        self.brain(2).create(DISC, order).await
    }

    async fn order_move(&mut self, attempt: u32, generation: u64, limit: Option<u32>) -> spine::message::Answer {
        let order = json!({"migration": {
            "id": id(attempt), "target": "tail2", "address": "[fd00:b16:0:2::22]:7771", "generation": generation,
            "limit_mb_per_s": limit, "pause_ms": 100
        }});
        self.brain(1).update(DISC, order).await
    }

    async fn until(&mut self, number: usize, what: &str, wanted: impl Fn(&Value) -> bool) {
        self.brain(number).until(what, |brain| brain.resource(DISC).is_some_and(&wanted)).await;
    }

    fn report(&mut self, number: usize) -> Value {
        self.brain(number).resource(DISC).cloned().unwrap_or_default()
    }

    /// Removes the disc from a tail, when its copy is of no use.
    async fn drop_copy(&mut self, number: usize, generation: u64, aborted: Option<u32>) -> spine::message::Answer {
        let mut order = json!({"generation": generation});
        if let Some(attempt) = aborted {
            order["aborted"] = id(attempt).into();
        }
        let Value::Object(order) = order else { unreachable!() };
        self.brain(number).order(Command::Remove(DISC.parse().unwrap(), order)).await
    }
}

fn phase(report: &Value) -> &str {
    report["migration"]["phase"].as_str().unwrap_or("")
}

/// A client that connects again whenever it is cut off, and sends again what was not answered: as qemu does.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Written>,
}

/// What a writer has done.
struct Written {
    /// The last bytes that were acknowledged, by block of 4 KiB.
    blocks: std::collections::BTreeMap<u64, u64>,
    writes: u64,
    longest: Duration,
}

impl Writer {
    /// Writes, trims and zeroes blocks all over the disc, one after the other.
    fn start(namespace: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let file = File::open(format!("/run/netns/{namespace}")).unwrap();
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
            write_until(&stopped)
        });
        Self { stop, thread }
    }

    fn stop(self) -> Written {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

fn write_until(stop: &AtomicBool) -> Written {
    let mut written = Written { blocks: Default::default(), writes: 0, longest: Duration::ZERO };
    let mut connection = None;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    while !stop.load(Ordering::Acquire) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let block = state % (SIZE / 4096);
        // One in sixteen makes a hole; 0 stands for zeroes.
        let value = if state >> 60 == 0 { 0 } else { state | 1 };
        let began = Instant::now();
        loop {
            if connection.is_none() {
                connection = connect().ok();
            }
            if let Some(open) = &mut connection {
                if write_block(open, block, value).is_ok() {
                    break;
                }
                connection = None;
            }
            assert!(began.elapsed() < netns::brain::DEADLINE, "no write gets through");
            std::thread::sleep(Duration::from_millis(1));
        }
        written.longest = written.longest.max(began.elapsed());
        written.writes += 1;
        written.blocks.insert(block, value);
    }
    written
}

type Connection = (TcpStream, Client, Vec<Reply>);

fn connect() -> std::io::Result<Connection> {
    let address: SocketAddr = "[fd00:b16:0:d::7]:10809".parse().unwrap();
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.set_nodelay(true)?;
    let (mut client, mut out) = (Client::new(), vec![]);
    client.write_flags(&mut out);
    client.write_go(&mut out, option_type::GO, KEY, &[]);
    socket.write_all(&out)?;
    let mut connection = (socket, client, vec![]);
    loop {
        match next(&mut connection)? {
            Reply::Option { option: option_type::GO, reply: option_reply::ACK, .. } => return Ok(connection),
            Reply::Option { option: option_type::GO, reply, .. } if reply >> 31 == 1 => {
                return Err(std::io::Error::other("refused"));
            }
            _ => {}
        }
    }
}

fn next((socket, client, replies): &mut Connection) -> std::io::Result<Reply> {
    let mut bytes = [0; 4096];
    while replies.is_empty() {
        match socket.read(&mut bytes)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                client.handle_bytes(&bytes[..count], replies).map_err(|e| std::io::Error::other(format!("{e:?}")))?
            }
        }
    }
    Ok(replies.remove(0))
}

fn write_block(connection: &mut Connection, block: u64, value: u64) -> std::io::Result<()> {
    let (offset, length) = (block * 4096, 4096);
    let command = if value == 0 { command_type::WRITE_ZEROES } else { command_type::WRITE };
    let mut out = vec![];
    connection.1.write_request(&mut out, Header { flags: 0, command, cookie: 7, offset, length });
    if value != 0 {
        out.extend((0..512u64).flat_map(|word| (value ^ word).to_le_bytes()));
    }
    connection.0.write_all(&out)?;
    let reply = next(connection)?;
    assert_eq!(reply.error(), 0, "a guest sees an error");
    Ok(())
}

/// Every acknowledged write is in the file.
fn check(written: &Written, file: &std::path::Path) {
    let file = File::open(file).unwrap();
    for (block, value) in &written.blocks {
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, block * 4096).unwrap();
        let wanted: Vec<u8> = match value {
            0 => vec![0; 4096],
            value => (0..512u64).flat_map(|word| (value ^ word).to_le_bytes()).collect(),
        };
        assert!(bytes[..] == wanted[..], "block {block} is not what was acknowledged last");
    }
}

/// Writes a block now and sees that it works.
fn writes(pair: &Pair) {
    netns::run_in(&pair.lan.client, || async {
        let mut connection = connect().expect("the disc is served");
        write_block(&mut connection, 1, 7).unwrap();
    });
}

#[test]
fn r120_r130_a_disc_moves_while_its_client_writes() {
    let mut pair = Pair::new();
    let client = pair.lan.client.clone();
    let namespace = client.clone();
    netns::run_in(&namespace, || async move {
        pair.start().await;
        pair.make_disc().await;
        let writer = Writer::start(client);
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.order_move(1, 2, None).await);
        ok(pair.order_move(1, 2, None).await);
        pair.until(2, "the target owns it", |report| phase(report) == "done").await;
        pair.until(1, "the source has heard it", |report| phase(report) == "done").await;
        let (source, target) = (pair.report(1), pair.report(2));
        assert_eq!((&source["owner"], &source["state"]), (&json!("retired"), &json!("moved")));
        assert_eq!((&target["owner"], &target["state"]), (&json!("owner"), &json!("serving")));
        assert_eq!((&target["generation"], &target["attachments_version"]), (&json!(2), &json!(4)));
        assert!(!pair.lan.addresses(1).contains("fd00:b16:0:d::7/"));
        assert!(pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        std::thread::sleep(Duration::from_millis(300));
        let written = writer.stop();
        eprintln!(
            "moved: pause {} ms at the source, longest write {:?} of {}, {} bytes copied",
            source["migration"]["pause_ms"], written.longest, written.writes, source["migration"]["bytes_copied"]
        );
        check(&written, &pair.file(2));
        // Everything else is as it was, holes too: the two files differ in what was written since only.
        let (left, right) = (std::fs::read(pair.file(1)).unwrap(), std::fs::read(pair.file(2)).unwrap());
        for (block, (one, other)) in left.chunks(4096).zip(right.chunks(4096)).enumerate() {
            assert!(one == other || written.blocks.contains_key(&(block as u64)), "block {block} differs");
        }
        let (before, after) = (allocated(&pair.file(1)), allocated(&pair.file(2)));
        eprintln!("allocated: {before} bytes at the source, {after} at the target");
        assert!(after < before + 16 * MIB, "holes stay holes");
        // A withdrawal that comes too late for the source says who has it; then the brain confirms.
        let late = json!({"attachments": [], "attachments_version": 5});
        assert!(no(pair.brain(1).update(DISC, late.clone()).await, "moved").contains("tail2"));
        no(pair.brain(1).update(DISC, json!({"migration": null})).await, "moved");
        ok(pair.brain(2).update(DISC, late).await);
        ok(pair.drop_copy(1, 2, None).await);
        assert!(!pair.file(1).exists() && pair.file(2).exists());
        // The new owner serves it after a restart, without its brain.
        pair.tails[1].kill();
        pair.brains = None;
        pair.tails[1].start();
        assert!(pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
    });
}

#[test]
fn rule18_a_move_that_is_cancelled_leaves_the_disc_where_it_was() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start().await;
        pair.make_disc().await;
        no(pair.order_move(1, 1, None).await, "stale-generation");
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.order_move(1, 2, Some(1)).await);
        no(pair.order_move(2, 3, Some(1)).await, "busy");
        no(pair.brain(1).update(DISC, json!({"size": 2 * SIZE})).await, "busy");
        no(pair.brain(2).update(DISC, json!({"size": 2 * SIZE})).await, "busy");
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        // Strangers change nothing, and a disc that is on its way is not to be had at all.
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b""] {
            let mut stranger = TcpStream::connect("[fd00:b16:0:2::22]:7771").unwrap();
            stranger.set_read_timeout(Some(netns::brain::DEADLINE)).unwrap();
            stranger.write_all(bytes).unwrap();
            stranger.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = vec![];
            let _ = stranger.read_to_end(&mut answer);
            assert!(answer.is_empty(), "strangers are not answered");
        }
        assert!(!pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        assert_eq!(phase(&pair.report(2)), "copying");
        writes(&pair);
        ok(pair.brain(1).update(DISC, json!({"migration": null})).await);
        pair.until(1, "it has ended", |report| phase(report) == "failed").await;
        let report = pair.report(1);
        assert_eq!((&report["migration"]["error"]["kind"], &report["state"]), (&json!("cancelled"), &json!("serving")));
        assert_eq!((&report["generation"], &report["owner"]), (&json!(1), &json!("owner")));
        writes(&pair);
        pair.until(2, "the target hears of it", |report| phase(report) == "failed").await;
        ok(pair.order_move(1, 2, None).await);
        assert_eq!(phase(&pair.report(1)), "failed", "an id is one attempt");
        ok(pair.drop_copy(2, 2, None).await);
        assert!(!pair.file(2).exists());
    });
}

#[test]
fn r130_a_target_that_is_killed_and_a_link_that_is_cut_end_the_move_and_the_next_one_works() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start().await;
        pair.make_disc().await;
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.order_move(1, 2, Some(1)).await);
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        pair.tails[1].kill();
        pair.until(1, "the source notices", |report| phase(report) == "failed").await;
        assert_eq!(pair.report(1)["migration"]["error"]["kind"], "unreachable");
        writes(&pair);
        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!(pair.report(2)["owner"], "incoming");
        assert!(!pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        ok(pair.drop_copy(2, 2, Some(1)).await);

        ok(pair.expect_at_target(2, 3).await);
        ok(pair.order_move(2, 3, Some(1)).await);
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        pair.lan.separate(true);
        pair.until(1, "the source notices", |report| phase(report) == "failed").await;
        writes(&pair);
        pair.lan.separate(false);
        pair.until(2, "so does the target", |report| phase(report) == "failed").await;
        ok(pair.drop_copy(2, 3, Some(2)).await);

        ok(pair.expect_at_target(3, 4).await);
        ok(pair.order_move(3, 4, None).await);
        pair.until(1, "the disc is gone", |report| phase(report) == "done").await;
        writes(&pair);
        assert_eq!(pair.report(1)["owner"], "retired");
    });
}

/// The state of both ends when either is killed behind the source's FENCED record, with what that record stands for.
fn fence(pair: &Pair, attempt: u32) {
    use tail_nbd::{
        migration::handover::Attempt,
        sidecar::{Owner, Sidecar},
    };
    let freeze = Attempt(uuid::Uuid::from_u128(99));
    let mut source = Sidecar::open(&pair.tails[0].file("7.sidecar")).unwrap();
    let mut record = source.record().clone();
    let order = json!({"id": id(attempt), "target": "tail2", "address": "[fd00:b16:0:2::22]:7771", "generation": 2});
    record.owner = Owner::Fenced(serde_json::from_value(order).unwrap(), freeze);
    let theirs = record.clone();
    source.write(record).unwrap();
    let mut target = Sidecar::open(&pair.tails[1].file("7.sidecar")).unwrap();
    let own = target.record().clone();
    let Owner::Incoming(order) = own.owner.clone() else { panic!("{:?}", own.owner) };
    let record = tail_nbd::sidecar::Record {
        owner: Owner::Prepared(order, freeze),
        generation: own.generation,
        pool: own.pool,
        ..theirs
    };
    target.write(record).unwrap();
    std::fs::copy(pair.file(1), pair.file(2)).unwrap();
}

/// Both tails stopped in the middle of a hand-over.
async fn stopped_behind_the_fence(pair: &mut Pair) {
    pair.start().await;
    pair.make_disc().await;
    ok(pair.expect_at_target(1, 2).await);
    pair.tails.iter_mut().for_each(Tail::kill);
    fence(pair, 1);
}

#[test]
fn rule19_behind_the_fence_the_disc_is_the_targets_whoever_starts_first() {
    for first in [1, 2] {
        let mut pair = Pair::new();
        let namespace = pair.lan.client.clone();
        netns::run_in(&namespace, || async move {
            stopped_behind_the_fence(&mut pair).await;
            let second = 3 - first;
            // As the service does after any end of the process.
            for tail in &pair.tails {
                let output = tail.output(&["remove-addresses"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            pair.tails[first - 1].start();
            pair.brain(first).connect().await;
            let owner = if first == 1 { "fenced" } else { "prepared" };
            assert_eq!(pair.report(first)["owner"], owner);
            for number in [1, 2] {
                assert!(!pair.lan.addresses(number).contains("fd00:b16:0:d::7/"), "nobody has the address");
            }
            if first == 2 {
                no(pair.drop_copy(2, 2, None).await, "busy");
            } else {
                no(pair.drop_copy(1, 1, None).await, "busy");
                no(pair.brain(1).update(DISC, json!({"size": 2 * SIZE})).await, "moved");
            }
            pair.tails[second - 1].start();
            pair.brain(second).connect().await;
            pair.until(2, "the target owns it", |report| report["owner"] == "owner").await;
            pair.until(1, "the source has heard it", |report| report["owner"] == "retired").await;
            writes(&pair);
        });
    }
}

#[test]
fn rule18_the_brain_relays_the_commit_of_a_source_that_the_target_does_not_see() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        stopped_behind_the_fence(&mut pair).await;
        // As the service does after any end of the process: or the kernel goes on answering for the address.
        assert!(pair.tails[0].output(&["remove-addresses"]).status.success());
        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!(pair.report(2)["state"], "receiving");
        let commit = |attempt, generation: u64| json!({"commit": {"id": id(attempt), "generation": generation}});
        no(pair.brain(2).update(DISC, commit(2, 2)).await, "busy");
        no(pair.brain(2).update(DISC, commit(1, 3)).await, "busy");
        ok(pair.brain(2).update(DISC, commit(1, 2)).await);
        ok(pair.brain(2).update(DISC, commit(1, 2)).await);
        pair.until(2, "it serves", |report| report["state"] == "serving").await;
        writes(&pair);
    });
}

fn promote(attempt: u32, generation: u64, version: u64) -> Value {
    json!({"promote": {"id": id(attempt), "generation": generation, "attachments_version": version}})
}

fn retire(attempt: u32, generation: u64, owner: &str) -> Value {
    json!({"retire": {"id": id(attempt), "generation": generation, "owner": owner}})
}

/// A new run of the VM: the disc has one attachment again.
async fn attach(pair: &mut Pair, number: usize, version: u64) {
    let order = json!({"attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}], "attachments_version": version});
    ok(pair.brain(number).update(DISC, order).await);
}

#[test]
fn rule9_a_prepared_target_is_promoted_when_its_source_is_lost_and_the_source_is_superseded_when_it_is_back() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        stopped_behind_the_fence(&mut pair).await;
        assert!(pair.tails[0].output(&["remove-addresses"]).status.success());
        // Its record of FENCED was lost with it: it is the owner that it was before.
        own_again(&pair);
        pair.tails[1].start();
        pair.brain(2).connect().await;
        no(pair.brain(2).update(DISC, promote(2, 3, 5)).await, "busy");
        no(pair.brain(2).update(DISC, promote(1, 2, 5)).await, "stale-generation");
        no(pair.brain(2).update(DISC, promote(1, 3, 4)).await, "stale-attachments");
        assert_eq!(pair.report(2)["state"], "receiving", "nothing has changed");
        ok(pair.brain(2).update(DISC, promote(1, 3, 5)).await);
        ok(pair.brain(2).update(DISC, promote(1, 3, 5)).await);
        pair.until(2, "it serves", |report| report["state"] == "serving" && report["attachments"] == json!([])).await;
        assert_eq!(pair.report(2)["generation"], 3);
        assert!(connect().is_err(), "the keys of former times are no good");
        attach(&mut pair, 2, 6).await;
        writes(&pair);
        // It is durable.
        pair.tails[1].kill();
        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!((&pair.report(2)["owner"], &pair.report(2)["generation"]), (&json!("owner"), &json!(3)));

        pair.tails[0].start();
        pair.brain(1).connect().await;
        pair.until(1, "the address is another's (rule 11)", |report| report["state"] == "failed").await;
        assert_eq!(pair.report(1)["owner"], "owner");
        no(pair.brain(1).update(DISC, retire(1, 1, "tail2")).await, "stale-generation");
        for _ in 0..2 {
            ok(pair.brain(1).update(DISC, retire(1, 3, "tail2")).await);
        }
        let late = json!({"attachments": [], "attachments_version": 9});
        assert!(no(pair.brain(1).update(DISC, late).await, "moved").contains("tail2"));
        pair.tails[0].kill();
        pair.tails[0].start();
        pair.brain(1).connect().await;
        let stale = pair.report(1);
        assert_eq!((&stale["owner"], &stale["state"]), (&json!("retired"), &json!("moved")), "{stale}");
        assert!(!pair.lan.addresses(1).contains("fd00:b16:0:d::7/"));
        assert!(pair.file(1).exists(), "what is there may be the only copy of a write");
        writes(&pair);
        ok(pair.drop_copy(1, 3, None).await);
        assert!(!pair.file(1).exists());
    });
}

/// The source as a restart finds it that has lost its last record.
fn own_again(pair: &Pair) {
    use tail_nbd::sidecar::{Owner, Sidecar};
    let mut source = Sidecar::open(&pair.tails[0].file("7.sidecar")).unwrap();
    let mut record = source.record().clone();
    record.owner = Owner::Owner;
    source.write(record).unwrap();
}

#[test]
fn rule9_rule19_a_fenced_source_takes_the_disc_back_and_the_target_is_superseded_when_it_is_back() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        stopped_behind_the_fence(&mut pair).await;
        for tail in &pair.tails {
            assert!(tail.output(&["remove-addresses"]).status.success());
        }
        pair.tails[0].start();
        pair.brain(1).connect().await;
        assert_eq!(pair.report(1)["owner"], "fenced");
        no(pair.brain(1).update(DISC, promote(1, 2, 5)).await, "stale-generation");
        ok(pair.brain(1).update(DISC, promote(1, 3, 5)).await);
        pair.until(1, "it serves", |report| report["state"] == "serving" && report["owner"] == "owner").await;
        attach(&mut pair, 1, 6).await;
        writes(&pair);

        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!(pair.report(2)["owner"], "prepared");
        ok(pair.brain(2).update(DISC, retire(1, 3, "tail1")).await);
        pair.until(2, "it is told", |report| report["owner"] == "retired").await;
        let commit = json!({"commit": {"id": id(1), "generation": 2}});
        assert!(no(pair.brain(2).update(DISC, commit).await, "moved").contains("tail1"));
        writes(&pair);
        ok(pair.drop_copy(2, 3, None).await);
        // The disc can move again.
        ok(pair.expect_at_target(2, 4).await);
        ok(pair.order_move(2, 4, None).await);
        pair.until(2, "the target owns it", |report| phase(report) == "done").await;
        writes(&pair);
    });
}

#[test]
fn rule9_an_owner_of_former_times_that_still_serves_is_cut_off() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start().await;
        pair.make_disc().await;
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.order_move(1, 2, Some(1)).await);
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        no(pair.brain(2).update(DISC, promote(1, 3, 5)).await, "busy");
        // In the middle of a move, with a client.
        let mut connection = connect().unwrap();
        ok(pair.brain(1).update(DISC, retire(1, 3, "tail2")).await);
        let report = pair.report(1);
        assert_eq!((&report["owner"], &report["state"]), (&json!("retired"), &json!("moved")));
        assert!(write_block(&mut connection, 1, 7).is_err(), "its client is cut off");
        assert!(!pair.lan.addresses(1).contains("fd00:b16:0:d::7/"));
        ok(pair.brain(2).update(DISC, retire(1, 3, "tail1")).await);
        no(pair.brain(2).update(DISC, promote(1, 4, 5)).await, "busy");
        // It is whole, so an operator may think again.
        ok(pair.brain(1).update(DISC, promote(1, 4, 5)).await);
        attach(&mut pair, 1, 6).await;
        writes(&pair);
    });
}
