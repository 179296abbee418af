//! The data file of a disc that moves, as the jobs thread reads and writes it.

use std::fs::File;
use std::io;
use tokio_uring::buf::BoundedBuf as _;

/// A data file. Operations are submitted when they are first polled; one that is dropped may take effect all the same.
pub enum Data {
    /// Through the thread's ring.
    Ring(tokio_uring::fs::File),
    /// On a disk that is made up.
    #[cfg(test)]
    Simulated(crate::sim::stage::Stored),
}

impl Data {
    /// A share of this open file description.
    ///
    /// # Errors
    /// When there is no further descriptor.
    pub fn of(file: &File) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(stored) = crate::sim::stage::stored(file) {
            return Ok(Self::Simulated(stored));
        }
        Ok(Self::Ring(tokio_uring::fs::File::from_std(file.try_clone()?)))
    }

    /// Reads up to `length` bytes at `offset` into `buffer`, which has nothing else afterwards.
    ///
    /// # Errors
    /// What the system says. The buffer comes back in any case.
    pub async fn read(&self, offset: u64, mut buffer: Vec<u8>, length: usize) -> (io::Result<usize>, Vec<u8>) {
        buffer.clear();
        buffer.reserve(length);
        match self {
            Self::Ring(file) => {
                let (read, slice) = file.read_at(buffer.slice(..length), offset).await;
                (read, slice.into_inner())
            }
            #[cfg(test)]
            Self::Simulated(stored) => stored.read(offset, buffer, length).await,
        }
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system says: some of it may be written. The buffer comes back in any case.
    pub async fn write_all(&self, offset: u64, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            Self::Ring(file) => file.write_all_at(bytes, offset).await,
            #[cfg(test)]
            Self::Simulated(stored) => (stored.write(offset, &bytes).await, bytes),
        }
    }

    /// Makes room for bytes that are written soon. The file stays as long as it is.
    ///
    /// # Errors
    /// What the system says.
    pub async fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::Ring(file) => file.fallocate(offset, length, libc::FALLOC_FL_KEEP_SIZE).await,
            #[cfg(test)]
            Self::Simulated(stored) => stored.reserve().await,
        }
    }

    /// Makes a hole. The file stays as long as it is.
    ///
    /// # Errors
    /// What the system says.
    pub async fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::Ring(file) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                file.fallocate(offset, length, mode).await
            }
            #[cfg(test)]
            Self::Simulated(stored) => stored.punch(offset, length).await,
        }
    }

    /// Makes zeroes that take space, without writing them; a hole where the file system cannot. The file stays as long as it
    /// is.
    ///
    /// # Errors
    /// What the system says.
    pub async fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::Ring(file) => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                match file.fallocate(offset, length, mode).await {
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.punch(offset, length).await,
                    other => other,
                }
            }
            #[cfg(test)]
            Self::Simulated(stored) => stored.punch(offset, length).await,
        }
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// What the system says: nothing that was written since the last time can be relied upon then.
    pub async fn sync(&self) -> io::Result<()> {
        match self {
            Self::Ring(file) => file.sync_data().await,
            #[cfg(test)]
            Self::Simulated(stored) => stored.sync().await,
        }
    }
}
