//! The cluster a tail belongs to and the highest epoch it has seen, kept over restarts so that a brain
//! of former times is refused (safety rule 8).

use crate::sidecar::file::{sync_folder_of, temporary_path};
use serde::{Deserialize, Serialize};
use spine::{id::Epoch, message::Welcome};
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use thiserror::Error;
use uuid::Uuid;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The cluster; none before the first welcome.
    pub cluster: Option<Uuid>,
    /// The highest epoch.
    pub epoch: Epoch,
}

/// Why it could not be read or kept.
#[derive(Debug, Error)]
#[error("cannot {verb} {}", path.display())]
pub struct EpochError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Why a brain's welcome is not accepted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Foreign {
    /// It is the brain of another cluster.
    #[error("this tail belongs to cluster {own}, and the brain is of cluster {theirs}")]
    Cluster {
        /// Ours.
        own: Uuid,
        /// The brain's.
        theirs: Uuid,
    },
    /// It has been replaced.
    #[error("this tail has met a brain of epoch {own}, and this one is of epoch {theirs}")]
    Epoch {
        /// The highest seen.
        own: Epoch,
        /// The brain's.
        theirs: Epoch,
    },
}

impl Seen {
    /// What to keep after a welcome.
    ///
    /// # Errors
    /// When the brain is not ours to obey.
    pub fn after(self, welcome: &Welcome) -> Result<Self, Foreign> {
        if let Some(own) = self.cluster.filter(|own| *own != welcome.cluster) {
            return Err(Foreign::Cluster { own, theirs: welcome.cluster });
        }
        if welcome.epoch < self.epoch {
            return Err(Foreign::Epoch { own: self.epoch, theirs: welcome.epoch });
        }
        Ok(Self { cluster: Some(welcome.cluster), epoch: welcome.epoch })
    }

    /// Reads what is kept in `state_dir`. A file that is not there is that of a new tail; one that
    /// cannot be read is an error, for the fence must not be forgotten. Blocks.
    ///
    /// # Errors
    /// With the file's name.
    pub fn load(state_dir: &Path) -> Result<Self, EpochError> {
        let path = path(state_dir);
        let failed = |source| EpochError { verb: "read", path: path.clone(), source };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Keeps it, durably. Blocks.
    ///
    /// # Errors
    /// With the file's name; what was kept before is still there.
    pub fn store(self, state_dir: &Path) -> Result<(), EpochError> {
        let path = path(state_dir);
        let write = || {
            let temporary = temporary_path(&path);
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_folder_of(&path)
        };
        write().map_err(|source| EpochError { verb: "write", path: path.clone(), source })
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(cluster: u128, epoch: u64) -> Welcome {
        Welcome { spine: 1, cluster: Uuid::from_u128(cluster), epoch: Epoch(epoch) }
    }

    #[test]
    fn rule8_the_highest_epoch_is_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let seen = Seen::load(folder.path()).unwrap();
        assert_eq!(seen, Seen::default());
        let seen = seen.after(&welcome(1, 4)).unwrap();
        seen.store(folder.path()).unwrap();
        let seen = Seen::load(folder.path()).unwrap();
        assert!(matches!(seen.after(&welcome(1, 3)), Err(Foreign::Epoch { .. })));
        assert!(matches!(seen.after(&welcome(2, 9)), Err(Foreign::Cluster { .. })));
        assert_eq!(seen.after(&welcome(1, 4)), Ok(seen));
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path()), b"{").unwrap();
        let error = Seen::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cluster.json"), "{error}");
    }
}
