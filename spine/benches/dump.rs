//! One node dumping 10,000 resources (R066): from the node's values to the brain's view, no sockets.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use spine::{
    id::{Epoch, ResourceName},
    limits::VERSIONS,
    message::{Hello, Role, Welcome},
    session::{BrainSession, NodeSaid, NodeSession, Session, View},
};
use std::iter::from_fn;
use uuid::Uuid;

const RESOURCES: u64 = 10_000;

fn resources() -> Vec<(ResourceName, Value)> {
    let disc = |n: u64| {
        let value = json!({
            "size": 26_843_545_600u64, "storage_pool": "sata1", "generation": 1, "attachments_version": 3,
            "attachments": [{"head": "fd00:b16:0:2::11", "key_hash": format!("sha256:{n:064x}")}],
            "address": format!("fd00:b16:0:d::{n:x}"), "allocated": 1u64 << 30, "state": "serving"
        });
        (format!("disc.sata.{n}").parse().expect("a valid name"), value)
    };
    (1..=RESOURCES).map(disc).collect()
}

fn dump(resources: Vec<(ResourceName, Value)>) -> View {
    let hello = Hello {
        node: "tail1".parse().expect("a valid name"),
        role: Role::Tail,
        spine: VERSIONS,
        boot: Uuid::nil(),
        cluster: None,
        epoch: Epoch(0),
        extra: Default::default(),
    };
    let (mut node, mut brain, mut view) = (NodeSession::new(hello, 0), BrainSession::new(0), View::default());
    let welcome = Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(1) };
    from_fn(|| node.poll_transmit()).for_each(|bytes| brain.handle_bytes(&bytes));
    brain.handle_welcome(welcome);
    from_fn(|| brain.poll_transmit()).for_each(|bytes| node.handle_bytes(&bytes));
    node.handle_dump(resources);
    while let Some(bytes) = node.poll_transmit() {
        brain.handle_bytes(&bytes);
        while let Some(said) = brain.poll_event() {
            view.apply(&said).expect("fewer than the bound");
            if said == NodeSaid::Ready {
                return view;
            }
        }
    }
    panic!("the dump never became ready")
}

fn bench(criterion: &mut Criterion) {
    let resources = resources();
    let mut group = criterion.benchmark_group("spine");
    group.throughput(Throughput::Elements(RESOURCES)).sample_size(20);
    group.bench_function("dump_10000_resources", |bencher| {
        bencher.iter_with_large_drop(|| {
            let view = dump(resources.clone());
            assert_eq!(view.len() as u64, RESOURCES);
            view
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
