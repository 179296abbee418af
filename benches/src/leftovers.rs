//! What a measurement makes outside its own process, under names that say whose it is, so that it can be removed when
//! that process is gone without having done so.
//!
//! ```text
//!   nbdbench-PID-head      a network namespace
//!   nbdbench-PID-x7Gq2f    a folder in the scratch folder; file systems may be mounted in it
//! ```

use crate::namespace;
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

const PREFIX: &str = "nbdbench-";
/// Where `ip netns` keeps the namespaces' names.
const NAMESPACES: &str = "/run/netns";
/// What a killed process had open may be busy for a moment.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(50);

/// The name of a thing of this process.
pub fn name(what: &str) -> String {
    format!("{PREFIX}{}-{what}", std::process::id())
}

/// A folder of this process's own in `scratch`, gone when it is dropped.
///
/// # Errors
/// When it cannot be made.
pub fn folder(scratch: &Path) -> Result<tempfile::TempDir> {
    fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let made = tempfile::Builder::new().prefix(&name("")).tempdir_in(scratch);
    made.with_context(|| format!("cannot make a folder in {}", scratch.display()))
}

/// Removes what processes that are gone have left: namespaces, and in `scratch` mounts, folders and files.
///
/// # Errors
/// When something of theirs cannot be removed; it is named.
pub fn sweep(scratch: &Path) -> Result<()> {
    let is_gone = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
    let left = |folder: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        named.filter(|(name, _)| owner(name).is_some_and(is_gone)).collect()
    };
    for (name, _) in left(Path::new(NAMESPACES)) {
        namespace::remove(&name);
    }
    for (_, path) in left(scratch) {
        let until = Instant::now() + REMOVE_DEADLINE;
        while let Err(error) = remove(&path) {
            if Instant::now() >= until {
                return Err(error.context(format!("{} is left of an earlier run", path.display())));
            }
            thread::sleep(TRY_EVERY);
        }
    }
    Ok(())
}

/// Takes a file system off its folder.
///
/// # Errors
/// When it is busy, or none is there.
pub fn unmount(folder: &Path) -> Result<()> {
    let output = Command::new("umount").arg(folder).output().context("cannot run umount")?;
    anyhow::ensure!(output.status.success(), "umount: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    for mounted in mounts_under(&mounts, path) {
        unmount(&mounted)?;
    }
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// The process whose a name says it is.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Folders under `path` on which something is mounted, the last mounted first: proc_pid_mountinfo(5).
fn mounts_under(mountinfo: &str, path: &Path) -> Vec<PathBuf> {
    let folders = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut under: Vec<PathBuf> = folders.filter(|folder| folder.starts_with(path)).collect();
    under.reverse();
    under
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_it_is() {
        assert_eq!(owner(&name("head")), Some(std::process::id()));
        assert_eq!(owner("nbdbench-12-"), Some(12));
        for other in ["nbdbench-", "nbdbench-12", "nbdbench-x-head", "nbdbench--1-head", "tail-12-x", "disc-512m.raw"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn mounts_are_found_by_their_folder() {
        let info = "28 1 254:1 / / rw - ext4 /dev/vda rw\n\
                    31 28 7:0 / /s/nbdbench-1-a/source rw - xfs /dev/loop0 rw\n\
                    32 31 7:1 / /s/nbdbench-1-a/source/deeper rw - ext4 /dev/loop1 rw\n\
                    33 28 7:2 / /s/nbdbench-1-ab rw - ext4 /dev/loop2 rw\nshort";
        let under = mounts_under(info, Path::new("/s/nbdbench-1-a"));
        assert_eq!(under, [Path::new("/s/nbdbench-1-a/source/deeper"), Path::new("/s/nbdbench-1-a/source")]);
    }

    #[test]
    fn only_what_the_dead_have_left_is_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let at = |name: String| scratch.path().join(name);
        let (theirs, file) = (at(format!("nbdbench-{dead}-x")), at(format!("nbdbench-{dead}-new")));
        fs::create_dir_all(theirs.join("pool")).unwrap();
        fs::write(&file, "x").unwrap();
        let ours = folder(scratch.path()).unwrap();
        fs::write(at("disc-512m.raw".into()), "x").unwrap();
        sweep(scratch.path()).unwrap();
        assert!(!theirs.exists() && !file.exists());
        assert!(ours.path().exists() && at("disc-512m.raw".into()).exists());
    }
}
