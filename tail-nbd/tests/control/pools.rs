//! Pools that are full (safety rule 3).

use crate::{
    MIB, attached, disc, fails,
    netns::{
        Net,
        brain::{Brain, no, ok},
        pool::SmallPool,
        tail::Tail,
    },
    qemu_io, works,
};
use serde_json::json;
use std::{fs, os::unix::fs::FileExt as _};

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
        let space = rustix::fs::statvfs(pool.path()).unwrap();
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
