//! What the commands have in common: arguments, exit codes, and that nothing is left when they are interrupted.
//!
//! ```text
//!   the command ──▶ a worker, which is the same program ──▶ tails, clients …
//!     waits, and sweeps what is left when the worker        end with the worker, whatever ends it
//!     has ended, however it has
//! ```

use crate::{leftovers, record};
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use serde::Serialize;
use std::{
    env, fs,
    io::Write,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

/// Set in the environment of the worker.
const WORKER: &str = "NBD_BENCH_WORKER";
/// How long what the worker has started may take to die with it.
const ORPHANS_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where things are: the same arguments everywhere.
#[derive(Debug, Args)]
pub struct Places {
    /// The tail's program; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    pub tail: Option<PathBuf>,
    /// Folder for the discs, on ext4 or XFS
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub scratch: PathBuf,
    /// Folder for the records
    #[arg(long, value_name = "DIR", default_value = "target/bench/records")]
    pub out: PathBuf,
}

impl Places {
    /// The tail's program.
    ///
    /// # Errors
    /// When this program does not know where it is itself.
    pub fn program(&self) -> Result<PathBuf> {
        let own = env::current_exe().context("cannot find this program itself")?;
        let tail = self.tail.clone().unwrap_or_else(|| own.with_file_name("tail-nbd"));
        Ok(std::path::absolute(tail)?)
    }

    /// The scratch folder, as programs with another working directory name it.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn scratch(&self) -> Result<PathBuf> {
        Ok(std::path::absolute(&self.scratch)?)
    }

    /// Saves a record under a name made of what it is and its machine's date, and returns where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, what: &str, date: &str, value: &impl Serialize) -> Result<PathBuf> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let stamp = date.replace(['-', ':'], "").replace(' ', "-");
        let path = self.out.join(format!("{what}-{stamp}.json"));
        record::save(&path, value)?;
        Ok(path)
    }
}

/// Runs `measure` in a process of its own, and removes what that leaves; and at first what others have left.
///
/// Ends with its exit code, with 1 when it fails, or with 128 and the signal's number when it is ended by one.
pub fn run(name: &str, scratch: &Path, measure: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    report(name, if env::var_os(WORKER).is_some() { measure() } else { supervise(scratch) })
}

/// The exit code, after a word about what failed.
pub fn report(name: &str, outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        // Standard error may be closed; the exit code then has to do.
        let _ = writeln!(std::io::stderr(), "{name}: {error:#}");
        ExitCode::FAILURE
    })
}

fn supervise(scratch: &Path) -> Result<ExitCode> {
    let scratch = &std::path::absolute(scratch)?;
    leftovers::sweep(scratch)?;
    // What the worker leaves becomes a child of this process, which can so wait for its end.
    set_child_subreaper(Some(getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(work())?;
    drop(runtime);
    let until = Instant::now() + ORPHANS_DEADLINE;
    while wait(WaitOptions::NOHANG).is_ok() {
        end_children()?;
        if Instant::now() >= until {
            bail!("a program that was measured is still there");
        }
        thread::sleep(LOOK_EVERY);
    }
    leftovers::sweep(scratch)?;
    Ok(exit_code(status))
}

/// Runs the worker to its end, or until this process is asked to end.
async fn work() -> Result<ExitStatus> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = [signal(kinds[0])?, signal(kinds[1])?, signal(kinds[2])?];
    let own = env::current_exe().context("cannot find this program itself")?;
    // A thread that is gone cannot be waited on by the death signal: this is the main one.
    let mut worker = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(own)
        .args(env::args_os().skip(1))
        .env(WORKER, "1")
        .spawn()
        .context("cannot start the worker through setpriv (Debian: util-linux)")?;
    let number = tokio::select! {
        status = worker.wait() => return Ok(status?),
        _ = interrupt.recv() => kinds[0],
        _ = terminate.recv() => kinds[1],
        _ = hangup.recv() => kinds[2],
    };
    worker.kill().await?;
    Ok(ExitStatus::from_raw(number.as_raw_value()))
}

/// Ends what the worker has left: a program that it started in its last moment has not asked for its death signal yet.
fn end_children() -> Result<()> {
    let own = getpid().as_raw_nonzero().get();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // One that has ended meanwhile is nobody's child.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if parent(&stat) == Some(own) {
            // It is not reaped before the next turn, so the id is its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

/// The parent's id: proc_pid_stat(5).
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent(""), None);
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for (raw, code) in [(0, 0), (1 << 8, 1), (2 << 8, 2), (2, 130), (9, 137), (15, 143)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), ExitCode::from(code), "{raw:#x}");
        }
    }
}
