use super::*;
use crate::tls::certificates::make;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

fn files(folder: &Path) -> Files {
    Files {
        certificate: folder.join("server-cert.pem"),
        key: folder.join("server-key.pem"),
        authorities: Some(folder.join("ca-cert.pem")),
    }
}

/// A folder with certificates; a test that has none of them says so and passes.
fn folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let made = make(folder.path());
    if !made {
        tracing::warn!("skipped: openssl is not installed");
    }
    made.then_some(folder)
}

/// The message with its reasons.
fn told(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", told(source)))
}

#[test]
fn what_the_readme_makes_is_taken_for_both_directions() {
    let Some(folder) = folder() else { return };
    let identity = Identity::load(files(folder.path())).unwrap();
    assert_eq!(identity.server_config().unwrap().send_tls13_tickets, 0);
    identity.client_config().unwrap();
    let alone = Identity::load(Files { authorities: None, ..files(folder.path()) }).unwrap();
    alone.server_config().unwrap();
}

#[test]
fn refusals_name_the_file_and_the_reason() {
    let Some(folder) = folder() else { return };
    let (path, good) = (folder.path(), files(folder.path()));
    fs::write(path.join("empty"), "").unwrap();
    fs::write(path.join("cut"), &fs::read(&good.certificate).unwrap()[..100]).unwrap();
    let at = |name: &str| path.join(name);
    let cases: [(Files, &[&str]); 6] = [
        (Files { certificate: at("none"), ..good.clone() }, &["cannot read", "/none", "No such file"]),
        (Files { key: at("none"), ..good.clone() }, &["cannot read", "/none", "No such file"]),
        (Files { certificate: at("empty"), ..good.clone() }, &["/empty: no certificate"]),
        (Files { certificate: at("cut"), ..good.clone() }, &["/cut: no certificate"]),
        (Files { key: at("ca-cert.pem"), ..good.clone() }, &["/ca-cert.pem: no private key"]),
        (Files { authorities: Some(at("server-key.pem")), ..good.clone() }, &["/server-key.pem: no certificate"]),
    ];
    for (files, wanted) in cases {
        let error = told(&Identity::load(files).unwrap_err());
        assert!(wanted.iter().all(|part| error.contains(part)), "{error} lacks one of {wanted:?}");
    }
    let odd = Identity::load(Files { key: at("client-key.pem"), ..good }).unwrap();
    for error in [odd.server_config().unwrap_err(), odd.client_config().unwrap_err()] {
        let error = told(&error);
        assert!(
            error.contains("server-cert.pem and") && error.contains("client-key.pem do not go together"),
            "{error}"
        );
    }
}

#[test]
fn a_key_with_a_passphrase_is_not_asked_about() {
    let Some(folder) = folder() else { return };
    let script = "openssl pkcs8 -topk8 -in server-key.pem -passout pass:x -out locked.pem";
    assert!(std::process::Command::new("sh").args(["-c", script]).current_dir(&folder).status().unwrap().success());
    let locked = Files { key: folder.path().join("locked.pem"), ..files(folder.path()) };
    assert!(told(&Identity::load(locked).unwrap_err()).contains("locked.pem: no private key without a passphrase"));
}

#[test]
fn a_key_that_others_may_read_is_taken_with_a_warning() {
    let Some(folder) = folder() else { return };
    fs::set_permissions(folder.path().join("server-key.pem"), Permissions::from_mode(0o644)).unwrap();
    Identity::load(files(folder.path())).unwrap();
}
