//! What `bigv-lab` itself promises, with stand-ins for the daemons: twice up, killed up, down without a trace.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use lab::harness;
use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Says that it is ready, serves a list of nodes on the socket it was handed (the brain), and waits to be ended.
const STAND_IN: &str = r#"#!/usr/bin/python3
import os, signal, socket, sys
if "run" not in sys.argv: sys.exit(0)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
if os.environ.get("STAND_IN_SILENT"): print("nothing to say", file=sys.stderr, flush=True)
else: notify.sendto(b"READY=1\n", os.environ["NOTIFY_SOCKET"])
if os.environ.get("LISTEN_PID") != str(os.getpid()): signal.pause()
listener = socket.socket(fileno=3)
open(os.environ["STAND_IN_NAMES"], "a").write("%s\n" % (listener.getsockname(),))
while True:
    connection, _ = listener.accept()
    node = b"head1" if b"/admin/heads" in connection.recv(4096) else b"tail1"
    connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n[{"label":"%s","online":true}]' % node)
    connection.close()
"#;

struct StandIn {
    name: String,
    directory: tempfile::TempDir,
}

impl StandIn {
    fn new(test: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let programs = directory.path().join("bin");
        fs::create_dir(&programs).unwrap();
        for program in ["bigv-brain", "bigv-head", "tail-nbd", "bigv"] {
            let path = programs.join(program);
            fs::write(&path, STAND_IN).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_bigv-lab"), programs.join("bigv-lab")).unwrap();
        fs::write(directory.path().join("tiny.raw"), "").unwrap();
        Self { name: format!("{test}{}", std::process::id()), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/bigv-lab"));
        command.args([arguments[0], "--name", &self.name]).args(&arguments[1..]).stdin(Stdio::null());
        command.env("BIGV_HOME", self.path("home")).env("STAND_IN_NAMES", self.path("names"));
        command
    }

    fn up(&self) -> Command {
        let path = |name| self.path(name).to_string_lossy().into_owned();
        self.lab(&["up", "--no-link", "--heads", "1", "--tails", "1", "--images", &path(""), "--state", &path("lab")])
    }

    /// The namespaces, files and processes that are left.
    fn traces(&self) -> Vec<String> {
        let in_directory = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
        };
        let mut traces = in_directory(Path::new("/run/netns"));
        traces.extend(in_directory(Path::new("/run/bigv-lab")));
        traces.retain(|trace| trace.contains(&self.name));
        traces.extend(in_directory(&self.path("home")));
        traces.extend(in_directory(&self.path("lab")));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            traces.extend(line.contains(&*self.path("bin/").to_string_lossy()).then_some(line));
        }
        traces
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.lab(&["down"]).output();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn skipped(test: &str) -> bool {
    let reason = harness::missing();
    if let Some(reason) = &reason {
        eprintln!("skipped: {test}: {reason}");
    }
    reason.is_some()
}

#[test]
fn up_twice_is_harmless_and_down_leaves_no_trace() -> Result<(), Box<dyn Error>> {
    if skipped("up_twice_is_harmless_and_down_leaves_no_trace") {
        return Ok(());
    }
    let lab = StandIn::new("u");
    let first = lab.up().output()?;
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("vm new web1"), "it does not say what to type next: {}", said(&first));
    let state = fs::read(lab.path("lab/lab.json"))?;

    let names = fs::read_to_string(lab.path("names"))?;
    let port = names.trim().trim_end_matches(')').rsplit(' ').next().unwrap_or_default();
    assert!(names.starts_with("('127.0.0.1', 86"), "the brain was handed {names}");
    let profile = fs::read_to_string(lab.path("home/default/profile.toml"))?;
    assert!(profile.contains(&format!("location = \"http://127.0.0.1:{port}\"")), "{profile}");

    let second = lab.up().output()?;
    assert!(second.status.success() && said(&second).contains("is up already"), "{}", said(&second));
    assert_eq!(fs::read(lab.path("lab/lab.json"))?, state, "the second `up` changed something");

    let killed = lab.lab(&["kill", "tail1"]).output()?;
    assert!(killed.status.success(), "{}", said(&killed));
    let status = lab.lab(&["status"]).output()?;
    assert!(!status.status.success() && said(&status).contains("not running"), "{}", said(&status));
    let third = lab.up().output()?;
    assert!(third.status.success() && said(&third).contains("tail1: ready"), "{}", said(&third));

    let down = lab.lab(&["down"]).output()?;
    assert!(down.status.success(), "{}", said(&down));
    assert_eq!(lab.traces(), Vec::<String>::new());
    let again = lab.lab(&["down"]).output()?;
    assert!(again.status.success() && said(&again).contains("nothing to take away"), "{}", said(&again));
    Ok(())
}

#[test]
fn an_up_that_was_killed_can_be_undone() -> Result<(), Box<dyn Error>> {
    if skipped("an_up_that_was_killed_can_be_undone") {
        return Ok(());
    }
    let lab = StandIn::new("k");
    // The brain says nothing, so `up` waits for it, with namespaces and a process already there.
    let mut up = lab.up().env("STAND_IN_SILENT", "1").stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(up.stdout.take().ok_or("no output")?).lines();
    let seen = lines.map_while(Result::ok).find(|line| line.contains("database made"));
    assert!(seen.is_some(), "up ended before it started the brain");
    up.kill()?;
    up.wait()?;
    assert!(!lab.traces().is_empty());

    let down = lab.lab(&["down"]).output()?;
    assert!(down.status.success(), "{}", said(&down));
    assert_eq!(lab.traces(), Vec::<String>::new());
    Ok(())
}

#[test]
fn what_is_wrong_is_said() -> Result<(), Box<dyn Error>> {
    if skipped("what_is_wrong_is_said") {
        return Ok(());
    }
    let lab = StandIn::new("w");
    fs::remove_file(lab.path("bin/tail-nbd"))?;
    let up = lab.up().output()?;
    assert!(!up.status.success() && said(&up).contains("tail-nbd is missing: build it first"), "{}", said(&up));

    fs::write(lab.path("bin/tail-nbd"), "#!/bin/sh\necho no pool to be seen >&2\nexit 3\n")?;
    fs::set_permissions(lab.path("bin/tail-nbd"), fs::Permissions::from_mode(0o755))?;
    let up = lab.up().output()?;
    let text = said(&up);
    assert!(!up.status.success() && text.contains("tail1 ended before it was ready"), "{text}");
    assert!(text.contains("no pool to be seen") && text.contains("logs/tail1.log"), "{text}");
    assert!(text.contains("bigv-lab down --name"), "{text}");

    let other = lab.lab(&["up", "--heads", "2", "--tails", "1"]).output()?;
    assert!(!other.status.success() && said(&other).contains("has 1 heads and 1 tails already"), "{}", said(&other));
    let node = lab.lab(&["logs", "head2"]).output()?;
    assert!(!node.status.success() && said(&node).contains("has no head2"), "{}", said(&node));
    Ok(())
}
