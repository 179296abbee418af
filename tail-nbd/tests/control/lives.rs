//! Discs from their making to their end, by a brain's orders.

use crate::{
    MIB, attached, attachment, disc, fails,
    netns::{
        Net,
        brain::{Brain, no, ok},
        start,
        tail::{Tail, allocated},
    },
    qemu_io, size_seen, works,
};
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

#[test]
fn a_disc_from_its_making_to_its_end() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
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
fn a_withdrawal_cuts_a_client_off() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
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
        let (mut tail, mut brain) = start(&net).await;
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
