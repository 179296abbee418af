//! Small filesystems for pools, taken off when the test ends.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use super::tail::Tail;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A filesystem on the folder of a tail's pool.
pub struct SmallPool(PathBuf);

impl SmallPool {
    /// A tmpfs of so many MiB.
    pub fn mount(tail: &Tail, mib: u64) -> Self {
        let path = tail.folder.path().join("sata1");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status().unwrap();
        assert!(mounted.success(), "root may mount");
        Self(path)
    }

    /// An ext4 in a file; none, with the reason printed, where loop devices are not to be had.
    pub fn mount_ext4(tail: &Tail, mib: u64) -> Option<Self> {
        Self::mount_made(tail, mib, "mkfs.ext4", &["-q", "-m", "0"])
    }

    fn mount_made(tail: &Tail, mib: u64, maker: &str, arguments: &[&str]) -> Option<Self> {
        let (path, image) = (tail.folder.path().join("sata1"), tail.folder.path().join("pool.img"));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let made = Command::new(maker).args(arguments).arg(&image).output();
        let mount = || Command::new("mount").args(["-o", "loop"]).args([&image, &path]).output();
        match made.and_then(|made| if made.status.success() { mount() } else { Ok(made) }) {
            Ok(output) if output.status.success() => Some(Self(path)),
            other => {
                eprintln!("skipped: no file system by {maker} on a loop device here: {other:?}");
                None
            }
        }
    }

    /// The pool's folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
