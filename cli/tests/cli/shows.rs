//! What is shown, in every format, at 80 columns.

use crate::{
    fixtures::{GROUP, VM, brain, disc, get_vm, vm, vm_in},
    program::Bigv,
};
use insta::assert_snapshot;
use serde_json::{Value, json};

#[test]
fn a_vm_in_every_format() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    assert_snapshot!("vm_show_human", bigv.ok("vm show web1"));
    assert_snapshot!("vm_show_table", bigv.ok("vm show web1 --output-format table"));
    let json: Value = serde_json::from_str(&bigv.ok("vm show web1 --output-format json")).unwrap();
    assert_eq!(json, vm(), "R014: json is exactly the API's object, with what this build does not know");
}

#[test]
fn what_a_vm_waits_for_fits_the_terminal() {
    let brain = brain();
    let reason =
        "head1 is not connected since 2026-11-22 09:35:27 UTC; its VMs are not started elsewhere automatically";
    let off = json!({"power_on": false, "autoreboot_on": false, "status": {"state": "waiting", "reason": reason}});
    brain.on(&get_vm(), [vm_in("waiting", off)]);
    let text = Bigv::new(&brain).ok("vm show web1");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.contains("state     waiting: head1 is not connected since") && text.contains("\n          "),
        "{text}"
    );
    assert!(text.contains("power     off\n"), "{text}");
}

#[test]
fn lists_in_every_format() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let mut all = String::new();
    for command in
        ["vm list", "disc list web1", "group list", "account list", "account show", "definitions", "user show"]
    {
        for format in ["human", "table"] {
            let text = bigv.ok(&format!("{command} --output-format {format}"));
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{command} {format} is too wide:\n{text}");
            all.push_str(&format!("$ bigv {command} --output-format {format}\n{text}\n"));
        }
    }
    assert_snapshot!("lists", all);
}

#[test]
fn lists_in_json_are_those_of_the_api() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let json = |line: &str| serde_json::from_str::<Value>(&bigv.ok(&format!("{line} -b"))).unwrap();
    assert_eq!(json("vm list"), json!([vm()]));
    assert_eq!(json("vm list default"), json!([vm()]));
    assert_eq!(json("vm list --group shop"), json!([]));
    assert_eq!(json("disc list web1"), vm()["discs"]);
    assert_eq!(json("definitions images"), json!({"id": "distributions", "data": ["tiny", "trixie"]}));
    assert_eq!(json("account list"), json!([{"id": 1, "name": "acme", "suspended": false}]));
    assert_eq!(json("user key list").as_array().unwrap().len(), 2);
}

#[test]
fn definitions_need_no_login() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let mut command = bigv.command("definitions grades");
    command.env_remove("BIGV_USERNAME").env_remove("BIGV_PASSWORD");
    let run = bigv.finish(command.spawn().unwrap());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(brain.logins(), 0);
    assert!(run.stdout.contains("fast"), "{run:?}");
}

#[test]
fn nothing_from_the_brain_steers_the_terminal() {
    let brain = brain();
    let mut hostile = vm();
    hostile["hostname"] = json!("web1\u{1b}[2J\u{1b}]0;owned\u{7}\n");
    hostile["status"] = json!({"state": "running", "reason": "\u{9b}31m"});
    brain.json(&crate::fixtures::get_vm(), hostile.to_string());
    let bigv = Bigv::new(&brain);
    for format in ["human", "table", "json"] {
        let text = bigv.ok(&format!("vm show web1 --output-format {format}"));
        let bad = |c: char| c.is_control() && c != '\n';
        // JSON escapes C0; C1 is legal in it, and only what scripts read.
        assert!(format == "json" && !text.contains('\u{1b}') || !text.contains(bad), "{format}: {text:?}");
    }
}

#[test]
fn what_is_ignored_is_said() {
    let brain = brain();
    let with = "application/json\r\nX-Ignored-Attributes: colour, shape";
    brain.on(&format!("PUT {VM}"), [crate::brain::Reply::With(200, with, vm().to_string())]);
    let run = Bigv::new(&brain).run("vm resize web1 --vm-cores 4 --vm-memory 1.5");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("ignored: colour, shape"), "B02: {run:?}");
    let put = brain.seen().into_iter().find(|seen| seen.line.starts_with("PUT")).unwrap();
    assert_eq!(put.body, json!({"cores": 4, "memory": 1536}));
    assert_eq!(put.content_type.as_deref(), Some("application/json"));
    assert_eq!(put.authorization.as_deref(), Some("Bearer token-1"));
}

#[test]
fn discs_are_made_resized_and_destroyed() {
    let brain = brain();
    brain.json(&format!("POST {VM}/discs"), disc(23, "disc-3", "ssd", 10240).to_string());
    brain.json(&format!("PUT {VM}/discs/disc-2"), disc(22, "disc-2", "ssd", 3584).to_string());
    brain.on(&format!("DELETE {VM}/discs/disc-2?purge=true"), [crate::brain::Reply::Json(204, String::new())]);
    let bigv = Bigv::new(&brain);
    for (id, label, grade) in [(23, "disc-3", "ssd"), (24, "data", "sata")] {
        brain.json(&format!("GET {VM}/discs/{label}"), disc(id, label, grade, 10240).to_string());
    }
    let body = |line: &str| {
        bigv.ok(line);
        brain.seen().into_iter().rfind(|seen| !seen.line.starts_with("GET")).unwrap().body
    };
    let made = json!({"label": "disc-3", "storage_grade": "ssd", "size": 10240});
    assert_eq!(body("disc new web1 ssd:10GB"), made);
    assert_eq!(body("disk-new --vm-name web1 --disc-grade ssd --disc-size 10"), made);
    assert_eq!(body("disc new web1 10 --disc-grade ssd"), made);
    assert_eq!(body("disc new web1 500M --disc-label data"), json!({"label":"data","storage_grade":"sata","size":500}));
    assert_eq!(body("disc resize web1 disc-2 +1GB --no-wait"), json!({"size":3584}));
    assert_eq!(body("disc resize web1 disc-2 3GB --no-wait"), json!({"size":3072}));
    assert_eq!(body("disc resize --vm-name web1 disc-2 --disc-size 3GB --no-wait"), json!({"size":3072}));
    assert_eq!(body("disc resize web1 disc-2 1GB --force --no-wait"), json!({"force":true,"size":1024}));
    let run = bigv.run("disc resize web1 disc-2 1GB");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("loses what is behind the new end"), "{run:?}");
    let run = bigv.run("disc delete web1 disc-2 --disc-label-confirmation disc-1");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(!brain.lines().iter().any(|line| line.starts_with("DELETE")), "nothing was destroyed yet");
    bigv.ok("disc delete web1 disc-2 --disc-label-confirmation disc-2");
    assert!(brain.lines().last().unwrap().starts_with("DELETE"));
}

#[test]
fn groups_are_made_and_removed() {
    let brain = brain();
    brain.json("POST /accounts/acme/groups", r#"{"id":6,"account_id":1,"name":"new"}"#);
    brain.on("DELETE /accounts/acme/groups/shop", [crate::brain::Reply::Json(204, String::new())]);
    brain.on(&format!("DELETE {GROUP}"), [crate::brain::Reply::Json(400, r#"{"base":["still has VMs"]}"#.into())]);
    let bigv = Bigv::new(&brain);
    assert_eq!(bigv.ok("group new new"), "Group new.acme was made.\n");
    assert_eq!(bigv.ok("group delete --group-name shop --force"), "Group shop.acme was removed.\n");
    let run = bigv.run("group delete default.acme --force");
    assert_eq!(run.code, 157, "{run:?}");
    assert!(run.stderr.contains("still has VMs"), "{run:?}");
    assert_eq!(bigv.run("group delete shop").code, 7, "without a terminal it needs --force");
}

#[test]
fn keys_are_added_and_removed_beside_the_others() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let file = bigv.home.path().join("id.pub");
    std::fs::write(&file, "ssh-ed25519 AAAAC3new new@host\n").unwrap();
    bigv.ok(&format!("user key add {}", file.display()));
    let put = brain.seen().last().unwrap().body.clone();
    assert_eq!(put["authorized_keys"].as_str().unwrap().lines().count(), 3, "{put}");
    bigv.ok("user keys delete work");
    let put = brain.seen().last().unwrap().body.clone();
    assert!(put["authorized_keys"].as_str().unwrap().ends_with("me@home"), "{put}");
    std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
    let run = bigv.run(&format!("user key add {}", file.display()));
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("private key"), "{run:?}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let mut child = bigv.command("completion bash").spawn().unwrap();
    drop(child.stdout.take());
    let run = bigv.finish(child);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn operators_see_the_cluster_itself() {
    let brain = brain();
    let head = json!({"id": 1, "label": "head1", "online": true, "virtual_machines_count": 3, "total_memory": 4096,
        "free_memory": 1024, "used_cores": 5, "cnc_address": "fd00:b16:0:2::11", "last_note": "", "uuid": "x"});
    let pool = json!({"name": "sata1", "label": "tail1-sata1", "grade": "sata", "size": 2097152, "free_space": 1048576,
        "alloc": 512000, "discs": 3, "note": "new discs"});
    let tail = json!({"id": 1, "label": "tail1", "online": false, "pools": ["tail1-sata1", "tail1-ssd1"],
        "cnc_address": "fd00:b16:0:2::21"});
    brain.json("GET /admin/heads", json!([head]).to_string());
    brain.json("GET /admin/heads/head1", head.to_string());
    brain.json("GET /admin/tails", json!([tail]).to_string());
    brain.json("GET /admin/storage_pools", json!([pool]).to_string());
    let bigv = Bigv::new(&brain);
    let commands = ["head list", "tail list", "pool list", "head show head1"];
    let shown: Vec<String> = commands.iter().map(|line| bigv.ok(&format!("{line} --admin"))).collect();
    assert_snapshot!("admin", shown.join("\n"));
    let json: Value = serde_json::from_str(&bigv.ok("--admin head list -b")).unwrap();
    assert_eq!(json, json!([head]));
    let run = bigv.run("head list");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("--admin"), "{run:?}");
}
