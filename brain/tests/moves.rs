//! Discs that move between tails: the API, the reconciler and a real PostgreSQL, with fake tails on real TCP that do
//! what a test tells them to.

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
use common::api::{CONFIG, Client, steady};
use fakes::{Fake, Fuse};
use insta::assert_json_snapshot;
use serde_json::{Value, json};
use spine::{id::Epoch, message::Role};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};

const PATIENCE: Duration = Duration::from_secs(40);

/// A brain in this process, with a head and three tails, and a VM that runs with two discs on the first.
struct Lab {
    root: Client,
    alice: Client,
    tails: [Fake; 3],
    _head: Fake,
    _tasks: JoinSet<()>,
}

impl Lab {
    async fn start(server: &common::Server, prepare: impl FnOnce(&mut [Fake; 3])) -> Self {
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
        let config = Config::parse(CONFIG, Path::new("brain.toml")).unwrap();
        let reconciler = Reconciler::new(store.clone(), registry.clone(), poke.clone(), ReconcilerConfig::of(&config));
        let mut tasks = JoinSet::new();
        tasks.spawn(session::listen(listener, fleet));
        tasks.spawn(async move { reconciler.run().await });
        let fuse = Arc::new(Fuse::default());
        let tail = |n: u8| Fake::new(&format!("tail{n}"), Role::Tail, &format!("fd00:b16:0:2::2{n}"), address, &fuse);
        let mut tails = [tail(1), tail(2), tail(3)];
        prepare(&mut tails);
        let mut head = Fake::new("head1", Role::Head, "fd00:b16:0:2::11", address, &fuse);
        head.connect();
        tails[0].connect();
        let client = Client::with_nodes(store, CONFIG, poke, registry);
        client.add_user("alice", Some("acme"), None).await;
        client.add_user("root", None, Some(Level::ClusterAdmin)).await;
        let (alice, root) = (client.as_user("alice").await, client.as_user("root").await);
        let order = json!({"virtual_machine": {"name": "web1", "cores": 1, "memory": 512},
            "discs": [{"storage_grade": "sata", "size": 1024}, {"storage_grade": "sata", "size": 2048}]});
        alice.post("/accounts/acme/groups/default/vm_create", order).await.with(202);
        let vm = alice.get("/virtual_machines/web1?wait=40s&until=running").await.with(200);
        assert_eq!(vm["status"]["state"], "running", "{vm:#}");
        for tail in &mut tails[1..] {
            tail.connect();
        }
        let lab = Self { root, alice, tails, _head: head, _tasks: tasks };
        lab.until("all pools are known", "/admin/storage_pools", |pools| pools.as_array().unwrap().len() == 6).await;
        lab.until("all tails are there", "/admin/tails", |tails| {
            tails.as_array().unwrap().iter().all(|tail| tail["online"] == true)
        })
        .await;
        lab
    }

    /// Asks the API until it is so.
    async fn until(&self, what: &str, path: &str, check: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.root.get(path).await.with(200);
            if check(&answer) {
                return answer;
            }
            assert!(std::time::Instant::now() < deadline, "{what}: {answer:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until the source has been told to send the disc; gives what it says of that.
    async fn sending(&self, tail: usize, disc: &str) -> Value {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let own = self.tails[tail].get(disc).and_then(|report| report.get("migration").cloned());
            if let Some(own) = own.filter(|own| own["phase"] == "copying") {
                return own;
            }
            assert!(std::time::Instant::now() < deadline, "{disc} is not sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The tails hand the disc over.
    async fn hand_over(&self, from: usize, to: usize, disc: &str, arrives_as: &str) {
        let own = self.sending(from, disc).await;
        let source = self.tails[from].get(disc).unwrap();
        self.tails[from].say(disc, &json!({"owner": "fenced", "state": "moved"}));
        self.tails[to].say(
            arrives_as,
            &json!({"owner": "owner", "state": "serving", "attachments": source["attachments"],
            "attachments_version": source["attachments_version"], "generation": own["generation"]}),
        );
    }

    async fn finished(&self, job: i64) -> Value {
        self.until("the job ends", &format!("/admin/migration_jobs/{job}"), |job| !job["finished_at"].is_null()).await
    }

    async fn gone(&self, tail: usize, disc: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.tails[tail].get(disc).is_some() {
            assert!(std::time::Instant::now() < deadline, "{disc} stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn scrubbed(mut job: Value) -> Value {
    for at in ["created_at", "updated_at", "started_at", "finished_at"] {
        if job[at].is_string() {
            job[at] = "…".into();
        }
    }
    // Pools are numbered in the order in which their tails came.
    job["destinations"]["pools"].as_array_mut().unwrap().clear();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn r012_r120_r130_a_disc_moves_while_its_machine_runs() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server, |_| {}).await;
    let changed = lab.root.put("/admin/storage_pools/tail2-sata1", json!({"migration_limit_mb_per_s": 80})).await;
    assert_eq!(changed.with(200)["migration_limit_mb_per_s"], 80);
    let to = json!({"new_pool_spec": "tail2-sata1", "limit_mb_per_s": 0});
    let refused = lab.root.post("/admin/discs/1/migrate", to).await.with(400);
    assert!(refused["limit_mb_per_s"][0].as_str().unwrap().contains("between 1 and"), "{refused}");
    let to = json!({"new_pool_spec": "tail2-sata1", "limit_mb_per_s": 120});
    let ordered = lab.root.post("/admin/discs/1/migrate", to).await.with(200);
    let job = ordered["migration_job_id"].as_i64().unwrap();
    let own = lab.sending(0, "disc.sata.1").await;
    assert!(lab.tails[0].orders_with("limit_mb_per_s", &json!(80)), "the least of what is said");
    assert_eq!((&own["generation"], &own["peer"]), (&json!(2), &json!("tail2")), "the brain grants generations");
    let incoming = lab.tails[1].get("disc.sata.1").unwrap();
    assert_eq!((&incoming["owner"], &incoming["generation"]), (&json!("incoming"), &json!(2)));

    // What operators and owners see of it.
    lab.tails[0].say("disc.sata.1", &json!({"migration_progress": 42, "migration_eta": 12, "migration_speed": 110}));
    let moving = lab
        .until("there is progress", "/admin/migrating_discs", |discs| {
            let reason = discs[0]["status"]["reason"].as_str().unwrap_or_default();
            discs[0]["migration_progress"] == 42 && reason.contains("being copied")
        })
        .await;
    assert_json_snapshot!("migrating_discs", steady(moving.clone()));
    assert_eq!(lab.alice.get("/discs/1").await.with(200)["new_storage_pool"], "tail2-sata1", "B09");
    assert_json_snapshot!("job", scrubbed(lab.root.get(&format!("/admin/migration_jobs/{job}")).await.with(200)));
    let active = lab.root.get(&format!("/admin/migration_jobs/{job}/migrations")).await.with(200);
    assert_eq!((&active[0]["disc_id"], &active[0]["port"]), (&json!(1), &json!(7771)), "B14: {active:#}");
    lab.alice.get("/admin/migrating_discs").await.with(404);
    lab.alice.post("/admin/discs/1/cancel_migration", json!({})).await.with(404);

    // What cannot be done meanwhile says so.
    let refused = lab.alice.put("/discs/1", json!({"size": 4096})).await.with(400);
    assert!(refused["size"][0].as_str().unwrap().contains("being moved to tail2-sata1"), "{refused}");
    let refused = lab.root.post("/admin/discs/1/migrate", json!({"new_pool_spec": "tail3-sata1"})).await.with(400);
    assert!(refused["new_pool_spec"][0].as_str().unwrap().contains("being moved to tail2-sata1 already"), "{refused}");

    lab.hand_over(0, 1, "disc.sata.1", "disc.sata.1").await;
    let done = lab.finished(job).await;
    assert_eq!(done["status"]["discs"]["done"], json!([1]), "{done:#}");
    lab.gone(0, "disc.sata.1").await;
    let disc = lab.alice.get("/discs/1").await.with(200);
    assert_eq!((&disc["storage_pool"], disc.get("new_storage_pool")), (&json!("tail2-sata1"), None), "{disc:#}");
    assert_eq!(lab.alice.get("/virtual_machines/web1").await.with(200)["status"]["state"], "running");
    assert_eq!(lab.root.get("/admin/storage_pools/tail2-sata1/discs").await.with(200).as_array().unwrap().len(), 1);

    // Who may use it is asked of its owner now: a stop withdraws there.
    lab.alice.put("/virtual_machines/web1", json!({"power_on": false, "autoreboot_on": false})).await.with(200);
    lab.until("it is withdrawn", "/virtual_machines/web1", |vm| vm["status"]["state"] == "off").await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.tails[1].get("disc.sata.1").unwrap()["attachments"] != json!([]) {
        assert!(std::time::Instant::now() < deadline, "safety rule 5: the owner was not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_b14_a_tail_is_planned_emptied_and_what_fails_says_why() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server, |_| {}).await;
    let plan = lab.root.post("/admin/tails/tail1/empty?plan=true", json!({})).await.with(200);
    assert_json_snapshot!("plan", plan);
    assert!(lab.tails[1].state.lock().unwrap().resources.is_empty(), "a plan does nothing");
    assert_eq!(lab.root.get("/admin/migration_jobs").await.with(200), json!([]));

    // One at a time: the pools say so.
    for pool in ["tail1-sata1", "tail2-sata1"] {
        let path = format!("/admin/storage_pools/{pool}");
        let changed = lab.root.put(&path, json!({"migration_concurrency": 1})).await.with(200);
        assert_eq!(changed["migration_concurrency"], 1, "B12");
    }
    let refused = lab.root.post("/admin/tails/tail1/empty", json!({"limit_mb_per_s": 0})).await.with(400);
    assert!(refused["limit_mb_per_s"][0].as_str().unwrap().contains("between 1 and"), "{refused}");
    let job = lab.root.post("/admin/tails/tail1/empty", json!({"limit_mb_per_s": 30})).await.with(200);
    assert_eq!(lab.root.get("/admin/tails/tail1").await.with(200)["usage_strategy"], "empty");
    let job = job["id"].as_i64().unwrap();
    let path = format!("/admin/migration_jobs/{job}");
    lab.sending(0, "disc.sata.1").await;
    assert!(lab.tails[0].orders_with("limit_mb_per_s", &json!(30)), "the limit of the order");
    let waits = lab.until("the second waits", &path, |job| job["discs"][1]["reason"].is_string()).await;
    assert_eq!(waits["discs"][1]["reason"], "tail1-sata1 takes part in 1 moves at once, which is its limit");
    assert_eq!((&waits["queue"]["discs"], &waits["active"]["discs"]), (&json!([2]), &json!([1])));

    // A failure of a kind that says nothing of other discs ends one; the next goes on.
    let failed = json!({"kind": "no-space", "message": "storage pool sata1 is full"});
    let mut own = lab.sending(0, "disc.sata.1").await;
    (own["phase"], own["error"]) = (json!("failed"), failed);
    lab.tails[0].say("disc.sata.1", &json!({"migration": own}));
    lab.gone(1, "disc.sata.1").await;
    let mut own = lab.sending(0, "disc.sata.2").await;
    assert_eq!(lab.root.get(&path).await.with(200)["status"]["discs"]["errored"], json!([1]));
    // One of an unknown kind ends it too, and says so.
    (own["phase"], own["error"]) = (json!("failed"), json!({"kind": "gremlins", "message": "who knows"}));
    lab.tails[0].say("disc.sata.2", &json!({"migration": own}));
    let job = lab.finished(job).await;
    assert!(job["stopped_reason"].as_str().unwrap().contains("who knows"), "{job:#}");
    assert_json_snapshot!("errored_job", scrubbed(job));
    assert_eq!(lab.alice.get("/discs/1").await.with(200)["storage_pool"], "tail1-sata1", "it is where it was");

    // The strategy alone orders the same.
    for strategy in [json!(null), json!("empty")] {
        let tail = lab.root.put("/admin/tails/tail1", json!({"usage_strategy": strategy})).await.with(200);
        assert_eq!(tail["usage_strategy"], strategy);
    }
    let jobs = lab.root.get("/admin/migration_jobs?unfinished=1").await.with(200);
    assert_eq!(jobs[0]["args"], json!({"options": {}, "sources": {"tails": ["tail1"]}, "destinations": {}}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_moves_are_called_off_and_regrades_change_the_grade() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server, |_| {}).await;
    let refused = lab.root.post("/admin/discs/1/cancel_migration", json!({})).await.with(400);
    assert!(refused["migration"][0].as_str().unwrap().contains("neither queued nor moving"), "{refused}");
    lab.root.post("/admin/discs/1/migrate", json!({})).await.with(200);
    lab.sending(0, "disc.sata.1").await;
    lab.root.post("/admin/discs/1/cancel_migration", json!({})).await.with(200);
    let job = lab.finished(1).await;
    assert_eq!(job["status"]["discs"]["cancelled"], json!([1]));
    assert_eq!(job["discs"][0]["reason"], "cancelled by root");
    for tail in 1..3 {
        lab.gone(tail, "disc.sata.1").await;
    }

    // A second attempt has a generation of its own, a job is called off in part, and the priority counts.
    let order =
        json!({"sources": {"discs": [1, "2"]}, "destinations": {"tails": ["tail3"]}, "options": {"priority": 3}});
    let job = lab.root.post("/admin/migration_jobs", order).await.with(200);
    assert_eq!(job["args"]["sources"], json!({"discs": [1, 2]}));
    let path = format!("/admin/migration_jobs/{}", job["id"]);
    let own = lab.sending(0, "disc.sata.1").await;
    assert_eq!((&own["generation"], &own["peer"]), (&json!(3), &json!("tail3")), "nbd.md 3.9: g+2");
    let refused = lab.root.put(&path, json!({"cancel": {"discs": [7]}})).await.with(400);
    assert_eq!(refused["cancel"][0], "disc 7 is not one of migration job 2");
    lab.root.put(&path, json!({"cancel": {"discs": [2]}, "options": {"priority": 7}})).await.with(200);
    lab.until("it is called off", &path, |job| job["status"]["discs"]["cancelled"] == json!([2])).await;
    lab.hand_over(0, 2, "disc.sata.1", "disc.sata.1").await;
    let done = lab.finished(2).await;
    assert_eq!((&done["priority"], &done["status"]["discs"]["done"]), (&json!(7), &json!([1])));

    let refused = lab.root.post("/admin/discs/2/regrade", json!({"new_grade": "sata"})).await.with(400);
    assert!(refused["new_grade"][0].as_str().unwrap().contains("the grade that the disc has"), "{refused}");
    let ordered = lab.root.post("/admin/discs/2/regrade", json!({"new_grade": "ssd"})).await.with(200);
    let own = lab.sending(0, "disc.sata.2").await;
    let to = if own["peer"] == "tail2" { 1 } else { 2 };
    lab.hand_over(0, to, "disc.sata.2", "disc.ssd.2").await;
    lab.finished(ordered["migration_job_id"].as_i64().unwrap()).await;
    assert_eq!(lab.alice.get("/discs/2").await.with(200)["storage_grade"], "ssd");
    lab.gone(0, "disc.sata.2").await;

    for (body, part) in [
        (json!({}), "name discs, pools or tails"),
        (json!({"sources": {"tails": ["tail9"]}}), "there is no tail"),
        (json!({"sources": {"discs": [77]}}), "there is no disc 77"),
        (json!({"sources": {"discs": [1]}, "destinations": {"pools": ["nowhere"]}}), "there is no storage pool"),
    ] {
        let refused = lab.root.post("/admin/migration_jobs", body).await.with(400).to_string();
        assert!(refused.contains(part), "{refused}");
    }
    lab.root.post("/admin/discs/99/migrate", json!({})).await.with(404);
    let head = lab.root.put("/admin/heads/head1", json!({"overcommit_ratio": "120", "label": "other"})).await;
    assert_eq!(head.headers["X-Ignored-Attributes"], "label", "it connects with its name");
    assert_eq!(head.with(200)["overcommit_ratio"], 120, "B12");
    lab.root.put("/admin/storage_pools/tail1-sata1", json!({"label": "tail2-sata1"})).await.with(400);
    lab.root.put("/admin/storage_pools/tail1-sata1", json!({"usage_strategy": "flood"})).await.with(400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_knows_no_moves_gets_no_order_and_the_operator_a_reason() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server, |tails| tails[1].takes_no_discs()).await;
    let refused = lab.root.post("/admin/discs/1/migrate", json!({"new_pool_spec": "tail2-sata1"})).await.with(400);
    let sentence = refused["new_pool_spec"][0].as_str().unwrap();
    assert!(sentence.contains("tail2 takes no part in moves"), "{sentence}");
    assert_eq!(lab.root.get("/admin/migration_jobs").await.with(200), json!([]), "nothing is half-made");
    assert!(lab.tails[1].state.lock().unwrap().commands.is_empty());
    // Wherever there is room is the third one, then.
    lab.root.post("/admin/discs/1/migrate", json!({})).await.with(200);
    assert_eq!(lab.sending(0, "disc.sata.1").await["peer"], "tail3");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule5_rule7_what_is_done_to_a_machine_while_its_disc_moves_has_a_defined_outcome() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server, |_| {}).await;
    lab.root.post("/admin/discs/1/migrate", json!({"new_pool_spec": "tail2-sata1"})).await.with(200);
    lab.sending(0, "disc.sata.1").await;
    let keys = |tail: usize| lab.tails[tail].get("disc.sata.1").unwrap().get("attachments").cloned();
    let before = keys(0);

    // The source is asked about attachments, and the target learns them in the freeze.
    off(&lab).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while keys(0) != Some(json!([])) {
        assert!(std::time::Instant::now() < deadline, "the source is not told: {:?}", keys(0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let image = json!({"distribution": "tiny", "root_password": "x"});
    let refused = lab.alice.post("/virtual_machines/web1/reimage", image).await.with(400).to_string();
    assert!(refused.contains("tail2-sata1"), "{refused}");
    lab.alice.put("/virtual_machines/web1", json!({"power_on": true})).await.with(200);
    lab.until("it runs again", "/virtual_machines/web1", |vm| vm["status"]["state"] == "running").await;
    assert!(keys(0) != before && keys(0) != Some(json!([])), "a start has a key of its own");
    assert_eq!(keys(1), None, "safety rule 5");

    // Whoever orders a second move is told of the first.
    for (path, body) in [
        ("/admin/discs/1/regrade", json!({"new_grade": "ssd"})),
        ("/admin/discs/1/migrate", json!({"new_pool_spec": "tail3-sata1"})),
    ] {
        let refused = lab.root.post(path, body).await.with(400).to_string();
        assert!(refused.contains("it is being moved to tail2-sata1 already"), "{refused}");
    }
    let plan = lab.root.post("/admin/tails/tail1/empty?plan=true", json!({})).await.with(200);
    assert_eq!(plan["discs"][0]["reason"], "it is being moved to tail2-sata1 already", "{plan:#}");

    // A disc that is removed moves no further; what both tails have of it goes.
    off(&lab).await;
    assert_eq!(lab.alice.delete("/discs/1?purge=true").await.status, 204);
    lab.gone(0, "disc.sata.1").await;
    lab.gone(1, "disc.sata.1").await;
    assert_eq!(lab.finished(1).await["status"]["discs"]["cancelled"], json!([1]));

    // A machine that is deleted may come back, so its disc moves on; one that is purged takes everything with it.
    lab.root.post("/admin/discs/2/migrate", json!({"new_pool_spec": "tail3-sata1"})).await.with(200);
    lab.sending(0, "disc.sata.2").await;
    assert_eq!(lab.alice.delete("/virtual_machines/web1").await.status, 204);
    lab.until("it is still moving", "/admin/migrating_discs", |discs| discs[0]["id"] == 2).await;
    assert_eq!(lab.alice.delete("/virtual_machines/web1?purge=true").await.status, 204);
    lab.gone(0, "disc.sata.2").await;
    lab.gone(2, "disc.sata.2").await;
    assert_eq!(lab.finished(2).await["status"]["discs"]["cancelled"], json!([2]));
    server.stop().await;
}

/// Turns the machine off, and waits until it is.
async fn off(lab: &Lab) {
    lab.alice.put("/virtual_machines/web1", json!({"power_on": false, "autoreboot_on": false})).await.with(200);
    lab.until("it is off", "/virtual_machines/web1", |vm| vm["status"]["state"] == "off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule9_a_target_is_promoted_when_its_source_is_lost_and_the_source_is_retired_first_when_it_is_back() {
    let Some(server) = common::Server::start().await else { return };
    let mut lab = Lab::start(&server, |_| {}).await;
    let confirmed = json!({"reason": "tail1 burnt down", "acknowledged_writes_may_be_lost": true});
    let promote = "/admin/discs/1/promote";
    let refused = lab.root.post(promote, confirmed.clone()).await.with(400);
    assert!(refused["migration"][0].as_str().unwrap().contains("not being moved"), "{refused}");
    let ordered = lab.root.post("/admin/discs/1/migrate", json!({"new_pool_spec": "tail2-sata1"})).await.with(200);
    let job = ordered["migration_job_id"].as_i64().unwrap();
    lab.sending(0, "disc.sata.1").await;
    let at_source = lab.tails[0].get("disc.sata.1").unwrap();
    lab.tails[1].say(
        "disc.sata.1",
        &json!({"owner": "prepared", "attachments": at_source["attachments"],
        "attachments_version": at_source["attachments_version"]}),
    );
    let refused = lab.root.post(promote, confirmed.clone()).await.with(400);
    assert!(refused["migration"][0].as_str().unwrap().contains("web1 must be off"), "{refused}");
    lab.tails[0].disconnect();
    off(&lab).await;
    let refused = lab.root.post("/admin/discs/1/take_back", confirmed.clone()).await.with(400);
    assert!(refused["migration"][0].as_str().unwrap().contains("tail1 is not connected"), "{refused}");
    let refused = lab.root.post(promote, json!({"reason": "tail1 burnt down"})).await.with(400);
    assert!(refused["acknowledged_writes_may_be_lost"][0].as_str().unwrap().contains("is lost"), "{refused}");
    let refused = lab.root.post(promote, json!({"acknowledged_writes_may_be_lost": true})).await.with(400);
    assert_eq!(refused["reason"][0], "can't be blank");
    lab.alice.post(promote, confirmed.clone()).await.with(404);
    lab.root.post("/admin/discs/99/promote", confirmed.clone()).await.with(404);
    lab.root.post(promote, confirmed).await.with(200);

    let done = lab.finished(job).await;
    assert_eq!(done["status"]["discs"]["done"], json!([1]), "{done:#}");
    let reason = done["discs"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "promoted by root, and acknowledged writes may be lost: tail1 burnt down");
    assert_eq!(lab.alice.get("/discs/1").await.with(200)["storage_pool"], "tail2-sata1");
    let events = "SELECT count(*) FROM events WHERE kind = 'disc-promoted' AND actor = 'root'";
    assert_eq!(lab.root.number(events).await, 1, "who, why and when");

    // The second disc is on the lost tail still: only the first can be had.
    lab.tails[0].connect();
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.tails[0].get("disc.sata.1").unwrap().get("owner") != Some(&json!("retired")) {
        assert!(std::time::Instant::now() < deadline, "it is not retired");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let copies = lab.root.get("/admin/old_copies").await.with(200);
    assert_eq!(
        (&copies[0]["tail"], &copies[0]["superseded_by"], &copies[0]["kept"], &copies[0]["disc_id"]),
        (&json!("tail1"), &json!("tail2"), &json!(true), &json!(1)),
        "{copies:#}"
    );
    lab.alice.get("/admin/old_copies").await.with(404);
    lab.alice.put("/virtual_machines/web1", json!({"power_on": true})).await.with(200);
    lab.until("it runs", "/virtual_machines/web1", |vm| vm["status"]["state"] == "running").await;
    let fresh = lab.tails[1].get("disc.sata.1").unwrap();
    assert_eq!(fresh["generation"], 3);
    assert_ne!(fresh["attachments"], at_source["attachments"], "new keys");
    assert!(lab.tails[0].get("disc.sata.1").is_some(), "it may have the only copy of a write");

    lab.root.post("/admin/discs/1/remove_old_copies", json!({})).await.with(200);
    lab.gone(0, "disc.sata.1").await;
    lab.until("it is forgotten", "/admin/old_copies", |copies| *copies == json!([])).await;
    lab.root.post("/admin/discs/1/remove_old_copies", json!({})).await.with(400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule9_rule19_a_disc_is_taken_back_when_its_target_is_lost_behind_the_fence() {
    let Some(server) = common::Server::start().await else { return };
    let mut lab = Lab::start(&server, |_| {}).await;
    lab.root.post("/admin/discs/1/migrate", json!({"new_pool_spec": "tail2-sata1"})).await.with(200);
    lab.sending(0, "disc.sata.1").await;
    let before = lab.tails[0].get("disc.sata.1").unwrap();
    lab.tails[1].disconnect();
    lab.tails[0].say("disc.sata.1", &json!({"owner": "fenced", "state": "moved"}));
    lab.until("it is away", "/discs/1", |disc| disc["status"]["state"] == "waiting").await;
    lab.root.post("/admin/discs/1/cancel_migration", json!({})).await.with(200);
    off(&lab).await;
    let confirmed = json!({"reason": "its drives are gone", "acknowledged_writes_may_be_lost": true});
    lab.root.post("/admin/discs/1/take_back", confirmed).await.with(200);
    let done = lab.finished(1).await;
    assert_eq!(done["status"]["discs"]["cancelled"], json!([1]), "{done:#}");
    assert!(done["discs"][0]["reason"].as_str().unwrap().starts_with("taken back by root"), "{done:#}");
    lab.alice.put("/virtual_machines/web1", json!({"power_on": true})).await.with(200);
    lab.until("it runs", "/virtual_machines/web1", |vm| vm["status"]["state"] == "running").await;
    let after = lab.tails[0].get("disc.sata.1").unwrap();
    assert_eq!((&after["owner"], &after["generation"]), (&json!("owner"), &json!(3)));
    assert_ne!(after["attachments"], before["attachments"], "new keys");
    // The target is back, and had become the owner: it is retired although a machine uses the disc already.
    lab.tails[1]
        .state
        .lock()
        .unwrap()
        .resources
        .get_mut(&"disc.sata.1".parse().unwrap())
        .unwrap()
        .extend([("owner".to_owned(), json!("owner")), ("state".to_owned(), json!("serving"))]);
    lab.tails[1].connect();
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.tails[1].get("disc.sata.1").unwrap()["owner"] != "retired" {
        assert!(std::time::Instant::now() < deadline, "it is not retired");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r126_a_pool_that_runs_short_says_what_would_help_and_does_it_when_it_may() {
    let Some(server) = common::Server::start().await else { return };
    let lab = Lab::start(&server, |_| {}).await;
    for (disc, gib) in [("disc.sata.1", 1u64), ("disc.sata.2", 2)] {
        lab.tails[0].say(disc, &json!({"allocated": gib << 30}));
    }
    // 10 % of 100 GiB are wanted; 1.5 GiB of these are missing.
    lab.root.sql("UPDATE storage_pools SET free_mib = 8704 WHERE label = 'tail1-sata1'").await;
    let path = "/admin/storage_pools/tail1-sata1";
    let pool = lab.until("moves are proposed", path, |pool| pool["proposed_moves"][0].is_object()).await;
    assert_eq!(pool["short"], true);
    let moves = pool["proposed_moves"].as_array().unwrap();
    assert_eq!((moves.len(), &moves[0]["id"], &moves[0]["from"]), (1, &json!(2), &json!("tail1-sata1")), "{pool:#}");
    assert_eq!(lab.root.get("/admin/migration_jobs").await.with(200), json!([]), "a proposal is not an order");

    lab.root.put(path, json!({"relieve_automatically": true})).await.with(200);
    let jobs = lab.until("the brain orders it", "/admin/migration_jobs", |jobs| jobs[0].is_object()).await;
    assert_eq!((&jobs[0]["created_by"], &jobs[0]["args"]["sources"]["discs"]), (&json!("brain"), &json!([2])));
    lab.sending(0, "disc.sata.2").await;
    let pool = lab.root.get(path).await.with(200);
    assert_eq!(pool["proposed_moves"], json!([]), "what is on its way out counts");
    assert_eq!(lab.root.number("SELECT count(*) FROM events WHERE kind = 'pool-short'").await, 1, "said once");
    server.stop().await;
}
