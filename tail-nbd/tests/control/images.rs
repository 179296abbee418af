//! Images that are written onto discs.

use crate::{
    MIB, attached, attachment, disc,
    netns::{
        Net,
        brain::{Brain, no, ok},
        tail::{Tail, allocated},
    },
    qemu_io, works,
};
use serde_json::json;
use std::{fs, os::unix::fs::FileExt as _};

/// An image of 40 MiB, of which 17 are data.
pub fn make_image(tail: &Tail) -> Vec<u8> {
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

pub fn serving(number: u64) -> impl Fn(&Brain) -> bool {
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
