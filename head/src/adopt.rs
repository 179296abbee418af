//! After a restart of the supervisor: which processes are ours, and are they what we think? (R176, R186)
//!
//! Each machine has a record in the runtime directory, written before its qemu is started and replaced
//! once its guest runs. A record that does not say `running`, or whose process is gone or another one, is
//! what a crash left: its remains are removed. A qemu of ours without a record cannot be controlled: it is
//! ended. Nothing here ever lets a guest go on that was not going already (safety rule 7).

use crate::hypervisor::{command_line::Accelerator, process::Mark};
use serde::{Deserialize, Serialize};
use spine::{id::VmId, resource::vm::VmResource};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What a supervisor must know to take over a machine. It holds secrets: the file is root's alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The machine.
    pub id: VmId,
    /// The kernel's boot: marks of another one mean nothing.
    pub boot_id: String,
    /// Who it runs as.
    pub uid: u32,
    /// Its process; none before it is started.
    pub mark: Option<Mark>,
    /// Its guest has been let go.
    pub running: bool,
    /// How its guest is run.
    pub accelerator: Accelerator,
    /// All of it, with its secrets.
    pub resource: VmResource,
}

/// What to do about a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take the machine over, if its process is still the same.
    Adopt(Mark),
    /// Remove what is left of it, its process too.
    Remove(&'static str),
}

/// Judges a record: pure.
pub fn judge(record: &Record, boot_id: &str, adopt: bool) -> Verdict {
    match record.mark {
        _ if record.boot_id != boot_id => Verdict::Remove("it is of before the last reboot"),
        None => Verdict::Remove("its qemu was never started"),
        Some(_) if !record.running => Verdict::Remove("its start was not finished"),
        Some(_) if !adopt => Verdict::Remove("restart_policy is die"),
        Some(mark) => Verdict::Adopt(mark),
    }
}

/// The files of a runtime directory.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files under `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The runtime directory itself.
    pub fn root(&self) -> &Path {
        &self.directory
    }

    /// The record of a machine.
    pub fn record(&self, id: &VmId) -> PathBuf {
        self.directory.join(format!("vm-{id}.json"))
    }

    /// The directory that belongs to the machine's uid.
    pub fn directory(&self, id: &VmId) -> PathBuf {
        self.directory.join(format!("vm-{id}"))
    }

    /// The monitor's socket.
    pub fn monitor(&self, id: &VmId) -> PathBuf {
        self.directory.join(format!("vm-{id}.qmp"))
    }

    /// The serial port's socket.
    pub fn serial(&self, id: &VmId) -> PathBuf {
        self.directory.join(format!("vm-{id}.tty"))
    }

    /// What qemu complains of.
    pub fn log(&self, id: &VmId) -> PathBuf {
        self.directory.join(format!("vm-{id}.log"))
    }

    /// Writes a record: the file is either the old or the new one at any time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.record(&record.id);
        let new = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&new, &path)
    }

    /// Every record, and the files that look like one and cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn records(&self) -> io::Result<(Vec<Record>, Vec<PathBuf>)> {
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !(name.starts_with("vm-") && name.ends_with(".json")) {
                continue;
            }
            let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            match record.filter(|record| self.record(&record.id) == path) {
                Some(record) => records.push(record),
                None => unreadable.push(path),
            }
        }
        Ok((records, unreadable))
    }

    /// Removes every file of a machine. What is not there is no error.
    ///
    /// # Errors
    /// The first that could not be removed.
    pub fn remove(&self, id: &VmId) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        gone(fs::remove_dir_all(self.directory(id)))?;
        for path in [self.monitor(id), self.serial(id), self.log(id), self.record(id).with_extension("new")] {
            gone(fs::remove_file(path))?;
        }
        // The record last: while it is there, what is left over can be found.
        gone(fs::remove_file(self.record(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn record() -> Record {
        Record {
            id: "17".parse().unwrap(),
            boot_id: "b".into(),
            uid: 70_000,
            mark: Some(Mark { pid: 4711, start_time: 99 }),
            running: true,
            accelerator: Accelerator::Tcg,
            resource: serde_json::from_str(include_str!("../../spine/tests/figure5.json")).unwrap(),
        }
    }

    #[test]
    fn r186_only_a_running_machine_of_this_boot_is_adopted() {
        let good = record();
        assert_eq!(judge(&good, "b", true), Verdict::Adopt(good.mark.unwrap()));
        assert!(matches!(judge(&good, "c", true), Verdict::Remove(_)), "another boot");
        assert!(matches!(judge(&good, "b", false), Verdict::Remove(_)), "policy die");
        let starting = Record { running: false, ..good.clone() };
        assert!(matches!(judge(&starting, "b", true), Verdict::Remove(_)), "rule 7: it was never let go");
        assert!(matches!(judge(&Record { mark: None, ..starting }, "b", true), Verdict::Remove(_)));
    }

    #[test]
    fn a_record_reads_back_as_written_and_is_roots_alone() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        files.write(&record()).unwrap();
        let mode = fs::metadata(files.record(&record().id)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(directory.path().join("vm-18.json"), "{").unwrap();
        fs::write(directory.path().join("vm-19.json"), serde_json::to_vec(&record()).unwrap()).unwrap();
        fs::write(directory.path().join("lock"), "").unwrap();
        let (records, mut unreadable) = files.records().unwrap();
        unreadable.sort();
        assert_eq!(records, [record()]);
        assert_eq!(unreadable, [directory.path().join("vm-18.json"), directory.path().join("vm-19.json")]);
    }

    #[test]
    fn removing_twice_is_harmless() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        files.write(&record()).unwrap();
        fs::create_dir(files.directory(&record().id)).unwrap();
        files.remove(&record().id).unwrap();
        files.remove(&record().id).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
