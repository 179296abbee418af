//! A move from the order to its end, and one that is cancelled.
#![allow(clippy::print_stderr, reason = "how long a pause was is part of the result")]

use crate::{
    DISC, MIB, SIZE,
    netns::{
        self,
        brain::{no, ok},
        tail::allocated,
    },
    pair::{Pair, phase, writes},
    writer::{Writer, check},
};
use serde_json::json;
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

#[test]
fn r120_r130_a_disc_moves_while_its_client_writes() {
    let mut pair = Pair::new();
    let client = pair.lan.client.clone();
    let namespace = client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        let writer = Writer::start(client);
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.expect_at_target(1, 2).await);
        ok(pair.order_move(1, 2, None).await);
        ok(pair.order_move(1, 2, None).await);
        pair.until(2, "the target owns it", |report| phase(report) == "done").await;
        pair.until(1, "the source has heard it", |report| phase(report) == "done").await;
        let (source, target) = (pair.report(1), pair.report(2));
        assert_eq!((&source["owner"], &source["state"]), (&json!("retired"), &json!("moved")));
        assert_eq!(source["migration"]["mismatched_bytes"], json!(null), "what a client writes meanwhile is none");
        assert_eq!(source["migration"]["allocation_equal"], json!(true));
        assert!(source["migration"]["verified_percent"].is_u64());
        assert_eq!((&target["owner"], &target["state"]), (&json!("owner"), &json!("serving")));
        assert_eq!((&target["generation"], &target["attachments_version"]), (&json!(2), &json!(4)));
        assert!(!pair.lan.addresses(1).contains("fd00:b16:0:d::7/"));
        assert!(pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        std::thread::sleep(Duration::from_millis(300));
        let written = writer.stop();
        eprintln!(
            "moved: pause {} ms at the source, longest write {:?} of {}, {} bytes copied",
            source["migration"]["pause_ms"], written.longest, written.writes, source["migration"]["bytes_copied"]
        );
        check(&written, &pair.file(2));
        // Everything else is as it was, holes too: the two files differ in what was written since only.
        let (left, right) = (std::fs::read(pair.file(1)).unwrap(), std::fs::read(pair.file(2)).unwrap());
        for (block, (one, other)) in left.chunks(4096).zip(right.chunks(4096)).enumerate() {
            assert!(one == other || written.blocks.contains_key(&(block as u64)), "block {block} differs");
        }
        let (before, after) = (allocated(&pair.file(1)), allocated(&pair.file(2)));
        eprintln!("allocated: {before} bytes at the source, {after} at the target");
        assert!(after < before + 16 * MIB, "holes stay holes");
        // A withdrawal that comes too late for the source says who has it; then the brain confirms.
        let late = json!({"attachments": [], "attachments_version": 5});
        assert!(no(pair.brain(1).update(DISC, late.clone()).await, "moved").contains("tail2"));
        no(pair.brain(1).update(DISC, json!({"migration": null})).await, "moved");
        ok(pair.brain(2).update(DISC, late).await);
        ok(pair.drop_copy(1, 2, None).await);
        assert!(!pair.file(1).exists() && pair.file(2).exists());
        // The new owner serves it after a restart, without its brain.
        pair.tails[1].kill();
        pair.brains = None;
        pair.tails[1].start();
        assert!(pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
    });
}

#[test]
fn rule18_a_move_that_is_cancelled_leaves_the_disc_where_it_was() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        no(pair.order_move(1, 1, None).await, "stale-generation");
        pair.begin_move(1, 2, Some(1)).await;
        no(pair.order_move(2, 3, Some(1)).await, "busy");
        no(pair.brain(1).update(DISC, json!({"size": 2 * SIZE})).await, "busy");
        no(pair.brain(2).update(DISC, json!({"size": 2 * SIZE})).await, "busy");
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        // Strangers change nothing, and a disc that is on its way is not to be had at all.
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b""] {
            let mut stranger = TcpStream::connect("[fd00:b16:0:2::22]:7771").unwrap();
            stranger.set_read_timeout(Some(netns::brain::DEADLINE)).unwrap();
            stranger.write_all(bytes).unwrap();
            stranger.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = vec![];
            let _ = stranger.read_to_end(&mut answer);
            assert!(answer.is_empty(), "strangers are not answered");
        }
        assert!(!pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        assert_eq!(phase(&pair.report(2)), "copying");
        writes(&pair);
        ok(pair.brain(1).update(DISC, json!({"migration": null})).await);
        pair.until(1, "it has ended", |report| phase(report) == "failed").await;
        let report = pair.report(1);
        assert_eq!((&report["migration"]["error"]["kind"], &report["state"]), (&json!("cancelled"), &json!("serving")));
        assert_eq!((&report["generation"], &report["owner"]), (&json!(1), &json!("owner")));
        writes(&pair);
        pair.until(2, "the target hears of it", |report| phase(report) == "failed").await;
        ok(pair.order_move(1, 2, None).await);
        assert_eq!(phase(&pair.report(1)), "failed", "an id is one attempt");
        ok(pair.drop_copy(2, 2, None).await);
        assert!(!pair.file(2).exists());
    });
}
