//! A real tail, a brain that does what the test wants, and real NBD clients, in network namespaces of
//! the test's own.

mod netns;

use netns::{
    Net,
    brain::{Brain, no, ok},
    tail::{Tail, allocated},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::FileExt as _,
    process::{Command, Output},
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

fn disc(size: u64) -> Value {
    json!({"size": size, "storage_pool": "sata1", "generation": 1})
}

fn attachment(key: &str) -> Value {
    json!([{"head": "fd00:b16:0:2::11", "key": key}])
}

/// A disc of `size` bytes with one attachment, whose key is `key`.
fn attached(size: u64, key: &str) -> Value {
    json!({
        "size": size, "storage_pool": "sata1", "generation": 1, "attachments": attachment(key), "attachments_version": 1
    })
}

/// Runs commands of qemu-io on a disc, from the client's namespace.
fn qemu_io(number: u64, key: &str, commands: &[&str]) -> Output {
    let target = format!("nbd://[fd00:b16:0:d::{number:x}]:10809/{key}");
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]);
    for argument in commands {
        command.args(["-c", argument]);
    }
    command.arg(target).output().expect("qemu-io is installed")
}

#[track_caller]
fn works(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("failed") && !text.contains("error"), "{text}");
    text
}

#[track_caller]
fn fails(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let refused = !output.status.success() || text.contains("failed");
    assert!(refused, "this must not work: {text}");
}

async fn until(what: &str, happens: impl Fn() -> bool) {
    let deadline = Instant::now() + netns::brain::DEADLINE;
    while !happens() {
        assert!(Instant::now() < deadline, "{what}: it does not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn size_seen(number: u64, key: &str) -> u64 {
    let target = format!("nbd://[fd00:b16:0:d::{number:x}]:10809/{key}");
    let output = Command::new("nbdinfo").args(["--size", &target]).output().expect("nbdinfo is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn a_disc_from_its_making_to_its_end() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let hello = brain.hello.clone().unwrap();
        assert_eq!(hello.extra["storage_address"], "fd00:b16:0:2::21");
        assert_eq!(brain.resource("global.storage_pools").unwrap()["sata1"]["discs"], 0);
        assert_eq!(brain.resource("global.load").unwrap().as_array().unwrap().len(), 3);

        let begun = Instant::now();
        let answer = ok(brain.create("disc.sata.7", attached(10 << 30, "key1")).await);
        assert!(begun.elapsed() < Duration::from_secs(5), "R123: creating costs no time with size");
        assert_eq!(answer["address"], "fd00:b16:0:d::7");
        let report = brain.resource("disc.sata.7").expect("it was told before the answer");
        assert_eq!((&report["state"], &report["allocated"]), (&json!("serving"), &json!(0)));
        assert!(report["attachments"][0].get("key").is_none() && report["attachments"][0]["key_hash"].is_string());
        assert!(allocated(&tail.file("7.data")) == 0 && tail.file("7.sidecar").exists());

        works(&qemu_io(7, "key1", &["write -P 0x5a 1M 1M", "flush", "read -P 0x5a 1M 1M", "read -P 0 0 1M"]));
        fails(&qemu_io(7, "key2", &["read 0 512"]));
        fails(&qemu_io(7, "", &["read 0 512"]));
        brain
            .until("the pool's report", |brain| {
                let pool = &brain.resource("global.storage_pools").unwrap()["sata1"];
                pool["promised"] == 10u64 << 30 && pool["allocated"].as_u64() >= Some(MIB) && pool["discs"] == 1
            })
            .await;

        // R117, R131: another key takes the place of the first.
        let second = json!({"attachments": attachment("key2"), "attachments_version": 2});
        ok(brain.update("disc.sata.7", second.clone()).await);
        fails(&qemu_io(7, "key1", &["read 0 512"]));
        works(&qemu_io(7, "key2", &["read -P 0x5a 1M 1M"]));
        ok(brain.update("disc.sata.7", second).await);
        let first = json!({"attachments": attachment("key1"), "attachments_version": 1});
        no(brain.update("disc.sata.7", first).await, "stale-attachments");
        no(brain.update("disc.sata.7", json!({"generation": 0})).await, "stale-generation");

        // R087, R088.
        ok(brain.update("disc.sata.7", json!({"size": 11u64 << 30})).await);
        assert_eq!(size_seen(7, "key2"), 11 << 30);
        let message = no(brain.update("disc.sata.7", json!({"size": MIB})).await, "would-lose-data");
        assert!(message.contains("1048576"), "it says where: {message}");
        works(&qemu_io(7, "key2", &["read -P 0x5a 1M 1M"]));
        ok(brain.update("disc.sata.7", json!({"size": 2 * MIB})).await);
        assert_eq!(size_seen(7, "key2"), 2 * MIB);
        ok(brain.update("disc.sata.7", json!({"size": MIB, "force": true})).await);
        assert_eq!((size_seen(7, "key2"), fs::metadata(tail.file("7.data")).unwrap().len()), (MIB, MIB));
        no(brain.update("disc.sata.7", json!({"size": 1000})).await, "bad-value");

        // R091.
        no(brain.remove("disc.sata.7", 0).await, "stale-generation");
        ok(brain.remove("disc.sata.7", 1).await);
        assert!(brain.resource("disc.sata.7").is_none(), "destroyed is told before the answer");
        assert!(!tail.file("7.data").exists() && !tail.file("7.sidecar").exists());
        assert!(!net.tail_addresses().contains("fd00:b16:0:d::7"));
        no(brain.remove("disc.sata.7", 1).await, "not-found");
        no(brain.update("disc.sata.7", json!({})).await, "not-found");
        tail.terminate();
    });
}

#[test]
fn r177_a_restart_serves_from_the_sidecars_without_a_brain() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.epoch = 5;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(64 * MIB, "key1")).await);
        ok(brain
            .create(
                "disc.sata.8",
                json!({
                    "size": MIB, "storage_pool": "sata1", "generation": 3, "access_control_list": ["fd00:b16:0:2::11"]
                }),
            )
            .await);
        works(&qemu_io(7, "key1", &["write -P 0x77 0 4M", "flush"]));
        works(&qemu_io(8, "", &["write -P 0x88 0 64k", "flush"]));
        let before = brain.resources.clone();
        tail.kill();
        drop(brain);
        assert!(net.tail_addresses().contains("fd00:b16:0:d::7"), "a killed process leaves its addresses");

        tail.start();
        works(&qemu_io(7, "key1", &["read -P 0x77 0 4M"]));
        works(&qemu_io(8, "", &["read -P 0x88 0 64k"]));
        fails(&qemu_io(7, "", &["read 0 512"]));

        // Rule 8: a brain of former times is not welcome; the present one finds everything as before.
        let mut brain = Brain::listen().await;
        brain.epoch = 5;
        brain.connect().await;
        assert_eq!(brain.hello.clone().unwrap().epoch.0, 5, "the epoch outlives the process");
        for name in ["disc.sata.7", "disc.sata.8"] {
            let key = name.parse().unwrap();
            for attribute in
                ["size", "generation", "attachments", "attachments_version", "access_control_list", "state"]
            {
                assert_eq!(brain.resources[&key].get(attribute), before[&key].get(attribute), "{name} {attribute}");
            }
        }
        // An orderly stop leaves the addresses up as well.
        tail.terminate();
        assert!(net.tail_addresses().contains("fd00:b16:0:d::7"));
        tail.start();
        brain.connect().await;
        works(&qemu_io(7, "key1", &["read -P 0x77 0 4M"]));
        ok(brain.remove("disc.sata.7", 1).await);
        tail.terminate();
    });
}

/// The exit code says whether the shards were stopped, and so each disc synced (rule 17).
#[test]
fn an_orderly_stop_closes_the_discs_whoever_is_asking() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let config = fs::read_to_string(tail.config()).unwrap();
        let metrics = "metrics_listen = \"[fd00:b16:0:2::21]:9100\"\n[[pool]]";
        fs::write(tail.config(), config.replacen("[[pool]]", metrics, 1)).unwrap();
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(MIB, "key1")).await);
        let socket = tail.folder.path().join("state/control.sock");
        let operators: Vec<_> = (0..3).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
        let prometheus: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect("[fd00:b16:0:2::21]:9100").unwrap()).collect();
        assert!(tail.status()["discs"].is_array(), "it is being asked");
        tail.terminate();
        drop((operators, prometheus));
    });
}

#[test]
fn a_withdrawal_cuts_a_client_off() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(64 * MIB, "key1")).await);
        // A client that writes until it is cut off.
        let script = "import nbd\nh = nbd.NBD()\nh.connect_uri('nbd://[fd00:b16:0:d::7]:10809/key1')\nprint('in', flush=True)\n\
                      try:\n    while True:\n        h.pwrite(b'x' * 65536, 0)\nexcept nbd.Error:\n    pass\n";
        let mut client = Command::new("/usr/bin/python3")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(client.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "in\n", "the client is let in first");
        ok(brain.update("disc.sata.7", json!({"attachments": [], "attachments_version": 2})).await);
        let answered = fs::metadata(tail.file("7.data")).unwrap().modified().unwrap();
        assert!(client.wait().unwrap().success(), "the client sees an error, not a hang");
        let now = fs::metadata(tail.file("7.data")).unwrap().modified().unwrap();
        assert_eq!(answered, now, "rule 4: nothing was written after the answer");
        let status = tail.status();
        assert_eq!(status["discs"][0]["clients"], json!([]));
        tail.terminate();
    });
}

#[test]
fn orders_that_are_refused_leave_nothing() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let with = |attribute: &str, value: Value| {
            let mut order = disc(MIB);
            order[attribute] = value;
            order
        };
        let cases = [
            (with("size", json!(0)), "bad-value", "size"),
            (with("size", json!(1000)), "bad-value", "512"),
            (with("size", json!("1GB")), "bad-value", "size"),
            (with("size", json!(1u64 << 62)), "too-big", "largest"),
            (with("size", json!(60u64 << 40)), "too-big", "largest"),
            (with("storage_pool", json!("sata9")), "no-such-pool", "sata9"),
            (with("storage_pool", json!("../../etc")), "bad-value", "storage_pool"),
            (with("image", json!("nothing")), "no-such-image", "nothing"),
            (with("address", json!("fd00:b16:0:d::9")), "bad-value", "address"),
            (with("attachments", json!([{"head": "here", "key": "k"}])), "bad-value", "attachments"),
        ];
        for (order, word, part) in cases {
            let message = no(brain.create("disc.sata.7", order.clone()).await, word);
            assert!(message.contains(part), "{order}: {message}");
        }
        let message = no(brain.create("disc.ssd.7", disc(MIB)).await, "bad-value");
        assert!(message.contains("grade"), "{message}");
        fs::write(tail.folder.path().join("images/big.raw"), vec![1; 2 << 20]).unwrap();
        no(brain.create("disc.sata.7", with("image", json!("big"))).await, "too-big");
        assert_eq!(fs::read_dir(tail.folder.path().join("sata1/discs")).unwrap().count(), 0, "nothing is half-made");
        assert!(!net.tail_addresses().contains("fd00:b16:0:d:"));

        // The same order twice is one disc; another order for it is refused.
        ok(brain.create("disc.sata.7", disc(MIB)).await);
        ok(brain.create("disc.sata.7", disc(MIB)).await);
        no(brain.create("disc.sata.7", disc(2 * MIB)).await, "exists");
        no(brain.create("disc.sata.7", with("generation", json!(2))).await, "exists");
        no(brain.create("disc.sata.7", with("generation", json!(0))).await, "stale-generation");
        no(brain.create("disc.ssd.7", disc(MIB)).await, "exists");
        tail.terminate();
    });
}

/// An image of 40 MiB, of which 17 are data.
fn make_image(tail: &Tail) -> Vec<u8> {
    let mut image = vec![0u8; 40 << 20];
    for (at, byte) in image.iter_mut().enumerate().take(17 << 20).skip(1 << 20) {
        *byte = (at >> 12) as u8 | 1;
    }
    let path = tail.folder.path().join("images/tiny.raw");
    let file = fs::File::create(path).unwrap();
    file.set_len(image.len() as u64).unwrap();
    file.write_all_at(&image[1 << 20..17 << 20], 1 << 20).unwrap();
    image
}

fn serving(number: u64) -> impl Fn(&Brain) -> bool {
    move |brain| brain.resource(&format!("disc.sata.{number}")).is_some_and(|report| report["state"] == "serving")
}

#[test]
fn an_image_is_imported_with_its_holes() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let image = make_image(&tail);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let mut order = attached(64 * MIB, "key1");
        order["image"] = json!("tiny");
        ok(brain.create("disc.sata.7", order).await);
        brain.until("the import", serving(7)).await;
        let data = fs::read(tail.file("7.data")).unwrap();
        assert!(data.len() as u64 == 64 * MIB && data[..image.len()] == image);
        assert!(allocated(&tail.file("7.data")) <= 17 * MIB, "holes are kept");
        let reported = brain.resource("disc.sata.7").unwrap()["allocated"].as_u64().unwrap();
        assert!((16 * MIB..=17 * MIB).contains(&reported), "{reported}");
        works(&qemu_io(7, "key1", &["read -P 0 0 1M", "write -P 0xee 0 1M", "flush"]));

        // Again, but only when nobody has a right to the disc.
        no(brain.update("disc.sata.7", json!({"image": "tiny"})).await, "busy");
        let again = json!({"image": "tiny", "attachments": [], "attachments_version": 2});
        ok(brain.update("disc.sata.7", again).await);
        brain.until("the second import", serving(7)).await;
        assert!(fs::read(tail.file("7.data")).unwrap()[..image.len()] == image, "what was written is gone");
        tail.terminate();
    });
}

#[test]
fn an_interrupted_import_starts_again() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let image = make_image(&tail);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let mut order = attached(64 * MIB, "key1");
        order["image"] = json!("tiny");
        ok(brain.create("disc.sata.7", order).await);
        tail.kill();
        // What the interrupted import left must not shine through.
        fs::File::options().write(true).open(tail.file("7.data")).unwrap().write_all_at(b"rubbish", 60 << 20).unwrap();
        let importing = fs::read(tail.file("7.sidecar")).unwrap().windows(11).any(|window| window == b"\"importing\"");
        tail.start();
        brain.connect().await;
        brain.until("the import", serving(7)).await;
        let data = fs::read(tail.file("7.data")).unwrap();
        assert!(data[..image.len()] == image);
        if importing && data[60 << 20..][..7] == *b"rubbish" {
            let status = tail.status();
            panic!("the import did not start from nothing: {status}");
        }
        works(&qemu_io(7, "key1", &["read -P 0 0 1M"]));
        tail.terminate();
    });
}

#[test]
fn a_disc_is_removed_while_it_is_imported() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        make_image(&tail);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let mut order = disc(64 * MIB);
        order["image"] = json!("tiny");
        ok(brain.create("disc.sata.7", order).await);
        ok(brain.remove("disc.sata.7", 1).await);
        assert!(brain.resource("disc.sata.7").is_none());
        assert_eq!(fs::read_dir(tail.folder.path().join("sata1/discs")).unwrap().count(), 0);
        // The tail is still well.
        ok(brain.create("disc.sata.8", attached(MIB, "key8")).await);
        works(&qemu_io(8, "key8", &["write -P 1 0 4k", "read -P 1 0 4k"]));
        tail.terminate();
    });
}

/// A small filesystem on the pool's folder, taken off when the test ends.
struct SmallPool(std::path::PathBuf);

impl SmallPool {
    fn mount(tail: &Tail, mib: u64) -> Self {
        let path = tail.folder.path().join("sata1");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status().unwrap();
        assert!(mounted.success(), "root may mount");
        Self(path)
    }
}

impl SmallPool {
    /// An ext4 in a file; none, with the reason printed, where loop devices are not to be had.
    #[expect(clippy::print_stderr, reason = "a skipped test says why")]
    fn mount_ext4(tail: &Tail, mib: u64) -> Option<Self> {
        let (path, image) = (tail.folder.path().join("sata1"), tail.folder.path().join("ext4.img"));
        fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).output();
        let mount = || Command::new("mount").args(["-o", "loop"]).args([&image, &path]).output();
        match made.and_then(|made| if made.status.success() { mount() } else { Ok(made) }) {
            Ok(output) if output.status.success() => Some(Self(path)),
            other => {
                eprintln!("skipped: no ext4 on a loop device here: {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn rule3_a_full_tmpfs_stops_writes_but_no_withdrawal() {
    full_pool(|tail| Some(SmallPool::mount(tail, 32)));
}

#[test]
fn rule3_a_full_ext4_stops_writes_but_no_withdrawal() {
    full_pool(|tail| SmallPool::mount_ext4(tail, 40));
}

fn full_pool(mount: impl Fn(&Tail) -> Option<SmallPool> + Sync) {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let Some(pool) = mount(&tail) else { return };
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let space = rustix::fs::statvfs(&pool.0).unwrap();
        let message = no(brain.create("disc.sata.7", disc(64 * MIB)).await, "too-big");
        let largest = space.f_blocks * space.f_frsize;
        assert!(message.contains(&largest.to_string()), "the largest possible: {message}");
        ok(brain.create("disc.sata.7", attached(24 * MIB, "key7")).await);
        ok(brain.create("disc.sata.8", attached(24 * MIB, "key8")).await);
        works(&qemu_io(7, "key7", &["write -P 7 0 24M"]));
        let output = qemu_io(8, "key8", &["write -P 8 0 4M", "write -P 8 0 16M", "read -P 8 0 4M"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("No space left") && text.contains("read 4194304/4194304"), "ENOSPC, and then on: {text}");
        // The last pages, so that nothing new fits at all.
        let filler = fs::File::create(tail.folder.path().join("sata1/filler")).unwrap();
        let mut at = 0;
        while filler.write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        ok(brain.update("disc.sata.7", json!({"attachments": [], "attachments_version": 2})).await);
        fails(&qemu_io(7, "key7", &["read 0 512"]));
        let message = no(brain.create("disc.sata.9", disc(MIB)).await, "pool-full");
        assert!(message.contains("sata1"), "{message}");
        assert!(!tail.file("9.data").exists() && !tail.file("9.sidecar").exists(), "nothing is half-made");
        // It holds over a crash, and deleting makes room.
        tail.kill();
        tail.start();
        brain.connect().await;
        assert_eq!(brain.resource("disc.sata.7").unwrap()["attachments"], json!([]));
        ok(brain.remove("disc.sata.7", 1).await);
        ok(brain.create("disc.sata.9", disc(MIB)).await);
        tail.terminate();
    });
}

#[test]
fn files_that_are_not_understood_are_shown_and_left_alone() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        for number in [7, 8, 9] {
            ok(brain.create(&format!("disc.sata.{number}"), attached(MIB, "key")).await);
        }
        works(&qemu_io(9, "key", &["write -P 9 0 4k", "flush"]));
        tail.kill();
        fs::write(tail.file("7.sidecar"), vec![0x55; 8192]).unwrap();
        fs::File::options().write(true).open(tail.file("8.data")).unwrap().set_len(512).unwrap();
        fs::remove_file(tail.file("9.sidecar")).unwrap();
        fs::File::create(tail.file("10.data")).unwrap().set_len(MIB).unwrap();
        ok_to_start(&mut tail, &mut brain).await;
        for (number, part) in [(7, "7.sidecar"), (8, "its end is lost"), (9, "9.data has data and no sidecar")] {
            let report = brain.resource(&format!("disc.sata.{number}")).unwrap();
            assert_eq!(report["state"], "failed", "{report}");
            assert!(report["reason"].as_str().unwrap().contains(part), "{report}");
        }
        assert!(!tail.file("10.data").exists(), "an empty data file without a sidecar was half-made");
        no(brain.create("disc.sata.7", disc(MIB)).await, "exists");
        no(brain.remove("disc.sata.7", 9).await, "io-error");
        no(brain.update("disc.sata.9", json!({"size": 512})).await, "io-error");
        assert!(tail.file("7.data").exists() && tail.file("9.data").exists());
        until("rule 11: the address that no record covers goes", || !net.tail_addresses().contains("fd00:b16:0:d::7/"))
            .await;
        // A disc whose data is damaged can still be deleted.
        ok(brain.remove("disc.sata.8", 1).await);
        tail.terminate();
    });
}

async fn ok_to_start(tail: &mut Tail, brain: &mut Brain) {
    tail.start();
    brain.connect().await;
}

#[test]
fn one_tail_a_state_directory_and_clear_words_for_operators() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let none = tail.output(&["status"]);
        assert!(String::from_utf8_lossy(&none.stderr).contains("no tail-nbd answers"), "{none:?}");
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(MIB, "secret-key")).await);
        let second = tail.output(&["run"]);
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1));
        assert!(text.contains("another daemon of this kind runs with the state directory"), "{text}");

        let status = tail.status();
        assert_eq!(status["brain"], "connected");
        assert_eq!(status["discs"][0]["number"], 7);
        assert_eq!(status["discs"][0]["report"]["state"], "serving");
        assert_eq!(status["shards"].as_array().unwrap().len(), 2);
        let table = tail.output(&["status"]);
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        assert!(text.contains("fd00:b16:0:2::11 v1") && text.contains("sata1"), "{text}");
        assert!(!text.contains("secret-key") && !status.to_string().contains("secret-key"), "rule 6");

        let config = fs::read_to_string(tail.config()).unwrap();
        fs::write(tail.config(), config.replace("shards = 2", "shard = 2")).unwrap();
        let refused = tail.output(&["run"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("tail.toml:8: unknown field `shard`"), "{text}");
        tail.terminate();
    });
}

#[test]
fn an_address_that_another_machine_has_is_reported() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(MIB, "key")).await);
        tail.kill();
        netns::ip(&["-n", &net.tail, "addr", "del", "fd00:b16:0:d::7/128", "dev", "storage0"]);
        netns::ip(&["-n", &net.client, "addr", "add", "fd00:b16:0:d::7/128", "dev", "head0", "nodad"]);
        tail.start();
        brain.connect().await;
        let taken = |brain: &Brain| {
            let report = brain.resource("disc.sata.7").unwrap();
            report["state"] == "failed" && report["reason"].as_str().unwrap_or_default().contains("address-taken")
        };
        brain.until("the report of the taken address", taken).await;
        netns::ip(&["-n", &net.client, "addr", "del", "fd00:b16:0:d::7/128", "dev", "head0"]);
        brain.until("serving again", serving(7)).await;
        works(&qemu_io(7, "key", &["write -P 1 0 4k"]));
        tail.terminate();
    });
}

#[test]
fn attachments_change_while_an_image_is_imported() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        make_image(&tail);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let mut order = disc(64 * MIB);
        order["image"] = json!("tiny");
        ok(brain.create("disc.sata.7", order).await);
        ok(brain.update("disc.sata.7", json!({"attachments": attachment("late"), "attachments_version": 1})).await);
        brain.until("the import", serving(7)).await;
        works(&qemu_io(7, "late", &["read -P 0 0 1M"]));
        tail.terminate();
    });
}

#[test]
fn rule17_a_failed_flush_is_remembered_over_restarts() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(MIB, "key")).await);
        works(&qemu_io(7, "key", &["write -P 1 0 4k", "flush"]));
        tail.terminate();
        // What a shard's report of a failed flush leads to.
        let mut sidecar = tail_nbd::sidecar::Sidecar::open(&tail.file("7.sidecar")).unwrap();
        let mut record = sidecar.record().clone();
        record.flush_failed = true;
        sidecar.write(record).unwrap();
        tail.start();
        brain.connect().await;
        let reason = brain.resource("disc.sata.7").unwrap()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("flush failed"), "{reason}");
        let output = qemu_io(7, "key", &["write -P 1 0 4k", "flush"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("Input/output error"), "{text}");
        // Until an operator has looked.
        let reloaded = tail.output(&["reload", "7"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
        works(&qemu_io(7, "key", &["read -P 1 0 4k", "write -P 2 0 4k", "flush"]));
        brain
            .until("the end of the complaint", |brain| brain.resource("disc.sata.7").unwrap()["reason"].is_null())
            .await;
        tail.kill();
        tail.start();
        works(&qemu_io(7, "key", &["write -P 2 0 4k", "flush"]));
        let none = tail.output(&["reload", "8"]);
        let text = String::from_utf8_lossy(&none.stderr).into_owned();
        assert!(none.status.code() == Some(1) && text.contains("there is no disc 8 here"), "{text}");
        tail.terminate();
    });
}

#[test]
fn a_disc_with_a_failed_flush_takes_an_image_and_a_size_is_given_again() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let image = make_image(&tail);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", disc(64 * MIB)).await);
        ok(brain.create("disc.sata.8", attached(4 * MIB, "key")).await);
        tail.terminate();
        // What a shard's report of a failed flush leads to.
        let mut sidecar = tail_nbd::sidecar::Sidecar::open(&tail.file("7.sidecar")).unwrap();
        let mut record = sidecar.record().clone();
        record.flush_failed = true;
        sidecar.write(record).unwrap();
        drop(sidecar);
        tail.start();
        brain.connect().await;
        ok(brain.update("disc.sata.7", json!({"image": "tiny"})).await);
        brain.until("the import", serving(7)).await;
        assert!(fs::read(tail.file("7.data")).unwrap()[..image.len()] == image);

        // An order whose first try was cut short after its record.
        let file = fs::File::options().write(true).open(tail.file("8.data")).unwrap();
        file.set_len(6 * MIB).unwrap();
        ok(brain.update("disc.sata.8", json!({"size": 4 * MIB})).await);
        assert_eq!(file.metadata().unwrap().len(), 4 * MIB, "the file is as long as the disc");
        assert_eq!(size_seen(8, "key"), 4 * MIB);
        tail.terminate();
    });
}

#[test]
fn a_disc_that_was_mended_is_loaded_by_an_operator() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(MIB, "key")).await);
        tail.terminate();
        let cut = |size| fs::File::options().write(true).open(tail.file("7.data")).unwrap().set_len(size).unwrap();
        cut(MIB / 2);
        let (file, config) = (tail.file("7.data"), tail.config());
        tail.start();
        brain.connect().await;
        assert_eq!(brain.resource("disc.sata.7").unwrap()["state"], "failed");
        let still = tail.output(&["reload", "7"]);
        let text = String::from_utf8_lossy(&still.stderr).into_owned();
        assert!(still.status.code() == Some(1) && text.contains("its end is lost"), "{text}");
        fs::File::options().write(true).open(file).unwrap().set_len(MIB).unwrap();
        let reloaded = tail.output(&["reload", "7"]);
        assert!(reloaded.status.success(), "{reloaded:?} {}", config.display());
        brain.until("serving", serving(7)).await;
        works(&qemu_io(7, "key", &["read -P 0 0 1M"]));
        tail.terminate();
    });
}

#[test]
fn rule11_what_a_killed_tail_leaves_is_removed_but_for_the_addresses_of_its_discs() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        for number in [7, 8] {
            ok(brain.create(&format!("disc.sata.{number}"), attached(MIB, "key")).await);
        }
        let running = tail.output(&["remove-addresses"]);
        assert_eq!(running.status.code(), Some(1), "a running tail sees to them itself: {running:?}");
        tail.kill();
        // As if disc 8 had been handed over while nobody looked.
        fs::remove_file(tail.file("8.sidecar")).unwrap();
        netns::ip(&["-n", &net.tail, "addr", "add", "fd00:b16:0:d::9/128", "dev", "storage0", "nodad"]);
        let removed = tail.output(&["remove-addresses"]);
        assert!(removed.status.success(), "{removed:?}");
        let said = String::from_utf8_lossy(&removed.stdout).into_owned();
        assert_eq!(said, "removed fd00:b16:0:d::8\nremoved fd00:b16:0:d::9\n");
        let left = net.tail_addresses();
        assert!(left.contains("fd00:b16:0:d::7/") && left.contains("fd00:b16:0:2::21/"), "{left}");
        assert!(!left.contains("fd00:b16:0:d::8/") && !left.contains("fd00:b16:0:d::9/"), "{left}");
    });
}

#[test]
fn an_operators_question_that_makes_no_sense_is_answered() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let ask = |question: &str| {
            use std::io::{Read as _, Write as _};
            let mut stream =
                std::os::unix::net::UnixStream::connect(tail.folder.path().join("state/control.sock")).unwrap();
            stream.write_all(question.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(ask("").contains("\"uptime_seconds\""), "none asks for the status");
        for nonsense in ["x\n", "{\"reload\":\"7\"}\n", "{\"delete\":7}\n", &"[".repeat(1000)] {
            let answer = ask(nonsense);
            assert!(answer.contains("not understood"), "{nonsense}: {answer}");
        }
        tail.terminate();
    });
}

#[test]
fn r127_a_tail_with_a_thousand_discs_starts_soon() {
    const DISCS: u64 = 1000;
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        let _pool = SmallPool::mount(&tail, 64);
        let config = tail_nbd::config::Config::load(&tail.config()).unwrap();
        let pool = tail_nbd::pool::Pool::open(&config.pools[0], &config.state_dir).unwrap();
        for number in 1..=DISCS {
            let name: spine::id::DiscName = format!("sata.{number}").parse().unwrap();
            let order = serde_json::from_value(json!({
                "size": MIB, "storage_pool": "sata1", "generation": 1, "access_control_list": ["fd00:b16:0:2::11"]
            }));
            let record = tail_nbd::store::change::record_of(&name, &order.unwrap(), config.storage_prefix).unwrap();
            pool.create_data(name.number, MIB).unwrap();
            tail_nbd::sidecar::Sidecar::create(&pool.sidecar_path(name.number), &record).unwrap();
        }
        let begun = Instant::now();
        tail.start();
        let seconds = begun.elapsed().as_secs();
        assert!(seconds < 15, "{seconds} s until it is ready");
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let discs = brain.resources.keys().filter(|name| name.to_string().starts_with("disc.")).count() as u64;
        assert_eq!(discs, DISCS);
        let up = || net.tail_addresses().matches("fd00:b16:0:d:").count() as u64 == DISCS;
        until("the addresses come up", up).await;
        for number in [1, DISCS / 2, DISCS] {
            works(&qemu_io(number, "", &["write -P 1 0 4k", "read -P 1 0 4k"]));
        }
        // A disc that is made now does not wait for the others.
        ok(brain.create("disc.sata.5000", attached(MIB, "key")).await);
        works(&qemu_io(5000, "key", &["write -P 1 0 4k"]));
        tail.terminate();
    });
}

#[test]
fn r068_the_pictures_agree_after_a_connection_is_lost_amid_orders() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        for round in 0..3u64 {
            brain.connect().await;
            let numbers = round * 20 + 1..=round * 20 + 20;
            for number in numbers.clone() {
                brain.send_create(&format!("disc.sata.{number}"), attached(MIB, "key"));
            }
            brain
                .until("the first of them", |brain| brain.resource(&format!("disc.sata.{}", numbers.start())).is_some())
                .await;
            // The connection goes with most orders unanswered: connecting again drops it.
        }
        brain.connect().await;
        // An order is carried out or was never received: at the end both sides say the same.
        ok(brain.create("disc.sata.1000", attached(MIB, "key")).await);
        let of_tail = || -> Vec<String> {
            let status = tail.status();
            let discs = status["discs"].as_array().unwrap().iter();
            discs.map(|disc| format!("disc.{}.{}", disc["grade"].as_str().unwrap(), disc["number"])).collect()
        };
        let of_brain = |brain: &Brain| -> Vec<String> {
            let mut names: Vec<_> = brain.resources.keys().map(ToString::to_string).collect();
            names.retain(|name| name.starts_with("disc."));
            names
        };
        brain
            .until("agreement", |brain| {
                let (mut theirs, mut ours) = (of_brain(brain), of_tail());
                theirs.sort();
                ours.sort();
                theirs == ours && theirs.len() >= 4
            })
            .await;
        tail.terminate();
    });
}

#[test]
fn rule10_a_disc_is_not_served_while_another_process_has_its_lock() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        for number in [7, 8] {
            ok(brain.create(&format!("disc.sata.{number}"), attached(MIB, "key")).await);
        }
        tail.kill();
        // As if a write of the killed process were still on its way.
        let locked = fs::File::open(tail.file("7.data")).unwrap();
        rustix::fs::flock(&locked, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        tail.start();
        brain.connect().await;
        let report = brain.resource("disc.sata.7").unwrap();
        assert!(report["state"] == "failed" && report["reason"].as_str().unwrap().contains("older write"), "{report}");
        fails(&qemu_io(7, "key", &["read 0 512"]));
        works(&qemu_io(8, "key", &["write -P 8 0 4k"]));
        drop(locked);
        brain.until("serving", serving(7)).await;
        works(&qemu_io(7, "key", &["write -P 7 0 4k"]));
        // The tail has the lock now.
        let file = fs::File::open(tail.file("7.data")).unwrap();
        assert!(rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err());
        // A removed disc's number may be used by nobody else, but its lock is given up with it.
        ok(brain.remove("disc.sata.7", 1).await);
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        tail.terminate();
    });
}

#[test]
fn a_port_that_is_still_in_use_is_waited_for() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        ok(brain.create("disc.sata.7", attached(MIB, "key")).await);
        tail.kill();
        // As if the killed process's listener lived on. Its own may do so for a moment, too.
        let (sender, receiver) = std::sync::mpsc::channel();
        netns::run_in(&net.tail, || async {
            let bound = || std::net::TcpListener::bind("[fd00:b16:0:d::7]:10809").map(|listener| sender.send(listener));
            until("the port is free", || bound().is_ok()).await;
        });
        let listener = receiver.recv().unwrap();
        tail.start();
        brain.connect().await;
        assert_eq!(brain.resource("disc.sata.7").unwrap()["state"], "failed");
        drop(listener);
        brain.until("serving", serving(7)).await;
        works(&qemu_io(7, "key", &["write -P 7 0 4k"]));
        tail.terminate();
    });
}
