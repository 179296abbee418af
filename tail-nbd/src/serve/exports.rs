//! The files that are served, by export name.

use super::Source;
use super::error::ServeError;
use crate::disc::mode::IoMode;
use crate::geometry::DiscSize;
use crate::limits::{DISCS_MAX, NAME_BYTES_MAX};
use crate::nbd::option::Export;
use crate::shard::{Access, OpenDisc};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use spine::id::DiscNumber;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What can be asked for.
#[derive(Debug)]
pub(super) struct Exports {
    files: Vec<Served>,
    /// Places in `files`.
    names: BTreeMap<String, usize>,
    io: IoMode,
}

#[derive(Debug)]
struct Served {
    path: PathBuf,
    data: File,
    export: Export,
}

impl Exports {
    /// Opens and locks a file, or each file of a directory.
    pub(super) fn open(source: &Source, read_only: bool, io: IoMode) -> Result<Self, ServeError> {
        let mut exports = Self { files: Vec::new(), names: BTreeMap::new(), io };
        let path = match source {
            Source::Path(path) => path,
            Source::Null(bytes) => {
                exports.add_null(*bytes, read_only)?;
                return Ok(exports);
            }
        };
        let metadata = fs::metadata(path).map_err(failed("open", path))?;
        if !metadata.is_dir() {
            exports.add(String::new(), path, read_only)?;
            return Ok(exports);
        }
        for (name, path) in list(path)? {
            exports.add(name, &path, read_only)?;
        }
        if exports.files.is_empty() { Err(ServeError::Empty(path.to_owned())) } else { Ok(exports) }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// The export of this name.
    pub(super) fn find(&self, name: &str) -> Option<(DiscNumber, Export)> {
        let index = *self.names.get(name)?;
        Some((DiscNumber(index as u64), self.files[index].export.clone()))
    }

    /// Names, and texts for people.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.names.iter().map(|(name, index)| (name.as_str(), self.files[*index].export.description.as_str()))
    }

    /// File names, for people and graphs.
    pub(super) fn labels(&self) -> impl Iterator<Item = (DiscNumber, String)> {
        let labels = self.files.iter().map(|served| served.export.description.clone());
        labels.enumerate().map(|(index, label)| (DiscNumber(index as u64), label))
    }

    /// Each file as its shard takes it.
    pub(super) fn discs(&self) -> impl Iterator<Item = Result<OpenDisc, ServeError>> {
        (0..self.files.len()).map(|index| self.disc(DiscNumber(index as u64)))
    }

    /// A file as its shard takes it. It shares the description, and with it the lock.
    pub(super) fn disc(&self, number: DiscNumber) -> Result<OpenDisc, ServeError> {
        let served = &self.files[usize::try_from(number.0).expect("it is a place in a list")];
        let data = served.data.try_clone().map_err(failed("duplicate the descriptor of", &served.path))?;
        Ok(OpenDisc {
            number,
            data,
            io: self.io,
            size_bytes: served.export.size.bytes(),
            listener: None,
            access: Access::Nobody,
            own_address: IpAddr::V6(Ipv6Addr::LOCALHOST),
            sync_failed: false,
        })
    }

    fn add_null(&mut self, bytes: u64, read_only: bool) -> Result<(), ServeError> {
        let path = Path::new("/dev/zero");
        let data = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open", path))?;
        let size = DiscSize::from_bytes(bytes).ok_or(ServeError::TooLarge(bytes))?;
        let export = Export { size, description: "nothing".to_owned(), read_only };
        self.names.insert(String::new(), self.files.len());
        self.files.push(Served { path: path.to_owned(), data, export });
        Ok(())
    }

    fn add(&mut self, name: String, path: &Path, read_only: bool) -> Result<(), ServeError> {
        // Without O_NONBLOCK the open of a pipe would wait for its other end.
        let data = OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_NONBLOCK).open(path);
        let data = data.map_err(failed("open", path))?;
        let metadata = data.metadata().map_err(failed("look at", path))?;
        if !metadata.is_file() {
            return Err(ServeError::NoFile(path.to_owned()));
        }
        // Many may read what nobody changes.
        let lock =
            if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        match flock(&data, lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ServeError::Locked(path.to_owned())),
            Err(errno) => return Err(failed("lock", path)(errno.into())),
        }
        let size = DiscSize::from_bytes(metadata.len()).expect("a file is not longer than its offsets");
        let file_name = path.file_name().unwrap_or(path.as_os_str());
        let export = Export { size, description: file_name.to_string_lossy().into_owned(), read_only };
        self.names.insert(name, self.files.len());
        self.files.push(Served { path: path.to_owned(), data, export });
        Ok(())
    }
}

/// The files of a directory that have a name to ask for, in order. Hidden files, folders and links are none of ours.
fn list(directory: &Path) -> Result<BTreeMap<String, PathBuf>, ServeError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        let is_file = entry.file_type().map_err(failed("look at", &entry.path()))?.is_file();
        let name = entry.file_name().into_string();
        match name {
            Ok(name) if is_file && !name.starts_with('.') => {
                debug_assert!(name.len() <= NAME_BYTES_MAX as usize, "NAME_MAX is far less");
                found.insert(name, entry.path());
            }
            _ => tracing::info!(path = %entry.path().display(), "not served: no file with a plain name"),
        }
        if found.len() > DISCS_MAX {
            return Err(ServeError::TooMany(directory.to_owned()));
        }
    }
    Ok(found)
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::Io { verb, path, source }
}
