//! Other programs: found on the path, started with an end in sight, stopped by their process id.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a program may take to end after SIGTERM.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(5);
/// How often a program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much of a log an error shows.
const LOG_TAIL_BYTES: u64 = 1000;
/// Longest output that is read: fio's JSON has some 10 KiB.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// The file that would run as `program`; none if there is none.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A running program; stopped when dropped. If this process dies, by whatever signal, the kernel ends the program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// Starts `words`, with all that it prints going to the file `log`.
    ///
    /// It inherits this thread's processors.
    ///
    /// # Errors
    /// When there is no such program or no log can be written.
    pub fn start<S: AsRef<OsStr>>(words: &[S], log: &Path) -> Result<Self> {
        let name = words.first().context("there is no program to start")?.as_ref().to_string_lossy().into_owned();
        if find(&name).is_none() {
            bail!("there is no program {name}");
        }
        let printed = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        // The death signal survives the exec, and this thread is the one that lives as long as the process.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(words)
            .stdin(Stdio::null())
            .stderr(printed.try_clone()?)
            .stdout(printed)
            .spawn()
            .with_context(|| format!("cannot start {name} through setpriv (Debian: util-linux)"))?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for its end, which must be a success; then everything it has printed.
    ///
    /// # Errors
    /// When it fails, prints too much, or is not done after `deadline`.
    pub fn output(mut self, deadline: Duration) -> Result<String> {
        let until = Instant::now() + deadline;
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            if Instant::now() >= until {
                bail!("{} was not done after {} s", self.name, deadline.as_secs());
            }
            thread::sleep(LOOK_EVERY);
        };
        if !status.success() {
            bail!("{} ended with {status}: {}", self.name, self.log_tail());
        }
        if fs::metadata(&self.log)?.len() > OUTPUT_BYTES_MAX {
            bail!("{} printed more than {OUTPUT_BYTES_MAX} bytes", self.name);
        }
        fs::read_to_string(&self.log).with_context(|| format!("{} printed no text", self.name))
    }

    /// Asks it to end, and waits until it has, which must be a success.
    ///
    /// # Errors
    /// When it fails, or is not done after `deadline`.
    pub fn terminate(self, deadline: Duration) -> Result<()> {
        self.ask_to_end();
        self.output(deadline).map(drop)
    }

    fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It is our child and not reaped yet, so the id is its own; one that has just ended needs no signal.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// The end of what it printed, for errors.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

/// The end of what programs have printed into `log`, for errors.
pub fn log_tail(log: &Path) -> String {
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() { "it printed nothing".to_owned() } else { text }
}

impl Drop for Program {
    fn drop(&mut self) {
        let until = Instant::now() + TERMINATE_DEADLINE;
        if matches!(self.child.try_wait(), Ok(None)) {
            self.ask_to_end();
        }
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_failure_and_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let start = |script: &str| Program::start(&["sh", "-c", script], &log).unwrap();
        let long = Duration::from_secs(20);
        assert_eq!(start("echo one; echo two >&2").output(long).unwrap(), "one\ntwo\n");
        let error = start("echo broken; exit 3").output(long).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
        let error = start("sleep 60").output(Duration::from_millis(20)).unwrap_err().to_string();
        assert!(error.contains("not done"), "{error}");
        assert!(Program::start(&["no-such-program-here"], &log).is_err());
    }

    #[test]
    fn a_dropped_program_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program::start(&["sleep", "60"], &dir.path().join("log")).unwrap();
        let folder = PathBuf::from(format!("/proc/{}", program.pid()));
        assert!(folder.exists());
        drop(program);
        assert!(!folder.exists());
    }
}
