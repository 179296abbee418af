//! qemu's process: started without rights, recognised after a restart of the supervisor, watched by
//! its pidfd, killed by it. A pid alone is never trusted: it may be another process's by now.

use super::exec::Identity;
use crate::limits::LOG_BYTES_MAX;
use command_fds::{CommandFdExt, FdMapping};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The descriptor of a connection that it is given: the first behind those that every process has.
pub const CONNECTION_FD: i32 = 3;

/// How to start a qemu.
#[derive(Debug)]
pub struct Launch<'a> {
    /// This program, for its `exec-qemu`.
    pub helper: &'a Path,
    /// Who it runs as.
    pub identity: Identity,
    /// The program.
    pub qemu: &'a Path,
    /// Its arguments.
    pub arguments: &'a [String],
    /// Its descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Its descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Its descriptor [`CONNECTION_FD`].
    pub connection: Option<OwnedFd>,
    /// Its descriptor 2, opened for appending.
    pub log: File,
}

/// A running qemu.
#[derive(Debug)]
pub struct Qemu {
    mark: Mark,
    pidfd: AsyncFd<OwnedFd>,
    /// How it ended, once that is known.
    exit: Option<Exit>,
}

/// What tells one process from every other of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc(5), field 22 of stat).
    pub start_time: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Not known: an earlier supervisor started it, and only a parent learns it.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
            Self::Unknown => f.write_str("an unknown status, because an earlier supervisor had started it"),
        }
    }
}

impl Qemu {
    /// Starts a process.
    ///
    /// # Errors
    /// When the helper cannot be started. A qemu that cannot be reached from there ends at once, and says
    /// so in its log.
    pub fn spawn(launch: Launch<'_>) -> io::Result<Self> {
        let pipe = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let mut command = Command::new(launch.helper);
        command.arg("exec-qemu").arg("--uid").arg(launch.identity.uid.to_string());
        if let Some(group) = launch.identity.kvm_group {
            command.arg("--kvm-group").arg(group.to_string());
        }
        if launch.identity.network {
            command.arg("--network");
        }
        command.arg("--").arg(launch.qemu).args(launch.arguments);
        // Nothing of the supervisor's environment concerns a guest.
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(pipe(launch.stdin)).stdout(pipe(launch.stdout)).stderr(launch.log);
        let connection = launch.connection.map(|parent_fd| FdMapping { parent_fd, child_fd: CONNECTION_FD });
        command.fd_mappings(connection.into_iter().collect()).map_err(io::Error::other)?;
        let mut child = command.spawn()?;
        let watched = i32::try_from(child.id()).map_err(|_| Errno::SRCH.into()).and_then(|pid| {
            let pidfd = open_pidfd(pid)?;
            Ok((Mark { pid, start_time: start_time(pid)? }, pidfd))
        });
        match watched {
            Ok((mark, pidfd)) => Ok(Self { mark, pidfd, exit: None }),
            Err(error) => {
                // Nothing that is not watched may run.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Takes over a process that an earlier supervisor started, if it is still the same one and runs as
    /// `uid`.
    ///
    /// # Errors
    /// When it is not.
    pub fn adopt(mark: Mark, uid: u32) -> io::Result<Self> {
        // The descriptor first: what is looked at after it is what it holds, or it is dead.
        let pidfd = open_pidfd(mark.pid)?;
        let same = start_time(mark.pid)? == mark.start_time && uid_of(mark.pid)? == uid;
        if same { Ok(Self { mark, pidfd, exit: None }) } else { Err(Errno::SRCH.into()) }
    }

    /// What tells it from others.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Waits for its end. May be called again, and may be dropped while waiting.
    pub async fn wait(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.exit {
                return exit;
            }
            // A pidfd is readable from the end of its process on.
            if let Ok(mut ready) = self.pidfd.readable().await {
                self.exit = reap(&self.pidfd);
                ready.clear_ready();
            }
        }
    }

    /// Sends SIGKILL. A process that has ended is no error.
    pub fn kill(&self) {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => tracing::warn!(pid = self.mark.pid, %errno, "cannot kill a qemu"),
        }
    }
}

/// Takes note of the end of a process, so that the kernel can forget it; none while it runs.
fn reap(pidfd: &AsyncFd<OwnedFd>) -> Option<Exit> {
    match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(None) => None,
        Ok(Some(status)) => {
            let signal = || status.terminating_signal().map(Exit::Signal);
            Some(status.exit_status().map(Exit::Code).or_else(signal).unwrap_or(Exit::Unknown))
        }
        // It is not a child of this process.
        Err(_) => Some(Exit::Unknown),
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[expect(deprecated, reason = "it is about types whose descriptor changes; that of an OwnedFd does not")]
fn open_pidfd(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)
}

fn start_time(pid: i32) -> io::Result<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| Errno::INVAL.into())
}

/// Field 22; the second, the name in brackets, may hold anything.
fn parse_start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn uid_of(pid: i32) -> io::Result<u32> {
    // After exec without set-uid bits the directory belongs to the process's effective uid.
    Ok(fs::metadata(format!("/proc/{pid}/stat"))?.uid())
}

/// Processes with an argument that begins with one of this head's own paths: its qemus, and nothing
/// else runs under a uid of its range with such an argument.
///
/// # Errors
/// When /proc cannot be read.
pub fn ours(uids: &std::ops::RangeInclusive<u32>, directory: &Path) -> io::Result<Vec<(Mark, u32)>> {
    let needle = format!("{}/", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while it is looked at.
        let (Ok(uid), Ok(start_time)) = (uid_of(pid), start_time(pid)) else { continue };
        let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        if uids.contains(&uid) && String::from_utf8_lossy(&arguments).contains(&needle) {
            found.push((Mark { pid, start_time }, uid));
        }
    }
    Ok(found)
}

/// The last line of a log, of which only the end is read; for people.
pub fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(crate::limits::LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(crate::limits::LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    Some(line.chars().map(clean).take(LINE_CHARS_MAX).collect())
}

/// Empties a log that has grown over its bound. What qemu says next is then at its start, because qemu
/// appends.
///
/// # Errors
/// When it cannot be looked at or cut.
pub fn bound_log(log: &Path) -> io::Result<()> {
    if fs::metadata(log)?.len() > LOG_BYTES_MAX {
        fs::OpenOptions::new().write(true).open(log)?.set_len(0)?;
    }
    Ok(())
}

/// Of a line that goes into a reason.
const LINE_CHARS_MAX: usize = 300;

/// This program, even when its file has been replaced meanwhile.
pub fn this_program() -> PathBuf {
    PathBuf::from(OsStr::new("/proc/self/exe"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 1 2 3";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time("17"), None);
    }

    #[test]
    fn exits_are_told_apart() {
        assert_eq!(Exit::Code(1).to_string(), "code 1");
        assert_eq!(Exit::Signal(9).to_string(), "signal 9 (SIGKILL)");
        assert_eq!(Exit::Signal(200).to_string(), "signal 200");
    }

    #[test]
    fn the_last_line_is_bounded_and_printable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{}\nqemu: \x1b[31mno disc\n\n", "x".repeat(10_000))).unwrap();
        assert_eq!(last_line(file.path()).unwrap(), "qemu:  [31mno disc");
        fs::write(file.path(), "x".repeat(10_000)).unwrap();
        assert_eq!(last_line(file.path()).unwrap().len(), LINE_CHARS_MAX);
        assert_eq!(last_line(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_log_stays_bounded_and_its_last_line_is_right() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut qemu = fs::OpenOptions::new().append(true).open(file.path()).unwrap();
        let line = format!("{}\n", "x".repeat(99));
        for n in 0..10_000 {
            qemu.write_all(line.as_bytes()).unwrap();
            if n % 100 == 0 {
                bound_log(file.path()).unwrap();
            }
        }
        qemu.write_all(b"the end\n").unwrap();
        assert!(fs::metadata(file.path()).unwrap().len() <= LOG_BYTES_MAX + 100 * 100);
        let kept = fs::metadata(file.path()).unwrap().len();
        bound_log(file.path()).unwrap();
        assert_eq!(fs::metadata(file.path()).unwrap().len(), kept, "one within its bound is left as it is");
        assert_eq!(last_line(file.path()).unwrap(), "the end");
        assert!(!fs::read(file.path()).unwrap().contains(&0), "no hole where it was cut");
        assert!(bound_log(Path::new("/nonexistent")).is_err());
    }

    #[tokio::test]
    async fn a_process_is_adopted_only_if_it_is_the_same() {
        let pid = i32::try_from(Command::new("sleep").arg("60").spawn().unwrap().id()).unwrap();
        let uid = uid_of(pid).unwrap();
        let mark = Mark { pid, start_time: start_time(pid).unwrap() };
        assert!(Qemu::adopt(Mark { start_time: mark.start_time + 1, ..mark }, uid).is_err(), "another start time");
        assert!(Qemu::adopt(mark, uid + 1).is_err(), "another uid");
        let mut qemu = Qemu::adopt(mark, uid).unwrap();
        qemu.kill();
        assert_eq!(qemu.wait().await, Exit::Signal(9), "its parent learns how it ended");
        assert_eq!(qemu.wait().await, Exit::Signal(9), "as often as it asks");
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "and the kernel can forget it");
    }
}
