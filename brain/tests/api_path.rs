//! From a request to a running machine and back: the API, the reconciler, and fake heads and tails
//! on real TCP.

mod common;
#[allow(dead_code)] // This binary uses a part of it.
#[path = "common/fakes.rs"]
mod fakes;

use brain::{
    config::Config,
    fleet::{Registry, session},
    model::privilege::Level,
    reconcile::{Poke, Reconciler, ReconcilerConfig},
};
use common::api::{CONFIG, Client};
use fakes::{Fake, Fuse};
use serde_json::{Value, json};
use spine::{id::Epoch, message::Role};
use std::{path::Path, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

/// A brain in this process, with one head and one tail.
struct Lab {
    client: Client,
    head: Fake,
    tail: Fake,
    _tasks: JoinSet<()>,
}

impl Lab {
    async fn start(server: &common::Server) -> Self {
        Self::start_with(server, CONFIG).await
    }

    async fn start_with(server: &common::Server, config: &str) -> Self {
        let store = server.store().await;
        let (registry, poke) = (Registry::default(), Poke::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fleet = session::Fleet {
            registry: registry.clone(),
            store: store.clone(),
            poke: poke.clone(),
            cluster: uuid::Uuid::new_v4(),
            epoch: Epoch(1),
            nodes_lock: Arc::default(),
        };
        let config = Config::parse(config, Path::new("brain.toml")).unwrap();
        let reconciler = Reconciler::new(store.clone(), registry.clone(), poke.clone(), ReconcilerConfig::of(&config));
        let mut tasks = JoinSet::new();
        tasks.spawn(session::listen(listener, fleet));
        tasks.spawn(async move {
            reconciler.run().await;
        });
        let fuse = Arc::new(Fuse::default());
        let mut tail = Fake::new("tail1", Role::Tail, "fd00:b16:0:2::21", address, &fuse);
        let mut head = Fake::new("head1", Role::Head, "fd00:b16:0:2::11", address, &fuse);
        tail.connect();
        head.connect();
        let client = Client::with_nodes(store, CONFIG, poke, registry);
        client.add_user("alice", Some("acme"), None).await;
        client.add_user("root", None, Some(Level::ClusterAdmin)).await;
        let client = client.as_user("alice").await;
        Self { client, head, tail, _tasks: tasks }
    }

    /// Waits as clients do, until the machine is in this state.
    async fn until(&self, state: &str) -> Value {
        let vm =
            self.client.get(&format!("/virtual_machines/web1?wait=40s&until={state}&view=overview")).await.with(200);
        assert_eq!(vm["status"]["state"], state, "{vm:#}");
        vm
    }

    fn vm_resource(&self) -> Value {
        json!(self.head.get("vm.1"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r001_a_customer_alone_makes_uses_resizes_and_deletes_a_machine() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server).await;
    let client = &lab.client;
    let order = json!({
        "virtual_machine": {"name": "web1", "cores": 1, "memory": 512},
        "discs": [{"storage_grade": "sata", "size": 1024}, {"storage_grade": "ssd", "size": 2048}],
        "reimage": {"distribution": "tiny"},
    });
    client.post("/accounts/acme/groups/default/vm_create", order).await.with(202);
    let vm = lab.until("running").await;
    assert_eq!((&vm["head"], &vm["last_imaged_with"]), (&json!("head1"), &json!("tiny")));
    assert_eq!(vm["discs"][0]["storage_pool"], "tail1-sata1");

    // What the head was given is what the API shows, complete (R080).
    let resource = lab.vm_resource();
    assert_eq!(resource["display_name"], "web1.default.acme", "R097");
    assert_eq!(resource["management_address"], vm["management_address"]);
    assert_eq!(resource["network_interfaces"][0]["mac"], vm["network_interfaces"][0]["mac"]);
    let has_user = |resource: &Value| resource["console_users"].as_array().unwrap().contains(&json!("alice"));
    assert!(has_user(&resource), "R111: {resource:#}");

    // A signal goes through to the head, at once.
    let signal = json!({"signal": "sendkey", "data": "ctrl-alt-del"});
    assert_eq!(client.post("/virtual_machines/web1/signal", signal.clone()).await.with(200), signal);
    let signalled = lab.head.state.lock().unwrap().commands.iter().any(
        |command| matches!(command, spine::message::Command::Update(_, changes) if changes.contains_key("signal")),
    );
    assert!(signalled, "the head was told");

    // A disc grows under the running machine.
    client.put("/virtual_machines/web1/discs/disc-1", json!({"size": 4096})).await.with(200);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while lab.tail.get("disc.sata.1").unwrap()["size"] != json!(4096u64 << 20) {
        assert!(std::time::Instant::now() < deadline, "R087: the tail grows the disc");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }

    // Off, on again, gone: and nothing of it is left.
    client.put("/virtual_machines/web1", json!({"autoreboot_on": false, "power_on": false})).await.with(200);
    assert_eq!(lab.until("off").await["head"], Value::Null);
    client.put("/virtual_machines/web1", json!({"autoreboot_on": true, "power_on": true})).await.with(200);
    lab.until("running").await;
    client.delete("/virtual_machines/web1?purge=true").await.with(204);
    client.get("/virtual_machines/web1").await.with(404);
    while client.number("SELECT (SELECT count(*) FROM virtual_machines) + (SELECT count(*) FROM ip_addresses)").await
        > 0
    {
        assert!(std::time::Instant::now() < deadline + std::time::Duration::from_secs(30), "all of it is cleared away");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    assert!(lab.head.get("vm.1").is_none() && lab.tail.get("disc.sata.1").is_none());

    // What operators see.
    let root = client.as_user("root").await;
    let heads = root.get("/admin/heads").await.with(200);
    assert_eq!((&heads[0]["online"], &heads[0]["free_memory"]), (&json!(true), &json!(4096)), "R031");
    assert_eq!(root.get("/admin/storage_pools").await.with(200).as_array().unwrap().len(), 2);
    drop(lab);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r034_a_head_that_goes_away_is_gone_from_the_api_at_once() {
    let Some(server) = common::Server::start().await else { return };
    let mut lab = Lab::start(&server).await;
    let order = json!({"virtual_machine": {"name": "web1"}, "discs": [{"size": 100}]});
    lab.client.post("/accounts/acme/groups/default/vm_create", order).await.with(202);
    lab.until("running").await;
    lab.head.disconnect();
    let vm = lab.until("waiting").await;
    assert!(vm["status"]["reason"].as_str().unwrap().contains("head1"), "{vm:#}");
    let signal = lab.client.post("/virtual_machines/web1/signal", json!({"signal": "reset"})).await;
    signal.with(503);
    lab.head.connect();
    lab.until("running").await;
    drop(lab);
    server.stop().await;
}

/// The limits let nothing through here, so that all that still happens was not counted.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_user_has_ordered_counts_against_the_limits() {
    let Some(server) = common::Server::start().await else { return };
    let config = format!("{CONFIG}\n[limits]\nvm_starts_max = 0\nvm_stops_max = 0\n");
    let lab = Lab::start_with(&server, &config).await;
    let client = &lab.client;
    let order = json!({"virtual_machine": {"name": "web1"}, "discs": [{"size": 100}]});
    client.post("/accounts/acme/groups/default/vm_create", order).await.with(202);
    lab.until("running").await;
    let run = "SELECT max(id) FROM runs";
    let first = client.number(run).await;
    client.put("/virtual_machines/web1", json!({"power_on": false, "autoreboot_on": true})).await.with(200);
    while client.number(run).await == first {
        lab.until("running").await;
    }
    lab.until("running").await;

    lab.head.vm_ends("vm.1", "the guest crashed");
    // At first it waits because it ran for so short a time.
    while !lab.until("waiting").await["status"]["reason"].as_str().unwrap().contains("which is the limit") {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    client.put("/virtual_machines/web1", json!({"power_on": false, "autoreboot_on": false})).await.with(200);
    lab.until("off").await;
    client.put("/virtual_machines/web1", json!({"power_on": true})).await.with(200);
    lab.until("running").await;
    client.delete("/virtual_machines/web1").await.with(204);
    let of_deleted = "/virtual_machines/web1?include_deleted=true&wait=40s&until=deleted";
    assert_eq!(client.get(of_deleted).await.with(200)["status"]["state"], "deleted");
    drop(lab);
    server.stop().await;
}

/// Many clients at the same machines while the reconciler works on them.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_get_answers_and_no_internal_errors() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server).await;
    for name in ["vm0", "vm1", "vm2"] {
        let order =
            json!({"virtual_machine": {"name": name}, "discs": [{"size": 100}], "reimage": {"distribution": "tiny"}});
        lab.client.post("/accounts/acme/groups/default/vm_create", order).await.with(202);
    }
    let mut tasks = JoinSet::new();
    for task in 0..8u64 {
        let client = lab.client.clone();
        tasks.spawn(async move {
            let mut codes = Vec::new();
            for round in 0..25u64 {
                // Any fixed mixture does; this one is a linear congruential generator's.
                let number = (task * 25 + round).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) >> 33;
                let vm = format!("/virtual_machines/vm{}", number % 3);
                let answer = match number / 3 % 9 {
                    0 => client.put(&vm, json!({"power_on": false, "autoreboot_on": false})).await,
                    1 => client.put(&vm, json!({"power_on": true, "autoreboot_on": true})).await,
                    2 => client.post(&format!("{vm}/discs"), json!({"size": 60})).await,
                    3 => client.put(&format!("{vm}/discs/disc-2"), json!({"size": 100 + round})).await,
                    4 => client.delete(&format!("{vm}/discs/disc-2?purge=true")).await,
                    5 => client.put(&vm, json!({"cores": 1 + round % 2, "name": format!("vm{}", round % 3)})).await,
                    6 => client.delete(&vm).await,
                    7 => client.put(&vm, json!({"deleted": false})).await,
                    _ => client.get("/accounts?view=overview").await,
                };
                codes.push((answer.status.as_u16(), answer.text));
            }
            codes
        });
    }
    while let Some(codes) = tasks.join_next().await {
        for (code, text) in codes.unwrap() {
            assert!([200, 204, 400, 404].contains(&code), "{code}: {text}");
        }
    }
    drop(lab);
    server.stop().await;
}
