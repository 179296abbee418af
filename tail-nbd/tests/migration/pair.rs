//! Two tails that move a disc between them, and the brain of each.

use super::{
    DISC, KEY, SIZE, id,
    writer::{connect, write_block},
};
use crate::{
    MIB,
    netns::{
        self,
        brain::{Brain, ok},
        lan::Lan,
        tail::Tail,
    },
};
use serde_json::{Value, json};
use spine::message::Command;
use std::{fs::File, os::unix::fs::FileExt as _};

/// Two tails, each with its brain.
pub struct Pair {
    pub lan: Lan,
    pub tails: [Tail; 2],
    pub brains: Option<[Brain; 2]>,
}

impl Pair {
    pub fn new() -> Self {
        let lan = Lan::new();
        let tails = [Tail::numbered(&lan.tails[0], 1), Tail::numbered(&lan.tails[1], 2)];
        Self { lan, tails, brains: None }
    }

    pub async fn start(&mut self) {
        let mut brains = [Brain::listen_for(1).await, Brain::listen_for(2).await];
        for (tail, brain) in self.tails.iter_mut().zip(&mut brains) {
            tail.start();
            brain.connect().await;
        }
        self.brains = Some(brains);
    }

    pub fn brain(&mut self, number: usize) -> &mut Brain {
        &mut self.brains.as_mut().unwrap()[number - 1]
    }

    /// Both tails run, and tail1 has a disc with some data in it.
    pub async fn start_with_disc(&mut self) {
        self.start().await;
        self.make_disc().await;
    }

    /// A disc on tail1, and some data with holes between.
    pub async fn make_disc(&mut self) {
        self.make_empty_disc(SIZE).await;
        let file = File::options().write(true).open(self.file(1)).unwrap();
        for place in 0..5u64 {
            let bytes: Vec<u8> = (0..3 * MIB + 4096).map(|at| (at % 251 + place) as u8).collect();
            file.write_all_at(&bytes, place * 24 * MIB).unwrap();
        }
        file.sync_all().unwrap();
    }

    /// A disc on tail1.
    pub async fn make_empty_disc(&mut self, size: u64) {
        let order = json!({
            "size": size, "storage_pool": "sata1", "generation": 1,
            "attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}], "attachments_version": 4
        });
        ok(self.brain(1).create(DISC, order).await);
    }

    pub fn file(&self, number: usize) -> std::path::PathBuf {
        self.tails[number - 1].file("7.data")
    }

    pub async fn expect_at_target(&mut self, attempt: u32, generation: u64) -> spine::message::Answer {
        let order = json!({
            "size": SIZE, "storage_pool": "sata1", "generation": generation,
            "incoming": {"id": id(attempt), "source": "tail1", "address": "fd00:b16:0:2::21"}
        });
        self.brain(2).create(DISC, order).await
    }

    pub async fn order_move(&mut self, attempt: u32, generation: u64, limit: Option<u32>) -> spine::message::Answer {
        let order = json!({"migration": {
            "id": id(attempt), "target": "tail2", "address": "[fd00:b16:0:2::22]:7771", "generation": generation,
            "limit_mb_per_s": limit, "pause_ms": 100
        }});
        self.brain(1).update(DISC, order).await
    }

    /// tail2 expects the disc, and tail1 sends it: at most so many MB a second.
    pub async fn begin_move(&mut self, attempt: u32, generation: u64, limit: Option<u32>) {
        ok(self.expect_at_target(attempt, generation).await);
        ok(self.order_move(attempt, generation, limit).await);
    }

    /// Has a tail expect a disc of `size` bytes from the other one, which connects from `address`.
    pub async fn expect_by(&mut self, to: usize, size: u64, address: &str, attempt: u32, generation: u64) {
        let order = json!({
            "size": size, "storage_pool": "sata1", "generation": generation,
            "incoming": {"id": id(attempt), "source": format!("tail{}", 3 - to), "address": address}
        });
        ok(self.brain(to).create(DISC, order).await);
    }

    /// Has the other tail move the disc to `to`, which it finds at `address`.
    pub async fn order_by(&mut self, to: usize, address: &str, attempt: u32, generation: u64) {
        let order = json!({"migration": {
            "id": id(attempt), "target": format!("tail{to}"), "address": address, "generation": generation, "pause_ms": 100
        }});
        ok(self.brain(3 - to).update(DISC, order).await);
    }

    pub async fn until(&mut self, number: usize, what: &str, wanted: impl Fn(&Value) -> bool) {
        self.brain(number).until(what, |brain| brain.resource(DISC).is_some_and(&wanted)).await;
    }

    pub fn report(&mut self, number: usize) -> Value {
        self.brain(number).resource(DISC).cloned().unwrap_or_default()
    }

    /// Removes the disc from a tail, when its copy is of no use.
    pub async fn drop_copy(&mut self, number: usize, generation: u64, aborted: Option<u32>) -> spine::message::Answer {
        let mut order = json!({"generation": generation});
        if let Some(attempt) = aborted {
            order["aborted"] = id(attempt).into();
        }
        let Value::Object(order) = order else { unreachable!() };
        self.brain(number).order(Command::Remove(DISC.parse().unwrap(), order)).await
    }
}

pub fn phase(report: &Value) -> &str {
    report["migration"]["phase"].as_str().unwrap_or("")
}
/// Writes a block now and sees that it works.
pub fn writes(pair: &Pair) {
    netns::run_in(&pair.lan.client, || async {
        let mut connection = connect().expect("the disc is served");
        write_block(&mut connection, 1, 7).unwrap();
    });
}
