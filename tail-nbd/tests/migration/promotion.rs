//! Operators' last resort: one end is promoted, and the other superseded (safety rules 9, 19).

use crate::{
    DISC, KEY,
    fence::stopped_behind_the_fence,
    id,
    netns::{
        self,
        brain::{no, ok},
    },
    pair::{Pair, phase, writes},
    writer::{connect, write_block},
};
use serde_json::{Value, json};

fn promote(attempt: u32, generation: u64, version: u64) -> Value {
    json!({"promote": {"id": id(attempt), "generation": generation, "attachments_version": version}})
}

fn retire(attempt: u32, generation: u64, owner: &str) -> Value {
    json!({"retire": {"id": id(attempt), "generation": generation, "owner": owner}})
}

/// A new run of the VM: the disc has one attachment again.
async fn attach(pair: &mut Pair, number: usize, version: u64) {
    let order = json!({"attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}], "attachments_version": version});
    ok(pair.brain(number).update(DISC, order).await);
}

#[test]
fn rule9_a_prepared_target_is_promoted_when_its_source_is_lost_and_the_source_is_superseded_when_it_is_back() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        stopped_behind_the_fence(&mut pair).await;
        assert!(pair.tails[0].output(&["remove-addresses"]).status.success());
        // Its record of FENCED was lost with it: it is the owner that it was before.
        own_again(&pair);
        pair.tails[1].start();
        pair.brain(2).connect().await;
        no(pair.brain(2).update(DISC, promote(2, 3, 5)).await, "busy");
        no(pair.brain(2).update(DISC, promote(1, 2, 5)).await, "stale-generation");
        no(pair.brain(2).update(DISC, promote(1, 3, 4)).await, "stale-attachments");
        assert_eq!(pair.report(2)["state"], "receiving", "nothing has changed");
        ok(pair.brain(2).update(DISC, promote(1, 3, 5)).await);
        ok(pair.brain(2).update(DISC, promote(1, 3, 5)).await);
        pair.until(2, "it serves", |report| report["state"] == "serving" && report["attachments"] == json!([])).await;
        assert_eq!(pair.report(2)["generation"], 3);
        assert!(connect().is_err(), "the keys of former times are no good");
        attach(&mut pair, 2, 6).await;
        writes(&pair);
        // It is durable.
        pair.tails[1].kill();
        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!((&pair.report(2)["owner"], &pair.report(2)["generation"]), (&json!("owner"), &json!(3)));

        pair.tails[0].start();
        pair.brain(1).connect().await;
        pair.until(1, "the address is another's (rule 11)", |report| report["state"] == "failed").await;
        assert_eq!(pair.report(1)["owner"], "owner");
        no(pair.brain(1).update(DISC, retire(1, 1, "tail2")).await, "stale-generation");
        for _ in 0..2 {
            ok(pair.brain(1).update(DISC, retire(1, 3, "tail2")).await);
        }
        let late = json!({"attachments": [], "attachments_version": 9});
        assert!(no(pair.brain(1).update(DISC, late).await, "moved").contains("tail2"));
        pair.tails[0].kill();
        pair.tails[0].start();
        pair.brain(1).connect().await;
        let stale = pair.report(1);
        assert_eq!((&stale["owner"], &stale["state"]), (&json!("retired"), &json!("moved")), "{stale}");
        assert!(!pair.lan.addresses(1).contains("fd00:b16:0:d::7/"));
        assert!(pair.file(1).exists(), "what is there may be the only copy of a write");
        writes(&pair);
        ok(pair.drop_copy(1, 3, None).await);
        assert!(!pair.file(1).exists());
    });
}

/// The source as a restart finds it that has lost its last record.
fn own_again(pair: &Pair) {
    use tail_nbd::sidecar::{Owner, Sidecar};
    let mut source = Sidecar::open(&pair.tails[0].file("7.sidecar")).unwrap();
    let mut record = source.record().clone();
    record.owner = Owner::Owner;
    source.write(record).unwrap();
}

#[test]
fn rule9_rule19_a_fenced_source_takes_the_disc_back_and_the_target_is_superseded_when_it_is_back() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        stopped_behind_the_fence(&mut pair).await;
        for tail in &pair.tails {
            assert!(tail.output(&["remove-addresses"]).status.success());
        }
        pair.tails[0].start();
        pair.brain(1).connect().await;
        assert_eq!(pair.report(1)["owner"], "fenced");
        no(pair.brain(1).update(DISC, promote(1, 2, 5)).await, "stale-generation");
        ok(pair.brain(1).update(DISC, promote(1, 3, 5)).await);
        pair.until(1, "it serves", |report| report["state"] == "serving" && report["owner"] == "owner").await;
        attach(&mut pair, 1, 6).await;
        writes(&pair);

        pair.tails[1].start();
        pair.brain(2).connect().await;
        assert_eq!(pair.report(2)["owner"], "prepared");
        ok(pair.brain(2).update(DISC, retire(1, 3, "tail1")).await);
        pair.until(2, "it is told", |report| report["owner"] == "retired").await;
        let commit = json!({"commit": {"id": id(1), "generation": 2}});
        assert!(no(pair.brain(2).update(DISC, commit).await, "moved").contains("tail1"));
        writes(&pair);
        ok(pair.drop_copy(2, 3, None).await);
        // The disc can move again.
        pair.begin_move(2, 4, None).await;
        pair.until(2, "the target owns it", |report| phase(report) == "done").await;
        writes(&pair);
    });
}

#[test]
fn rule9_an_owner_of_former_times_that_still_serves_is_cut_off() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        pair.start_with_disc().await;
        pair.begin_move(1, 2, Some(1)).await;
        pair.until(2, "data comes", |report| phase(report) == "copying").await;
        no(pair.brain(2).update(DISC, promote(1, 3, 5)).await, "busy");
        // In the middle of a move, with a client.
        let mut connection = connect().unwrap();
        ok(pair.brain(1).update(DISC, retire(1, 3, "tail2")).await);
        let report = pair.report(1);
        assert_eq!((&report["owner"], &report["state"]), (&json!("retired"), &json!("moved")));
        assert!(write_block(&mut connection, 1, 7).is_err(), "its client is cut off");
        assert!(!pair.lan.addresses(1).contains("fd00:b16:0:d::7/"));
        ok(pair.brain(2).update(DISC, retire(1, 3, "tail1")).await);
        no(pair.brain(2).update(DISC, promote(1, 4, 5)).await, "busy");
        // It is whole, so an operator may think again.
        ok(pair.brain(1).update(DISC, promote(1, 4, 5)).await);
        attach(&mut pair, 1, 6).await;
        writes(&pair);
    });
}
