//! What goes wrong: each cause with its words and its exit code, whatever the brain sends.

use crate::{
    brain::{Brain, Reply},
    fixtures::{GROUP, brain, get_vm},
    program::Bigv,
};
use insta::assert_snapshot;
use std::net::TcpListener;

#[test]
fn every_status_has_its_words_and_its_code() {
    let mut all = String::new();
    for (status, body, code) in [
        (400, r#"{"colour":"is odd","cores":["must be less than or equal to 8"]}"#, 157),
        (400, "that will not do", 157),
        (401, "{}", 53),
        (403, r#"{"error":"you need vm_admin"}"#, 155),
        (404, "{}", 156),
        (405, "{}", 249),
        (302, "", 249),
        (500, r#"{"error":"internal error","request_id":"0123abcd"}"#, 152),
        (502, "<html>Bad gateway</html>", 150),
        (503, r#"{"error":"this brain is not the active one"}"#, 150),
        (418, "short and stout", 249),
    ] {
        let brain = brain();
        brain.on(&get_vm(), [Reply::Json(status, body.to_owned())]);
        let run = Bigv::new(&brain).run("vm show web1");
        assert_eq!(run.code, code, "{status}: {run:?}");
        assert_eq!(run.stdout, "", "{status}");
        all.push_str(&format!("{status} {body}\n{}\n", run.stderr));
    }
    assert_snapshot!("statuses", all);
}

#[test]
fn b02_a_refused_vm_says_which_disc_and_what_to_do() {
    let brain = brain();
    let refusal = r#"{"discs":[{},{"size":["must be greater than or equal to 50"]}],"reimage":{"distribution":["is not included in the list"]}}"#;
    brain.on(&format!("POST {GROUP}/vm_create"), [Reply::Json(400, refusal.to_owned())]);
    let run = Bigv::new(&brain).run("vm new web1 --vm-distribution nope --vm-discs 1G,10M");
    assert_eq!(run.code, 157, "{run:?}");
    assert_snapshot!("vm_create_refused", run.stderr);
}

#[test]
fn answers_that_make_no_sense_are_no_panic() {
    let html = Reply::With(200, "text/html", "<html>Welcome to the hotel's wireless network</html>".into());
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (what, reply) in [
        ("not JSON", html),
        ("wrong type", Reply::Json(200, r#"{"id":"seventeen"}"#.into())),
        ("not an object", Reply::Json(200, "[]".into())),
        ("nothing", Reply::Json(200, String::new())),
        ("too deep", Reply::Json(200, deep)),
        ("not UTF-8", Reply::Raw(b"HTTP/1.1 200 x\r\nContent-Length: 3\r\n\r\n\xff\xfe\x00".to_vec())),
        ("not HTTP", Reply::Raw(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec())),
        ("a huge number", Reply::Json(200, r#"{"id":99999999999999999999999}"#.into())),
    ] {
        let brain = brain();
        brain.on(&get_vm(), [reply]);
        let run = Bigv::new(&brain).run("vm show web1");
        assert_eq!(run.code, 249, "{what}: {run:?}");
        assert!(run.stderr.contains("makes no sense"), "{what}: {run:?}");
        assert!(!run.stderr.contains("panicked"), "{what}: {run:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_said() {
    for bytes in ["HTTP/1.1 200 x\r\nContent-Length: 300\r\n\r\n{\"id\":", "HTTP/1.1 200 x\r\nConte", ""] {
        let brain = brain();
        brain.on(&get_vm(), [Reply::Raw(bytes.into())]);
        let run = Bigv::new(&brain).run("vm show web1");
        assert_eq!(run.code, 150, "{bytes:?}: {run:?}");
        assert!(run.stderr.contains("look before you try again"), "{bytes:?}: {run:?}");
    }
}

#[test]
fn an_endless_answer_is_given_up() {
    let brain = brain();
    brain.on(&get_vm(), [Reply::Endless]);
    let run = Bigv::new(&brain).run("vm show web1");
    assert_eq!(run.code, 249, "{run:?}");
    assert!(run.stderr.contains("longer than 32 MiB"), "{run:?}");
}

#[test]
fn a_token_with_anything_odd_in_it_is_refused() {
    for token in ["", "two words", "line\nbreak", &"x".repeat(5000), "tök"] {
        let brain = brain();
        brain.on("POST /session", [Reply::With(200, "text/plain", token.to_owned())]);
        let run = Bigv::new(&brain).run("vm show web1");
        assert_eq!(run.code, 249, "{token:?}: {run:?}");
        assert!(brain.lines().is_empty(), "nothing was asked with it");
    }
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    for status in [401, 403] {
        let brain = brain();
        brain.on("POST /session", [Reply::With(status, "text/plain", "Bad login credentials".into())]);
        let run = Bigv::new(&brain).run("vm show web1");
        assert_eq!(run.code, 53, "{run:?}");
        assert!(run.stderr.contains("alice") && run.stderr.contains("Bad login credentials"), "{run:?}");
        assert!(!run.stderr.contains("hunter2"), "{run:?}");
        assert_eq!(brain.logins(), 1, "a stored password is not tried again");
    }
}

#[test]
fn a_brain_that_is_not_there_is_named() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let run = bigv.run(&format!("vm list --location http://127.0.0.1:{port}"));
    assert_eq!(run.code, 150, "{run:?}");
    assert!(run.stderr.contains(&format!("cannot reach the brain at http://127.0.0.1:{port}")), "{run:?}");
}

#[test]
fn plain_http_to_elsewhere_is_refused_before_anything_is_sent() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let run = bigv.run("vm list --location http://brain.example");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("--insecure"), "{run:?}");
}

#[test]
fn without_an_account_the_only_one_is_taken() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let run = |brain: &Brain| {
        let mut command = bigv.command("vm show web1");
        command.env_remove("BIGV_ACCOUNT").env("BIGV_LOCATION", format!("http://{}", brain.address));
        bigv.finish(command.spawn().unwrap())
    };
    assert_eq!(run(&brain).code, 0);
    brain.json("GET /accounts", r#"[{"id":1,"name":"acme"},{"id":2,"name":"other"}]"#);
    let several = run(&brain);
    assert_eq!(several.code, 9, "{several:?}");
    assert!(several.stderr.contains("acme, other"), "{several:?}");
    brain.json("GET /accounts", "[]");
    assert_eq!(run(&brain).code, 9);
}
