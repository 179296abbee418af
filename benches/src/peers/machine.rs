//! What a reader must know of the machine to believe a figure.

use super::program::Program;
use crate::record::Machine;
use anyhow::{Context, Result, bail};
use std::{fs, os::unix::fs::MetadataExt, path::Path, thread, time::Duration};
use time::{OffsetDateTime, macros::format_description};

const GIT_DEADLINE: Duration = Duration::from_secs(20);

/// Describes this machine, with the filesystem that holds `folder`.
///
/// # Errors
/// When `folder` is on a filesystem that measures something else than a disc would; it is named.
pub fn describe(folder: &Path, scratch: &Path) -> Result<Machine> {
    let now = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: Option<u64> =
        field(&meminfo, "MemTotal").and_then(|value| value.trim_end_matches(" kB").parse().ok());
    let uname = rustix::system::uname();
    let commit = git(&["rev-parse", "--short=12", "HEAD"], scratch);
    let changes = git(&["status", "--porcelain", "--untracked-files=no"], scratch);
    Ok(Machine {
        date: now,
        commit: commit.unwrap_or_else(|| "unknown".to_owned()),
        modified: changes.is_none_or(|changes| !changes.is_empty()),
        kernel: uname.release().to_string_lossy().into_owned(),
        cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
        cpus_count: thread::available_parallelism().map_or(1, usize::from),
        virtual_machine: field(&cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
        memory_mib: memory_kib.unwrap_or(0) >> 10,
        filesystem: filesystem(folder)?,
        load_average: fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned(),
    })
}

fn git(words: &[&str], scratch: &Path) -> Option<String> {
    let mut command = vec!["git", "-C", env!("CARGO_MANIFEST_DIR")];
    command.extend(words);
    // Without git, or outside a clone, the commit is just not known.
    let printed = Program::start(&command, &scratch.join("git.log")).ok()?.output(GIT_DEADLINE).ok()?;
    Some(printed.trim().to_owned())
}

/// The value behind `name   :` in a file of `/proc`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.map(str::trim)
}

fn filesystem(folder: &Path) -> Result<String> {
    let device = fs::metadata(folder).with_context(|| format!("cannot look at {}", folder.display()))?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let (kind, options) = mount(&mounts, major, minor)
        .with_context(|| format!("no mount is known for {} ({major}:{minor})", folder.display()))?;
    if !["ext4", "xfs"].contains(&kind) {
        bail!(
            "{} is on {kind}, which handles buffered I/O in its own way (a tmpfs sends io_uring's reads to worker \
             threads): give a folder on ext4 or XFS with --scratch",
            folder.display()
        );
    }
    Ok(format!("{kind} ({options})"))
}

/// Type and options of the mount of a device: proc_pid_mountinfo(5).
fn mount(mountinfo: &str, major: u32, minor: u32) -> Option<(&str, &str)> {
    let device = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (first, last) = line.split_once(" - ")?;
        let mut fields = first.split(' ').skip(2);
        let found = fields.next()? == device;
        let options = fields.nth(2)?;
        found.then_some((last.split(' ').next()?, options))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 28 0:25 / /tmp rw - tmpfs tmpfs rw
31 28 7:0 / /mnt\\040x rw,noatime - xfs /dev/loop0 rw";

    #[test]
    fn a_mount_is_found_by_its_device() {
        assert_eq!(mount(MOUNTS, 254, 1), Some(("ext4", "rw,relatime")));
        assert_eq!(mount(MOUNTS, 7, 0), Some(("xfs", "rw,noatime")));
        assert_eq!(mount(MOUNTS, 9, 9), None);
        assert_eq!(mount("nonsense\n1 2 9:9 - x", 9, 9), None);
    }

    #[test]
    fn a_tmpfs_is_refused() {
        let proc = filesystem(Path::new("/proc")).unwrap_err().to_string();
        assert!(proc.contains("--scratch") && proc.contains("proc"), "{proc}");
    }

    #[test]
    fn fields_of_proc() {
        assert_eq!(field("MemTotal:    12 kB\n", "MemTotal"), Some("12 kB"));
        assert_eq!(field("model name\t: A CPU\n", "model name"), Some("A CPU"));
        assert_eq!(field("x", "y"), None);
    }
}
