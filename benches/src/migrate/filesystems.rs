//! Moves between file systems: is what is allocated the same at both ends, with the holes that a guest punches meanwhile?

use super::{
    cluster::Cluster,
    guest::{Guest, Mix, Place, Plan, nbd},
    run::{BLOCKS_IN_MIB, DEPTH, Lab},
};
use crate::{figures::Bar, leftovers, peers::program};
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

const DISC: u64 = 1;
const DISC_BYTES: u64 = 1 << 30;
const MIB: u64 = 64;
/// Slow enough that the guest stops while the disc is still being copied.
const LIMIT_MB_PER_S: u32 = 20;
/// How long the guest writes and punches holes during the move.
const MEANWHILE: Duration = Duration::from_secs(2);
/// Requests a second.
const RATE: u64 = 2000;
/// Of the file that each file system is in: it is sparse.
const IMAGE_BYTES: u64 = 4 << 30;
const KINDS: [(&str, &str); 4] = [("ext4", "ext4"), ("xfs", "xfs"), ("ext4", "xfs"), ("xfs", "ext4")];

impl Lab {
    /// As much at the target as at the source, on whatever each of them has?
    ///
    /// Each pair has two tails of its own: `self` only takes the figures.
    pub(super) fn filesystems(&mut self) -> Result<()> {
        for (source, target) in KINDS {
            if [source, target].into_iter().any(|kind| program::find(&format!("/usr/sbin/mkfs.{kind}")).is_none()) {
                self.moves.remarks.push(format!("{source} → {target} is left out: there is no mkfs for both"));
                continue;
            }
            self.pair(source, target).with_context(|| format!("{source} → {target}"))?;
        }
        Ok(())
    }

    fn pair(&mut self, source: &str, target: &str) -> Result<()> {
        let folder = leftovers::folder(&self.config.scratch)?;
        let mounts = [Mounted::new(folder.path(), "source", source)?, Mounted::new(folder.path(), "target", target)?];
        let pools = [mounts[0].folder.as_path(), mounts[1].folder.as_path()];
        let mut tails = self.config.tails();
        tails.pool_folders = Some(pools);
        let mut cluster = Cluster::start(&tails)?;
        cluster.create(DISC, DISC_BYTES)?;
        let (place, blocks_count) = (Place::disc(DISC), MIB * BLOCKS_IN_MIB);
        nbd::fill(&place, blocks_count)?;
        let moving = cluster.begin_move(DISC, Some(LIMIT_MB_PER_S))?;
        let plan = Plan { place, blocks_count, depth: DEPTH, rate: Some(RATE), mix: Mix::All, seed: 7 };
        let guest = Guest::start(plan)?;
        thread::sleep(MEANWHILE);
        let written = guest.stop()?;
        ensure!(!cluster.has_moved(&moving)?, "the disc has moved before its guest stopped");
        let before = cluster.allocated_bytes(DISC)? as f64;
        cluster.finish_move(&moving)?;
        let off_percent = (cluster.allocated_bytes(DISC)? as f64 / before - 1.0).abs() * 100.0;
        self.note(format!("allocated at the target, off by, {source} → {target}"), off_percent, "%", Bar::AtMost(1.0));
        let checked = written.check()?;
        self.note_checked(&format!("{source} → {target}"), checked);
        Ok(())
    }
}

/// A new file system in a file, until it is dropped.
struct Mounted {
    folder: PathBuf,
}

impl Mounted {
    fn new(at: &Path, name: &str, kind: &str) -> Result<Self> {
        let (image, folder) = (at.join(format!("{name}.image")), at.join(name));
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        fs::create_dir(&folder)?;
        run(Command::new(format!("/usr/sbin/mkfs.{kind}")).arg("-q").arg(&image))?;
        // The kernel gives the loop device back when it is unmounted.
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&folder))?;
        Ok(Self { folder })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What stays is swept when this process is gone.
        let _ = leftovers::unmount(&self.folder);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
