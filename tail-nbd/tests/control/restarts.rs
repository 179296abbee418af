//! What a start finds and a stop leaves.

use crate::{
    MIB, attached, fails,
    images::serving,
    netns::pool::SmallPool,
    netns::{
        Net,
        brain::{Brain, ok},
        ip, run_in, start,
        tail::Tail,
        until,
    },
    qemu_io, works,
};
use serde_json::json;
use std::{fs, time::Instant};

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
        assert!(text.contains("tail.toml:9: unknown field `shard`"), "{text}");
        tail.terminate();
    });
}

#[test]
fn an_address_that_another_machine_has_is_reported() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
        ok(brain.create("disc.sata.7", attached(MIB, "key")).await);
        tail.kill();
        ip(&["-n", &net.tail, "addr", "del", "fd00:b16:0:d::7/128", "dev", "storage0"]);
        ip(&["-n", &net.client, "addr", "add", "fd00:b16:0:d::7/128", "dev", "head0", "nodad"]);
        tail.start();
        brain.connect().await;
        let taken = |brain: &Brain| {
            let report = brain.resource("disc.sata.7").unwrap();
            report["state"] == "failed" && report["reason"].as_str().unwrap_or_default().contains("address-taken")
        };
        brain.until("the report of the taken address", taken).await;
        ip(&["-n", &net.client, "addr", "del", "fd00:b16:0:d::7/128", "dev", "head0"]);
        brain.until("serving again", serving(7)).await;
        works(&qemu_io(7, "key", &["write -P 1 0 4k"]));
        tail.terminate();
    });
}

#[test]
fn rule11_what_a_killed_tail_leaves_is_removed_but_for_the_addresses_of_its_discs() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
        for number in [7, 8] {
            ok(brain.create(&format!("disc.sata.{number}"), attached(MIB, "key")).await);
        }
        let running = tail.output(&["remove-addresses"]);
        assert_eq!(running.status.code(), Some(1), "a running tail sees to them itself: {running:?}");
        tail.kill();
        // As if disc 8 had been handed over while nobody looked.
        fs::remove_file(tail.file("8.sidecar")).unwrap();
        ip(&["-n", &net.tail, "addr", "add", "fd00:b16:0:d::9/128", "dev", "storage0", "nodad"]);
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
fn rule10_a_disc_is_not_served_while_another_process_has_its_lock() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
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
        let (mut tail, mut brain) = start(&net).await;
        ok(brain.create("disc.sata.7", attached(MIB, "key")).await);
        tail.kill();
        // As if the killed process's listener lived on. Its own may do so for a moment, too.
        let (sender, receiver) = std::sync::mpsc::channel();
        run_in(&net.tail, || async {
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
