//! What else may happen to a disc, its tails and its brain while it moves (nbd.md section 3, point 13; R130).

use crate::{
    DISC, KEY, id,
    netns::{
        self,
        brain::{DEADLINE, no, ok},
    },
    pair::{Pair, phase, writes},
    writer::{connect, write_block},
};
use serde_json::json;
use spine::id::{DiscNumber, Generation, MigrationId};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use tail_nbd::migration::wire::{self, Control, Hello};

/// A move that is slow enough to be met under way.
async fn moving(pair: &mut Pair) {
    pair.start().await;
    pair.make_disc().await;
    ok(pair.expect_at_target(1, 2).await);
    ok(pair.order_move(1, 2, Some(4)).await);
    pair.until(2, "data comes", |report| phase(report) == "copying").await;
}

async fn moves_on(pair: &mut Pair) {
    pair.until(2, "the target owns it", |report| phase(report) == "done").await;
    pair.until(1, "the source has heard it", |report| report["owner"] == "retired").await;
}

#[test]
fn r130_a_move_goes_on_while_the_brain_is_away() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        moving(&mut pair).await;
        pair.brain(1).lose();
        pair.brain(2).lose();
        let deadline = std::time::Instant::now() + DEADLINE;
        while !pair.lan.addresses(2).contains("fd00:b16:0:d::7/") {
            assert!(std::time::Instant::now() < deadline, "the disc does not move");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        writes(&pair);
        for number in [1, 2] {
            pair.brain(number).connect().await;
        }
        moves_on(&mut pair).await;
        let source = pair.report(1);
        assert_eq!((&source["migration"]["id"], &source["state"]), (&json!(id(1)), &json!("moved")));
        // An order that was not known to be carried out may come again.
        no(pair.order_move(1, 2, None).await, "moved");
        writes(&pair);
    });
}

#[test]
fn r130_neither_tail_is_upgraded_in_mid_move_and_the_move_goes_on() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        moving(&mut pair).await;
        for number in [1, 2] {
            let output = pair.tails[number - 1].upgrade(&[]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("sata.7 is being moved"), "{said}");
            // Who was about to go has let go of its brain.
            pair.brain(number).connect().await;
        }
        writes(&pair);
        moves_on(&mut pair).await;
        for number in [1, 2] {
            let output = pair.tails[number - 1].upgrade(&[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            pair.brain(number).connect().await;
        }
        assert_eq!((&pair.report(1)["owner"], &pair.report(2)["owner"]), (&json!("retired"), &json!("owner")));
        writes(&pair);
    });
}

#[test]
fn rule5_a_vm_that_stops_in_mid_move_has_no_right_at_either_end() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        moving(&mut pair).await;
        let mut client = connect().unwrap();
        write_block(&mut client, 3, 5).unwrap();
        ok(pair.brain(1).update(DISC, json!({"attachments": [], "attachments_version": 5})).await);
        assert!(write_block(&mut client, 3, 6).is_err(), "it is cut off at once");
        no(pair.brain(2).update(DISC, json!({"attachments": [], "attachments_version": 6})).await, "busy");
        moves_on(&mut pair).await;
        let target = pair.report(2);
        assert_eq!((&target["attachments"], &target["attachments_version"]), (&json!([]), &json!(5)));
        assert!(connect().is_err(), "nobody has a right to it");
        // The next start of the VM.
        let attachments = json!([{"head": "fd00:b16:0:2::11", "key": KEY}]);
        ok(pair.brain(2).update(DISC, json!({"attachments": attachments, "attachments_version": 6})).await);
        writes(&pair);
    });
}

/// A frame that introduces a move.
fn hello(change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let mut hello = Hello {
        version_oldest: 1,
        version_newest: wire::VERSION,
        id: MigrationId(id(1).parse().unwrap()),
        number: DiscNumber(7),
        generation: Generation(2),
        size_bytes: crate::SIZE,
        fenced: None,
    };
    change(&mut hello);
    let mut frame = vec![];
    wire::write_control(&mut frame, &Control::Hello(hello));
    frame
}

#[test]
fn r130_strangers_do_not_disturb_a_move() {
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        moving(&mut pair).await;
        let port: SocketAddr = "[fd00:b16:0:2::22]:7771".parse().unwrap();
        // Many that say nothing, more than there are places for.
        let silent: Vec<_> = (0..150).map(|_| TcpStream::connect(port).unwrap()).collect();
        drop(silent);
        // From the wrong place, even with the right words; and with wrong ones.
        let commit = Control::Commit { attempt: tail_nbd::migration::handover::Attempt(uuid::Uuid::from_u128(1)) };
        let mut right = hello(|_| ());
        wire::write_control(&mut right, &commit);
        let others = [
            right,
            hello(|hello| hello.number = DiscNumber(8)),
            hello(|hello| hello.generation = Generation(9)),
            hello(|hello| hello.size_bytes *= 2),
            hello(|hello| (hello.version_oldest, hello.version_newest) = (77, 78)),
            {
                let mut broken = hello(|_| ());
                broken[20] ^= 1;
                broken
            },
            {
                let mut data = vec![];
                wire::write_data_front(&mut data, 0, &[0xee; 4096]);
                data.extend_from_slice(&[0xee; 4096]);
                data
            },
        ];
        for bytes in others {
            let mut stranger = TcpStream::connect(port).unwrap();
            stranger.set_read_timeout(Some(DEADLINE)).unwrap();
            stranger.write_all(&bytes).unwrap();
            let mut answer = vec![];
            // It may be told why, and is not let in.
            let _ = stranger.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || answer.contains("failed"), "{answer}");
        }
        // There is nobody at the address of a disc that is on its way, not even for who is on the same machine.
        let target = pair.lan.tails[1].clone();
        netns::run_in(&target, || async {
            let own = "[fd00:b16:0:2::22]:10809".parse::<SocketAddr>().unwrap();
            assert!(TcpStream::connect_timeout(&own, Duration::from_secs(1)).is_err(), "nobody serves NBD here");
        });
        assert!(!pair.lan.addresses(2).contains("fd00:b16:0:d::7/"));
        assert_eq!(pair.report(2)["owner"], "incoming");
        moves_on(&mut pair).await;
        let mut first = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::open(pair.file(2)).unwrap(), &mut first, 0).unwrap();
        assert_ne!(first, [0xee; 4096], "nothing of a stranger's is on the disc");
        writes(&pair);
    });
}
