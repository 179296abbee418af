//! Small filesystems for pools, taken off when the test ends.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use super::tail::Tail;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A filesystem on the folder of a tail's pool.
pub struct SmallPool {
    path: PathBuf,
    /// What it is in, unless it is in memory.
    image: Option<PathBuf>,
}

impl SmallPool {
    /// A tmpfs of so many MiB.
    pub fn mount(tail: &Tail, mib: u64) -> Self {
        let path = tail.folder.path().join("sata1");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status().unwrap();
        assert!(mounted.success(), "root may mount");
        Self { path, image: None }
    }

    /// An ext4 in a file; none, with the reason printed, where loop devices are not to be had.
    pub fn mount_ext4(tail: &Tail, mib: u64) -> Option<Self> {
        Self::mount_made(tail, mib, "mkfs.ext4", &["-q", "-m", "0"])
    }

    /// An XFS in a file; none, as above. There are no smaller ones than 300 MiB.
    pub fn mount_xfs(tail: &Tail, mib: u64) -> Option<Self> {
        Self::mount_made(tail, mib, "mkfs.xfs", &["-q"])
    }

    fn mount_made(tail: &Tail, mib: u64, maker: &str, arguments: &[&str]) -> Option<Self> {
        let (path, image) = (tail.folder.path().join("sata1"), tail.folder.path().join("pool.img"));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let made = Command::new(maker).args(arguments).arg(&image).output();
        let mount = || Command::new("mount").args(["-o", "loop"]).args([&image, &path]).output();
        match made.and_then(|made| if made.status.success() { mount() } else { Ok(made) }) {
            Ok(output) if output.status.success() => Some(Self { path, image: Some(image) }),
            other => {
                eprintln!("skipped: no file system by {maker} on a loop device here: {other:?}");
                None
            }
        }
    }

    /// The pool's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As the machine loses its power: what is not on the disk is gone, and the filesystem is there again with what is.
    /// Nobody may have a file in it open. False, with the reason printed, where that cannot be done.
    pub fn lose_power(&mut self) -> bool {
        let image = self.image.clone().expect("it is in a file");
        match Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.path).output() {
            Ok(output) if output.status.success() => {}
            other => {
                eprintln!("skipped: no filesystem can be shut down here: {other:?}");
                return false;
            }
        }
        // Another namespace may still have the old one.
        let left = image.with_extension("left");
        run(Command::new("cp").arg("--sparse=always").args([&image, &left]));
        run(Command::new("umount").arg(&self.path));
        run(Command::new("mount").args(["-o", "loop"]).args([&left, &self.path]));
        self.image = Some(left);
        true
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
