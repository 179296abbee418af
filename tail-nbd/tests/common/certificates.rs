//! Certificates and keys for tests, made by the commands that the README gives to operators.

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
