//! Discs that move between tails, as operators order and see it.

use crate::{
    brain::{Brain, Reply},
    fixtures::{brain, disc},
    program::Bigv,
};
use insta::assert_snapshot;
use serde_json::{Value, json};

const JOB: &str = "GET /admin/migration_jobs/5";

/// A job with one disc in this state.
fn job(state: &str, reason: Option<&str>) -> Value {
    let ids = |own: &str| if own == state { json!([45859]) } else { json!([]) };
    let ended = !matches!(state, "queued" | "moving");
    json!({
        "id": 5, "args": {"options": {}, "sources": {"discs": [45859]}, "destinations": {}},
        "queue": {"discs": ids("queued")}, "active": {"discs": ids("moving")}, "destinations": {"pools": [4]},
        "status": {"discs": {"done": ids("done"), "errored": ids("errored"), "cancelled": ids("cancelled"), "skipped": []}},
        "discs": [{"id": 45859, "from": "tail1-sata1", "to": "tail2-sata1", "state": state, "reason": reason}],
        "priority": 0, "created_by": "alice", "stopped_reason": null,
        "started_at": "2026-11-22T09:00:01Z", "finished_at": ended.then_some("2026-11-22T09:00:31Z"),
        "created_at": "2026-11-22T09:00:00Z", "updated_at": "2026-11-22T09:00:31Z",
    })
}

fn moving(percent: u64) -> Value {
    let mut disc = disc(45859, "vda", "sata", 25600);
    let more = json!({"new_storage_pool": "tail2-sata1", "new_storage_grade": "sata", "migration_job_id": 5,
        "migration_phase": "copying", "migration_progress": percent, "migration_eta": 12, "migration_speed": 110,
        "migration_expected_pause_ms": 18});
    disc.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    disc
}

fn plan() -> Value {
    json!({"discs": [
        {"id": 45859, "label": "vda", "virtual_machine_id": 17, "virtual_machine": "web1", "size": 25600,
         "from": "tail1-sata1", "to": "tail2-sata1", "reason": "tail2-sata1: 1024 MiB may still be promised"},
        {"id": 45860, "label": "vdb", "virtual_machine_id": 17, "virtual_machine": "web1", "size": 512000,
         "from": "tail1-sata1", "to": null, "reason": "the cluster is full"},
    ]})
}

fn reply(value: &Value) -> Reply {
    Reply::Json(200, value.to_string())
}

/// A brain that has been told to move the disc.
fn ordered() -> Brain {
    let brain = brain();
    let mut ordered = disc(45859, "vda", "sata", 25600);
    ordered["migration_job_id"] = json!(5);
    brain.json("POST /admin/discs/45859/migrate", ordered.to_string());
    brain.json("POST /admin/discs/45859/regrade", ordered.to_string());
    brain.json("GET /admin/migrating_discs", json!([moving(42)]).to_string());
    brain.json(JOB, job("moving", None).to_string());
    brain
}

fn sent(brain: &Brain) -> Value {
    brain.seen().into_iter().rfind(|seen| !seen.line.starts_with("GET")).unwrap().body
}

#[test]
fn b13_a_disc_is_moved_and_waited_for() {
    let brain = ordered();
    let [queued, moving, done] =
        [job("queued", Some("tail2 is not connected")), job("moving", None), job("done", None)];
    brain.on(JOB, [&queued, &queued, &moving, &done].map(reply));
    let bigv = Bigv::new(&brain);
    let run = bigv.run("--admin migrate disc 45859 tail2-sata1");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(sent(&brain), json!({"new_pool_spec": "tail2-sata1"}));
    let news: Vec<&str> = run.stderr.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(
        news,
        [
            "disc 45859: queued: tail2 is not connected 0%",
            "disc 45859: copying, 12 s left, 110 MB/s, to tail2-sata1 42%"
        ]
    );
    assert_snapshot!("migrated", run.stdout);

    brain.json(JOB, job("queued", None).to_string());
    let run = bigv.run("--admin migrate disc 45859 --no-wait --json");
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap(), job("queued", None), "{run:?}");
    assert_eq!(sent(&brain), json!({}));
    bigv.run("--admin migrate disc 45859 --limit 50 --no-wait");
    assert_eq!(sent(&brain), json!({"limit_mb_per_s": 50}));

    // One that is under way can be watched at any time.
    brain.on(JOB, [&moving, &moving, &done].map(reply));
    let run = bigv.run("--admin show migration 5 --follow");
    assert!(run.code == 0 && run.stderr.contains("12 s left") && run.stdout.contains("done"), "{run:?}");
}

#[test]
fn what_was_not_moved_is_an_error_with_the_next_step() {
    let brain = ordered();
    brain.on(JOB, [reply(&job("moving", None)), reply(&job("errored", Some("storage pool sata1 is full")))]);
    let bigv = Bigv::new(&brain);
    let run = bigv.run("--admin regrade disc 45859 ssd");
    assert_eq!(run.code, 10, "{run:?}");
    assert_eq!(sent(&brain), json!({"new_grade": "ssd"}));
    for part in ["is where it was", "storage pool sata1 is full", "order it again"] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    brain.json(JOB, job("moving", None).to_string());
    let run = bigv.run("--admin migrate disc 45859 --wait-max 1");
    assert_eq!(run.code, 11, "{run:?}");
    for part in ["migration 5 goes on", "bigv show migration 5 --admin", "--cancel-all"] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    let refused = r#"{"new_pool_spec":["tail2 takes no part in moves"]}"#;
    brain.on("POST /admin/discs/45859/migrate", [Reply::Json(400, refused.into())]);
    let run = bigv.run("--admin migrate disc 45859 tail2-sata1");
    assert_eq!(run.code, 157, "{run:?}");
    assert!(run.stderr.contains("tail2 takes no part in moves") && run.stderr.contains("--plan"), "{run:?}");
}

#[test]
fn plans_say_what_would_be_done_and_do_nothing() {
    let brain = brain();
    brain.json("POST /admin/migration_jobs?plan=true", plan().to_string());
    brain.json("POST /admin/tails/tail1/empty?plan=true", plan().to_string());
    brain.json("POST /admin/storage_pools/tail1-sata1/empty?plan=true", plan().to_string());
    let bigv = Bigv::new(&brain);
    assert_snapshot!("plan", bigv.ok("--admin empty tail tail1 --plan"));
    let same = bigv.ok("--admin create migration --tail tail1 --to-tail tail2 --plan");
    for line in [
        "empty tail tail1",
        "empty storage pool tail1-sata1",
        "empty pool tail1-sata1",
        "migrate disc 45859",
        "regrade disc 45859 ssd",
    ] {
        assert_eq!(bigv.ok(&format!("--admin {line} --plan")), same, "{line}");
    }
    assert_eq!(sent(&brain), json!({"sources": {"discs": [45859]}, "options": {"grade": "ssd"}}));
    assert!(brain.lines().iter().all(|line| line.ends_with("?plan=true")), "{:?}", brain.lines());
}

#[test]
fn b14_b15_jobs_are_ordered_changed_and_shown() {
    let brain = ordered();
    brain.json("POST /admin/migration_jobs", job("queued", None).to_string());
    brain.json("POST /admin/tails/tail1/empty", job("queued", None).to_string());
    brain.json("PUT /admin/migration_jobs/5", job("cancelled", Some("cancelled by alice")).to_string());
    brain.json("POST /admin/discs/45859/cancel_migration", disc(45859, "vda", "sata", 25600).to_string());
    brain.json("GET /admin/migration_jobs?unfinished=1", json!([job("moving", None)]).to_string());
    brain.json("GET /admin/migration_jobs", json!([job("moving", None), job("done", None)]).to_string());
    let bigv = Bigv::new(&brain);
    let body = |line: &str| {
        bigv.ok(&format!("--admin {line}"));
        sent(&brain)
    };
    assert_eq!(
        body("create migration --disc 1 --disc 2 --pool p --to-pool q --to-tail t --priority -3 --no-wait"),
        json!({"options": {"priority": -3}, "sources": {"discs": [1, 2], "pools": ["p"], "tails": []},
            "destinations": {"pools": ["q"], "tails": ["t"]}})
    );
    assert_eq!(body("empty tail tail1 --no-wait"), json!({}));
    assert_eq!(body("empty tail tail1 --limit 50 --no-wait"), json!({"limit_mb_per_s": 50}));
    assert_eq!(body("regrade disc 45859 ssd --limit 50 --no-wait"), json!({"new_grade": "ssd", "limit_mb_per_s": 50}));
    assert_eq!(body("update migration --id 5 --priority 9"), json!({"options": {"priority": 9}}));
    assert_eq!(body("update migration --id 5 --cancel-all"), json!({"cancel": {"all": true}}));
    assert_eq!(
        body("update migration --id 5 --cancel-disc 1 --cancel-tail t"),
        json!({"cancel": {"discs": [1], "pools": [], "tails": ["t"]}})
    );
    bigv.ok("--admin cancel migration --disc 45859");
    brain.json("PUT /admin/storage_pools/p", json!({"label": "p"}).to_string());
    brain.json("PUT /admin/tails/t", json!({"label": "t"}).to_string());
    assert_eq!(
        body("update storage-pool p --usage-strategy none --migration-concurrency 4"),
        json!({"usage_strategy": null, "migration_concurrency": 4})
    );
    assert_eq!(body("update tail t --usage-strategy empty"), json!({"usage_strategy": "empty"}));
    let mut shown = String::new();
    for line in ["migrations", "show migrations --all", "show migration 5", "show migrating discs"] {
        let text = bigv.ok(&format!("{line} --admin"));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{line} is too wide:\n{text}");
        shown.push_str(&format!("$ bigv {line} --admin\n{text}\n"));
    }
    assert_snapshot!("migrations", shown);
    let json: Value = serde_json::from_str(&bigv.ok("--admin show migrating discs --json")).unwrap();
    assert_eq!(json, json!([moving(42)]));
    let mut lost = moving(0);
    lost["status"] = json!({"state": "waiting", "reason": "tail1 is not connected since 09:00", "since": null});
    brain.json("GET /admin/migrating_discs", json!([lost]).to_string());
    let text = bigv.ok("--admin show migrating discs");
    assert!(text.contains("waiting: tail1 is not connected"), "{text}");

    for (line, part) in [
        ("migrate disc 45859", "--admin"),
        ("--admin create migration", "--disc, --pool or --tail"),
        ("--admin update migration --id 5", "--cancel-all"),
        ("--admin update pool p", "--usage-strategy"),
        ("--admin update tail t --usage-strategy flood", "empty, default, none"),
        ("--admin migrate disc vda", "vda"),
        ("--admin cancel migration", "--disc"),
    ] {
        let run = bigv.run(line);
        assert_eq!(run.code, 7, "{line}: {run:?}");
        assert!(run.stderr.contains(part), "{line}: {run:?}");
    }
}

#[test]
fn r126_a_pool_that_is_short_shows_what_would_help() {
    let brain = brain();
    let mut pool = json!({"id": 1, "label": "tail1-sata1", "grade": "sata", "size": 102_400, "free_space": 8704,
        "alloc": 3072, "discs": 2, "short": true, "usage_strategy": null, "note": "", "overcommit_ratio": 150,
        "migration_concurrency": 2, "migration_limit_mb_per_s": 0, "short_percent": 10, "relieve_automatically": false,
        "proposed_moves": plan()["discs"]});
    let path = "GET /admin/storage_pools/tail1-sata1";
    brain.json(path, pool.to_string());
    let bigv = Bigv::new(&brain);
    assert_snapshot!("short_pool", bigv.ok("--admin pool show tail1-sata1"));
    pool["proposed_moves"] = json!([]);
    brain.json(path, pool.to_string());
    assert!(bigv.ok("--admin pool show tail1-sata1").contains("None: no other pool takes them"));
    pool["short"] = json!(false);
    brain.json(path, pool.to_string());
    assert!(!bigv.ok("--admin pool show tail1-sata1").contains("would help"));
}

#[test]
fn rule9_a_disc_is_promoted_and_taken_back_only_by_its_number_and_with_a_reason() {
    let brain = brain();
    for action in ["promote", "take_back", "remove_old_copies"] {
        brain.json(&format!("POST /admin/discs/45859/{action}"), disc(45859, "vda", "sata", 25600).to_string());
    }
    let bigv = Bigv::new(&brain);
    for (command, path) in [("promote disc 45859", "promote"), ("take back disc 45859", "take_back")] {
        for (more, part) in [
            ("", "--reason"),
            ("--reason burnt", "Writes that the lost tail has acknowledged may be lost for good"),
            ("--reason burnt", "--disc-confirmation 45859"),
            ("--reason burnt --disc-confirmation 45858", "says 45858"),
        ] {
            let run = bigv.run(&format!("--admin {command} {more}"));
            assert!(run.code != 0 && run.stderr.contains(part), "{part}: {run:?}");
        }
        assert!(brain.seen().iter().all(|seen| !seen.line.contains(path)), "nothing was ordered");
        let run = bigv.run(&format!("--admin {command} --reason burnt --disc-confirmation 45859"));
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(sent(&brain), json!({"reason": "burnt", "acknowledged_writes_may_be_lost": true}));
        assert!(run.stdout.contains("bigv show old copies --admin"), "{run:?}");
        let run = bigv.run(&format!("--admin {command} --reason burnt --disc-confirmation 45859 --json"));
        assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap()["id"], 45859);
        assert_ne!(bigv.run(&format!("{command} --reason burnt --disc-confirmation 45859")).code, 0, "operators only");
    }
    let copies = json!([{"disc_id": 45859, "virtual_machine_id": 17, "number": 7, "tail": "tail1",
        "superseded_by": "tail2", "kept": true, "since": "2026-11-22T09:00:00Z"}]);
    brain.json("GET /admin/old_copies", copies.to_string());
    assert_snapshot!("old_copies", bigv.run("--admin show old copies").stdout);
    assert!(bigv.run("--admin remove old copies 45859").stderr.contains("the only copy of a write"));
    assert_eq!(bigv.run("--admin remove old copies 45859 --disc-confirmation 45859").code, 0);
    assert_eq!(sent(&brain), json!({}));
}
