//! From create to the end, in all the ways a machine can end.

use crate::{
    bench::{
        Bench, Disc, FIRST_UID, PATIENCE, eventually, guest_runs, in_namespace, ip, machine, name, object,
        type_to_guest,
    },
    guest,
};
use head::hypervisor::{command_line::Accelerator, kvm};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use spine::message::Command;
use std::{fs, path::Path, process::Command as Program};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

#[test]
fn r055_r076_r135_a_machines_life() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "sesame-sesame").await;
        let mut vm = machine(&disc);
        vm["network_interfaces"] = json!([{"mac": "fe:ff:00:00:00:01", "vlan_id": 1, "model": "virtio"}]);
        vm["user_authentication"] = json!({"amy": {"password": "R0ry"}});
        vm["balloon_on"] = json!(true);
        bench.create("17", &vm).await.unwrap();
        let shown = bench.created("17").await;
        assert_eq!(shown["accel"], "tcg");
        assert!(!shown.to_string().contains("sesame") && !shown.to_string().contains("R0ry"), "R112, rule 6: {shown}");
        assert!(shown["discs"][0]["key_hash"].as_str().unwrap().starts_with("sha256:"));
        assert_eq!(bench.updated("global.memory").await, json!(512 - 64 - 64 - 32), "R071");
        assert!(bench.monitor_greets("17").await, "the listening monitor is left to later heads");
        let mut serial = bench.serial("17").await;
        let pid = bench.pid_of("17");
        assert_without_rights(pid);
        assert!(ip("-d link show dev bv70100-0").contains("master br-public"), "R142");
        guest_runs(&mut serial).await;
        assert_eq!(bench.create("17", &vm).await.unwrap_err().error, "exists");
        type_to_guest(&mut serial, guest::SHUT_DOWN).await;
        assert_eq!(bench.destroyed("17").await, "guest shut down");
        bench.assert_nothing_left("17", Some(pid)).await;
        assert_eq!(bench.updated("global.memory").await, json!(512 - 64));
        assert_eq!(bench.remove("17", "late").await.unwrap_err().error, "not-found");
    });
}

/// R135, safety rule 6: a uid of its own, no groups, no capabilities, no way back, system calls filtered.
fn assert_without_rights(pid: i32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let uid = FIRST_UID;
    assert_eq!(field("Uid:"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(field("Gid:"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(field("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let arguments = String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
    assert!(!arguments.contains("sesame"), "rule 6: {arguments}");
}

#[test]
fn r078_r166_other_ends_and_their_reasons() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "k").await;
        let vm = machine(&disc);

        bench.create("1", &vm).await.unwrap();
        let pid = bench.pid_of("1");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!(bench.destroyed("1").await, "qemu exited with signal 9 (SIGKILL)");
        bench.assert_nothing_left("1", Some(pid)).await;

        bench.create("1", &vm).await.unwrap();
        bench.remove("1", "vm deleted").await.unwrap();
        assert_eq!(bench.destroyed("1").await, "vm deleted", "R090");
        bench.assert_nothing_left("1", None).await;

        bench.create("1", &vm).await.unwrap();
        let mut serial = bench.serial("1").await;
        guest_runs(&mut serial).await;
        type_to_guest(&mut serial, guest::PANIC).await;
        assert_eq!(bench.destroyed("1").await, "guest panicked");
        bench.assert_nothing_left("1", None).await;

        bench.create("1", &vm).await.unwrap();
        kill(Pid::from_raw(bench.pid_of("1")), Signal::SIGTERM).unwrap();
        assert_eq!(bench.destroyed("1").await, "qemu was told to end by a signal");
    });
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "right").await;
        let good = machine(&disc);
        let with = |attribute: &str, value: serde_json::Value| {
            let mut vm = good.clone();
            vm[attribute] = value;
            vm
        };
        let card = |vlan: u32| json!([{"mac": "fe:ff:00:00:00:01", "vlan_id": vlan, "model": "virtio"}]);
        let mut wrong_key = disc.resource();
        wrong_key["key"] = json!("wrong-key");
        for (vm, error, part) in [
            (with("memory", json!(100_000)), "no-memory", "on this head"),
            (with("memory", json!("much")), "bad-value", "memory"),
            (with("hardware_profile", json!("virtio3000")), "bad-value", "virtio3000"),
            (with("network_interfaces", card(7)), "no-such-network", "this head has no network 7"),
            (with("network_interfaces", card(10_000)), "network-error", "br-missing"),
            (with("discs", json!([disc.resource(), wrong_key])), "disc-unreachable", "disc 2 at nbd:127.0.0.1:"),
        ] {
            let refusal = bench.create("5", &vm).await.unwrap_err();
            assert_eq!(refusal.error, error, "{refusal:?}");
            assert!(refusal.message.contains(part) && !refusal.message.contains("wrong-key"), "{refusal:?}");
            bench.assert_nothing_left("5", None).await;
        }
        bench.create("5", &good).await.expect("after all that the machine itself still starts");
    });
}

#[test]
fn r060_machines_start_side_by_side_and_a_start_can_be_called_off() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let (disc, mut gone) = (Disc::new(&bench, "k").await, Disc::new(&bench, "k").await);
        gone.take_away();
        let create = |vm: &str, disc| Command::Create(name(vm), object(&machine(disc)));
        let hopeless = bench.order(create("9", &gone));
        let tags = ["1", "2", "3"].map(|vm| bench.order(create(vm, &disc)));
        for tag in tags {
            bench.answer(tag).await.expect("R060: it does not wait for the one whose disc is away");
        }
        let mut pids = ["1", "2", "3"].map(|vm| bench.pid_of(vm)).to_vec();
        pids.dedup();
        assert_eq!(pids.len(), 3);
        bench.remove("9", "changed my mind").await.unwrap();
        assert_eq!(bench.answer(hopeless).await.unwrap_err().error, "removed");
        assert!(!bench.run_path("vm-9.json").exists(), "nothing is left of it");
    });
}

#[test]
fn b04_signals_and_a_console() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let disc = Disc::new(&bench, "k").await;
        let key = bench.path("host_key");
        let made = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
        assert!(made.success());
        let mut vm = machine(&disc);
        vm["management_address"] = json!("127.0.0.77");
        vm["management_ssh_keys"] = json!([fs::read_to_string(&key).unwrap()]);
        bench.create("9", &vm).await.unwrap();
        assert!(bench.created("9").await.get("console_error").is_none());
        let mut console = TcpStream::connect("127.0.0.77:2222").await.expect("R109: the console listens");
        let mut banner = [0; 7];
        timeout(PATIENCE, console.read_exact(&mut banner)).await.unwrap().unwrap();
        assert_eq!(&banner, b"SSH-2.0");

        bench.update("9", json!({"signal": {"signal": "sendkey", "data": "ctrl-alt-del"}})).await.unwrap();
        bench.update("9", json!({"signal": {"signal": "reset"}})).await.unwrap();
        bench.update("9", json!({"signal": {"signal": "powerdown"}})).await.unwrap();
        let refusal = bench.update("9", json!({"signal": {"signal": "sendkey", "data": "any"}})).await.unwrap_err();
        assert!(refusal.message.contains("\"any\" is not a key"), "{refusal:?}");
        assert_eq!(bench.update("9", json!({"memory": 64})).await.unwrap_err().error, "needs-restart");
        bench.update("9", json!({"console_users": ["amy"], "detected_kernel": "none"})).await.unwrap();
        let changes = json!({"console_users": ["amy"], "detected_kernel": "none"});
        assert_eq!(bench.updated("vm.9").await, changes, "R086: what changed, and nothing else");
        bench.remove("9", "done").await.unwrap();
        eventually("the console stops", || std::net::TcpStream::connect("127.0.0.77:2222").is_err().then_some(()))
            .await;
    });
}

#[test]
fn the_proof_of_kvm_ends_by_itself() {
    in_namespace(async || {
        let bench = Bench::new().await;
        let proof = kvm::Bench {
            helper: Path::new(env!("CARGO_BIN_EXE_bigv-head")),
            qemu: Path::new("qemu-system-x86_64"),
            uid: FIRST_UID + 9,
            runtime_dir: &bench.path("run"),
            state_dir: &bench.path("state"),
        };
        // The guest must be right, or no KVM would ever pass: qemu's translator runs it.
        kvm::prove(&proof, Accelerator::Tcg).await.unwrap();
        let works = kvm::works(&proof, "boot", "10").await;
        // Another answer in its place shows when it is asked for, and when not.
        let file = bench.path("state/kvm.json");
        let known: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let mut other = known.clone();
        other["works"] = json!(!works);
        fs::write(&file, other.to_string()).unwrap();
        assert_eq!(kvm::works(&proof, "boot", "10").await, !works, "it is remembered");
        assert_eq!(kvm::works(&proof, "another boot", "10").await, works, "it is proven again");
    });
}

#[test]
fn b07_every_hardware_profile_starts() {
    in_namespace(async || {
        let mut bench = Bench::new().await;
        let mut discs = Vec::new();
        // More than the IDE cables have ends.
        for _ in 0..5 {
            discs.push(Disc::new(&bench, "k").await);
        }
        let discs: Vec<_> = discs.iter().map(|disc| (disc, disc.resource())).collect();
        for profile in spine::hardware::HARDWARE_PROFILES {
            let mut vm = machine(discs[0].0);
            vm["hardware_profile"] = json!(profile);
            vm["keymap"] = json!("en-gb");
            vm["balloon_on"] = json!(true);
            let of_profile = |(_, resource): &(&Disc, serde_json::Value)| {
                let mut resource = resource.clone();
                resource["model"] = json!(spine::hardware::MODEL_OF_PROFILE);
                resource
            };
            vm["discs"] = discs.iter().map(of_profile).collect();
            let card = |(n, model): (usize, &str)| json!({"mac": format!("fe:ff:00:00:00:0{n}"), "vlan_id": 1, "model": model});
            vm["network_interfaces"] = ["", "virtio", "e1000", "rtl8139"].into_iter().enumerate().map(card).collect();
            bench.create("1", &vm).await.unwrap_or_else(|refusal| panic!("{profile}: {refusal:?}"));
            let mut serial = bench.serial("1").await;
            guest_runs(&mut serial).await;
            bench.remove("1", "next").await.unwrap();
        }
    });
}
