//! Daemons in sessions of their own, known by pid and start time, so that a pid that was given to
//! somebody else meanwhile is never signalled.

use crate::error::LabError;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at while waiting for it.
pub const POLL: Duration = Duration::from_millis(50);

/// A process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its pid.
    pub pid: u32,
    /// When it was started, in clock ticks since boot: with the pid, unique until the next boot.
    pub started: u64,
}

impl Record {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (running, started) = parse_stat(&stat)?;
        running.then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.alive()) {
            // It may end between the look and the signal, which is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Asks all to end, waits for at most `patience`, then kills those that are left and waits for them.
pub fn end(records: &[Record], patience: Duration) {
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(10))] {
        records.iter().for_each(|record| record.signal(signal));
        if wait(patience, || !records.iter().any(|record| record.alive())) {
            return;
        }
    }
}

/// Waits until `done`, for at most `patience`; says whether it came to be.
pub fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Runs a command of the system to its end and returns what it printed.
pub fn output(program: &str, arguments: &[&str]) -> Result<String, LabError> {
    run(Command::new(program).args(arguments))
}

/// Runs a command to its end and returns what it printed; its standard error is the reason when it fails.
pub fn run(command: &mut Command) -> Result<String, LabError> {
    let failed = |command: &Command, reason: String| LabError::Command { command: shown(command), reason };
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return Err(failed(command, error.to_string())),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = if said.trim().is_empty() { output.status.to_string() } else { said.trim().to_owned() };
    Err(failed(command, reason))
}

/// The end of a log, in whole lines: at most `lines_max` of them.
pub fn log_end(path: &Path, lines_max: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// A command as it would be typed. Passwords are never on a command line of the lab's.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// From a line of /proc/PID/stat: whether the process runs (a zombie does not) and its start time.
/// The name in brackets may hold spaces and brackets itself.
fn parse_stat(stat: &str) -> Option<(bool, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((!matches!(state, "Z" | "X"), started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_an_awkward_name() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_stat(&format!("12 (a) b) S {rest}")), Some((true, 4242)));
        assert_eq!(parse_stat(&format!("12 (qemu) Z {rest}")), Some((false, 4242)));
        assert_eq!(parse_stat("12 (qemu) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn another_process_with_the_same_pid_is_left_alone() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let record = Record::of(child.id()).unwrap();
        let stranger = Record { started: record.started + 1, ..record };
        assert!(!stranger.alive());
        stranger.signal(Signal::KILL);
        assert!(record.alive(), "a stranger's record ended the process");
        end(&[record], Duration::from_secs(5));
        assert!(!record.alive(), "a zombie counts as gone");
        child.wait().unwrap();
    }

    #[test]
    fn a_failed_command_says_what_and_why() {
        let error = output("ls", &["/no/such/thing"]).unwrap_err().to_string();
        assert!(error.contains("`ls /no/such/thing`") && error.contains("No such file"), "{error}");
        assert!(output("/no/such/program", &[]).unwrap_err().to_string().contains("/no/such/program"));
    }
}
