//! Runs `bigv` with a home of its own.

use crate::brain::Brain;
use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Far more than any of these takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A home, and what to run there.
pub struct Bigv {
    pub home: TempDir,
    address: String,
}

impl Bigv {
    pub fn new(brain: &Brain) -> Self {
        Self { home: tempfile::tempdir().unwrap(), address: brain.address.to_string() }
    }

    /// The command, with an environment that has the location, the user and the account.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bigv"));
        command
            .args(line.split_whitespace())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("COLUMNS", "80")
            .env("BIGV_LOCATION", format!("http://{}", self.address))
            .env("BIGV_USERNAME", "alice")
            .env("BIGV_PASSWORD", "hunter2")
            .env("BIGV_ACCOUNT", "acme")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, line: &str) -> Run {
        self.finish(self.command(line).spawn().unwrap())
    }

    /// Runs it to its end; the output is that of a run that must go well.
    pub fn ok(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!(run.code, 0, "{line}: {run:?}");
        run.stdout
    }

    /// Waits for its end.
    pub fn finish(&self, mut child: Child) -> Run {
        let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > DEADLINE {
                child.kill().unwrap();
                panic!("bigv does not end");
            }
            thread::sleep(Duration::from_millis(5));
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&self.address, "BRAIN");
        Run {
            code: status.code().expect("bigv was killed"),
            stdout: text(stdout.join().unwrap()),
            stderr: text(stderr.join().unwrap()).replace(self.home.path().to_str().unwrap(), "HOME"),
        }
    }

    pub fn profile(&self) -> PathBuf {
        self.home.path().join(".bigv/default/profile.toml")
    }
}

fn reader(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A terminal that is closed at its other end is an error; what came before counts.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Polls until `done`, or fails.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < DEADLINE, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
