//! What brain, heads and tails have in common as daemons: they tell the service manager that they are
//! ready (sd_notify(3)), take the sockets it passes (sd_listen_fds(3)), have their state directory
//! to themselves, and as many open files as they may.

use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_getfd, pidfd_open, setrlimit,
};
use std::{
    env,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::DirBuilderExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The first descriptor that a service manager passes.
const PASSED_FIRST: i32 = 3;
/// More sockets than anyone passes.
const PASSED_MAX: i32 = 64;

/// Sends `state`, such as `READY=1`, to `$NOTIFY_SOCKET`. Without one there is nobody to tell.
///
/// # Errors
/// When the socket does not take it.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// How many sockets were passed to this process.
pub fn passed_sockets_count() -> usize {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0);
    if ours { count.clamp(0, PASSED_MAX) as usize } else { 0 }
}

/// The sockets that were passed to this process, each with its number. To be called once, before
/// anything else is opened or started.
///
/// # Errors
/// When a descriptor that was announced is not open.
pub fn passed_sockets() -> io::Result<Vec<(i32, OwnedFd)>> {
    let numbers = PASSED_FIRST..PASSED_FIRST + passed_sockets_count() as i32;
    if numbers.is_empty() {
        return Ok(vec![]);
    }
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    numbers
        .map(|number| {
            // A copy is ours by type; the original must go, or children would inherit it.
            let copy = pidfd_getfd(&this, number, PidfdGetfdFlags::empty())
                .map_err(|errno| io::Error::new(errno.kind(), format!("descriptor {number} of LISTEN_FDS: {errno}")))?;
            nix::unistd::close(number)?;
            Ok((number, copy))
        })
        .collect()
}

/// Raises the soft limit on open files to the hard one, and returns it: each disc, machine, node and
/// client takes a few. The usual soft limit is 1,024.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files could not be raised");
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// Why a state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// Another daemon has it.
    #[error("another daemon of this kind runs with the state directory {} already", .0.display())]
    Taken(PathBuf),
    /// It cannot be made, or its lock cannot be opened.
    #[error("cannot use {}", path.display())]
    Io {
        /// The directory or the lock in it.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Makes the state directory if there is none, and makes it this process's until the file is dropped.
///
/// # Errors
/// When another process has it, or when it cannot be made.
pub fn lock_state_dir(state_dir: &Path) -> Result<File, StateDirError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StateDirError::Io { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed(state_dir))?;
    let path = state_dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateDirError::Taken(state_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_a_state_directory() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("a/b");
        let lock = lock_state_dir(&state_dir).unwrap();
        let refused = lock_state_dir(&state_dir).unwrap_err().to_string();
        assert!(refused.contains("another daemon") && refused.contains("a/b"), "{refused}");
        drop(lock);
        lock_state_dir(&state_dir).unwrap();
    }

    #[test]
    fn the_limit_on_open_files_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit { current: Some(256), maximum: hard };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise_open_files(), hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_named() {
        let refused = lock_state_dir(Path::new("/dev/null/state")).unwrap_err().to_string();
        assert_eq!(refused, "cannot use /dev/null/state");
    }
}
