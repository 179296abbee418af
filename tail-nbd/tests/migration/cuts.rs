//! The network between the tails fails at every message of a move, and at the worst of them for long (R130; nbd.md section 3,
//! points 8 and 10).
#![allow(clippy::print_stderr, reason = "how long a guest waited is part of the result")]

use crate::{
    DISC, SIZE,
    netns::{
        self,
        brain::{DEADLINE, ok},
    },
    pair::{Pair, phase, writes},
    proxy::{OWN, Proxy, Rule, TO_TAIL1, TO_TAIL2},
    writer::{Writer, check},
};
use serde_json::json;
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

/// A disc whose move takes few messages.
const SMALL: u64 = 192 << 10;

/// How long the network is away.
const OUTAGE: Duration = Duration::from_secs(1);

/// What is said in every move.
const KINDS: [&str; 10] =
    ["hello", "welcome", "data", "hole", "pass_end", "synced", "prepare", "prepared", "commit", "serving"];

/// More messages than a small move has.
const MESSAGES_MAX: usize = 80;

#[test]
fn r130_the_network_may_be_cut_at_every_message() {
    let mut pair = Pair::new();
    let client = pair.lan.client.clone();
    netns::run_in(&client.clone(), || async move {
        let proxies = [Proxy::to_tail1(&client), Proxy::to_tail2(&client)];
        pair.start().await;
        pair.make_empty_disc(SMALL).await;
        File::options().write(true).open(pair.file(1)).unwrap().write_all_at(&[7; 64 << 10], 4096).unwrap();
        let writer = Writer::paced(client, SMALL, Duration::from_millis(40));
        let (mut to, mut attempt) = (2, 1);
        for kind in KINDS {
            attempt += 1;
            let (next, is_cut) = move_once(&mut pair, &proxies, to, attempt, Rule::CutAt(kind)).await;
            assert!(is_cut, "nobody says {kind}");
            to = next;
        }
        for count in 0.. {
            assert!(count < MESSAGES_MAX, "a small move has not so many messages");
            attempt += 1;
            let (next, is_cut) = move_once(&mut pair, &proxies, to, attempt, Rule::CutAfter(count)).await;
            to = next;
            if !is_cut {
                eprintln!("{count} messages");
                break;
            }
        }
        let written = writer.stop();
        eprintln!("longest write {:?} of {}", written.longest, written.writes);
        check(&written, &pair.file(3 - to));
    });
}

/// Moves the disc to a tail, with this rule on the way, and what is cut comes back after a while. Returns where the next move is
/// to go, and whether the rule was met.
async fn move_once(pair: &mut Pair, proxies: &[Proxy; 2], to: usize, attempt: u32, rule: Rule) -> (usize, bool) {
    let (proxy, generation, from) = (&proxies[to - 1], u64::from(attempt), 3 - to);
    pair.expect_by(to, SMALL, OWN, attempt, generation).await;
    proxy.rule(rule.clone());
    pair.order_by(to, [TO_TAIL1, TO_TAIL2][to - 1], attempt, generation).await;
    pair.until(from, "it is cut or over", |report| proxy.is_reached() || phase(report) == "done").await;
    let is_cut = proxy.is_reached();
    if is_cut {
        tokio::time::sleep(OUTAGE).await;
    }
    proxy.rule(Rule::Pass);
    pair.until(from, "it ends", |report| report["owner"] == "retired" || phase(report) == "failed").await;
    let owner = if phase(&pair.report(from)) == "failed" { from } else { to };
    pair.until(owner, "it is served", |report| report["state"] == "serving" && report["owner"] == "owner").await;
    let aborted = (owner == from).then_some(attempt);
    ok(pair.drop_copy(3 - owner, generation, aborted).await);
    writes(pair);
    let has_address = |number| pair.lan.addresses(number).contains("fd00:b16:0:d::7/");
    assert!(has_address(owner) && !has_address(3 - owner), "{rule:?}");
    (3 - owner, is_cut)
}

/// Holds what is said from `what` on for a while: nobody hears that the other end is gone.
fn silence(what: &'static str, patience: Duration, during: impl AsyncFnOnce(&mut Pair) + Send) {
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
        let began = Instant::now();
        during(&mut pair).await;
        tokio::time::sleep(patience.saturating_sub(began.elapsed())).await;
        proxy.rule(Rule::Pass);
        pair.until(1, "it ends", |report| report["owner"] == "retired").await;
        pair.until(2, "the target serves", |report| report["state"] == "serving").await;
        writes(&pair);
        let written = writer.stop();
        eprintln!("silence at {what}: longest write {:?} of {}", written.longest, written.writes);
        check(&written, &pair.file(2));
    });
}

#[test]
fn r130_a_silent_target_does_not_stop_the_clients_of_the_source() {
    silence("synced", Duration::from_secs(12), async |pair| {
        for _ in 0..10 {
            writes(pair);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn rule18_a_silent_target_behind_the_fence_is_told_again_and_nobody_serves_meanwhile() {
    silence("commit", Duration::from_secs(12), async |pair| {
        pair.until(1, "the source has given it up", |report| report["state"] == "moved").await;
        for number in [1, 2] {
            assert!(!pair.lan.addresses(number).contains("fd00:b16:0:d::7/"), "nobody has the address");
        }
        assert_eq!(pair.report(1)["owner"], "fenced");
    });
}

#[test]
fn rule18_a_source_that_does_not_hear_of_the_target_lets_its_clients_go() {
    silence("serving", Duration::from_secs(4), async |pair| {
        pair.until(2, "the target serves", |report| report["state"] == "serving").await;
        pair.until(1, "the source lets go", |report| report["state"] == "moved").await;
        writes(pair);
        assert_eq!(pair.report(1)["owner"], "fenced");
    });
}

#[test]
fn rule18_a_move_whose_target_says_nothing_can_be_cancelled() {
    let mut pair = Pair::new();
    let client = pair.lan.client.clone();
    netns::run_in(&client.clone(), || async move {
        let proxy = Proxy::to_tail2(&client);
        pair.start().await;
        pair.make_disc().await;
        for (attempt, what) in
            [(1, "hello"), (2, "welcome"), (3, "data"), (4, "synced"), (5, "prepare"), (6, "prepared")]
        {
            let generation = u64::from(attempt) + 1;
            pair.expect_by(2, SIZE, OWN, attempt, generation).await;
            proxy.rule(Rule::Hold(what));
            pair.order_by(2, TO_TAIL2, attempt, generation).await;
            assert!(proxy.wait(DEADLINE), "nobody says {what}");
            ok(pair.brain(1).update(DISC, json!({"migration": null})).await);
            pair.until(1, "it has ended", |report| phase(report) == "failed").await;
            assert_eq!(pair.report(1)["owner"], "owner");
            writes(&pair);
            ok(pair.drop_copy(2, generation, Some(attempt)).await);
        }
    });
}
