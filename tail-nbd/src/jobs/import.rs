//! Copies a system image onto a new disc; holes stay holes.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};
use thiserror::Error;
use tokio::sync::watch;
use tokio_uring::buf::BoundedBuf as _;

/// Bytes copied at a time: large enough for a RAID's stripes, small enough to be cancelled soon.
pub const PIECE_BYTES: usize = 1 << 20;

/// One import. The data file has the disc's size already and nothing in it.
#[derive(Debug)]
pub struct Import {
    /// The image.
    pub image: Image,
    /// The disc's data file, through the open file description that has the disc's lock.
    pub data: File,
}

/// An open image.
#[derive(Debug)]
pub struct Image {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

/// Why an import did not succeed.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Reading, writing or syncing failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The image changed while it was read.
    #[error("the image {} became shorter while it was read", .0.display())]
    Shrunk(PathBuf),
    /// Somebody asked for its end.
    #[error("it was cancelled")]
    Cancelled,
}

impl Image {
    /// Opens the image at `path`. Blocks.
    ///
    /// # Errors
    /// When it is not there or not a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file", path.display())));
        }
        Ok(Self { file, path: path.to_owned(), size_bytes: metadata.len() })
    }

    /// Its size in bytes, holes included.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes of it that are not holes.
    ///
    /// # Errors
    /// What the system says.
    pub fn data_bytes(&self) -> io::Result<u64> {
        let mut at = 0;
        let mut total = 0;
        while let Some((start, end)) = next_extent(&self.file, at, self.size_bytes)? {
            total += end - start;
            at = end;
        }
        Ok(total)
    }
}

/// The next run of bytes from `at` and below `end` that are not a hole.
///
/// # Errors
/// What the system says.
pub fn next_extent(file: impl AsFd, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= end {
        return Ok(None);
    }
    let start = match seek(&file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        other => other?,
    };
    if start >= end {
        return Ok(None);
    }
    Ok(Some((start, seek(&file, SeekFrom::Hole(start))?.min(end))))
}

impl Import {
    /// Copies, syncs, and says how far it is. `asked_to_end` is looked at between two pieces.
    ///
    /// # Errors
    /// When it fails or is asked to end: the data file then has part of the image.
    pub async fn run(self, progress: &watch::Sender<u8>, asked_to_end: impl Fn() -> bool) -> Result<(), ImportError> {
        let Self { image, data } = self;
        let failed = |what: String| move |source| ImportError::Io { what, source };
        let reading = format!("read the image {}", image.path.display());
        let total = image.data_bytes().map_err(failed(reading.clone()))?;
        let source = tokio_uring::fs::File::from_std(image.file.try_clone().map_err(failed(reading.clone()))?);
        let target = tokio_uring::fs::File::from_std(data);
        let mut buffer = vec![0u8; PIECE_BYTES];
        let (mut at, mut copied) = (0, 0u64);
        while let Some((start, end)) =
            next_extent(&image.file, at, image.size_bytes).map_err(failed(reading.clone()))?
        {
            at = start;
            while at < end {
                if asked_to_end() {
                    return Err(ImportError::Cancelled);
                }
                let length = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let (read, slice) = source.read_at(buffer.slice(..length), at).await;
                let read = read.map_err(failed(reading.clone()))?;
                if read == 0 {
                    return Err(ImportError::Shrunk(image.path));
                }
                let (written, slice) = target.write_all_at(slice.into_inner().slice(..read), at).await;
                written.map_err(failed(format!("write the disc at byte {at}")))?;
                buffer = slice.into_inner();
                at += read as u64;
                copied += read as u64;
                progress.send_replace(percent(copied, total));
            }
        }
        target.sync_all().await.map_err(failed("sync the disc".into()))
    }
}

fn percent(done: u64, total: u64) -> u8 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u8::try_from(percent.min(100)).expect("it is at most 100")
}

#[cfg(test)]
mod tests {
    use super::super::{Cancel, Jobs};
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    fn image(folder: &Path, pieces: &[(u64, &[u8])], size: u64) -> PathBuf {
        let path = folder.join("tiny.raw");
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    fn disc(folder: &Path, size: u64) -> File {
        let path = folder.join("7.data");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(size).unwrap();
        file
    }

    async fn import(path: &Path, data: &File, cancel: Cancel) -> Result<(), ImportError> {
        let jobs = Jobs::start().unwrap();
        let import = Import { image: Image::open(path).unwrap(), data: data.try_clone().unwrap() };
        let job = jobs.import(import, cancel).await;
        let outcome = job.done.await.unwrap();
        assert_eq!(outcome.is_ok(), *job.progress.borrow() == 100, "progress ends at 100");
        tokio::task::spawn_blocking(move || jobs.stop()).await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn an_image_is_copied_and_its_holes_stay_holes() {
        let folder = tempfile::tempdir().unwrap();
        let long = vec![7u8; 3 * PIECE_BYTES / 2];
        let path = image(folder.path(), &[(0, b"boot"), (5 << 20, &long), ((16 << 20) - 100, b"tail")], 16 << 20);
        let data = disc(folder.path(), 64 << 20);
        import(&path, &data, Cancel::default()).await.unwrap();
        let image = std::fs::read(&path).unwrap();
        let disc = std::fs::read(folder.path().join("7.data")).unwrap();
        assert_eq!(disc.len(), 64 << 20, "the disc keeps its size");
        assert!(disc[..image.len()] == image && disc[image.len()..].iter().all(|&byte| byte == 0));
        let allocated = data.metadata().unwrap().blocks() * 512;
        assert!(allocated < 3 << 20, "{allocated} bytes are allocated for less than 2 MiB of data");
    }

    #[tokio::test]
    async fn a_cancelled_import_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), &[(0, &[1; 4096])], 4096);
        let cancel = Cancel::default();
        cancel.cancel();
        let data = disc(folder.path(), 1 << 20);
        assert!(matches!(import(&path, &data, cancel).await, Err(ImportError::Cancelled)));
    }

    #[tokio::test]
    async fn an_import_that_waits_for_its_turn_ends_at_once_when_it_is_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), &[(0, &[1; 4096])], 4096);
        let data = disc(folder.path(), 1 << 20);
        let jobs = Jobs::start_with(0).unwrap();
        let import = || Import { image: Image::open(&path).unwrap(), data: data.try_clone().unwrap() };
        let first = jobs.import(import(), Cancel::default()).await;
        let cancel = Cancel::default();
        let second = jobs.import(import(), cancel.clone()).await;
        cancel.cancel();
        assert!(matches!(second.done.await.unwrap(), Err(ImportError::Cancelled)));
        tokio::task::spawn_blocking(move || jobs.stop()).await.unwrap();
        assert!(matches!(first.done.await.unwrap(), Err(ImportError::Cancelled)), "a stop waits for no turn either");
    }

    #[tokio::test]
    async fn a_failed_write_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), &[(0, &[1; 4096])], 4096);
        disc(folder.path(), 1 << 20);
        let read_only = File::open(folder.path().join("7.data")).unwrap();
        let error = import(&path, &read_only, Cancel::default()).await.unwrap_err().to_string();
        assert!(error.contains("write the disc at byte 0"), "{error}");
    }

    #[test]
    fn percents_are_bounded() {
        assert_eq!([percent(0, 0), percent(1, 3), percent(3, 3), percent(9, 3)], [0, 33, 100, 100]);
    }
}
