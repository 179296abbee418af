//! `vm console`: which ssh is run, and when not.

use crate::{
    fixtures::{brain, get_vm, vm_in},
    program::Bigv,
};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
};

/// An ssh that says how it was called.
fn with_fake_ssh(bigv: &Bigv) -> String {
    let folder = bigv.home.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let script = folder.join("ssh");
    fs::write(&script, "#!/bin/sh\nfor word in \"$@\"; do echo \"[$word]\"; done\nexit 42\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

fn store_ssh_args(bigv: &Bigv, args: &str) {
    let path = bigv.profile();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, format!("ssh-args = '''{args}'''\n").as_bytes()).unwrap();
}

#[test]
fn ssh_takes_its_place_with_the_arguments_of_both() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    store_ssh_args(&bigv, r#"-o ProxyCommand="bigv-lab connect %h %p""#);
    let mut command = bigv.command("vm console web1 --ssh-args -v");
    let run = bigv.finish(command.env("PATH", with_fake_ssh(&bigv)).spawn().unwrap());
    assert_eq!(run.stdout, "[-o]\n[ProxyCommand=bigv-lab connect %h %p]\n[-v]\n[alice@10.16.3.100]\n", "{run:?}");
    assert_eq!(run.code, 42, "its exit code is ssh's");
}

#[test]
fn no_connect_says_what_to_type() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    store_ssh_args(&bigv, r#"-o ProxyCommand="bigv-lab connect %h %p""#);
    let said = bigv.ok("vm console web1 --no-connect");
    assert!(said.ends_with("  ssh -o 'ProxyCommand=bigv-lab connect %h %p' alice@10.16.3.100\n"), "{said}");
}

#[test]
fn without_a_console_ssh_is_not_run() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let path = with_fake_ssh(&bigv);
    for (reply, code, part) in [
        (vm_in("off", json!({"power_on": false})), 7, "bigv vm start web1.default.acme"),
        (vm_in("starting", json!({})), 7, "bigv vm show web1.default.acme"),
        (vm_in("deleted", json!({"deleted": true})), 7, "undelete"),
        (vm_in("running", json!({"management_address": null})), 10, "no management address"),
        (vm_in("running", json!({"management_address": "-oProxyCommand=x"})), 249, "makes no sense"),
    ] {
        brain.on(&get_vm(), [reply]);
        let run = bigv.finish(bigv.command("vm console web1").env("PATH", &path).spawn().unwrap());
        assert_eq!(run.code, code, "{part}: {run:?}");
        assert!(run.stderr.contains(part) && run.stdout.is_empty(), "{part}: {run:?}");
    }
}

#[test]
fn arguments_that_cannot_be_split_are_refused() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    store_ssh_args(&bigv, r#"-o "unclosed"#);
    let run = bigv.run("vm console web1");
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("quote"), "{run:?}");
}

#[test]
fn an_ssh_that_is_not_there_is_said() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let mut command = bigv.command("vm console web1");
    let run = bigv.finish(command.env("PATH", bigv.home.path()).spawn().unwrap());
    assert_eq!(run.code, 8, "{run:?}");
    assert!(run.stderr.contains("cannot run ssh"), "{run:?}");
}
