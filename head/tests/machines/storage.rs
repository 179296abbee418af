//! Discs that grow, discs that go away, CDs.

use crate::{
    bench::{Bench, Disc, guest_runs, hear_from_guest, in_namespace, machine, type_to_guest},
    guest,
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

#[test]
fn r087_rule_15_a_disc_grows_under_its_guest() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let mut disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        bench.created("1").await;
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;
        // As a tail does it: the file first, then the connections are closed, and the listener is back at once.
        disc.take_away();
        File::options().write(true).open(&disc.file).unwrap().set_len(32 << 20).unwrap();
        disc.serve().await;
        let mut grown = disc.resource();
        grown["size"] = json!(32 << 20);
        bench.update("1", json!({"discs": [grown]})).await.unwrap();
        assert_eq!(bench.updated("vm.1").await["discs"][0]["size"], json!(32 << 20));
        type_to_guest(&mut serial, guest::READ).await;
        hear_from_guest(&mut serial).await;
    });
}

#[test]
fn r119_rule_14_a_disc_that_is_away() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let mut disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;
        disc.take_away();
        type_to_guest(&mut serial, guest::READ).await;
        let refusal = bench.update("1", json!({"signal": {"signal": "reset"}})).await.unwrap_err();
        assert_eq!(refusal.error, "disc-away");
        assert!(refusal.message.contains(&format!("nbd:127.0.0.1:{}", disc.port)), "{refusal:?}");
        // The guest waits, and goes on when the disc is back.
        disc.serve().await;
        hear_from_guest(&mut serial).await;
        // With a request in flight qemu cannot end by itself.
        disc.take_away();
        type_to_guest(&mut serial, guest::READ).await;
        let pid = bench.pid_of("1");
        bench.remove("1", "vm stopped").await.unwrap();
        let reason = bench.destroyed("1").await;
        let killed = "vm stopped; qemu had to be killed because it did not end while disc nbd:127.0.0.1:";
        assert!(reason.starts_with(killed), "{reason}");
        bench.assert_nothing_left("1", Some(pid)).await;
    });
}

#[test]
fn r089_a_cd_goes_in_and_out_of_a_running_machine() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let (disc, first, second) =
            (Disc::new(&bench, "k").await, Disc::new(&bench, "cd").await, Disc::new(&bench, "cd").await);
        let url = |cd: &Disc| format!("nbd://127.0.0.1:{}/cd", cd.port);
        let mut vm = machine(&disc);
        vm["cdrom_url"] = json!("nbd://127.0.0.1:1/none");
        bench.create("1", &vm).await.expect("R095: a machine starts without a CD that cannot be read");
        let shown = bench.created("1").await;
        assert!(shown["cdrom_error"].as_str().unwrap().contains("cannot be read"), "{shown}");

        bench.update("1", json!({"cdrom_url": url(&first)})).await.unwrap();
        let changes = bench.updated("vm.1").await;
        assert_eq!(changes, json!({"cdrom_url": url(&first), "cdrom_error": null}));
        bench.update("1", json!({"cdrom_url": url(&second)})).await.unwrap();
        bench.update("1", json!({"cdrom_url": url(&first)})).await.unwrap();
        bench.updated("vm.1").await;
        bench.updated("vm.1").await;
        let refusal = bench.update("1", json!({"cdrom_url": "nbd://127.0.0.1:1/none"})).await.unwrap_err();
        assert_eq!(refusal.error, "cdrom-unreadable");
        let refusal = bench.update("1", json!({"cdrom_url": "file:///etc/shadow"})).await.unwrap_err();
        assert_eq!(refusal.error, "bad-value");
        bench.update("1", json!({"cdrom_url": null})).await.unwrap();
        assert_eq!(bench.updated("vm.1").await, json!({"cdrom_url": null}));
        bench.remove("1", "done").await.unwrap();
    });
}

/// An authority, a server's certificate for the name `tails`, and a client's, as qemu looks for them in a folder.
fn make_certificates(folder: &Path) {
    let script = r#"
        new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        openssl req -x509 $new -days 2 -subj "/CN=authority" -keyout ca-key.pem -out ca-cert.pem
        for who in server client; do
            openssl req $new -subj "/CN=$who" -addext "subjectAltName=DNS:tails" \
                -addext "extendedKeyUsage=${who}Auth" -keyout $who-key.pem -out $who.csr
            openssl x509 -req -in $who.csr -CA ca-cert.pem -CAkey ca-key.pem -copy_extensions copy -days 2 \
                -out $who-cert.pem
        done
    "#;
    let done = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn discs_are_reached_through_tls_and_no_others_are() {
    in_namespace(async || {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make_certificates(ours.path());
        make_certificates(theirs.path());
        let mut bench = Bench::new().await;
        let mut disc = Disc::new(&bench, "k").await;
        let in_the_clear = Disc::new(&bench, "k").await;
        disc.secure(ours.path()).await;
        // The keys are the head's own.
        for name in ["client-key.pem", "client-cert.pem", "ca-cert.pem"] {
            fs::set_permissions(ours.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(bench.create("1", &machine(&disc)).await.unwrap_err().error, "disc-unreachable", "without TLS");
        for (folder, hostname) in [(theirs.path(), "tails"), (ours.path(), "others"), (ours.path(), "tails")] {
            bench.end_head(Signal::SIGTERM).await;
            bench.tables = format!("[disc_tls]\nfolder = \"{}\"\nhostname = \"{hostname}\"", folder.display());
            bench.start_head().await;
            if (folder, hostname) != (ours.path(), "tails") {
                assert_eq!(bench.create("1", &machine(&disc)).await.unwrap_err().error, "disc-unreachable");
            }
        }
        assert_eq!(bench.create("1", &machine(&in_the_clear)).await.unwrap_err().error, "disc-unreachable");
        bench.create("1", &machine(&disc)).await.unwrap();
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;
        let left: Vec<_> =
            fs::read_dir(bench.run_path("vm-1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name == "tls"), "the key is not left lying about: {left:?}");
        // qemu needs no file to come back.
        disc.take_away();
        type_to_guest(&mut serial, guest::READ).await;
        disc.serve().await;
        hear_from_guest(&mut serial).await;
        let pid = bench.pid_of("1");
        bench.remove("1", "done").await.unwrap();
        bench.destroyed("1").await;
        bench.assert_nothing_left("1", Some(pid)).await;
    });
}

/// The tail's packets are lost from one moment on, without a reset or an end: as with a power cut. Only the
/// connection that is there is cut off, so that the guest goes on exactly when qemu has given it up.
#[test]
fn r119_rule_13_a_silent_loss_is_noticed() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;
        let connections = run("ss", &["-Htn", "state", "established", "dport", "=", &format!(":{}", disc.port)]);
        let local = connections.split_whitespace().nth(2).expect("qemu is connected");
        let port = local.rsplit_once(':').unwrap().1;
        run("nft", &["add table inet loss; add chain inet loss input { type filter hook input priority 0; }"]);
        run("nft", &[&format!("add rule inet loss input tcp sport {port} drop")]);
        run("nft", &[&format!("add rule inet loss input tcp dport {port} drop")]);
        type_to_guest(&mut serial, guest::READ).await;
        hear_from_guest(&mut serial).await;
    });
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
