//! Behind the source's FENCED record (safety rules 18, 19).

use crate::{
    DISC, SIZE, id,
    netns::{
        self,
        brain::{no, ok},
        tail::Tail,
    },
    pair::{Pair, writes},
};
use serde_json::json;

/// The state of both ends when either is killed behind the source's FENCED record, with what that record stands for.
fn fence(pair: &Pair, attempt: u32) {
    use tail_nbd::{
        migration::handover::Attempt,
        sidecar::{Owner, Sidecar},
    };
    let freeze = Attempt(uuid::Uuid::from_u128(99));
    let mut source = Sidecar::open(&pair.tails[0].file("7.sidecar")).unwrap();
    let mut record = source.record().clone();
    let order = json!({"id": id(attempt), "target": "tail2", "address": "[fd00:b16:0:2::22]:7771", "generation": 2});
    record.owner = Owner::Fenced(serde_json::from_value(order).unwrap(), freeze);
    let theirs = record.clone();
    source.write(record).unwrap();
    let mut target = Sidecar::open(&pair.tails[1].file("7.sidecar")).unwrap();
    let own = target.record().clone();
    let Owner::Incoming(order) = own.owner.clone() else { panic!("{:?}", own.owner) };
    let record = tail_nbd::sidecar::Record {
        owner: Owner::Prepared(order, freeze),
        generation: own.generation,
        pool: own.pool,
        ..theirs
    };
    target.write(record).unwrap();
    std::fs::copy(pair.file(1), pair.file(2)).unwrap();
}

/// Both tails stopped in the middle of a hand-over.
pub async fn stopped_behind_the_fence(pair: &mut Pair) {
    pair.start().await;
    pair.make_disc().await;
    ok(pair.expect_at_target(1, 2).await);
    pair.tails.iter_mut().for_each(Tail::kill);
    fence(pair, 1);
}

#[test]
fn rule19_behind_the_fence_the_disc_is_the_targets_whoever_starts_first() {
    for first in [1, 2] {
        let mut pair = Pair::new();
        let namespace = pair.lan.client.clone();
        netns::run_in(&namespace, || async move {
            stopped_behind_the_fence(&mut pair).await;
            let second = 3 - first;
            // As the service does after any end of the process.
            for tail in &pair.tails {
                let output = tail.output(&["remove-addresses"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            pair.tails[first - 1].start();
            pair.brain(first).connect().await;
            let owner = if first == 1 { "fenced" } else { "prepared" };
            assert_eq!(pair.report(first)["owner"], owner);
            for number in [1, 2] {
                assert!(!pair.lan.addresses(number).contains("fd00:b16:0:d::7/"), "nobody has the address");
            }
            if first == 2 {
                no(pair.drop_copy(2, 2, None).await, "busy");
            } else {
                no(pair.drop_copy(1, 1, None).await, "busy");
                no(pair.brain(1).update(DISC, json!({"size": 2 * SIZE})).await, "moved");
            }
            pair.tails[second - 1].start();
            pair.brain(second).connect().await;
            pair.until(2, "the target owns it", |report| report["owner"] == "owner").await;
            pair.until(1, "the source has heard it", |report| report["owner"] == "retired").await;
            writes(&pair);
        });
    }
}

#[test]
fn rule18_the_brain_relays_the_commit_of_a_source_that_the_target_does_not_see() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        stopped_behind_the_fence(&mut pair).await;
        // As the service does after any end of the process: or the kernel goes on answering for the address.
        assert!(pair.tails[0].output(&["remove-addresses"]).status.success());
        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!(pair.report(2)["state"], "receiving");
        let commit = |attempt, generation: u64| json!({"commit": {"id": id(attempt), "generation": generation}});
        no(pair.brain(2).update(DISC, commit(2, 2)).await, "busy");
        no(pair.brain(2).update(DISC, commit(1, 3)).await, "busy");
        ok(pair.brain(2).update(DISC, commit(1, 2)).await);
        ok(pair.brain(2).update(DISC, commit(1, 2)).await);
        pair.until(2, "it serves", |report| report["state"] == "serving").await;
        writes(&pair);
    });
}
