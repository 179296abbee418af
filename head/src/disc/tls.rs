//! TLS between machines and their discs' tails.
//!
//! A machine's qemu runs under a uid of its own and must read certificate and key itself. It gets copies in its own
//! directory, reads them once when it makes its credentials, and uses those for each later connection too; the copies are
//! removed as soon as its discs are open.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown, fchown},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// What qemu calls its credentials.
pub const CREDENTIALS: &str = "disc-tls";

/// The files of a client as qemu looks for them in a folder: the authorities that tails' certificates are of, and what
/// this head proves to tails who it is by, if they ask for it.
const AUTHORITIES: &str = "ca-cert.pem";
const CLIENT: [&str; 2] = ["client-cert.pem", "client-key.pem"];

/// A file that is needed, and not to be had.
#[derive(Debug, Error)]
#[error("disc_tls: cannot read {path}")]
pub struct Unreadable {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// With it all discs are reached through TLS, and no tail without it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscTls {
    /// The folder of `ca-cert.pem`, and of `client-cert.pem` and `client-key.pem` where tails ask for them.
    #[serde(deserialize_with = "absolute")]
    pub folder: PathBuf,
    /// The name that tails' certificates have; none: the address of the disc.
    pub hostname: Option<String>,
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() { Ok(path) } else { Err(D::Error::custom("disc_tls.folder must be an absolute path")) }
}

impl DiscTls {
    /// Reads the files, to see that they are there.
    ///
    /// # Errors
    /// With the file that cannot be read.
    pub fn check(&self) -> Result<(), Unreadable> {
        self.read().map(drop)
    }

    /// Names and contents of the files. A certificate without its key, or the other way round, is of no use.
    fn read(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Unreadable> {
        let read = |name| {
            let path = self.folder.join(name);
            fs::read(&path).map(|bytes| (name, bytes)).map_err(|source| Unreadable { path, source })
        };
        let mut files = vec![read(AUTHORITIES)?];
        if CLIENT.iter().any(|name| self.folder.join(name).exists()) {
            for name in CLIENT {
                files.push(read(name)?);
            }
        }
        Ok(files)
    }

    /// Copies the files into a machine's directory, for its uid only.
    ///
    /// # Errors
    /// When one cannot be read or written.
    pub fn lend(&self, directory: &Path, uid: u32) -> io::Result<Loan> {
        let unreadable =
            |Unreadable { path, source }| io::Error::new(source.kind(), format!("{}: {source}", path.display()));
        let files = self.read().map_err(unreadable)?;
        let folder = directory.join("tls");
        DirBuilder::new().mode(0o700).create(&folder)?;
        let loan = Loan { folder };
        for (name, bytes) in files {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(loan.folder.join(name))?;
            file.write_all(&bytes)?;
            fchown(&file, Some(uid), Some(uid))?;
        }
        chown(&loan.folder, Some(uid), Some(uid))?;
        Ok(loan)
    }
}

/// Copies of certificate and key that a machine can read, until this is dropped.
#[derive(Debug)]
pub struct Loan {
    folder: PathBuf,
}

impl Loan {
    /// What qemu is told to make its credentials of them.
    pub fn credentials(&self) -> Value {
        json!({
            "qom-type": "tls-creds-x509", "id": CREDENTIALS, "endpoint": "client", "verify-peer": true,
            "dir": self.folder,
        })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::error!(folder = %self.folder.display(), %error, "a machine's copy of the head's TLS key is left over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn made(names: &[&str]) -> (tempfile::TempDir, DiscTls) {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), name).unwrap());
        let tls = DiscTls { folder: folder.path().to_owned(), hostname: None };
        (folder, tls)
    }

    #[test]
    fn a_machine_can_read_its_copies_and_nobody_else_can() {
        let ((_folder, tls), machine) = (made(&[AUTHORITIES, CLIENT[0], CLIENT[1]]), tempfile::tempdir().unwrap());
        let uid = rustix::process::getuid().as_raw();
        let loan = tls.lend(machine.path(), uid).unwrap();
        let lent = machine.path().join("tls");
        assert_eq!(loan.credentials()["dir"], json!(lent));
        assert_eq!(fs::metadata(&lent).unwrap().mode() & 0o777, 0o700);
        for name in [AUTHORITIES, CLIENT[0], CLIENT[1]] {
            let metadata = fs::metadata(lent.join(name)).unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o400, uid), "{name}");
            assert_eq!(fs::read_to_string(lent.join(name)).unwrap(), name);
        }
        drop(loan);
        assert!(!lent.exists());
    }

    #[test]
    fn a_head_without_a_certificate_has_authorities_only_and_half_of_one_is_named() {
        let ((_folder, tls), machine) = (made(&[AUTHORITIES]), tempfile::tempdir().unwrap());
        let uid = rustix::process::getuid().as_raw();
        let loan = tls.lend(machine.path(), uid).unwrap();
        assert_eq!(fs::read_dir(machine.path().join("tls")).unwrap().count(), 1);
        drop(loan);
        for (names, missing) in [(&[AUTHORITIES, CLIENT[0]][..], CLIENT[1]), (&[CLIENT[0], CLIENT[1]], AUTHORITIES)] {
            let (_folder, tls) = made(names);
            assert_eq!(tls.check().unwrap_err().path, tls.folder.join(missing));
            assert!(tls.lend(machine.path(), uid).unwrap_err().to_string().contains(missing));
            assert!(!machine.path().join("tls").exists());
        }
    }
}
