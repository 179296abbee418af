//! A storage pool: a folder on some filesystem, and where in it a disc's files are (R114, R122).
//!
//! ```text
//!   POOL/discs/7.data       the disc, sparse
//!   POOL/discs/7.sidecar    what there is to know of it; or STATE_DIR/sidecars/POOL/7.sidecar
//! ```

use crate::{
    config::{PoolConfig, SidecarPlace},
    disc::mode::IoMode,
    sidecar::file::{sync_folder_of, temporary_path},
};
use rustix::fs::{fstatvfs, statfs};
use spine::id::{DiscNumber, Grade, PoolName};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Filesystems on which overwriting a block needs a new one, so that a sidecar there could not be
/// written when the pool is full: btrfs, bcachefs, ZFS (linux/magic.h; ZFS's own source).
const COPY_ON_WRITE: [i64; 3] = [0x9123_683e, 0xca45_1a4e, 0x2fc1_2fc1];

/// A pool that was there at start.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// The grade of all its discs.
    pub grade: Grade,
    /// How its data files are read and written.
    pub io: IoMode,
    /// For people.
    pub note: String,
    data_dir: PathBuf,
    sidecar_dir: PathBuf,
}

/// Space of the filesystem that holds a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub size_bytes: u64,
    /// What is left for discs.
    pub free_bytes: u64,
}

/// Why a pool cannot be used.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The system failed.
    #[error("storage pool {pool}: cannot {verb} {}", path.display())]
    Io {
        /// The pool.
        pool: PoolName,
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The sidecars would be on a copy-on-write filesystem.
    #[error(
        "storage pool {pool}: {} is on a copy-on-write filesystem, where sidecars cannot be written once it is full: \
         set sidecars = \"state_dir\" for it",
        path.display()
    )]
    CopyOnWrite {
        /// The pool.
        pool: PoolName,
        /// Its folder.
        path: PathBuf,
    },
}

/// Files of one disc number that were found in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// There is a data file.
    pub data: bool,
    /// There is a sidecar.
    pub sidecar: bool,
}

impl Pool {
    /// Makes the pool's folders, durably, where they are missing.
    ///
    /// # Errors
    /// When they cannot be made, or sidecars would not be safe there.
    pub fn open(config: &PoolConfig, state_dir: &Path) -> Result<Self, PoolError> {
        let data_dir = config.path.join("discs");
        let sidecar_dir = match config.sidecars {
            SidecarPlace::Pool => data_dir.clone(),
            SidecarPlace::StateDir => state_dir.join("sidecars").join(config.name.as_str()),
        };
        for path in [&data_dir, &sidecar_dir] {
            if path.is_dir() {
                continue;
            }
            let made = fs::create_dir_all(path).and_then(|()| sync_folder_of(path));
            made.map_err(|source| PoolError::Io {
                pool: config.name.clone(),
                verb: "make the folder",
                path: path.clone(),
                source,
            })?;
        }
        let kind = statfs(&sidecar_dir).map_err(|errno| PoolError::Io {
            pool: config.name.clone(),
            verb: "look at the filesystem of",
            path: sidecar_dir.clone(),
            source: errno.into(),
        })?;
        if COPY_ON_WRITE.contains(&kind.f_type) {
            return Err(PoolError::CopyOnWrite { pool: config.name.clone(), path: sidecar_dir });
        }
        let PoolConfig { name, grade, io, note, .. } = config.clone();
        Ok(Self { name, grade, io, note, data_dir, sidecar_dir })
    }

    /// Makes durable that the folders are there: whoever made them may not have come to that. Blocks, on a busy disk for long.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> Result<(), PoolError> {
        [&self.data_dir, &self.sidecar_dir].into_iter().try_for_each(|path| {
            let failed = |source| PoolError::Io { pool: self.name.clone(), verb: "sync", path: path.clone(), source };
            sync_folder_of(path).map_err(failed)
        })
    }

    /// Where the data of disc `number` is.
    pub fn data_path(&self, number: DiscNumber) -> PathBuf {
        self.data_dir.join(format!("{number}.data"))
    }

    /// Where its sidecar is.
    pub fn sidecar_path(&self, number: DiscNumber) -> PathBuf {
        self.sidecar_dir.join(format!("{number}.sidecar"))
    }

    /// How full the filesystem is. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn space(&self) -> io::Result<Space> {
        let stat = fstatvfs(fs::File::open(&self.data_dir)?)?;
        Ok(Space { size_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }

    /// The discs whose files are in the pool. Files that never got their final name are deleted,
    /// with a line in the log. Blocks.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn scan(&self) -> Result<BTreeMap<DiscNumber, Found>, PoolError> {
        let mut found: BTreeMap<DiscNumber, Found> = BTreeMap::new();
        let folders: BTreeSet<&PathBuf> = [&self.data_dir, &self.sidecar_dir].into();
        for folder in folders {
            let error = |source| PoolError::Io {
                pool: self.name.clone(),
                verb: "read the folder",
                path: folder.clone(),
                source,
            };
            for entry in fs::read_dir(folder).map_err(error)? {
                let path = entry.map_err(error)?.path();
                match classify(&path) {
                    Some((number, Kind::Data)) => found.entry(number).or_default().data = true,
                    Some((number, Kind::Sidecar)) => found.entry(number).or_default().sidecar = true,
                    Some((number, Kind::Unfinished)) => {
                        tracing::warn!(pool = %self.name, disc = %number, path = %path.display(), "deleting a half-made file");
                        fs::remove_file(&path).map_err(error)?;
                    }
                    None => {
                        tracing::warn!(pool = %self.name, path = %path.display(), "not a file of a disc; left alone")
                    }
                }
            }
        }
        Ok(found)
    }

    /// Makes an empty data file of `size_bytes` without giving it any space: durable when this
    /// returns, in no more time for a large disc than for a small one (R123). Blocks.
    ///
    /// # Errors
    /// What the system says; nothing is left over.
    pub fn create_data(&self, number: DiscNumber, size_bytes: u64) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.data_path(number);
        if path.try_exists()? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
        }
        let temporary = temporary_path(&path);
        let make = || {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.set_len(size_bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_folder_of(&path)
        };
        make().inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Deletes a disc's files, data first, so that a crash between leaves the record that says so.
    /// Durable when this returns; files that are gone already are no error. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn delete(&self, number: DiscNumber) -> io::Result<()> {
        for path in [self.data_path(number), self.sidecar_path(number)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => sync_folder_of(&path)?,
            }
        }
        Ok(())
    }
}

enum Kind {
    Data,
    Sidecar,
    Unfinished,
}

/// Tells what a file in a pool is from its name.
fn classify(path: &Path) -> Option<(DiscNumber, Kind)> {
    let name = path.file_name()?.to_str()?;
    let (number, ending) = name.split_once('.')?;
    let canonical = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    let number = number.parse().ok().filter(|_| canonical).map(DiscNumber)?;
    match ending {
        "data" => Some((number, Kind::Data)),
        "sidecar" => Some((number, Kind::Sidecar)),
        "data.new" | "sidecar.new" => Some((number, Kind::Unfinished)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn pool(folder: &Path) -> Pool {
        let config = PoolConfig {
            name: "sata1".parse().unwrap(),
            grade: "sata".parse().unwrap(),
            path: folder.to_owned(),
            io: IoMode::default(),
            note: String::new(),
            sidecars: SidecarPlace::Pool,
        };
        Pool::open(&config, folder).unwrap()
    }

    #[test]
    fn r123_an_empty_disc_takes_no_space() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path());
        pool.create_data(DiscNumber(7), 1 << 40).unwrap();
        let metadata = fs::metadata(pool.data_path(DiscNumber(7))).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (1 << 40, 0));
        let again = pool.create_data(DiscNumber(7), 512).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_scan_finds_discs_and_clears_what_is_half_made() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path());
        for name in ["7.data", "7.sidecar", "8.data", "9.sidecar", "10.data.new", "11.sidecar.new", "007.data", "x"] {
            fs::write(folder.path().join("discs").join(name), b"").unwrap();
        }
        let found = pool.scan().unwrap();
        let both = Found { data: true, sidecar: true };
        assert_eq!(found.get(&DiscNumber(7)), Some(&both));
        assert_eq!(found.get(&DiscNumber(8)), Some(&Found { data: true, sidecar: false }));
        assert_eq!(found.get(&DiscNumber(9)), Some(&Found { data: false, sidecar: true }));
        assert_eq!(found.len(), 3);
        assert!(!folder.path().join("discs/10.data.new").exists());
        assert!(folder.path().join("discs/x").exists(), "a stranger's file stays");
    }

    #[test]
    fn deleting_twice_is_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path());
        pool.create_data(DiscNumber(7), 512).unwrap();
        pool.delete(DiscNumber(7)).unwrap();
        pool.delete(DiscNumber(7)).unwrap();
        assert!(pool.scan().unwrap().is_empty());
    }

    #[test]
    fn space_is_that_of_the_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let space = pool(folder.path()).space().unwrap();
        assert!(space.size_bytes > 0 && space.free_bytes <= space.size_bytes);
    }
}
