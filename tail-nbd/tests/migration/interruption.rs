//! What holds a move up and does not end it (nbd.md section 3, points 10 and 12; R130).
#![allow(clippy::print_stderr, reason = "how often the link broke is part of the result")]

use crate::{
    DISC, id,
    netns::{self, brain::ok, pool::SmallPool, tail::allocated},
    pair::{Pair, phase, writes},
    writer::{Writer, check},
};
use serde_json::{Value, json};
use std::{fs, io::Write as _, time::Duration};

/// Why a move waits, if it does.
fn waits_for(report: &Value) -> &str {
    match phase(report) {
        "waiting" => report["migration"]["waiting"]["kind"].as_str().unwrap_or(""),
        _ => "",
    }
}

/// The disc has moved, and nobody has written to it since: its files are the same.
pub fn same_at_both_ends(pair: &Pair) {
    let (left, right) = (fs::read(pair.file(1)).unwrap(), fs::read(pair.file(2)).unwrap());
    assert!(left == right, "the copy differs");
    let (left, right) = (allocated(&pair.file(1)), allocated(&pair.file(2)));
    assert!(left.abs_diff(right) <= left / 100, "{left} bytes are allocated at the source, {right} at the target");
}

/// Fills a filesystem but for so many MiB.
fn fill(pool: &SmallPool, left_mib: usize) -> std::path::PathBuf {
    let (path, reserve) = (pool.path().join("filler"), pool.path().join("reserve"));
    fs::write(&reserve, vec![1; left_mib << 20]).unwrap();
    let mut file = fs::File::create(&path).unwrap();
    while file.write(&[1; 1 << 16]).is_ok() {}
    let _ = file.sync_all();
    fs::remove_file(reserve).unwrap();
    path
}

#[test]
fn r130_no_space_at_the_target_is_waited_for() {
    let mut pair = Pair::new();
    let Some(pool) = SmallPool::mount_ext4(&pair.tails[1], 160) else { return };
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        ok(pair.expect_at_target(1, 2).await);
        let filler = fill(&pool, 8);
        ok(pair.order_move(1, 2, None).await);
        pair.until(1, "it waits", |report| waits_for(report) == "no-space").await;
        pair.until(2, "the target says so too", |report| waits_for(report) == "no-space").await;
        let report = pair.report(1);
        assert!(report["migration"]["waiting"]["message"].as_str().unwrap().contains("no space at tail2"), "{report}");
        assert_eq!((&report["state"], &report["migration"]["error"]), (&json!("serving"), &Value::Null));
        writes(&pair);
        // It can be ended while it waits.
        ok(pair.brain(1).update(DISC, json!({"migration": null})).await);
        pair.until(1, "it has ended", |report| phase(report) == "failed").await;
        assert_eq!(pair.report(1)["migration"]["error"]["kind"], "cancelled");
        ok(pair.drop_copy(2, 2, Some(1)).await);

        pair.begin_move(2, 3, None).await;
        pair.until(1, "it waits", |report| waits_for(report) == "no-space").await;
        writes(&pair);
        fs::remove_file(filler).unwrap();
        pair.until(1, "it goes on", |report| phase(report) == "done").await;
        same_at_both_ends(&pair);
        assert_eq!(pair.report(1)["migration"]["waiting"], Value::Null);
        writes(&pair);
    });
}

#[test]
fn r130_a_link_that_is_cut_for_a_while_costs_what_was_under_way() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        pair.begin_move(1, 2, Some(2)).await;
        let stretch_is_there = |report: &Value| report["migration"]["bytes_copied"].as_u64() > Some(0);
        pair.until(2, "some of it is there", stretch_is_there).await;
        pair.lan.separate(true);
        pair.until(1, "the source notices", |report| waits_for(report) == "unreachable").await;
        writes(&pair);
        assert_eq!(pair.report(1)["migration"]["id"], id(1), "it is the same move");
        pair.lan.separate(false);
        pair.until(1, "it goes on", |report| phase(report) == "done").await;
        same_at_both_ends(&pair);
        assert_eq!(pair.report(1)["migration"]["mismatched_bytes"], Value::Null);
        let (copied, held) = (pair.report(1)["migration"]["bytes_copied"].as_u64().unwrap(), allocated(&pair.file(1)));
        assert!(copied < held + held / 2, "{copied} bytes were sent of {held}: it has begun anew");
        assert_eq!(pair.report(1)["migration"]["verified_percent"], 100);
        writes(&pair);
    });
}

#[test]
fn r130_a_restart_of_either_tail_does_not_end_a_move() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        pair.begin_move(1, 2, Some(2)).await;
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        pair.tails[1].kill();
        pair.until(1, "the source notices", |report| waits_for(report) == "unreachable").await;
        writes(&pair);
        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!(pair.report(2)["owner"], "incoming");
        assert!(!pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        pair.until(2, "data comes again", |report| phase(report) == "copying").await;
        pair.until(2, "some of it is there", |report| report["migration"]["bytes_copied"].as_u64() > Some(0)).await;
        // A source that has ended knows nothing of its move: the same order begins it again, with the copy that is there.
        pair.tails[0].kill();
        pair.until(2, "the target notices", |report| waits_for(report) == "unreachable").await;
        pair.tails[0].start();
        pair.brain(1).connect().await;
        assert_eq!(phase(&pair.report(1)), "");
        ok(pair.order_move(1, 2, None).await);
        pair.until(1, "the disc is gone", |report| phase(report) == "done").await;
        same_at_both_ends(&pair);
        let (copied, held) = (pair.report(1)["migration"]["bytes_copied"].as_u64().unwrap(), allocated(&pair.file(1)));
        assert!(copied < held, "what was there already was sent again: {copied} bytes of {held}");
        writes(&pair);
        assert_eq!(pair.report(1)["owner"], "retired");
    });
}

#[test]
fn r130_whenever_the_link_breaks_no_write_is_lost() {
    let mut pair = Pair::new();
    let client = pair.lan.client.clone();
    let namespace = client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        let writer = Writer::start(client);
        pair.begin_move(1, 2, Some(40)).await;
        let mut breaks = 0;
        // The guest outruns the limit, so that there are breaks in every pass.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            pair.brain(1)
                .until("it gets on", |brain| brain.resource(DISC).is_some_and(|report| waits_for(report).is_empty()))
                .await;
            breaks += u32::from(pair.lan.break_link());
        }
        let written = writer.stop();
        pair.until(1, "it goes on", |report| phase(report) == "done").await;
        check(&written, &pair.file(2));
        let migration = &pair.report(1)["migration"];
        assert_eq!(migration["mismatched_bytes"], Value::Null, "what a client writes meanwhile is no mismatch");
        same_at_both_ends(&pair);
        eprintln!("{breaks} breaks, {} writes, pass {}", written.writes, pair.report(1)["migration"]["pass"]);
        assert!(breaks >= 2 || breaks == 0, "connections can be broken here, and are made again");
    });
}
