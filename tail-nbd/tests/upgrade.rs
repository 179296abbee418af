//! A new process takes the discs over while clients work: real tails in network namespaces, our own client, fio and qemu,
//! and programs that do not take over.
#![allow(clippy::print_stderr, reason = "how long the pauses were")]

mod common;
mod netns;

use common::{MIB, Peer, Served, has, pattern};
use netns::{
    Net,
    brain::{Brain, no, ok},
    tail::Tail,
};
use serde_json::{Value, json};
use spine::{address::StoragePrefix, id::DiscNumber};
use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tail_nbd::{
    limits::OPEN_FILES_RESERVED,
    nbd::{client::Reply, offer::Style, request::Header, wire::command_type},
};

const KEY: &str = "key";

fn order(size: u64) -> Value {
    json!({
        "size": size, "storage_pool": "sata1", "generation": 1, "attachments_version": 1,
        "attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}],
    })
}

fn served(number: u64) -> Served {
    let prefix: StoragePrefix = "fd00:b16:0:d::/64".parse().unwrap();
    let address = prefix.address_of(DiscNumber(number));
    Served { number: DiscNumber(number), address: SocketAddr::from((address, 10809)) }
}

fn uri(number: u64) -> String {
    format!("nbd://[fd00:b16:0:d::{number:x}]:10809/{KEY}")
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
fn fails(output: &Output, reason: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains(reason) && text.contains("serves on"), "{reason}: {text}");
}

/// How long the clients waited, as the old process saw it, in milliseconds.
fn pause_ms(text: &str) -> f64 {
    text.split("pause ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|ms| ms.parse().ok()).expect(text)
}

/// A tail with discs of 64 MiB, and its brain.
async fn start(net: &Net, discs_count: u64) -> (Tail, Brain) {
    let mut tail = Tail::new(net);
    tail.start();
    let mut brain = Brain::listen().await;
    brain.connect().await;
    for number in 1..=discs_count {
        ok(brain.create(&format!("disc.sata.{number}"), order(64 * MIB)).await);
    }
    (tail, brain)
}

fn request(command: u16, cookie: u64, offset: u64, length: u64) -> Header {
    Header { flags: 0, command, cookie, offset, length }
}

/// Takes simple replies without data.
fn expect_done(peer: &mut Peer, cookie: u64) {
    match peer.next() {
        Some(Reply::Simple { cookie: given, error: 0, .. }) => assert_eq!(given, cookie),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rule26_payloads_and_replies_that_are_cut_anywhere_go_on() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net, 3).await;
        let mut writer = served(1).connect_as(KEY, Style::Simple).unwrap();
        let mut reader = served(2).connect_as(KEY, Style::Simple).unwrap();
        let data = pattern(1, 8 * MIB as usize);
        reader.write(0, &data);

        // A payload of 5 MiB stops in the middle of its third piece; behind it there is half a header.
        let mut sent = vec![];
        let (first, second) = (5 * MIB, 4096);
        writer.client.write_request(&mut sent, request(command_type::WRITE, 1, 0, first));
        sent.extend_from_slice(&data[..first as usize]);
        writer.client.write_request(&mut sent, request(command_type::WRITE, 2, 32 * MIB, second));
        sent.extend_from_slice(&data[..second as usize]);
        let cuts = [2 * MIB as usize + 777, 28 + first as usize + 9, 28 + first as usize + 28 + 100, sent.len()];
        // Replies of 32 MiB for a client that reads nothing: in buffers, in pipes, in the socket.
        for cookie in 0..32 {
            reader.send(request(command_type::READ, cookie, cookie % 8 * MIB, MIB), &[]);
        }
        let mut begun = 0;
        for cut in cuts {
            writer.socket.write_all(&sent[begun..cut]).unwrap();
            begun = cut;
            let text = succeeds(&tail.upgrade(&[]));
            assert!(text.starts_with("3 discs, 2 connections taken over by process "), "{text}");
            brain.connect().await;
        }
        expect_done(&mut writer, 1);
        expect_done(&mut writer, 2);
        for _ in 0..32 {
            match reader.next() {
                Some(Reply::Simple { cookie, error: 0, data: read }) => {
                    let offset = (cookie % 8 * MIB) as usize;
                    assert!(read == data[offset..offset + MIB as usize], "the read {cookie}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(writer.read(0, first as u32) == data[..first as usize]);
        assert!(writer.read(32 * MIB, second as u32) == data[..second as usize]);

        // No table of open files has to grow while clients wait.
        let (pid, allowed) =
            (tail.status()["pid"].clone(), rustix::process::getrlimit(rustix::process::Resource::Nofile));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap().trim().parse::<u64>().unwrap();
        assert!(room >= allowed.maximum.unwrap_or(u64::MAX).min(OPEN_FILES_RESERVED), "{room}");

        // What was counted goes on, the brain orders, and everything is there after an orderly stop.
        let status = tail.status();
        let counters = status["discs"][1]["counters"].clone();
        assert_eq!((&counters["reads_count"], &counters["writes_count"]), (&json!(32), &json!(1)), "{counters}");
        assert_eq!(status["discs"][0]["clients"], json!(["fd00:b16:0:2::11"]));
        let withdrawal = json!({"attachments": [], "attachments_version": 2});
        ok(brain.update("disc.sata.1", withdrawal).await);
        assert!(writer.is_closed(), "a withdrawal reaches clients that were taken over");
        ok(brain.create("disc.sata.4", order(MIB)).await);
        no(brain.create("disc.sata.4", order(2 * MIB)).await, "exists");
        assert!(served(4).connect_as(KEY, Style::Simple).is_ok());
        tail.terminate();
        assert!(reader.is_closed());
        assert!(!tail.folder.path().join("state/control.sock").exists());
        assert!(fs::read(tail.file("2.data")).unwrap()[..data.len()] == data);
        tail.start();
        assert_eq!(tail.status()["discs"].as_array().unwrap().len(), 4);
    });
}

/// A program in place of the server.
fn program(tail: &Tail, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = tail.folder.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A server that speaks the protocol of the take-over, and then does something else.
fn impostor(after: &str) -> String {
    borrower(&format!("say('\"prepared\"'); hear()\n{after}"))
}

/// The same, which has been lent the discs.
fn borrower(after: &str) -> String {
    format!(
        r#"#!/usr/bin/python3
import os, signal, socket, sys, time
link = socket.socket(fileno=0)
def say(word): link.send(word.encode())
def hear(): return socket.recv_fds(link, 65536, 253)
say('"ready"'); hear()
{after}
"#
    )
}

#[test]
fn a_take_over_that_fails_leaves_the_old_process_serving() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net, 2).await;
        let mut peer = served(1).connect_as(KEY, Style::Structured).unwrap();
        let data = pattern(2, MIB as usize);
        peer.write(0, &data);
        // The middle of a payload is the worst moment.
        let mut sent = vec![];
        peer.client.write_request(&mut sent, request(command_type::WRITE, 77, MIB, MIB));
        sent.extend_from_slice(&data);
        peer.socket.write_all(&sent[..300_000]).unwrap();

        let old = tail.status()["pid"].clone();
        let text = |text: &str| format!("#!/bin/sh\n{text}\n");
        for (name, script, mode, reason) in [
            ("exits", text("exit 1"), 0o755, "did not become ready"),
            ("not-executable", text("exit 1"), 0o644, "cannot start"),
            ("nonsense", "\x7fELF".to_owned(), 0o755, "cannot start"),
            (
                "talks",
                "#!/usr/bin/python3\nimport socket\nsocket.socket(fileno=0).send(b'hello')\n".to_owned(),
                0o755,
                "did not become ready",
            ),
            ("cannot-open", borrower(r#"say('{"failed":"for a disc"}')"#), 0o755, "for a disc"),
            ("leaves", borrower("os.kill(os.getpid(), signal.SIGKILL)"), 0o755, "did not open the discs"),
            ("hastens", borrower("say('\"serving\"')"), 0o755, "did not open the discs"),
            ("refuses", impostor(r#"say('{"failed":"for a reason"}')"#), 0o755, "for a reason"),
            ("dies", impostor("os.kill(os.getpid(), signal.SIGKILL)"), 0o755, "did not begin to serve"),
            ("hangs", impostor("time.sleep(1000)"), 0o755, "did not begin to serve"),
            ("repeats", impostor("say('\"ready\"')"), 0o755, "did not begin to serve"),
        ] {
            let path = program(&tail, name, &script, mode);
            fails(&tail.upgrade(&["--program", path.to_str().unwrap()]), reason);
            let mut other = served(2).connect_as(KEY, Style::Structured).unwrap();
            assert_eq!(other.read(0, 512), [0; 512], "after a program that {name}");
            assert_eq!(tail.status()["pid"], old);
        }
        // The brain has kept its connection, and what it orders is done.
        ok(brain.create("disc.sata.3", order(MIB)).await);
        // The real program, with a configuration that does not fit.
        let config = fs::read_to_string(tail.config()).unwrap();
        let state_dir = tail.folder.path().join("other");
        let control =
            format!("control_listen = \"{}\"\n[[pool]]", tail.folder.path().join("state/control.sock").display());
        let other = config.replace("/state\"", "/other\"").replace("[[pool]]", &control);
        let other = program(&tail, "other.toml", &other, 0o644);
        let output = tail.output_with(&["upgrade"], &other);
        fails(&output, &format!("state_dir {} is not the one", state_dir.display()));

        peer.socket.write_all(&sent[300_000..]).unwrap();
        assert!(matches!(peer.next(), Some(Reply::Simple { cookie: 77, error: 0, .. })));
        assert!(peer.read(MIB, MIB as u32) == data, "the client has noticed nothing");
        succeeds(&tail.upgrade(&[]));
        assert!(peer.read(MIB, MIB as u32) == data);
    });
}

#[test]
fn an_import_is_not_interrupted() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net, 0).await;
        // Data in every page, and much of it: the import takes longer than the upgrade needs to be refused.
        let image = fs::File::create(tail.folder.path().join("images/big.raw")).unwrap();
        let mut out = std::io::BufWriter::new(image);
        let piece = pattern(3, MIB as usize);
        (0..512).for_each(|_| out.write_all(&piece).unwrap());
        drop(out);
        let mut order = order(512 * MIB);
        order["image"] = json!("big");
        ok(brain.create("disc.sata.1", order).await);
        fails(&tail.upgrade(&[]), "an image is being imported onto disc sata.1");
        brain
            .until("the end of the import", |brain| brain.resource("disc.sata.1").unwrap()["state"] == "serving")
            .await;
        succeeds(&tail.upgrade(&[]));
    });
}

#[test]
fn r185_r187_fio_and_qemu_verify_what_they_write_over_several_upgrades() {
    if !has("fio") || !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net, 3).await;
        // The engine has no options for reconnecting: a disconnect is an error of the run.
        let mut fio = Command::new("fio")
            .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-128k", "--iodepth=16"])
            .args(["--size=64m", "--io_size=96m", "--rate=16m", "--verify=crc32c", "--verify_backlog=64"])
            .args(["--verify_fatal=1", "--randseed=7"])
            .arg(format!("--uri={}", uri(1)))
            .current_dir(tail.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // qemu without reconnect-delay: its requests fail as soon as its connection does.
        let mut bench = Command::new("qemu-img")
            .args(["bench", "-w", "-f", "raw", "-c", "40000", "-d", "16", "-s", "4k", "--pattern=90"])
            .args(["--flush-interval=1000", &uri(2)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // As often as it takes until both have seen several.
        let (mut pauses, mut fio_saw, mut bench_saw) = (vec![], 0, 0);
        loop {
            let (fio_runs, bench_runs) = (fio.try_wait().unwrap().is_none(), bench.try_wait().unwrap().is_none());
            if !fio_runs && !bench_runs {
                break;
            }
            pauses.push(pause_ms(&succeeds(&tail.upgrade(&[]))));
            brain.connect().await;
            // Who still runs has been there during all of it.
            fio_saw += u32::from(fio.try_wait().unwrap().is_none());
            bench_saw += u32::from(bench.try_wait().unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(fio_saw >= 2 && bench_saw >= 2, "fio saw {fio_saw} upgrades, qemu {bench_saw}");
        let (fio, bench) = (fio.wait_with_output().unwrap(), bench.wait_with_output().unwrap());
        let text = succeeds(&fio) + &String::from_utf8_lossy(&fio.stderr);
        assert!(text.contains("err= 0") && !text.contains("verify: bad"), "{text}");
        succeeds(&bench);
        let check = Command::new("qemu-io").args(["-f", "raw", "-c", "read -P 90 0 32M", &uri(2)]).output().unwrap();
        let text = succeeds(&check);
        assert!(!text.contains("failed"), "{text}");
        eprintln!("fio saw {fio_saw} upgrades, qemu {bench_saw}; pauses in ms: {pauses:?}");
    });
}

#[test]
fn r185_the_pause_of_a_busy_client_is_short() {
    let number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (upgrades_count, discs_count) = (number("UPGRADES", 3), number("DISCS", 40));
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net, discs_count).await;
        let _idle: Vec<Peer> =
            (3..=discs_count).map(|number| served(number).connect_as(KEY, Style::Simple).unwrap()).collect();
        let (stop, longest_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut busy = served(1).connect_as(KEY, Style::Simple).unwrap();
        let sampler = std::thread::spawn({
            let (stop, longest_us) = (stop.clone(), longest_us.clone());
            move || {
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    round += 1;
                    let data = pattern(round, 4096);
                    busy.write(round % 1000 * 4096, &data);
                    assert!(busy.read(round % 1000 * 4096, 4096) == data, "round {round}");
                    longest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
                round
            }
        });
        // Beside it, 1 MiB writes in a pipeline.
        let mut heavy = served(2).connect_as(KEY, Style::Simple).unwrap();
        let pusher = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let data = pattern(9, MIB as usize);
                let (mut asked, mut answered) = (0, 0);
                while !stop.load(Ordering::Relaxed) || answered < asked {
                    if !stop.load(Ordering::Relaxed) && asked - answered < 4 {
                        heavy.send(request(command_type::WRITE, asked, asked % 64 * MIB, MIB), &data);
                        asked += 1;
                    } else {
                        assert!(matches!(heavy.next(), Some(Reply::Simple { error: 0, .. })));
                        answered += 1;
                    }
                }
                answered
            }
        });
        let (mut told, mut seen) = (vec![], vec![]);
        for _ in 0..upgrades_count {
            tokio::time::sleep(Duration::from_millis(200)).await;
            longest_us.store(0, Ordering::Relaxed);
            let text = succeeds(&tail.upgrade(&[]));
            assert!(text.starts_with(&format!("{discs_count} discs, {discs_count} connections")), "{text}");
            told.push(pause_ms(&text));
            tokio::time::sleep(Duration::from_millis(100)).await;
            seen.push(longest_us.load(Ordering::Relaxed) as f64 / 1000.0);
            brain.connect().await;
        }
        stop.store(true, Ordering::Relaxed);
        let (rounds, writes) = (sampler.join().unwrap(), pusher.join().unwrap());
        assert!(rounds > 0 && writes > 0);
        for (what, times) in
            [("told by the old process", &mut told), ("seen by a client, with its own work", &mut seen)]
        {
            times.sort_by(f64::total_cmp);
            let worst = times[times.len() - 1];
            eprintln!(
                "pause in ms, {what}: median {:.1}, worst {worst:.1}, of {}",
                times[times.len() / 2],
                times.len()
            );
        }
    });
}
