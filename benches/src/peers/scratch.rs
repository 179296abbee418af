//! The measured file: random bytes, whole in the page cache, and nothing of it waiting to be written.

use crate::leftovers;
use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
};

const CHUNK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4 << 10;

/// In what pieces the file is in the page cache. On ext4, kernels from about 6.16 read ahead in large ones, which makes small reads
/// cheaper and small writes ten times dearer, for all servers (benches/rejected.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// Of 4 KiB each, as with the kernels of Debian 12 and 13.
    #[default]
    Small,
    /// As large as the kernel makes them.
    Large,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "small",
            Self::Large => "large",
        })
    }
}

/// The file, which stays for the next run.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    mib: u64,
    pages: Pages,
}

impl Scratch {
    /// Makes the file in `folder`, unless an earlier run has, and empties the page cache of it.
    ///
    /// # Errors
    /// When it cannot be written; it is named.
    pub fn prepare(folder: &Path, mib: u64, pages: Pages) -> Result<Self> {
        let path = folder.join(format!("disc-{mib}m.raw"));
        let there = fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() == mib << 20);
        if !there {
            make(&path, mib).with_context(|| format!("cannot make {}", path.display()))?;
        }
        drop_cached(&path).with_context(|| format!("cannot sync {}", path.display()))?;
        Ok(Self { path, mib, pages })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size.
    pub fn mib(&self) -> u64 {
        self.mib
    }

    /// Writes back what the last sample left behind, and reads all of it into the page cache.
    ///
    /// # Errors
    /// When it cannot be read or synced.
    pub fn warm(&self) -> Result<()> {
        let warm = || -> std::io::Result<()> {
            let mut file = File::open(&self.path)?;
            file.sync_all()?;
            let mut chunk = vec![0; CHUNK_BYTES];
            if self.pages == Pages::Small {
                // Nothing is read ahead.
                fadvise(&file, 0, None, Advice::Random)?;
                chunk.truncate(PAGE_BYTES);
            }
            while file.read(&mut chunk)? > 0 {}
            Ok(())
        };
        warm().with_context(|| format!("cannot warm {}", self.path.display()))
    }
}

fn drop_cached(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Makes it under another name first: a file of the right name and size is whole.
fn make(path: &Path, mib: u64) -> std::io::Result<()> {
    let unfinished = path.with_file_name(leftovers::name("new"));
    let mut file = File::create(&unfinished)?;
    // Xorshift64: bytes that neither compress nor repeat; the seed has no meaning.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mib {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            chunk.extend_from_slice(&random.to_le_bytes());
        }
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_whole_random_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(dir.path(), 2, Pages::Small).unwrap();
        let bytes = fs::read(scratch.path()).unwrap();
        assert_eq!(bytes.len(), 2 << 20);
        assert_ne!(bytes[..4096], bytes[1 << 20..][..4096]);
        let made = fs::metadata(scratch.path()).unwrap().modified().unwrap();
        Scratch::prepare(dir.path(), 2, Pages::Small).unwrap().warm().unwrap();
        assert_eq!(fs::metadata(scratch.path()).unwrap().modified().unwrap(), made, "it is made once");
        fs::write(scratch.path(), "short").unwrap();
        assert_eq!(fs::metadata(Scratch::prepare(dir.path(), 2, Pages::Small).unwrap().path()).unwrap().len(), 2 << 20);
    }
}
