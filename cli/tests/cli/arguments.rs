//! What is typed: help, missing arguments, suggestions.

use crate::{fixtures::brain, program::Bigv};
use insta::assert_snapshot;

#[test]
fn help_is_the_same_however_it_is_asked_for() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    for (one, other) in [
        ("help", "--help"),
        ("", "help"),
        ("help vm", "vm --help"),
        ("help vm new", "vm new --help"),
        ("help vm-new", "vm-new --help"),
        ("help disk new", "disc new --help"),
        ("help exit codes", "help exit-codes"),
    ] {
        assert_eq!(bigv.ok(one), bigv.ok(other), "{one} and {other}");
    }
    assert!(bigv.ok("help vm new").contains("Examples:"));
    for topic in ["settings", "names", "scripting"] {
        assert!(bigv.ok(&format!("help {topic}")).lines().count() > 5, "{topic}");
    }
    assert!(brain.lines().is_empty() && brain.logins() == 0, "help needs no brain");
}

#[test]
fn the_exit_codes_are_documented() {
    let brain = brain();
    assert_snapshot!("exit_codes", Bigv::new(&brain).ok("help exit-codes"));
}

#[test]
fn the_main_help_page() {
    let brain = brain();
    assert_snapshot!("help", Bigv::new(&brain).ok("help"));
}

#[test]
fn what_makes_no_sense_is_bad_input() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    for (line, part) in [
        ("vmm list", "'vm'"),
        ("vm lsit", "'list'"),
        ("vm new web1 --vm-disks 5", "--vm-discs"),
        ("help nonsense", "no help about"),
        ("vm new web1 --vm-discs sata:", "--vm-discs"),
        ("vm new web1 --vm-discs 1,1,1,1,1,1,1,1,1", "9 discs are too many"),
        ("vm new web1 --vm-memory lots", "--vm-memory"),
        ("vm new web1 --vm-cores 0", "--vm-cores"),
        ("vm new web/1", "does not name a VM"),
        ("vm show a..b", "does not name a VM"),
        ("vm show web1.shop --group-name other", "contradict"),
        ("vm list --output-format yaml", "yaml"),
        ("vm list --profile ../x", "profile"),
        ("vm list --location nonsense", "nonsense"),
        ("vm cdrom web1 https://x --remove", "contradict"),
        ("vm new web1 --vm-distribution none --vm-root-password x", "without a distribution"),
        ("disc resize --vm-name web1 a 5 6", "one argument too many"),
        ("vm new web1 --no-wait --wait-max 5", "--wait-max"),
    ] {
        let run = bigv.run(line);
        assert_eq!(run.code, 7, "{line}: {run:?}");
        assert!(run.stderr.contains(part), "{line}: {run:?}");
    }
    assert!(brain.lines().iter().all(|line| line.starts_with("GET")), "nothing was changed");
}

#[test]
fn without_a_terminal_nothing_is_asked() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    for (line, option) in [
        ("vm show", "--vm-name"),
        ("vm new", "--vm-name"),
        ("disc resize web1", "--disc-label"),
        ("disc resize web1 disc-2", "--disc-size"),
        ("disc new web1", "--disc-size"),
        ("group new", "--group-name"),
        ("vm reimage web1", "--vm-distribution"),
        ("vm resize web1", "--vm-cores"),
    ] {
        let run = bigv.run(line);
        assert_eq!(run.code, 7, "{line}: {run:?}");
        assert!(run.stderr.contains(option) && run.stderr.contains("missing"), "{line}: {run:?}");
    }
    for (variable, option) in [("BIGV_USERNAME", "--username"), ("BIGV_PASSWORD", "BIGV_PASSWORD")] {
        let mut command = bigv.command("vm show web1");
        let run = bigv.finish(command.env_remove(variable).spawn().unwrap());
        assert_eq!(run.code, 7, "{run:?}");
        assert!(run.stderr.contains(option), "{run:?}");
    }
}

#[test]
fn a_password_on_the_command_line_is_warned_about() {
    let brain = brain();
    let run = Bigv::new(&brain).run("vm show web1 --password hunter2");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("everyone on this machine"), "{run:?}");
}

#[test]
fn completion_is_a_script() {
    let brain = brain();
    assert!(Bigv::new(&brain).ok("completion bash").contains("complete -F _bigv"));
}
