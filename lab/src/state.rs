//! What a lab has made, on disc before it is made.
//!
//! Two places: `lab.json` in the lab's directory says what the lab is; `/run/bigv-lab/NAME` is a
//! symbolic link to that directory, so that a lab is found by its name alone. `/run` is empty after
//! a reboot, and so are the namespaces.

use crate::{
    config::Layout,
    error::LabError,
    plan::{LabName, Node, Plan, SLOTS_MAX},
    process::Record,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

/// The version of the state file that this program writes and reads.
const FORMAT: u32 = 1;
const RUN: &str = "/run/bigv-lab";

/// The state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The version of this file.
    pub format: u32,
    /// The lab's shape.
    pub plan: Plan,
    /// Where the daemons' programs are.
    pub programs: PathBuf,
    /// Where the tails find disc images.
    pub images: PathBuf,
    /// The API's port on 127.0.0.1, once it is known.
    pub api_port: Option<u16>,
    /// The account's user, its password, and the account's name.
    pub login: Option<Login>,
    /// Daemons that were started.
    pub processes: BTreeMap<Node, Record>,
    /// Files outside the lab's directory: the `bigv` profile, the link on the PATH.
    pub outside: Vec<PathBuf>,
    /// Whether `up` came to its end.
    pub complete: bool,
}

/// Who uses the lab.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// Their password: random, good for nothing but this lab.
    pub password: String,
    /// Their account.
    pub account: String,
    /// Whether the brain has them.
    pub made: bool,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("account", &self.account).finish_non_exhaustive()
    }
}

impl State {
    /// The state of a lab of which nothing is made yet.
    pub fn new(plan: Plan, programs: PathBuf, images: PathBuf) -> Self {
        Self {
            format: FORMAT,
            plan,
            programs,
            images,
            api_port: None,
            login: None,
            processes: BTreeMap::new(),
            outside: vec![],
            complete: false,
        }
    }

    /// Reads a lab's state; none when there is no such file.
    pub fn load(layout: &Layout) -> Result<Option<Self>, LabError> {
        let path = layout.state_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LabError::io("read", &path)(error)),
        };
        let state: Self = serde_json::from_str(&text).map_err(|error| LabError::State {
            path: path.clone(),
            reason: format!("is not a lab's state: {error}"),
        })?;
        if state.format != FORMAT {
            let reason = format!("has format {}, this program knows {FORMAT}", state.format);
            return Err(LabError::State { path, reason });
        }
        Ok(Some(state))
    }

    /// Replaces the state file, all or nothing, readable by root alone.
    pub fn save(&self, layout: &Layout) -> Result<(), LabError> {
        let path = layout.state_file();
        let temporary = path.with_extension("new");
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| LabError::State { path: path.clone(), reason: error.to_string() })?;
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let write = |mut file: File| file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .and_then(write)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(LabError::io("write", &path))
    }
}

/// The registry of this machine's labs.
pub mod registry {
    use super::*;

    /// The directory of the lab called `name`, if it is up or half up.
    pub fn find(name: &LabName) -> Result<Option<PathBuf>, LabError> {
        let link = link(name);
        match fs::read_link(&link) {
            Ok(root) => Ok(Some(root)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LabError::io("read", link)(error)),
        }
    }

    /// Says where the lab called `name` lives.
    pub fn add(name: &LabName, root: &Path) -> Result<(), LabError> {
        let link = link(name);
        if find(name)?.as_deref() == Some(root) {
            return Ok(());
        }
        std::os::unix::fs::symlink(root, &link).map_err(LabError::io("create", &link))
    }

    /// Takes the lowest slot that is free, for the lab called `name`; its own if it has one.
    pub fn take_slot(name: &LabName) -> Result<u16, LabError> {
        for slot in 0..SLOTS_MAX {
            let path = slot_path(slot);
            match File::create_new(&path) {
                Ok(mut file) => {
                    file.write_all(name.as_str().as_bytes()).map_err(LabError::io("write", &path))?;
                    return Ok(slot);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if fs::read_to_string(&path).is_ok_and(|owner| owner == name.as_str()) {
                        return Ok(slot);
                    }
                }
                Err(error) => return Err(LabError::io("create", &path)(error)),
            }
        }
        Err(LabError::Refused(format!(
            "there are {SLOTS_MAX} labs on this machine already; `bigv-lab down --name …` one"
        )))
    }

    /// Forgets the lab called `name`.
    pub fn forget(name: &LabName) -> Result<(), LabError> {
        for slot in 0..SLOTS_MAX {
            let path = slot_path(slot);
            if fs::read_to_string(&path).is_ok_and(|owner| owner == name.as_str()) {
                fs::remove_file(&path).map_err(LabError::io("remove", &path))?;
            }
        }
        match fs::remove_file(link(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(LabError::io("remove", link(name))(error)),
            _ => Ok(()),
        }
    }

    /// Holds off every other `up` and `down` of this lab until the file is dropped.
    pub fn lock(name: &LabName) -> Result<File, LabError> {
        fs::create_dir_all(RUN).map_err(LabError::io("create", RUN))?;
        let path = Path::new(RUN).join(format!("{name}.lock"));
        let file = File::create(&path).map_err(LabError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(LabError::Refused(format!("another bigv-lab is at work on lab {name}; wait for it to end")))
            }
            Err(fs::TryLockError::Error(error)) => Err(LabError::io("lock", &path)(error)),
        }
    }

    /// Removes the lock's file, held by the caller, and the registry if this was the last lab.
    pub fn unlock_for_good(name: &LabName, lock: File) {
        let _ = fs::remove_file(Path::new(RUN).join(format!("{name}.lock")));
        drop(lock);
        // Fails while another lab has its files there, which is as it should be.
        let _ = fs::remove_dir(RUN);
    }

    fn link(name: &LabName) -> PathBuf {
        Path::new(RUN).join(name.as_str())
    }

    fn slot_path(slot: u16) -> PathBuf {
        Path::new(RUN).join(format!("{slot}.slot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { root: directory.path().to_owned() };
        (directory, layout)
    }

    fn state() -> State {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 2, tails: 2, slot: 0 };
        let mut state = State::new(plan, "/bin".into(), "/images".into());
        state.processes.insert(Node::Head(2), Record { pid: 7, started: 99 });
        state.login = Some(Login { user: "u".into(), password: "p4ssw0rd".into(), account: "a".into(), made: true });
        state
    }

    #[test]
    fn what_is_saved_is_read_back() {
        let (_directory, layout) = layout();
        assert_eq!(State::load(&layout).unwrap(), None);
        let state = state();
        state.save(&layout).unwrap();
        assert_eq!(State::load(&layout).unwrap(), Some(state));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(layout.state_file()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "it holds a password");
    }

    #[test]
    fn a_damaged_state_file_is_named() {
        let (_directory, layout) = layout();
        fs::write(layout.state_file(), "{\"format\":").unwrap();
        let error = State::load(&layout).unwrap_err().to_string();
        assert!(error.contains("lab.json") && error.contains("is not a lab's state"), "{error}");
        let newer = State { format: 2, ..state() };
        newer.save(&layout).unwrap();
        assert!(State::load(&layout).unwrap_err().to_string().contains("format 2"));
    }

    #[test]
    fn debug_shows_no_password() {
        assert!(!format!("{:?}", state()).contains("p4ssw0rd"));
    }
}
