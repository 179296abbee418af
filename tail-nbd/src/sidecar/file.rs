//! The sidecar as a file: made once, then overwritten in place.

use super::{
    record::Record,
    slots::{self, SIDECAR_BYTES, Slot, SlotsError, TooLong},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why a sidecar could not be made, read or written.
#[derive(Debug, Error)]
pub enum SidecarError {
    /// The operating system failed.
    #[error("cannot {verb} the sidecar {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its bytes are no record.
    #[error("the sidecar {} is refused", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SlotsError,
    },
    /// The record does not fit in.
    #[error("the sidecar {} cannot hold the change", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long it is.
        source: TooLong,
    },
}

/// A sidecar and the record it is known to hold. All calls block. The file is open only while it is read or written: a
/// tail with thousands of discs needs its descriptors for their clients.
#[derive(Debug)]
pub struct Sidecar {
    path: PathBuf,
    record: Record,
    /// Where `record` is: the next write goes to the other one.
    slot: Slot,
    /// Never lower than any number that a write, successful or not, has used.
    sequence: u64,
}

impl Sidecar {
    /// Makes the file at `path`, whole and durable or not at all. Both slots get the record.
    ///
    /// # Errors
    /// When the record does not fit or the system fails; nothing is left over but, after a crash,
    /// a file with the ending `.new`.
    pub fn create(path: &Path, record: &Record) -> Result<Self, SidecarError> {
        let too_long = |source| SidecarError::TooLong { path: path.to_owned(), source };
        let first = slots::encode_slot(record, 1).map_err(too_long)?;
        let second = slots::encode_slot(record, 2).map_err(too_long)?;
        let temporary = temporary_path(path);
        let made = write_new(&temporary, &[first, second].concat()).and_then(|()| {
            fs::rename(&temporary, path)?;
            sync_folder_of(path)
        });
        if let Err(source) = made {
            let _ = fs::remove_file(&temporary);
            return Err(SidecarError::Io { verb: "make", path: path.to_owned(), source });
        }
        Self::open(path)
    }

    /// Opens the file and reads its current record. Logs when one of its slots is damaged.
    ///
    /// # Errors
    /// When the system fails or there is no readable record in it.
    pub fn open(path: &Path) -> Result<Self, SidecarError> {
        let io_error = |verb| move |source| SidecarError::Io { verb, path: path.to_owned(), source };
        // Also for writing, so that a file which cannot be changed is found at once.
        let file = options().read(true).open(path).map_err(io_error("open"))?;
        let mut bytes = Vec::with_capacity(SIDECAR_BYTES);
        file.take(SIDECAR_BYTES as u64).read_to_end(&mut bytes).map_err(io_error("read"))?;
        let current =
            slots::decode(&bytes).map_err(|source| SidecarError::Unreadable { path: path.to_owned(), source })?;
        if let Some(damage) = &current.other {
            tracing::warn!(path = %path.display(), %damage, "half of a sidecar is damaged; the other half is used");
        }
        Ok(Self { path: path.to_owned(), record: current.record, slot: current.slot, sequence: current.sequence })
    }

    /// The record in force.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `record` the one in force: it is durable when this returns.
    ///
    /// # Errors
    /// When it does not fit or the write fails: then the old record stays in force here, and either
    /// may be found after a crash.
    pub fn write(&mut self, record: Record) -> Result<(), SidecarError> {
        let sequence = self.sequence + 1;
        let bytes = slots::encode_slot(&record, sequence)
            .map_err(|source| SidecarError::TooLong { path: self.path.clone(), source })?;
        self.sequence = sequence;
        let slot = self.slot.other();
        let written = options().open(&self.path).and_then(|file| file.write_all_at(&bytes, slot.offset() as u64));
        written.map_err(|source| SidecarError::Io { verb: "write", path: self.path.clone(), source })?;
        self.slot = slot;
        self.record = record;
        Ok(())
    }
}

/// For overwriting in place: each write is durable when it returns, and nothing is made or followed.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_DSYNC | libc::O_NOFOLLOW);
    options
}

/// Makes the names in the folder that holds `path` durable.
///
/// # Errors
/// What the system says.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// The name a file has until it is whole.
pub fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::slots::tests::record;
    use super::*;

    #[test]
    fn it_reads_back_as_written_many_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.sidecar");
        let mut sidecar = Sidecar::create(&path, &record(7)).unwrap();
        for turn in 1..=5u64 {
            let mut next = sidecar.record().clone();
            next.size_bytes = turn * 512;
            sidecar.write(next.clone()).unwrap();
            assert_eq!(Sidecar::open(&path).unwrap().record(), &next, "turn {turn}");
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), SIDECAR_BYTES as u64, "it must never grow");
        assert!(!temporary_path(&path).exists());
    }

    #[test]
    fn a_refusal_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.sidecar");
        fs::write(&path, b"what?").unwrap();
        let error = crate::describe::describe(&Sidecar::open(&path).unwrap_err());
        assert!(error.contains("7.sidecar") && error.contains("neither half"), "{error}");
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.sidecar");
        let mut sidecar = Sidecar::create(&path, &record(7)).unwrap();
        let mut long = record(7);
        long.extra.insert("note".into(), "x".repeat(5000).into());
        assert!(matches!(sidecar.write(long), Err(SidecarError::TooLong { .. })));
        assert_eq!(Sidecar::open(&path).unwrap().record(), &record(7));
    }
}
