//! Waiting: progress, failure, patience, Ctrl-C.

use crate::{
    brain::{Brain, Reply},
    fixtures::{GROUP, VM, brain, disc, get_vm, running, vm, vm_in, wait_vm},
    program::{Bigv, until},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

fn creating() -> Brain {
    let brain = brain();
    let created = json!({"virtual_machine": vm(), "discs": vm()["discs"]});
    brain.on(&format!("POST {GROUP}/vm_create"), [Reply::Json(202, created.to_string())]);
    brain
}

fn imaging(percent: u64) -> Reply {
    vm_in("imaging", json!({"status": {"state": "imaging", "reason": "writing tiny", "progress": percent}}))
}

#[test]
fn a_vm_is_made_and_waited_for() {
    let brain = creating();
    let waiting = vm_in("waiting", json!({"status": {"state": "waiting", "reason": "no head has room"}}));
    brain.on(&wait_vm("running"), [waiting, imaging(5), imaging(7), imaging(60), running()]);
    let run = Bigv::new(&brain)
        .run("vm new web1 --vm-distribution tiny --vm-discs sata:1GB,ssd:2.5GB --vm-cores 2 --vm-memory 2");
    assert_eq!(run.code, 0, "{run:?}");
    let order = brain.seen()[0].body.clone();
    assert_eq!(
        order,
        json!({
            "virtual_machine": {"name": "web1", "cores": 2, "memory": 2048},
            "discs": [
                {"label": "disc-1", "storage_grade": "sata", "size": 1024},
                {"label": "disc-2", "storage_grade": "ssd", "size": 2560},
            ],
            "reimage": {"distribution": "tiny"},
        })
    );
    // The seconds differ from run to run.
    let news: Vec<&str> = run.stderr.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(
        news,
        [
            "web1.default.acme: waiting: no head has room",
            "web1.default.acme: imaging: writing tiny 5%",
            "web1.default.acme: imaging: writing tiny 60%"
        ],
        "a line when there is news, and only then"
    );
    assert!(run.stdout.starts_with("name      web1.default.acme.lab.bigv.example"), "{run:?}");
}

#[test]
fn the_first_distribution_is_taken_and_said() {
    let brain = creating();
    let run = Bigv::new(&brain).run("vm new web1.default.acme --no-wait");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("taking tiny"), "{run:?}");
    let posted = brain.seen().into_iter().find(|seen| seen.line.starts_with("POST")).unwrap();
    let order = posted.body;
    assert_eq!(order["reimage"], json!({"distribution": "tiny"}));
    assert_eq!(order["discs"], json!([{"label": "disc-1", "storage_grade": "sata", "size": 25600}]));
    assert!(!brain.lines().iter().any(|line| line.contains("wait=")), "--no-wait does not wait");
}

#[test]
fn a_failure_ends_the_waiting_with_its_reason() {
    let brain = creating();
    let failed = vm_in("failed", json!({"status": {"state": "failed", "reason": "no pool has 1 GiB free"}}));
    brain.on(&wait_vm("running"), [failed]);
    let run = Bigv::new(&brain).run("vm new web1 --vm-distribution tiny");
    assert_eq!(run.code, 10, "{run:?}");
    assert!(run.stderr.contains("web1.default.acme: no pool has 1 GiB free"), "{run:?}");
}

#[test]
fn c12_patience_ends_and_the_last_news_are_said() {
    let brain = creating();
    brain.on(&wait_vm("running"), [imaging(40)]);
    let run = Bigv::new(&brain).run("vm new web1 --vm-distribution tiny --wait-max 1");
    assert_eq!(run.code, 11, "{run:?}");
    for part in ["imaging: writing tiny", "still being made", "bigv vm show web1.default.acme"] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
}

#[test]
fn r219_a_brain_that_goes_away_is_waited_for() {
    let brain = creating();
    let broken = Reply::Raw(Vec::new());
    let away = Reply::Json(503, r#"{"error":"restarting"}"#.into());
    brain.on(&wait_vm("running"), [imaging(1), broken, away, running()]);
    let run = Bigv::new(&brain).run("vm new web1 --vm-distribution tiny");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("trying again"), "{run:?}");
}

#[test]
fn a_session_that_runs_out_is_renewed() {
    let brain = creating();
    brain.on(&get_vm(), [Reply::Json(401, "{}".into()), running()]);
    let bigv = Bigv::new(&brain);
    bigv.ok("vm show web1");
    assert_eq!(brain.logins(), 2);
}

#[test]
fn ctrl_c_ends_the_waiting_and_not_the_operation() {
    let brain = creating();
    brain.on(&wait_vm("running"), [imaging(40), Reply::Hang]);
    let bigv = Bigv::new(&brain);
    let child = bigv.command("vm new web1 --vm-distribution tiny").spawn().unwrap();
    until("it waits", || brain.lines().iter().filter(|line| line.contains("wait=")).count() == 2);
    let before = brain.lines();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let run = bigv.finish(child);
    assert_eq!(run.code, 255, "{run:?}");
    assert!(run.stderr.contains("still being made; look again with `bigv vm show web1.default.acme`"), "{run:?}");
    assert_eq!(brain.lines(), before, "nothing more was asked of the brain");
}

#[test]
fn power_is_switched_by_its_rules() {
    let brain = brain();
    let off = || vm_in("off", json!({"power_on": false, "autoreboot_on": false}));
    brain.on(&format!("PUT {VM}"), [running()]);
    brain.on(&format!("POST {VM}/signal"), [Reply::Json(200, r#"{"signal":"powerdown"}"#.into())]);
    brain.on(&wait_vm("off"), [running(), off()]);
    let bigv = Bigv::new(&brain);
    let sent = |line: &str| -> Vec<Value> {
        let before = brain.seen().len();
        bigv.ok(line);
        let new = brain.seen().split_off(before);
        new.into_iter().filter(|seen| !seen.line.starts_with("GET")).map(|seen| seen.body).collect()
    };
    assert_eq!(sent("vm stop web1"), [json!({"autoreboot_on":false,"power_on":false})]);
    assert_eq!(sent("vm shutdown web1"), [json!({"autoreboot_on":false}), json!({"signal":"powerdown"})]);
    assert_eq!(sent("vm reset web1"), [json!({"signal":"reset"})]);

    brain.on(&get_vm(), [off()]);
    brain.on(&wait_vm("running"), [off(), running()]);
    assert_eq!(sent("vm start web1"), [json!({"autoreboot_on":true,"power_on":true})]);
    brain.on(&wait_vm("running"), [running()]);
    assert_eq!(sent("vm restart web1"), [json!({"autoreboot_on":true,"power_on":true})], "one that is off is started");
    assert_eq!(sent("vm shutdown web1"), [json!({"autoreboot_on":false})], "one that is off gets no signal");
}

#[test]
fn a_restart_waits_for_the_new_run() {
    let brain = brain();
    brain.on(&format!("PUT {VM}"), [running()]);
    let newly =
        vm_in("running", json!({"head": "head2", "status": {"state": "running", "since": "2026-01-02T09:00:00Z"}}));
    let going = vm_in("running", json!({"power_on": false, "status": vm()["status"]}));
    brain.on(&wait_vm("running"), [running(), going, newly]);
    Bigv::new(&brain).ok("vm restart web1");
    let waits = brain.lines().iter().filter(|line| line.contains("wait=")).count();
    assert_eq!(waits, 3, "the old run is not taken for the new one");
    let put = brain.seen().into_iter().find(|seen| seen.line.starts_with("PUT")).unwrap();
    assert_eq!(put.body, json!({"autoreboot_on":true,"power_on":false}));
}

#[test]
fn a_vm_is_deleted_had_back_and_purged() {
    let brain = brain();
    brain.on(&format!("DELETE {VM}"), [Reply::Json(204, String::new())]);
    brain.on(&format!("DELETE {VM}?purge=true"), [Reply::Json(204, String::new())]);
    brain.on(&format!("PUT {VM}"), [running()]);
    let bigv = Bigv::new(&brain);
    let run = bigv.run("vm delete web1");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("--force"), "{run:?}");
    assert!(bigv.ok("vm delete web1 --force").starts_with("VM web1 was deleted"));
    bigv.ok("vm undelete web1");
    assert_eq!(brain.seen().last().unwrap().body, json!({"deleted":false}));
    assert_eq!(bigv.ok("vm purge web1 --force"), "VM web1 was destroyed\n");
    assert!(brain.lines().last().unwrap().ends_with("?purge=true"));
}

#[test]
fn reimaging_needs_a_vm_that_is_off() {
    let brain = brain();
    let run = Bigv::new(&brain).run("vm reimage web1 --vm-distribution tiny --force");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("must be off"), "{run:?}");
    brain.on(&get_vm(), [vm_in("off", json!({"power_on": false}))]);
    brain.json(&format!("POST {VM}/reimage"), "{}");
    brain.on(&wait_vm("running"), [imaging(3), running()]);
    Bigv::new(&brain).ok("vm reimage web1 --vm-distribution tiny --vm-root-password s3cret --force");
    let posted = brain.seen().into_iter().find(|seen| seen.line.ends_with("/reimage")).unwrap();
    assert_eq!(posted.body, json!({"distribution":"tiny","root_password":"s3cret"}));
}

#[test]
fn a_cd_is_put_in_and_taken_out() {
    let brain = brain();
    brain.on(&format!("PUT {VM}"), [running()]);
    let bigv = Bigv::new(&brain);
    let body = |line: &str| {
        bigv.ok(line);
        brain.seen().into_iter().rfind(|seen| seen.line.starts_with("PUT")).unwrap().body
    };
    assert_eq!(body("vm cdrom web1 https://x.example/a.iso"), json!({"cdrom_url":"https://x.example/a.iso"}));
    assert_eq!(body("vm cdrom web1 --remove"), json!({"cdrom_url":null}));
    assert_eq!(bigv.run("vm cdrom web1").code, 7);
}

#[test]
fn a_disc_is_waited_for() {
    let brain = brain();
    let disc = |state: Value| {
        let mut disc = disc(23, "disc-3", "ssd", 10240);
        disc["status"] = state;
        Reply::Json(200, disc.to_string())
    };
    let making = || disc(json!({"state": "waiting", "reason": "tail1 is making it"}));
    brain.on(&format!("POST {VM}/discs"), [making()]);
    brain.on(&format!("GET {VM}/discs/disc-3"), [making(), disc(json!({"state": "serving"}))]);
    let bigv = Bigv::new(&brain);
    let run = bigv.run("disc new web1 ssd:10");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.starts_with("disc-3: waiting: tail1 is making it"), "{run:?}");
    assert!(run.stdout.contains("serving"), "{run:?}");

    brain.on(&format!("GET {VM}/discs/disc-3"), [disc(json!({"state": "failed", "reason": "no room"}))]);
    let run = bigv.run("disc new web1 ssd:10");
    assert_eq!(run.code, 10, "{run:?}");
    assert!(run.stderr.contains("disc-3: no room"), "{run:?}");
    assert!(bigv.ok("disc new web1 ssd:10 --no-wait").contains("waiting"));
}
