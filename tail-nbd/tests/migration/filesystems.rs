//! What a copy takes is what the disc takes, on each filesystem and from one to another (safety rule 22; R130).
#![allow(clippy::print_stderr, reason = "what was measured is part of the result")]

use crate::{
    MIB, SIZE,
    netns::{self, brain::ok, pool::SmallPool, tail::allocated},
    pair::{Pair, phase},
    writer::{Writer, check},
};
use std::{fs::File, time::Duration};

/// XFS has no smaller ones.
const POOL_MIB: u64 = 320;

/// Moves a disc whose client writes and makes holes meanwhile, between these filesystems.
fn moves(from: &str, to: &str) {
    let mut pair = Pair::new();
    let mount = |tail, kind: &str| match kind {
        "xfs" => SmallPool::mount_xfs(tail, POOL_MIB),
        _ => SmallPool::mount_ext4(tail, POOL_MIB),
    };
    let Some(_source) = mount(&pair.tails[0], from) else { return };
    let Some(_target) = mount(&pair.tails[1], to) else { return };
    let client = pair.lan.client.clone();
    netns::run_in(&client.clone(), || async move {
        pair.start().await;
        pair.make_disc().await;
        // Space that nothing was ever written to, as by a client's zeroes that are to take space.
        let file = File::options().write(true).open(pair.file(1)).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 10 * MIB, 8 * MIB).unwrap();
        file.sync_all().unwrap();
        let writer = Writer::paced(client, SIZE, Duration::from_millis(1));
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.order_move(1, 2, Some(20)).await);
        tokio::time::sleep(Duration::from_millis(700)).await;
        let written = writer.stop();
        pair.until(1, "the disc is gone", |report| phase(report) == "done").await;
        check(&written, &pair.file(2));
        let [left, right] = [1, 2].map(|number| {
            File::open(pair.file(number)).unwrap().sync_all().unwrap();
            allocated(&pair.file(number))
        });
        eprintln!("{from} to {to}: {left} bytes are allocated at the source, {right} at the target");
        assert!(left > 23 * MIB && left.abs_diff(right) <= left / 100);
        assert!(std::fs::read(pair.file(1)).unwrap() == std::fs::read(pair.file(2)).unwrap(), "the copy differs");
    });
}

#[test]
fn rule22_ext4_to_ext4() {
    moves("ext4", "ext4");
}

#[test]
fn rule22_xfs_to_xfs() {
    moves("xfs", "xfs");
}

#[test]
fn rule22_ext4_to_xfs() {
    moves("ext4", "xfs");
}
