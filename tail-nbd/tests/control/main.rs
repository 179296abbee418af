//! A real tail, a brain that does what the test wants, and real NBD clients, in network namespaces of
//! the test's own.

mod faults;
mod images;
mod lives;
#[path = "../netns/mod.rs"]
mod netns;
mod pools;
mod restarts;

use serde_json::{Value, json};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;

fn disc(size: u64) -> Value {
    json!({"size": size, "storage_pool": "sata1", "generation": 1})
}

fn attachment(key: &str) -> Value {
    json!([{"head": "fd00:b16:0:2::11", "key": key}])
}

/// A disc of `size` bytes with one attachment, whose key is `key`.
fn attached(size: u64, key: &str) -> Value {
    json!({
        "size": size, "storage_pool": "sata1", "generation": 1, "attachments": attachment(key), "attachments_version": 1
    })
}

/// Runs commands of qemu-io on a disc, from the client's namespace.
fn qemu_io(number: u64, key: &str, commands: &[&str]) -> Output {
    let target = format!("nbd://[fd00:b16:0:d::{number:x}]:10809/{key}");
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]);
    for argument in commands {
        command.args(["-c", argument]);
    }
    command.arg(target).output().expect("qemu-io is installed")
}

#[track_caller]
fn works(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("failed") && !text.contains("error"), "{text}");
    text
}

#[track_caller]
fn fails(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let refused = !output.status.success() || text.contains("failed");
    assert!(refused, "this must not work: {text}");
}

fn size_seen(number: u64, key: &str) -> u64 {
    let target = format!("nbd://[fd00:b16:0:d::{number:x}]:10809/{key}");
    let output = Command::new("nbdinfo").args(["--size", &target]).output().expect("nbdinfo is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
