//! Certificates and keys for tests, made by the commands that the README gives to operators.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::process::Command;

/// Makes an authority, a server's and a client's certificate in a folder. False when `openssl` is not installed.
pub fn make(folder: &Path) -> bool {
    run("# The authority", folder)
}

/// Runs the block of the README's commands that begins with this line.
pub fn run(first_line: &str, folder: &Path) -> bool {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once(&format!("```sh\n{first_line}")).expect("the README has the block");
    let commands = rest.split_once('\n').unwrap().1.split_once("```").expect("it ends").0;
    let done = Command::new("sh").args(["-euc", commands]).current_dir(folder).output().unwrap();
    if done.status.code() == Some(127) {
        return false;
    }
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    true
}

/// Makes `WHO-cert.pem` and `WHO-key.pem` by the authority in a folder, for both ends of a connection and for these names
/// (`DNS:tail1`, `IP:::1`).
pub fn issue(folder: &Path, who: &str, names: &str) {
    let script = r#"
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -addext "subjectAltName=$2" \
            -addext "extendedKeyUsage=serverAuth,clientAuth" -keyout "$1-key.pem" -out "$1.csr"
        openssl x509 -req -in "$1.csr" -CA ca-cert.pem -CAkey ca-key.pem -copy_extensions copy -days 2 -out "$1-cert.pem"
    "#;
    let done = Command::new("sh").args(["-euc", script, "sh", who, names]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
