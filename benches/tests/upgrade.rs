//! `nbd-upgrade` with the tail itself: new processes take it over, no client is cut off, and what was acknowledged is there
//! (R185).
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use std::{fs, path::Path, process::Command};

#[test]
fn r185_clients_of_all_kinds_go_on_over_several_upgrades() {
    let program = env!("CARGO_BIN_EXE_nbd-upgrade");
    if !Path::new(program).with_file_name("tail-nbd").exists() {
        return eprintln!("skipped: tail-nbd is not built");
    }
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: network namespaces need root");
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let small = ["--discs", "6", "--writers", "2", "--readers", "1", "--upgrades", "3", "--every-ms", "20"];
    let records = folder.path().join("records");
    let mut command = Command::new(program);
    command.args(small).arg("--scratch").arg(folder.path()).arg("--out").arg(&records);
    let output = command.output().unwrap();
    let (said, table) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("everything that was acknowledged is there"), "{said}");
    assert!(table.contains("longest wait of a client over an upgrade, worst"), "{table}");
    let record = fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    let upgrades = record["upgrades"].as_array().unwrap();
    assert_eq!(upgrades.len(), 3);
    assert!(upgrades.iter().all(|upgrade| upgrade["longest_ms"].as_array().unwrap().len() == 6), "{record}");
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with("nbdbench-")).collect();
    assert!(left.is_empty(), "{left:?}");
}
