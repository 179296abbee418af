//! Certificates for tests, made by the commands that the README gives to operators.

use std::path::Path;
use std::process::Command;

/// The commands of the README's block that makes certificates.
fn commands() -> &'static str {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```sh\n# The authority").expect("the README has the block");
    rest.split_once("\n").unwrap().1.split_once("```").expect("it ends").0
}

/// Makes an authority, a server's and a client's certificate in a folder. False when `openssl` is not installed.
pub fn make(folder: &Path) -> bool {
    let Ok(made) = Command::new("sh").args(["-euc", commands()]).current_dir(folder).output() else { return false };
    if made.status.code() == Some(127) {
        return false;
    }
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}
