//! Many worlds.

use super::chance::Chance;
use super::client::Manner;
use super::ring::Faults;
use super::world::{Plan, Pools, World};
use crate::buffer::Pool;
use crate::limits::{PAYLOAD_BYTES_MAX, PIECE_BYTES, RECEIVE_BYTES};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Few buffers, so that there is a shortage of each size.
pub(super) fn pools() -> Pools {
    let classes = [(8 << 10, 12), (64 << 10, 3), (256 << 10, 2), (PIECE_BYTES, 2), (PAYLOAD_BYTES_MAX as usize, 1)];
    Pools { data: Pool::new(&classes), receive: Pool::new(&[(RECEIVE_BYTES, 4)]) }
}

/// A world that depends on the seed only. One in four has no faults, so that every error is one.
fn plan(seed: u64) -> Plan {
    let mut chance = Chance::new(seed ^ 0x5eed);
    let disc_bytes = (0..chance.between(1, 3)).map(|_| match chance.below(8) {
        0 => 3 << 20,
        1 => 64 << 10,
        _ => (256 << 10) + 512 * chance.below(3),
    });
    let disc_bytes = disc_bytes.collect();
    let calm = chance.one_in(4);
    let mut sometimes = |times: u64| if calm || chance.one_in(3) { 0 } else { times };
    let faults = Faults {
        interrupt: sometimes(15),
        shorten: sometimes(5),
        fail: sometimes(60),
        fail_sync: sometimes(40),
        fill: sometimes(30),
    };
    Plan {
        disc_bytes,
        faults,
        cut: sometimes(300),
        storm: sometimes(100),
        order: sometimes(80),
        freeze: sometimes(60),
        copy: sometimes(40),
        upgrade: sometimes(50),
        crash: sometimes(200),
        panic: sometimes(150),
        villains: sometimes(1) > 0,
        clients_count: chance.between(1, 4) as usize,
        depth: chance.between(1, 12) as usize,
        steps_count: chance.between(100, 500) as usize,
    }
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Runs one seed: the numbers of turns and of upgrades, or what is wrong.
fn run(seed: u64, pools: &Pools) -> Result<(u64, u64), String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, plan(seed), pools.clone());
        world.run().map(|()| (world.turns_count, world.upgrades_count))
    }));
    outcome.unwrap_or_else(|_| Err("a panic, see above".to_owned()))
}

/// Panics that are ordered say nothing.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().downcast_ref::<&str>().is_some_and(|text| text.contains("that a test ordered")) {
                usual(info);
            }
        }));
    });
}

#[test]
fn seeds() {
    hush();
    if let Some(seed) = number_of("SEED") {
        // What happened is told when it fails.
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
        let outcome = run(seed, &pools());
        panic_unless(outcome.map(|_| ()), seed);
        return;
    }
    let seeds_count = number_of("SEEDS").unwrap_or(1000);
    let (next, turns_count, upgrades_count) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let threads_count = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads_count {
            scope.spawn(|| {
                let pools = pools();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds_count {
                        return;
                    }
                    match run(seed, &pools) {
                        Ok((turns, upgrades)) => {
                            turns_count.fetch_add(turns, Ordering::Relaxed);
                            upgrades_count.fetch_add(upgrades, Ordering::Relaxed);
                        }
                        Err(error) => {
                            // The others need not go on.
                            next.store(seeds_count, Ordering::Relaxed);
                            panic_unless(Err(error), seed);
                        }
                    }
                }
            });
        }
    });
    assert!(turns_count.into_inner() > 100 * seeds_count, "hardly anything happened");
    assert!(upgrades_count.into_inner() > seeds_count / 2, "hardly any process was succeeded");
}

/// A world in which nothing goes wrong.
fn calm(discs_count: usize, clients_count: usize, depth: usize) -> Plan {
    Plan {
        disc_bytes: vec![256 << 10; discs_count],
        clients_count,
        depth,
        steps_count: 0,
        faults: Faults::default(),
        cut: 0,
        storm: 0,
        order: 0,
        freeze: 0,
        copy: 0,
        upgrade: 0,
        crash: 0,
        panic: 0,
        villains: false,
    }
}

/// How many requests of each client are answered in so many steps.
fn answered(mut world: World, steps_count: usize) -> Vec<u64> {
    (0..steps_count).for_each(|_| world.step().unwrap());
    let counts = world.clients.iter().map(|client| client.answered_count).collect();
    world.run().unwrap();
    counts
}

#[test]
fn who_asks_for_as_much_as_others_gets_at_least_half_of_the_fair_share() {
    for (discs_count, clients_count, depth) in [(8, 1, 16), (1, 4, 16), (4, 4, 8)] {
        let counts = answered(World::new(7, calm(discs_count, clients_count, depth), pools()), 1500);
        let fair = counts.iter().sum::<u64>() / counts.len() as u64;
        let least = *counts.iter().min().unwrap();
        assert!(2 * least >= fair && fair > 50, "{discs_count} discs, {clients_count} clients each: {counts:?}");
    }
}

#[test]
fn a_modest_disc_is_not_starved_by_greedy_ones() {
    let modest = |greedy_discs_count: usize| {
        let mut world = World::new(7, calm(1 + greedy_discs_count, 4, 32), pools());
        let mut first = true;
        world.clients.retain(|client| client.disc > 0 || std::mem::take(&mut first));
        world.clients[0].depth = 1;
        answered(world, 1500)[0]
    };
    let (alone, in_company) = (modest(0), modest(3));
    // Four discs: half of a fourth.
    assert!(8 * in_company >= alone, "{in_company} answers beside greedy ones, {alone} alone");
}

/// Clients that take no replies fill what their discs may have, and keep no receive buffer.
#[test]
fn a_modest_disc_is_not_starved_by_deaf_ones() {
    let answers = |deaf_discs_count: usize| {
        let classes = [(8 << 10, 64), (64 << 10, 64), (256 << 10, 32), (PIECE_BYTES, 16)];
        let pools = Pools { data: Pool::new(&classes), receive: Pool::new(&[(RECEIVE_BYTES, 4)]) };
        let mut world = World::new(7, calm(1 + deaf_discs_count, 4, 64), pools);
        let mut first = true;
        world.clients.retain(|client| client.disc > 0 || std::mem::take(&mut first));
        world.clients[0].depth = 1;
        world.clients.iter_mut().skip(1).for_each(|client| client.manner = Manner::Deaf);
        answered(world, 1500)[0]
    };
    let (alone, in_company) = (answers(0), answers(3));
    assert!(2 * in_company >= alone, "{in_company} answers beside deaf ones, {alone} alone");
}

fn panic_unless(outcome: Result<(), String>, seed: u64) {
    if let Err(error) = outcome {
        panic!("seed {seed}: {error}\nagain: SEED={seed} cargo test -p tail-nbd sim::tests::seeds");
    }
}
