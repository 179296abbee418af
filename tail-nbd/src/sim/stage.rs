//! What stands in for the kernel, the network and other threads while whole tails are simulated on one thread.
//!
//! Set for a thread, it is found by the few places that would otherwise leave the simulation: who dials another tail
//! ([`dial`]), reads or writes a data file besides the shard ([`stored`]), or hands work to a thread that may block
//! ([`offload`]).

use super::chance::Chance;
use super::disk::Disk;
use super::lan::{End, Lan};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use tokio::task::yield_now;

/// How often the copying fails: once in so many times, or never when it is 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mishaps {
    /// Nothing can be read.
    pub(super) read: u64,
    /// There is no space.
    pub(super) write: u64,
    /// What was written is lost.
    pub(super) sync: u64,
}

/// The stage of this thread.
pub(super) struct Stage {
    pub(super) lan: Lan,
    pub(super) chance: Chance,
    pub(super) mishaps: Mishaps,
    /// By inode.
    disks: BTreeMap<u64, Rc<RefCell<Disk>>>,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Sets the stage, until [`clear`].
pub(super) fn set(seed: u64, mishaps: Mishaps) {
    let stage = Stage { lan: Lan::default(), chance: Chance::new(seed), mishaps, disks: BTreeMap::new() };
    STAGE.set(Some(stage));
}

/// Everything is real again.
pub(super) fn clear() {
    // Ends of connections look for nothing here when they are dropped.
    drop(STAGE.take());
}

/// True while this thread simulates tails.
pub(crate) fn is_set() -> bool {
    STAGE.with_borrow(Option::is_some)
}

/// Does something with the stage, which must be set.
pub(super) fn with<T>(what: impl FnOnce(&mut Stage) -> T) -> T {
    STAGE.with_borrow_mut(|stage| what(stage.as_mut().expect("it is set")))
}

/// Does work that blocks, after a while, and lets its end be known after another.
pub(crate) async fn offload<T>(work: impl FnOnce() -> T) -> T {
    pause().await;
    let done = work();
    pause().await;
    done
}

/// Connects a tail to another.
pub(crate) async fn dial(from: Ipv6Addr, to: SocketAddr) -> io::Result<End> {
    pause().await;
    match with(|stage| stage.lan.dial(from, to)) {
        Some(dialled) => dialled,
        None => std::future::pending().await,
    }
}

/// The disk of a data file; `None` when all files are real.
pub(crate) fn stored(file: &File) -> Option<Stored> {
    is_set().then(|| Stored(disk_of(file)))
}

/// The disk of a data file.
pub(super) fn disk_of(file: &File) -> Rc<RefCell<Disk>> {
    let inode = file.metadata().expect("it is open").ino();
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("it is open");
    with(|stage| stage.disks.entry(inode).or_insert_with(|| Rc::new(RefCell::new(Disk::of(&path)))).clone())
}

/// The disk of the file at `path`, if there is one.
pub(super) fn disk_at(path: &Path) -> Option<Rc<RefCell<Disk>>> {
    File::open(path).ok().map(|file| disk_of(&file))
}

/// A data file on a disk that is made up.
pub(crate) struct Stored(Rc<RefCell<Disk>>);

impl Stored {
    /// See [`Data::read`](crate::jobs::data::Data::read).
    pub(crate) async fn read(&self, at: u64, mut buffer: Vec<u8>, length: usize) -> (io::Result<usize>, Vec<u8>) {
        pause().await;
        buffer.resize(length, 0);
        let read = self.read_some(at, &mut buffer);
        buffer.truncate(*read.as_ref().unwrap_or(&0));
        pause().await;
        (read, buffer)
    }

    fn read_some(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let disk = self.0.borrow();
        let most = disk.size().saturating_sub(at).min(into.len() as u64) as usize;
        let (fails, count) = with(|stage| {
            let is_short = most > 512 && stage.chance.one_in(4);
            let count = if is_short { stage.chance.portion(most) } else { most };
            (stage.chance.one_in(stage.mishaps.read), count)
        });
        if fails {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        disk.read(at, &mut into[..count]);
        Ok(count)
    }

    /// See [`Data::write_all`](crate::jobs::data::Data::write_all).
    pub(crate) async fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        pause().await;
        let fails = with(|stage| {
            let fails = stage.chance.one_in(stage.mishaps.write);
            let count = if fails { stage.chance.below(bytes.len() as u64) as usize } else { bytes.len() };
            self.0.borrow_mut().write(at, &bytes[..count], &mut stage.chance);
            fails
        });
        pause().await;
        if fails { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }

    /// See [`Data::reserve`](crate::jobs::data::Data::reserve).
    pub(crate) async fn reserve(&self) -> io::Result<()> {
        pause().await;
        let fails = with(|stage| stage.chance.one_in(stage.mishaps.write));
        if fails { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }

    /// See [`Data::punch`](crate::jobs::data::Data::punch).
    pub(crate) async fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        pause().await;
        self.0.borrow_mut().zero(at, length);
        pause().await;
        Ok(())
    }

    /// See [`Data::sync`](crate::jobs::data::Data::sync).
    pub(crate) async fn sync(&self) -> io::Result<()> {
        pause().await;
        let fails = with(|stage| stage.chance.one_in(stage.mishaps.sync));
        if fails {
            self.0.borrow_mut().fail_sync();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.borrow_mut().sync();
        pause().await;
        Ok(())
    }
}

/// Others go first, now and then for long.
async fn pause() {
    let turns_count = with(|stage| if stage.chance.one_in(8) { stage.chance.below(12) } else { 1 });
    for _ in 0..turns_count {
        yield_now().await;
    }
}
