//! The supervisor comes and goes; machines do not notice (R176, R186).

use crate::{
    bench::{Bench, Disc, guest_runs, in_namespace, ip, machine, type_to_guest},
    guest,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

#[test]
fn r186_a_killed_supervisors_machines_are_adopted() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "sesame").await;
        let mut vm = machine(&disc);
        vm["network_interfaces"] = json!([{"mac": "fe:ff:00:00:00:01", "vlan_id": 1, "model": "virtio"}]);
        bench.create("1", &vm).await.unwrap();
        bench.create("2", &machine(&disc)).await.unwrap();
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;
        let (one, two) = (bench.pid_of("1"), bench.pid_of("2"));

        bench.end_head(Signal::SIGKILL).await;
        kill(Pid::from_raw(two), Signal::SIGKILL).unwrap();
        let dump = bench.start_head().await;
        assert_eq!(dump["vm.1"]["memory"], 32);
        assert!(!dump["vm.1"].to_string().contains("sesame"));
        assert!(!dump.contains_key("vm.2"), "it ended while nobody looked");
        assert_eq!(dump["global.memory"], json!(512 - 64 - 64 - 32));
        assert_eq!(bench.pid_of("1"), one, "the same qemu goes on");
        assert!(ip("link show").contains("bv70100-0"), "its tap is still there");
        assert!(!bench.run_path("vm-2").exists(), "what was left is removed");

        assert_eq!(bench.create("1", &vm).await.unwrap_err().error, "exists");
        bench.update("1", json!({"signal": {"signal": "sendkey", "data": "a"}})).await.unwrap();
        type_to_guest(&mut serial, guest::SHUT_DOWN).await;
        assert_eq!(bench.destroyed("1").await, "guest shut down", "R076: seen of an adopted one as well");
        bench.assert_nothing_left("1", Some(one)).await;
    });
}

#[test]
fn r062_r133_a_new_connection_is_told_everything_again() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        bench.create("2", &machine(&disc)).await.unwrap();
        bench.remove("2", "done").await.unwrap();
        bench.update("1", json!({"detected_kernel": "none"})).await.unwrap();
        let dump = bench.welcome().await;
        assert_eq!(dump.keys().collect::<Vec<_>>(), ["global.load", "global.memory", "vm.1"]);
        assert_eq!(dump["vm.1"]["detected_kernel"], "none", "R084");
        // What is removed can be created again at once, as often as one likes.
        for _ in 0..5 {
            bench.remove("1", "again").await.unwrap();
            bench.create("1", &machine(&disc)).await.unwrap();
        }
    });
}

#[test]
fn an_orderly_stop_leaves_machines_alone_and_a_killed_adopted_one_is_told_apart() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        let pid = bench.pid_of("1");
        bench.end_head(Signal::SIGTERM).await;
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        assert!(bench.start_head().await.contains_key("vm.1"));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let reason = bench.destroyed("1").await;
        assert!(reason.starts_with("qemu exited with an unknown status"), "{reason}");
        bench.assert_nothing_left("1", None).await;
    });
}

#[test]
fn policy_die_ends_machines_with_the_supervisor() {
    in_namespace(async || {
        let mut bench = Bench::with_policy("die").await;
        let disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        bench.end_head(Signal::SIGTERM).await;
        bench.assert_nothing_left("1", None).await;
        bench.start_head().await;
        bench.create("1", &machine(&disc)).await.unwrap();
        bench.end_head(Signal::SIGKILL).await;
        assert!(!bench.start_head().await.contains_key("vm.1"));
        bench.assert_nothing_left("1", None).await;
    });
}

#[test]
fn rule_7_a_machine_that_was_not_let_go_is_not_adopted() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "k").await;
        bench.create("1", &machine(&disc)).await.unwrap();
        bench.create("2", &machine(&disc)).await.unwrap();
        bench.create("3", &machine(&disc)).await.unwrap();
        bench.end_head(Signal::SIGKILL).await;
        // As if it had been killed just before `cont`; and one record is lost, one is not readable.
        let path = bench.run_path("vm-1.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["running"] = json!(false);
        fs::write(&path, record.to_string()).unwrap();
        fs::remove_file(bench.run_path("vm-2.json")).unwrap();
        fs::write(bench.run_path("vm-3.json"), "{").unwrap();
        let dump = bench.start_head().await;
        assert!(dump.keys().all(|name| !name.starts_with("vm.")), "{dump:?}");
        for vm in ["1", "2", "3"] {
            bench.assert_nothing_left(vm, None).await;
        }
    });
}

#[test]
fn a_second_daemon_and_a_bad_configuration_are_refused_with_a_sentence() {
    in_namespace(async || {
        let bench = Bench::new().await;
        let run = |config: &Path| {
            let output =
                Command::new(env!("CARGO_BIN_EXE_bigv-head")).args(["run", "--config"]).arg(config).output().unwrap();
            assert!(!output.status.success());
            String::from_utf8(output.stderr).unwrap()
        };
        let said = run(&bench.config());
        assert!(said.contains("another daemon of this kind runs with the state directory"), "{said}");
        let bad = bench.path("bad.toml");
        fs::write(&bad, "name = \"head1\"\ncolour = 1\n").unwrap();
        let said = run(&bad);
        assert!(said.contains("bad.toml") && said.contains("line 2") && said.contains("colour"), "{said}");
    });
}
