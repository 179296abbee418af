//! Many worlds.
#![allow(clippy::print_stderr, reason = "what has happened is part of the result")]

use super::super::chance::Chance;
use super::super::ring::Faults;
use super::super::stage::{self, Mishaps};
use super::super::tests::{number_of, pools};
use super::super::world::Pools;
use super::world::{Plan, World};
use crate::disc::mode::IoMode;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// A world that depends on the seed only. One in four has no faults, so that every error is one.
fn plan(seed: u64) -> Plan {
    let mut chance = Chance::new(seed ^ 0x5eed);
    let calm = chance.one_in(4);
    let mut sometimes = |times: u64| if calm || chance.one_in(2) { 0 } else { times };
    Plan {
        faults: Faults { interrupt: sometimes(15), shorten: sometimes(5), fill: sometimes(30), ..Faults::default() },
        mishaps: Mishaps { read: sometimes(60), write: sometimes(60), sync: sometimes(20) },
        cut: sometimes(200),
        crash: sometimes(120),
        stop: sometimes(150),
        lan_cut: sometimes(100),
        lan_silence: sometimes(150),
        brain_away: sometimes(4),
        disc_bytes: (32 << 10) + 512 * chance.below(100),
        clients_count: chance.between(1, 3) as usize,
        depth: chance.between(1, 6) as usize,
        steps_count: chance.between(150, 450) as usize,
        io: if chance.one_in(3) { IoMode::Direct } else { IoMode::Cached },
    }
}

/// What came of a seed.
#[derive(Debug)]
struct Outcome {
    moved_count: u64,
    undone_count: u64,
    crashes_count: u64,
}

/// Runs one seed, or says what is wrong.
fn run(seed: u64, pools: &Pools) -> Result<Outcome, String> {
    let plan = plan(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
        stage::set(seed, plan.mishaps);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(seed, plan, folder.path(), pools);
            world.run().await.map(|()| Outcome {
                moved_count: world.brain.moved_count,
                undone_count: world.brain.undone_count,
                crashes_count: world.crashes_count,
            })
        })
    }));
    stage::clear();
    outcome.unwrap_or_else(|_| Err("a panic, see above".to_owned()))
}

/// R130; safety rules 1, 2, 5, 10, 11, 18, 19, 23; nbd.md section 3, points 8, 9 and 15.
#[test]
fn moving_seeds() {
    if let Some(seed) = number_of("SEED") {
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
        let outcome = run(seed, &pools());
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        return;
    }
    let seeds_count = number_of("SEEDS").unwrap_or(2000);
    let [next, moved_count, undone_count, crashes_count] = [const { AtomicU64::new(0) }; 4];
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let pools = pools();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds_count {
                        return;
                    }
                    let outcome = run(seed, &pools).unwrap_or_else(|error| {
                        next.store(seeds_count, Ordering::Relaxed);
                        panic!("seed {seed}: {error}\nagain: SEED={seed} cargo test -p tail-nbd moving_seeds")
                    });
                    moved_count.fetch_add(outcome.moved_count, Ordering::Relaxed);
                    undone_count.fetch_add(outcome.undone_count, Ordering::Relaxed);
                    crashes_count.fetch_add(outcome.crashes_count, Ordering::Relaxed);
                }
            });
        }
    });
    let counts = [moved_count, undone_count, crashes_count].map(AtomicU64::into_inner);
    eprintln!("{seeds_count} seeds: {counts:?} moves, moves undone, crashes");
    assert!(counts.iter().all(|count| *count > seeds_count / 2), "hardly anything happened: {counts:?}");
}
