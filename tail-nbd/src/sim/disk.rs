//! A disk with a page cache that forgets what was not synced.

use super::chance::Chance;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a disk writes as a whole, in bytes.
const SECTOR_BYTES: usize = 512;

/// One disc's file. The page cache is a file in memory, so that what the shard asks of the kernel directly, like
/// where the holes are, is answered as ever.
#[derive(Debug)]
pub(super) struct Disk {
    cache: File,
    /// Where it is, when it has a name.
    path: Option<PathBuf>,
    durable: Vec<u8>,
    unsynced: Vec<bool>,
    /// It can make holes, and zeroes.
    pub(super) can_punch: bool,
    /// Errors that it has returned, other than to a sync.
    pub(super) failures_count: u64,
    /// Syncs that have failed.
    pub(super) lost_syncs_count: u64,
}

impl Disk {
    /// A disk of zeroes.
    pub(super) fn new(size: u64, can_punch: bool) -> Self {
        let durable = vec![0; size as usize];
        let unsynced = vec![false; durable.len().div_ceil(SECTOR_BYTES)];
        Self {
            cache: cache_of(&durable),
            path: None,
            durable,
            unsynced,
            can_punch,
            failures_count: 0,
            lost_syncs_count: 0,
        }
    }

    /// The disk of a file in a filesystem in memory: what is in it is durable.
    pub(super) fn of(path: &Path) -> Self {
        let durable = std::fs::read(path).expect("it is there");
        let unsynced = vec![false; durable.len().div_ceil(SECTOR_BYTES)];
        let cache = open(path);
        let path = Some(path.to_owned());
        Self { cache, path, durable, unsynced, can_punch: true, failures_count: 0, lost_syncs_count: 0 }
    }

    /// The file, for whoever opens it.
    pub(super) fn open(&self) -> File {
        self.cache.try_clone().expect("a descriptor")
    }

    pub(super) fn size(&self) -> u64 {
        self.durable.len() as u64
    }

    /// Makes the file as long as that, if it is shorter. The disc is not larger for it.
    pub(super) fn make_room(&self, bytes: u64) {
        self.cache.set_len(bytes.max(self.size())).expect("memory");
    }

    /// The disc has this size from now on, and so has its file. A size is durable at once.
    pub(super) fn resize(&mut self, bytes: u64) {
        self.cache.set_len(bytes).expect("memory");
        self.durable.resize(bytes as usize, 0);
        self.unsynced.resize(self.durable.len().div_ceil(SECTOR_BYTES), false);
    }

    /// True when there are only zeroes from there on.
    pub(super) fn is_zero_from(&self, offset: u64) -> bool {
        let mut rest = vec![0; self.size().saturating_sub(offset) as usize];
        self.cache.read_exact_at(&mut rest, offset).expect("it is inside");
        rest.iter().all(|byte| *byte == 0)
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        self.cache.read_exact_at(into, offset).expect("it is inside");
    }

    /// Writes, and now and then brings what is written to the disk.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], chance: &mut Chance) {
        self.cache.write_all_at(bytes, offset).expect("memory");
        self.changed(offset, bytes.len());
        if chance.one_in(8) {
            let end = offset as usize + bytes.len();
            self.durable[offset as usize..end].copy_from_slice(bytes);
        }
    }

    /// Makes zeroes.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.cache, flags, offset, length).expect("memory has holes");
        self.changed(offset, length as usize);
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        let mut sector = 0;
        while sector < self.unsynced.len() {
            let run = self.unsynced[sector..].iter().take_while(|unsynced| **unsynced).count();
            if run > 0 {
                let (start, end) = self.bytes_of(sector, run);
                self.cache.read_exact_at(&mut self.durable[start..end], start as u64).expect("it is inside");
                self.unsynced[sector..sector + run].fill(false);
            }
            sector += run.max(1);
        }
    }

    /// A sync that fails. As under Linux, what it should have written counts as clean afterwards, so that the
    /// next one says that all is well (safety rule 17).
    pub(super) fn fail_sync(&mut self) {
        self.unsynced.fill(false);
        self.lost_syncs_count += 1;
    }

    /// The process was gone before it heard that a sync had failed. Under Linux the failure is told to nobody else, and no
    /// server can know of it: so it is made undone.
    pub(super) fn forget_failed_sync(&mut self) {
        self.unsynced.fill(true);
        self.lost_syncs_count -= 1;
    }

    /// Power is lost: each sector that was not synced has its old or its new content. Returns what is left.
    pub(super) fn lose_power(&mut self, chance: &mut Chance) -> Vec<u8> {
        for sector in 0..self.unsynced.len() {
            if self.unsynced[sector] && chance.one_in(2) {
                let (start, end) = self.bytes_of(sector, 1);
                self.cache.read_exact_at(&mut self.durable[start..end], start as u64).expect("it is inside");
            }
        }
        self.unsynced.fill(false);
        self.cache = match &self.path {
            Some(path) => refill(open(path), &self.durable),
            None => cache_of(&self.durable),
        };
        self.durable.clone()
    }

    fn changed(&mut self, offset: u64, length: usize) {
        let end = (offset as usize + length).div_ceil(SECTOR_BYTES);
        self.unsynced[offset as usize / SECTOR_BYTES..end].fill(true);
    }

    fn bytes_of(&self, sector: usize, count: usize) -> (usize, usize) {
        (sector * SECTOR_BYTES, ((sector + count) * SECTOR_BYTES).min(self.durable.len()))
    }
}

fn cache_of(content: &[u8]) -> File {
    refill(File::from(memfd_create("disc", MemfdFlags::CLOEXEC).expect("a file in memory")), content)
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("it is there")
}

/// Gives a file this content, with holes where it is zeroes.
fn refill(cache: File, content: &[u8]) -> File {
    cache.set_len(0).expect("memory");
    cache.set_len(content.len() as u64).expect("memory");
    for (page, bytes) in content.chunks(4096).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            cache.write_all_at(bytes, page as u64 * 4096).expect("memory");
        }
    }
    cache
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_stays_and_a_failed_sync_loses_everything_once() {
        let mut chance = Chance::new(1);
        let mut disk = Disk::new(8192, true);
        disk.write(0, &[1; 512], &mut chance);
        disk.sync();
        disk.write(4096, &[2; 512], &mut Chance::new(2));
        disk.fail_sync();
        disk.sync();
        let image = disk.lose_power(&mut chance);
        assert_eq!((image[0], image[4096]), (1, 0));
        let mut cached = [9; 1];
        disk.read(4096, &mut cached);
        assert_eq!(cached, [0], "the cache is gone too");
    }
}
