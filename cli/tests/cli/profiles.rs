//! The profile, as commands write and read it.

use crate::{fixtures::brain, program::Bigv};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

#[test]
fn a_profile_is_generated_used_and_shown() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    let said = bigv.ok("profile generate --username alice --account acme");
    assert!(said.starts_with("The profile was written to"), "{said}");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&bigv.profile()), 0o600);
    assert_eq!(mode(bigv.profile().parent().unwrap()), 0o700);
    assert!(!fs::read_to_string(bigv.profile()).unwrap().contains("hunter2"), "generate stores no password");

    bigv.ok("profile password store");
    bigv.ok("profile password store");
    assert!(fs::read_to_string(bigv.profile()).unwrap().contains("hunter2"));
    let shown = bigv.ok("profile show");
    assert!(shown.contains("stored") && !shown.contains("hunter2"), "{shown}");
    assert!(!bigv.ok("profile show -b").contains("hunter2"));

    let mut command = bigv.command("vm show web1");
    for variable in ["BIGV_LOCATION", "BIGV_USERNAME", "BIGV_PASSWORD", "BIGV_ACCOUNT"] {
        command.env_remove(variable);
    }
    assert_eq!(bigv.finish(command.spawn().unwrap()).code, 0, "the profile alone is enough");

    bigv.ok("profile password forget");
    assert!(!fs::read_to_string(bigv.profile()).unwrap().contains("hunter2"));
}

#[test]
fn an_existing_profile_is_not_replaced_unasked() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    bigv.ok("profile generate");
    let before = fs::read(bigv.profile()).unwrap();
    let run = bigv.run("profile generate --username bob");
    assert_eq!(run.code, 7, "{run:?}");
    assert_eq!(fs::read(bigv.profile()).unwrap(), before);
    bigv.ok("profile generate --username bob --force");
    assert!(fs::read_to_string(bigv.profile()).unwrap().contains("bob"));
}

#[test]
fn a_bad_profile_is_refused_by_every_command() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    bigv.ok("profile generate");
    fs::write(bigv.profile(), "username = 'alice'\nnonsense = 1\n").unwrap();
    let run = bigv.run("vm list");
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("profile.toml: line 2") && run.stderr.contains("nonsense"), "{run:?}");
    fs::set_permissions(bigv.profile(), fs::Permissions::from_mode(0o644)).unwrap();
    let run = bigv.run("vm list");
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("chmod 600"), "{run:?}");
    assert!(brain.lines().is_empty());
}

#[test]
fn a_profile_that_cannot_be_written_is_said() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    fs::write(bigv.home.path().join(".bigv"), "a file in the way").unwrap();
    let run = bigv.run("profile generate --force");
    // Reading it fails first: there is something where the folder should be.
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains(".bigv"), "{run:?}");
}

#[test]
fn several_profiles_live_side_by_side() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    bigv.ok("profile generate --username alice");
    bigv.ok("profile generate --profile work --username bob");
    assert!(bigv.ok("profile show").contains("alice"));
    assert!(bigv.ok("profile show --profile work").contains("bob"));
}

#[test]
fn an_account_is_selected_only_if_it_exists() {
    let brain = brain();
    let bigv = Bigv::new(&brain);
    bigv.ok("account select acme");
    assert!(fs::read_to_string(bigv.profile()).unwrap().contains("account = \"acme\""));
    assert_eq!(bigv.run("account select nobody").code, 156);
    assert!(fs::read_to_string(bigv.profile()).unwrap().contains("account = \"acme\""));
}
