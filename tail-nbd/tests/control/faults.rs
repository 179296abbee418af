//! Files and syncs that fail, and what operators do about them.

use crate::{
    MIB, attached, disc,
    images::{make_image, serving},
    netns::{
        Net,
        brain::{Brain, no, ok},
        start,
        tail::Tail,
        until,
    },
    qemu_io, size_seen, works,
};
use serde_json::json;
use std::fs;

#[test]
fn files_that_are_not_understood_are_shown_and_left_alone() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
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

#[test]
fn rule17_a_failed_flush_is_remembered_over_restarts() {
    let net = Net::new();
    net.run(|| async {
        let (mut tail, mut brain) = start(&net).await;
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
        assert!(none.status.code() == Some(1) && text.contains("again: there is no disc 8 here"), "{text}");
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
        let (mut tail, mut brain) = start(&net).await;
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

async fn ok_to_start(tail: &mut Tail, brain: &mut Brain) {
    tail.start();
    brain.connect().await;
}
