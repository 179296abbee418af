//! A machine's qemu reaches the addresses of its own discs, and of no others (safety rule 6).

use crate::bench::{Bench, Disc, FIRST_UID, eventually, guest_runs, in_namespace, ip, machine};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

const OWN: &str = "fd00:b16:0:d::1";
const OTHER: &str = "fd00:b16:0:d::2";
/// A private address that no disc has.
const ELSEWHERE: &str = "fd00:b16:0:2::9";
/// Another one, that CDs may come from.
const ALLOWED: &str = "fd00:b16:0:2::a";
/// Addresses of the Internet, in a network of the head's and elsewhere.
const NEIGHBOUR: &str = "2001:db8:1::7";
const FAR: &str = "2001:db8:2::7";

fn addresses() {
    for address in [OWN, OTHER, ELSEWHERE, ALLOWED] {
        ip(&format!("-6 addr add {address}/128 dev lo"));
    }
}

fn nft(arguments: &str) -> String {
    let output = Command::new("nft").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// True when a process of `uid` can connect. Its own word for it, and not the head's.
fn reaches(uid: u32, disc: &Disc) -> bool {
    let (host, port) = (&disc.host, disc.port);
    runs(uid, &format!("exec 3<>/dev/tcp/{host}/{port}"))
}

fn runs(uid: u32, script: &str) -> bool {
    let mut program = Command::new("setpriv");
    program.arg(format!("--reuid={uid}")).args(["--clear-groups", "timeout", "10", "bash", "-c", script]);
    program.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn rule_6_the_table_of_an_earlier_version_goes_when_the_new_one_is_up() {
    in_namespace(async || {
        let (former, other) = (format!("ip6 bigv_head_{FIRST_UID}"), "ip6 bigv_head_1");
        nft(&format!("add table {former}"));
        nft(&format!("add table {other}"));
        let _bench = Bench::new().await;
        let gone = eventually("the table goes", || (!nft("list tables").contains(&former)).then(|| nft("list tables")));
        let left = gone.await;
        assert!(left.contains(&format!("inet bigv_head_{FIRST_UID}")) && left.contains(other), "{left}");
    });
}

#[test]
fn rule_6_a_machine_reaches_its_own_discs_only() {
    in_namespace(async || {
        addresses();
        let mut bench = Bench::new().await;
        let own = Disc::at(&bench, OWN, "k").await;
        let other = Disc::at(&bench, OTHER, "cd").await;
        bench.create("1", &machine(&own)).await.expect("its own disc can be reached");
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;

        let url = |disc: &Disc| json!({"cdrom_url": format!("nbd://{}/cd", disc.address())});
        let refusal = bench.update("1", url(&other)).await.unwrap_err();
        assert_eq!(refusal.error, "cdrom-unreadable", "another disc is refused to qemu itself: {refusal:?}");
        assert!(reaches(FIRST_UID, &own) && !reaches(FIRST_UID, &other));
        assert!(!reaches(FIRST_UID + 5, &own), "a uid without a machine reaches no disc");
        assert!(reaches(FIRST_UID + 100, &own), "other users are not ours to fence in");

        bench.remove("1", "done").await.unwrap();
        assert!(!reaches(FIRST_UID, &own), "the next machine with this uid has other discs");
    });
}

#[test]
fn r095_a_cd_comes_from_the_internet_or_from_where_the_operator_allows() {
    in_namespace(async || {
        addresses();
        ip(&format!("-6 addr add {NEIGHBOUR}/64 dev br-public nodad"));
        let mut bench = Bench::new().await;
        // The head does not know that it is here: to it, it is the Internet.
        ip(&format!("-6 addr add {FAR}/128 dev lo"));
        let own = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&own)).await.expect("a disc is reached wherever it is");
        for (address, reached) in
            [(ELSEWHERE, false), ("127.0.0.2", false), (NEIGHBOUR, false), (ALLOWED, true), (FAR, true)]
        {
            let cd = Disc::at(&bench, address, "cd").await;
            let update = bench.update("1", json!({"cdrom_url": format!("nbd://{}/cd", cd.address())})).await;
            assert_eq!(
                update.map_err(|refusal| refusal.error),
                if reached { Ok(()) } else { Err("cdrom-unreadable".into()) },
                "{address}"
            );
        }
        let name_server = std::net::TcpListener::bind("127.0.0.3:53").unwrap();
        let port = |port| format!("exec 3<>/dev/tcp/127.0.0.3/{port}");
        assert!(runs(FIRST_UID, &port(name_server.local_addr().unwrap().port())), "names are found");
        let other = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
        assert!(!runs(FIRST_UID, &port(other.local_addr().unwrap().port())));
    });
}

#[test]
fn rule_6_the_fence_outlives_the_supervisor_and_a_flush() {
    in_namespace(async || {
        addresses();
        let mut bench = Bench::new().await;
        let (own, other) = (Disc::at(&bench, OWN, "k").await, Disc::at(&bench, OTHER, "k").await);
        bench.create("1", &machine(&own)).await.unwrap();
        bench.create("2", &machine(&other)).await.unwrap();
        bench.end_head(Signal::SIGKILL).await;
        assert!(!reaches(FIRST_UID, &other), "it stands without the supervisor");
        std::fs::remove_file(bench.run_path("vm-2.json")).unwrap();
        bench.start_head().await;
        assert!(reaches(FIRST_UID, &own), "an adopted machine keeps its disc");
        assert!(!reaches(FIRST_UID + 1, &other), "what a machine without a record had is taken back");

        nft("flush ruleset");
        assert!(reaches(FIRST_UID, &other), "or this test shows nothing");
        eventually("the fence is back", || (!reaches(FIRST_UID, &other)).then_some(())).await;
        assert!(reaches(FIRST_UID, &own));
    });
}

#[test]
fn rule_6_a_head_that_cannot_fence_machines_in_does_not_start() {
    in_namespace(async || {
        let bench = Bench::new().await;
        // All that it needs but nft.
        let programs = bench.path("programs");
        std::fs::create_dir(&programs).unwrap();
        for program in ["ip", "qemu-system-x86_64"] {
            let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
                .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
                .map(|directory| directory.join(program))
                .find(|path| path.exists())
                .unwrap();
            std::os::unix::fs::symlink(found, programs.join(program)).unwrap();
        }
        let text = std::fs::read_to_string(bench.config()).unwrap().replace("/state\"", "/state2\"");
        let config = bench.path("other.toml");
        std::fs::write(&config, text.replace("/run\"", "/run2\"")).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_bigv-head"));
        let output = program.args(["run", "--config"]).arg(config).env("PATH", &programs).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("firewall = \"warn\"") && said.contains("of the package nftables"), "{said}");
    });
}
