//! The clients that people have: each of them against a real shard, over loopback. A test whose tool is missing says
#![allow(clippy::print_stderr, reason = "a skipped test says why")]
//! so and passes.

mod common;

use common::{LOOPBACK, MIB, Tail, has, pattern, run};
use spine::secret::Secret;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use tail_nbd::shard::Access;

#[test]
fn nbdinfo_sees_what_is_offered() {
    if !has("nbdinfo") {
        return;
    }
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    disc.connect().write(MIB, &pattern(1, 1 << 20));
    let info: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &disc.uri()])).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 64 * MIB);
    for what in ["can_cache", "can_df", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"] {
        assert_eq!(export[what], true, "{what}");
    }
    assert_eq!(export["can_fast_zero"], true);
    assert_eq!(export["is_read_only"], false, "{export}");
    assert_eq!((&export["block_size_minimum"], &export["block_size_maximum"]), (&1.into(), &(64u64 << 20).into()));
    for what in ["write", "flush", "fua", "multi-conn", "trim", "zero", "df", "cache"] {
        run("nbdinfo", &["--can", what, &disc.uri()]);
    }
    let map: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--map", "--json", &disc.uri()])).unwrap();
    let runs: Vec<(u64, u64)> =
        map.as_array().unwrap().iter().map(|e| (e["length"].as_u64().unwrap(), e["type"].as_u64().unwrap())).collect();
    assert_eq!(runs, [(MIB, 3), (MIB, 0), (62 * MIB, 3)]);
    assert!(run("nbdinfo", &["--list", &disc.uri()]).contains("disc 1"));
}

#[test]
fn rule6_nbdinfo_lists_no_key_and_a_key_opens_the_disc() {
    if !has("nbdinfo") {
        return;
    }
    let tail = Tail::start(1);
    let file = tail.file(1);
    file.set_len(MIB).unwrap();
    let key = Secret::new("0123456789abcdef");
    let disc = tail.serve_file(1, file, MIB, Access::Attachments(vec![(LOOPBACK, key.hash())]));
    let list = Command::new("nbdinfo").args(["--list", "--json", &disc.uri()]).output().unwrap();
    assert!(!String::from_utf8_lossy(&list.stdout).contains(key.reveal()));
    assert!(run("nbdinfo", &["--size", &format!("{}/{}", disc.uri(), key.reveal())]).contains("1048576"));
    let refused = Command::new("nbdinfo").args(["--size", &disc.uri()]).output().unwrap();
    assert!(!refused.status.success(), "without the key it is closed");
}

#[test]
fn nbdcopy_both_ways_keeps_bytes_and_holes() {
    if !has("nbdcopy") {
        return;
    }
    let tail = Tail::start(2);
    let source = tail.path(90);
    let mut bytes = vec![0; 24 << 20];
    for piece in [0usize, 5, 6, 17] {
        bytes[piece << 20..(piece + 1) << 20].copy_from_slice(&pattern(piece as u64, 1 << 20));
    }
    std::fs::write(&source, &bytes).unwrap();
    let (one, two) = (tail.serve(1, 24 * MIB), tail.serve(2, 24 * MIB));
    run("nbdcopy", &["--flush", source.to_str().unwrap(), &one.uri()]);
    assert!(std::fs::read(tail.path(1)).unwrap() == bytes, "file to disc");
    run("nbdcopy", &["--flush", &one.uri(), &two.uri()]);
    assert!(std::fs::read(tail.path(2)).unwrap() == bytes, "disc to disc");
    assert_eq!(tail.file(2).metadata().unwrap().blocks() * 512, 4 * MIB, "holes stay holes");
    let target = tail.path(91);
    run("nbdcopy", &[&two.uri(), target.to_str().unwrap()]);
    assert!(std::fs::read(target).unwrap() == bytes, "disc to file");
}

#[test]
fn nbdsh_uses_every_command() {
    let python = "/usr/bin/python3";
    let there = Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: python3-libnbd is not installed");
        return;
    }
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    let script = r#"
import nbd, sys
for structured in (True, False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.add_meta_context("base:allocation")
    h.connect_uri(sys.argv[1])
    assert h.get_size() == 64 << 20
    assert h.can_meta_context("base:allocation") == structured
    data = bytes(range(256)) * 4096
    h.pwrite(data, 12345, nbd.CMD_FLAG_FUA)
    assert h.pread(len(data), 12345) == data
    if structured:
        chunks = []
        h.pread_structured(2 << 20, 0, lambda buf, off, st, err: chunks.append((off, len(buf))))
        assert sum(length for _, length in chunks) == 2 << 20
        chunks = []
        h.pread_structured(2 << 20, 0, lambda buf, off, st, err: chunks.append(off), nbd.CMD_FLAG_DF)
        assert chunks == [0], chunks
        extents = []
        h.block_status(8 << 20, 0, lambda ctx, off, ext, err: extents.extend(ext))
        assert sum(extents[0::2]) == 8 << 20, extents
    h.zero(4096, 12345)
    assert h.pread(4096, 12345) == bytes(4096)
    h.zero(4096, 20000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    h.trim(1 << 20, 0)
    h.cache(1 << 20, 0)
    h.flush()
    h.set_strict_mode(0)
    for wrong in (lambda: h.pread(1, 64 << 20), lambda: h.pread((64 << 20) + 1, 0), lambda: h.zero(1, 0, nbd.CMD_FLAG_DF)):
        try:
            wrong()
            raise SystemExit("not refused")
        except nbd.Error as error:
            assert error.errno in ("EINVAL", "ERANGE"), error
    try:
        h.pwrite(b"xy", (64 << 20) - 1)
        raise SystemExit("not refused")
    except nbd.Error as error:
        assert error.errno == "ENOSPC", error
    # Many at once, in any order.
    buffers = {}
    for i in range(300):
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i % 256]) * 512), i * 512)
    while h.aio_in_flight() > 0: h.poll(-1)
    for i in range(300):
        buffers[i] = nbd.Buffer(512)
        h.aio_pread(buffers[i], i * 512)
    while h.aio_in_flight() > 0: h.poll(-1)
    assert all(buffers[i].to_bytearray() == bytearray([i % 256]) * 512 for i in range(300))
    h.shutdown()
"#;
    run(python, &["-c", script, &disc.uri()]);
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
}

#[test]
fn qemu_img_maps_compares_and_converts() {
    if !has("qemu-img") {
        return;
    }
    let tail = Tail::start(2);
    let (one, two) = (tail.serve(1, 24 * MIB), tail.serve(2, 24 * MIB));
    let mut peer = one.connect();
    peer.write(0, &pattern(1, 1 << 20));
    peer.write(9 * MIB + 4096, &pattern(2, 3 << 20));
    let info: serde_json::Value =
        serde_json::from_str(&run("qemu-img", &["info", "--output=json", "-f", "raw", &one.uri()])).unwrap();
    assert_eq!(info["virtual-size"], 24 * MIB);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "--target-is-zero", "-W", &one.uri(), &two.uri()]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &one.uri(), &two.uri()]);
    let map: serde_json::Value =
        serde_json::from_str(&run("qemu-img", &["map", "--output=json", "-f", "raw", &two.uri()])).unwrap();
    let data: u64 =
        map.as_array().unwrap().iter().filter(|e| e["data"] == true).map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(data, 4 * MIB, "holes stay holes: {map}");
    peer.write(0, b"different");
    let same = Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", &one.uri(), &two.uri()]).output();
    assert_eq!(same.unwrap().status.code(), Some(1), "a difference is seen");
}

#[test]
fn qemu_io_writes_discards_and_reads_patterns() {
    if !has("qemu-io") {
        return;
    }
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    let commands = [
        "write -P 0xa5 0 2M",
        "write -P 0x5a -f 2M 64k",
        "read -P 0xa5 0 2M",
        "read -P 0x5a 2M 64k",
        "write -z 64k 64k",
        "write -z -u 256k 64k",
        "discard 512k 512k",
        "read -P 0 64k 64k",
        "read -P 0 256k 64k",
        "read -P 0 512k 512k",
        "read -P 0xa5 0 64k",
        "aio_write -P 0x77 5M 1M",
        "aio_flush",
        "read -P 0x77 5M 1M",
        "flush",
    ];
    let mut arguments = vec!["-f", "raw", "-t", "none", "-d", "unmap"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    let uri = disc.uri();
    arguments.push(&uri);
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn rule15_qemu_does_not_notice_that_its_connection_was_closed_for_a_resize() {
    if !has("qemu-io") {
        return;
    }
    let tail = Tail::start(1);
    let disc = tail.serve(1, 8 * MIB);
    let (host, port) = (disc.address.ip(), disc.address.port());
    let options = format!("driver=nbd,server.type=inet,server.host={host},server.port={port},reconnect-delay=30");
    let mut child = Command::new("qemu-io")
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orders = child.stdin.take().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |order: &str, answer: &str| {
        writeln!(orders, "{order}").unwrap();
        let line = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("bytes at offset")));
        assert!(line.is_some_and(|line| line.unwrap().contains(answer)), "{order}");
    };
    ask("write -P 7 0 64k", "wrote 65536/65536");
    for round in 1..4 {
        tail.runtime.block_on(tail.shards().resize(disc.number, (8 + round) * MIB)).unwrap();
        ask("read -P 7 0 64k", "read 65536/65536");
        ask("write -P 7 1M 3M", "wrote 3145728/3145728");
    }
    writeln!(orders, "quit").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn fio_verifies_what_it_wrote() {
    let engine =
        has("fio") && Command::new("fio").arg("--enghelp=nbd").output().is_ok_and(|output| output.status.success());
    if !engine {
        eprintln!("skipped: fio has no nbd engine here");
        return;
    }
    let tail = Tail::start(1);
    let disc = tail.serve(1, 64 * MIB);
    for (pattern, block) in [("randwrite", "4k"), ("randwrite", "4k-256k"), ("write", "1m"), ("randrw", "512-64k")] {
        let uri = format!("--uri={}", disc.uri());
        run(
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                &format!("--rw={pattern}"),
                &format!(
                    "--bsrange={}",
                    if block.contains('-') { block.to_owned() } else { format!("{block}-{block}") }
                ),
                "--blockalign=512",
                "--iodepth=16",
                "--size=24m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--aux-path=/tmp",
            ],
        );
    }
}
