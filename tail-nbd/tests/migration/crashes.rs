//! The crash table, row by row, with processes that are killed at the very message that the row is about, both restart orders,
//! under a client that writes (nbd.md section 3, point 9; safety rules 11, 18, 19).

use crate::{
    DISC, SIZE,
    netns::{
        self,
        brain::{DEADLINE, ok},
    },
    pair::{Pair, phase, writes},
    proxy::{OWN, Proxy, Rule, TO_TAIL2},
    writer::{Writer, check},
};
use serde_json::json;
use std::time::Duration;

/// Whom to kill, in the order in which they start again.
const VICTIMS: [&[usize]; 4] = [&[1], &[2], &[1, 2], &[2, 1]];

/// Kills while the first frame that says `what` is on its way, and `target` is what the target is then. Behind `commit` the
/// source has given the disc up.
fn row(what: &'static str, target: &str) {
    for victims in VICTIMS {
        let mut pair = Pair::new();
        let client = pair.lan.client.clone();
        netns::run_in(&client.clone(), || async move {
            let proxy = Proxy::to_tail2(&client);
            pair.start().await;
            pair.make_disc().await;
            let writer = Writer::paced(client, SIZE, Duration::from_millis(1));
            pair.expect_by(2, SIZE, OWN, 1, 2).await;
            proxy.rule(Rule::Hold(what));
            pair.order_by(2, TO_TAIL2, 1, 2).await;
            assert!(proxy.wait(DEADLINE), "nobody says {what}");
            for victim in victims {
                pair.tails[victim - 1].kill();
                // As the service does after any end of the process.
                assert!(pair.tails[victim - 1].output(&["remove-addresses"]).status.success());
            }
            let is_fenced = matches!(what, "commit" | "serving");
            proxy.rule(if is_fenced { Rule::Pass } else { Rule::Refuse });
            for victim in victims {
                pair.tails[victim - 1].start();
                pair.brain(*victim).connect().await;
            }
            let owner = if is_fenced { taken_over(&mut pair).await } else { called_off(&mut pair, target).await };
            writes(&pair);
            assert!(!pair.lan.addresses(3 - owner).contains("fd00:b16:0:d::7/"), "{what} {victims:?}");
            let written = writer.stop();
            assert!(written.writes > 0);
            check(&written, &pair.file(owner));
        });
    }
}

/// The disc is the target's, and the source hears of it.
async fn taken_over(pair: &mut Pair) -> usize {
    pair.until(2, "the target serves", |report| report["owner"] == "owner" && report["state"] == "serving").await;
    pair.until(1, "the source has heard it", |report| report["owner"] == "retired").await;
    2
}

/// The disc is the source's, and the copy goes on its word that it moves no more.
async fn called_off(pair: &mut Pair, target: &str) -> usize {
    pair.until(1, "the source serves", |report| report["owner"] == "owner" && report["state"] == "serving").await;
    pair.until(2, "the target waits", |report| report["owner"] == target && report["state"] == "receiving").await;
    assert!(!pair.lan.addresses(2).contains("fd00:b16:0:d::7/"), "a copy serves nobody");
    writes(pair);
    ok(pair.brain(1).update(DISC, json!({"migration": null})).await);
    pair.until(1, "nothing moves", |report| report["migration"].is_null() || phase(report) == "failed").await;
    ok(pair.drop_copy(2, 2, Some(1)).await);
    // A guest that was paused goes on.
    std::thread::sleep(Duration::from_millis(100));
    1
}

#[test]
fn before_prepared_the_truth_is_at_the_source() {
    row("data", "incoming");
}

#[test]
fn a_target_that_has_prepared_serves_nobody_and_the_source_serves_on() {
    row("prepared", "prepared");
}

#[test]
fn rule19_behind_fenced_the_truth_is_at_the_target() {
    row("commit", "prepared");
}

#[test]
fn a_target_that_serves_is_the_owner_whoever_is_killed() {
    row("serving", "owner");
}
