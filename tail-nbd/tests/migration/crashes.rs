//! The crash table, row by row: processes are killed, or machines lose their power, at the very message that the row is about,
//! with both restart orders, under a client that writes (nbd.md section 3, point 9; safety rules 11, 18, 19).

use crate::{
    DISC, SIZE,
    netns::{
        self,
        brain::{DEADLINE, ok},
        pool::SmallPool,
    },
    pair::{Pair, phase, writes},
    proxy::{OWN, Proxy, Rule, TO_TAIL2},
    writer::{Writer, check},
};
use serde_json::json;
use std::time::Duration;

/// Whom to kill, in the order in which they start again.
const VICTIMS: [&[usize]; 4] = [&[1], &[2], &[1, 2], &[2, 1]];

/// How a tail ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// What it has written is in the page cache.
    Killed,
    /// What was not made durable is lost.
    Power,
}

/// Ends tails while the first frame that says `what` is on its way, and `target` is what the target is then. Behind `commit` the
/// source has given the disc up.
fn row(what: &'static str, target: &str, end: End) {
    for victims in VICTIMS {
        let mut pair = Pair::new();
        let pools: Vec<_> = match end {
            End::Killed => vec![],
            End::Power => pair.tails.iter().map_while(|tail| SmallPool::mount_ext4(tail, 160)).collect(),
        };
        if end == End::Power && pools.len() < 2 {
            return;
        }
        let client = pair.lan.client.clone();
        netns::run_in(&client.clone(), || async move {
            let mut pools = pools;
            let proxy = Proxy::to_tail2(&client);
            pair.start().await;
            pair.make_disc().await;
            let writer = match end {
                End::Killed => Writer::paced(client, SIZE, Duration::from_millis(1)),
                End::Power => Writer::careful(client),
            };
            pair.expect_by(2, SIZE, OWN, 1, 2).await;
            proxy.rule(Rule::Hold(what));
            pair.order_by(2, TO_TAIL2, 1, 2).await;
            assert!(proxy.wait(DEADLINE), "nobody says {what}");
            for victim in victims {
                pair.tails[victim - 1].kill();
                // As the service does after any end of the process.
                assert!(pair.tails[victim - 1].output(&["remove-addresses"]).status.success());
                if end == End::Power && !pools[victim - 1].lose_power() {
                    return;
                }
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
    row("data", "incoming", End::Killed);
}

#[test]
fn a_target_that_has_prepared_serves_nobody_and_the_source_serves_on() {
    row("prepared", "prepared", End::Killed);
}

#[test]
fn rule19_behind_fenced_the_truth_is_at_the_target() {
    row("commit", "prepared", End::Killed);
}

#[test]
fn a_target_that_serves_is_the_owner_whoever_is_killed() {
    row("serving", "owner", End::Killed);
}

#[test]
fn before_prepared_a_loss_of_power_loses_nothing_that_was_durable() {
    row("data", "incoming", End::Power);
}

#[test]
fn what_is_prepared_is_so_after_a_loss_of_power() {
    row("prepared", "prepared", End::Power);
}

#[test]
fn rule19_a_loss_of_power_behind_fenced_loses_nothing() {
    row("commit", "prepared", End::Power);
}

#[test]
fn a_loss_of_power_at_the_target_that_serves_loses_nothing_that_was_durable() {
    row("serving", "owner", End::Power);
}
