//! TLS as it is configured for a tail with a brain: clients of its discs, and discs that move between two tails.

#![allow(clippy::print_stderr, reason = "what tails say of each other")]

#[path = "common/certificates.rs"]
mod certificates;
mod common;
mod netns;

use common::{MIB, has};
use netns::{
    Net,
    brain::{Brain, no, ok},
    lan::Lan,
    tail::{Tail, allocated},
};
use serde_json::{Value, json};
use spine::message::Command as Order;
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Output},
};

const KEY: &str = "sesame";
const ADDRESS: &str = "fd00:b16:0:d::7";
const DISC: &str = "disc.sata.7";
const SIZE: u64 = 64 * MIB;

/// Adds a table to the configuration of a tail.
fn configure(tail: &Tail, table: &str) {
    File::options().append(true).open(tail.config()).unwrap().write_all(table.as_bytes()).unwrap();
}

fn order() -> Value {
    json!({
        "size": SIZE, "storage_pool": "sata1", "generation": 1, "attachments_version": 1,
        "attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}],
    })
}

/// A tail with that table in its configuration, and one disc.
async fn start(net: &Net, table: &str) -> (Tail, Brain) {
    let mut tail = Tail::new(net);
    configure(&tail, table);
    tail.start();
    let mut brain = Brain::listen().await;
    brain.connect().await;
    ok(brain.create(DISC, order()).await);
    (tail, brain)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[track_caller]
fn fails(program: &str, arguments: &[&str]) {
    let status = run(program, arguments).status;
    assert!(!status.success() && status.code() != Some(124), "{program} {arguments:?}: {status}");
}

/// What libnbd and qemu call the disc, with what they prove who they are by.
fn clients(libnbd: &str, qemu: &str) -> (String, [String; 4]) {
    let (user, parameter) = libnbd.split_once('?').unwrap();
    let server = format!("driver=nbd,server.type=inet,server.host={ADDRESS},server.port=10809,export={KEY}");
    let options = ["--object".to_owned(), qemu.to_owned(), "--image-opts".to_owned(), format!("{server},tls-creds=t0")];
    (format!("nbds://{user}[{ADDRESS}]/{KEY}?{parameter}"), options)
}

/// libnbd and qemu come in by these, and in no other way.
fn expect_only((uri, qemu): &(String, [String; 4]), strangers: &[(String, [String; 4])]) {
    assert_eq!(succeeds("nbdinfo", &["--size", uri]).trim(), SIZE.to_string());
    let commands = ["-c", "write -P 90 4096 3M", "-c", "flush", "-c", "read -P 90 4096 3M", "-c", "read -P 0 8M 1M"];
    let arguments: Vec<&str> = qemu.iter().map(String::as_str).collect();
    let said = succeeds("qemu-io", &[&commands[..], &arguments].concat());
    assert!(!said.contains("failed"), "{said}");
    fails("nbdinfo", &[&format!("nbd://[{ADDRESS}]/{KEY}")]);
    for (uri, qemu) in strangers {
        fails("nbdinfo", &[uri]);
        let arguments: Vec<&str> = qemu.iter().map(String::as_str).collect();
        fails("qemu-img", &[&["info"][..], &arguments].concat());
    }
}

#[test]
fn discs_are_given_through_tls_to_clients_with_a_certificate_and_to_no_others() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if !has("nbdinfo") || !has("qemu-io") || !has("openssl") {
        return;
    }
    for folder in [&folder, &other] {
        assert!(certificates::make(folder.path()));
        certificates::issue(folder.path(), "server", &format!("IP:{ADDRESS}"));
    }
    let net = Net::new();
    net.run(|| async {
        let at = folder.path().display();
        let table = format!(
            "[tls]\nmode = \"required\"\ncertificate = \"{at}/server-cert.pem\"\nkey = \"{at}/server-key.pem\"\n\
             client_ca = \"{at}/ca-cert.pem\"\n"
        );
        let (mut tail, mut brain) = start(&net, &table).await;
        let by = |folder: &Path| {
            let at = folder.display();
            clients(&format!("?tls-certificates={at}"), &format!("tls-creds-x509,id=t0,endpoint=client,dir={at}"))
        };
        expect_only(&by(folder.path()), &[by(other.path())]);
        // Certificates do not stand for the right to a disc.
        ok(brain.update(DISC, json!({"attachments": [], "attachments_version": 2})).await);
        fails("nbdinfo", &[&by(folder.path()).0]);
        tail.terminate();
        assert_eq!(fs::read(tail.file("7.data")).unwrap()[4096..4096 + 3 * MIB as usize], vec![90; 3 * MIB as usize]);
    });
}

#[test]
fn discs_are_given_through_tls_to_clients_with_a_shared_key_and_to_no_others() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if !has("nbdinfo") || !has("qemu-io") || !has("openssl") {
        return;
    }
    for folder in [&folder, &other] {
        assert!(certificates::run("# A key", folder.path()));
    }
    let net = Net::new();
    net.run(|| async {
        let table = format!("[tls]\nmode = \"required\"\npsk_file = \"{}/keys.psk\"\n", folder.path().display());
        let (_tail, _brain) = start(&net, &table).await;
        let by = |folder: &Path| {
            let at = folder.display();
            let qemu = format!("tls-creds-psk,id=t0,endpoint=client,dir={at},username=head1");
            clients(&format!("head1@?tls-psk-file={at}/keys.psk"), &qemu)
        };
        expect_only(&by(folder.path()), &[by(other.path())]);
    });
}

/// Two tails that are told what to prove to each other by.
struct Pair {
    lan: Lan,
    tails: [Tail; 2],
    plain: [String; 2],
}

impl Pair {
    fn new() -> Self {
        let lan = Lan::new();
        let tails = [Tail::numbered(&lan.tails[0], 1), Tail::numbered(&lan.tails[1], 2)];
        let plain = [0, 1].map(|tail: usize| fs::read_to_string(tails[tail].config()).unwrap());
        Self { lan, tails, plain }
    }

    /// Starts both, each with the certificate of that folder and name, or without TLS.
    async fn start(&mut self, brains: &mut [Brain; 2], identities: [Option<(&Path, &str)>; 2]) {
        for ((tail, plain), identity) in self.tails.iter_mut().zip(&self.plain).zip(identities) {
            fs::write(tail.config(), plain).unwrap();
            if let Some((folder, who)) = identity {
                let at = folder.display();
                let table = format!(
                    "[migration_tls]\ncertificate = \"{at}/{who}-cert.pem\"\nkey = \"{at}/{who}-key.pem\"\n\
                     authorities = \"{at}/ca-cert.pem\"\n"
                );
                configure(tail, &table);
            }
            tail.start();
        }
        for brain in brains {
            brain.connect().await;
        }
    }
}

/// Orders a move. The n-th one has generation n + 1.
async fn order_move([source, target]: &mut [Brain; 2], attempt: u64) {
    let id = format!("00000000-0000-0000-0000-{attempt:012}");
    let incoming = json!({
        "size": SIZE, "storage_pool": "sata1", "generation": attempt + 1,
        "incoming": {"id": id, "source": "tail1", "address": "fd00:b16:0:2::21"}
    });
    ok(target.create(DISC, incoming).await);
    let migration = json!({"migration": {
        "id": id, "target": "tail2", "address": "[fd00:b16:0:2::22]:7771", "generation": attempt + 1, "pause_ms": 100
    }});
    ok(source.update(DISC, migration).await);
}

async fn until(brain: &mut Brain, phase: &str) {
    brain.until(phase, |brain| brain.resource(DISC).is_some_and(|report| report["migration"]["phase"] == phase)).await;
}

#[test]
fn r120_discs_move_between_tails_that_prove_who_they_are_and_to_no_others() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if !has("openssl") {
        return;
    }
    for folder in [&folder, &other] {
        assert!(certificates::make(folder.path()));
        for name in ["tail1", "tail2", "tail3"] {
            certificates::issue(folder.path(), name, &format!("DNS:{name}"));
        }
    }
    let good = |name: &'static str| Some((folder.path(), name));
    let stranger = |name: &'static str| Some((other.path(), name));
    let mut pair = Pair::new();
    let namespace = pair.lan.client.clone();
    netns::run_in(&namespace, || async move {
        let mut brains = [Brain::listen_for(1).await, Brain::listen_for(2).await];
        let data: Vec<u8> = (0..3 * MIB).map(|at| (at % 251) as u8).collect();
        for (attempt, (what, identities)) in (1..).zip([
            ("the target has the certificate of another tail", [good("tail1"), good("tail3")]),
            ("the source has the certificate of another tail", [good("tail3"), good("tail2")]),
            ("the target's certificate is of another authority", [good("tail1"), stranger("tail2")]),
            ("the source's certificate is of another authority", [stranger("tail1"), good("tail2")]),
            ("the source has no TLS", [None, good("tail2")]),
            ("the target has no TLS", [good("tail1"), None]),
        ]) {
            pair.start(&mut brains, identities).await;
            if attempt == 1 {
                ok(brains[0].create(DISC, order()).await);
                File::options()
                    .write(true)
                    .open(pair.tails[0].file("7.data"))
                    .unwrap()
                    .write_all_at(&data, MIB)
                    .unwrap();
            }
            order_move(&mut brains, attempt).await;
            // It is held up, or the target has refused it.
            let settled = |report: &Value| {
                let migration = &report["migration"];
                migration["waiting"]["kind"] == "unreachable" || migration["phase"] == "failed"
            };
            brains[0].until(what, |brain| brain.resource(DISC).is_some_and(settled)).await;
            let report = brains[0].resource(DISC).unwrap();
            assert_eq!(
                (&report["owner"], &report["state"], &report["generation"]),
                (&json!("owner"), &json!("serving"), &json!(1)),
                "{what}"
            );
            let (held_up, refused) =
                (&report["migration"]["waiting"]["message"], &report["migration"]["error"]["message"]);
            eprintln!("{what}: {}", held_up.as_str().or(refused.as_str()).expect("a reason"));
            assert_eq!(brains[1].resource(DISC).unwrap()["owner"], "incoming", "{what}");
            assert_eq!(allocated(&pair.tails[1].file("7.data")), 0, "{what}");
            assert!(pair.lan.addresses(1).contains(&format!("{ADDRESS}/")), "{what}");
            assert!(!pair.lan.addresses(2).contains(&format!("{ADDRESS}/")), "{what}");
            if held_up.is_string() {
                ok(brains[0].update(DISC, json!({"migration": null})).await);
                until(&mut brains[0], "failed").await;
            }
            let Value::Object(drop) = json!({
                "generation": attempt + 1, "aborted": format!("00000000-0000-0000-0000-{attempt:012}")
            }) else {
                unreachable!()
            };
            ok(brains[1].order(Order::Remove(DISC.parse().unwrap(), drop)).await);
            pair.tails.iter_mut().for_each(Tail::terminate);
        }
        pair.start(&mut brains, [good("tail1"), good("tail2")]).await;
        order_move(&mut brains, 7).await;
        until(&mut brains[1], "done").await;
        until(&mut brains[0], "done").await;
        no(brains[0].update(DISC, json!({"attachments": [], "attachments_version": 2})).await, "moved");
        assert_eq!(brains[1].resource(DISC).unwrap()["state"], "serving");
        let mut moved = vec![0; data.len()];
        File::open(pair.tails[1].file("7.data")).unwrap().read_exact_at(&mut moved, MIB).unwrap();
        assert!(moved == data);
    });
}
