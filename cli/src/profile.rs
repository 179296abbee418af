//! The profile: where the brain is and who you are, in `~/.bigv/NAME/profile.toml`.
//!
//! It may hold a password, so its folder has mode 0700 and the file 0600; one that others can read
//! is refused. It is replaced as a whole: a reader sees the old one or the new one.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use spine::secret::Secret;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The profile that is used when none is named.
pub const NAME_DEFAULT: &str = "default";
/// A profile is a few lines.
const BYTES_MAX: u64 = 64 << 10;

/// What a profile says. All of it is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// The brain's base URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Whom to log in as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Their password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The account for names that do not say one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The group for names that do not say one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Arguments for each ssh of `vm console`, split as a shell would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_args: Option<String>,
}

/// Where a profile is kept.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The profile `name` below `home`, which is `~/.bigv` or `BIGV_HOME`.
    pub fn new(home: &Path, name: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            return Err(Error::BadInput(format!(
                "{name:?} is not a name for a profile: use up to 63 letters, digits, - and _"
            )));
        }
        Ok(Self { folder: home.join(name) })
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.join("profile.toml")
    }

    /// Reads the profile; none when there is no file.
    pub fn load(&self) -> Result<Option<Profile>, Error> {
        let path = self.path();
        let error = |reason: String| Error::Profile { path: path.clone(), reason };
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(format!("cannot read the profile: {e}"))),
            // Opening anything else could block.
            Ok(found) if !found.is_file() => return Err(error("the profile is not a file".into())),
            Ok(_) => {}
        }
        let cannot_read = |e: io::Error| error(format!("cannot read the profile: {e}"));
        let file = File::open(&path).map_err(cannot_read)?;
        let mode = file.metadata().map_err(cannot_read)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(error(format!(
                "others than you may read or write the profile (mode {mode:04o}): `chmod 600 {}` and change the \
                 password if one was in it",
                path.display()
            )));
        }
        let mut text = String::new();
        file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot_read)?;
        if text.len() as u64 > BYTES_MAX {
            return Err(error(format!("the profile is longer than {} KiB", BYTES_MAX >> 10)));
        }
        toml::from_str(&text).map(Some).map_err(|e| {
            // The error's own text would quote the line, and a password with it.
            let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            error(format!("line {line}: {}", e.message()))
        })
    }

    /// Replaces the profile.
    pub fn save(&self, profile: &Profile) -> Result<(), Error> {
        let path = self.path();
        let body = toml::to_string(profile)
            .map_err(|e| Error::ProfileWrite { path: path.clone(), source: io::Error::other(e) })?;
        let text = format!("# Read by bigv; `bigv help settings` says what may be here.\n{body}");
        self.replace(&path, &text).map_err(|source| Error::ProfileWrite { path: path.clone(), source })
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let fresh = self.folder.join(format!(".profile.toml.{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&fresh, path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if written.is_err() {
            // It may not even have been made; the first error is the one that matters.
            let _ = fs::remove_file(&fresh);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(&home.path().join("bigv"), "default").unwrap();
        (home, store)
    }

    #[test]
    fn a_profile_survives_with_its_modes() {
        let (home, store) = store();
        assert_eq!(store.load().unwrap(), None);
        let profile = Profile {
            location: Some("https://brain.example".into()),
            password: Some(Secret::new("a\"b\\\n\u{7f}ü")),
            ssh_args: Some(r#"-o ProxyCommand="x %h %p""#.into()),
            ..Profile::default()
        };
        store.save(&profile).unwrap();
        store.save(&profile).unwrap();
        assert_eq!(store.load().unwrap(), Some(profile));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&store.path()), 0o600);
        assert_eq!(mode(&home.path().join("bigv")), 0o700);
        assert_eq!(fs::read_dir(store.path().parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_profile_that_others_can_read_is_refused() {
        let (_home, store) = store();
        store.save(&Profile::default()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(store.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = store.load().unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_in_it_is_named_but_not_quoted() {
        let (_home, store) = store();
        store.save(&Profile::default()).unwrap();
        for (text, parts) in [
            ("location = 'x'\nlocatoin = 'y'\n", ["line 2", "locatoin"]),
            ("account = 5\n", ["line 1", "string"]),
            ("username = 'a'\npassword = 'hunter2\n", ["line 2", "profile.toml"]),
        ] {
            fs::write(store.path(), text).unwrap();
            let error = store.load().unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        fs::write(store.path(), "#".repeat(70_000)).unwrap();
        assert!(store.load().unwrap_err().to_string().contains("64 KiB"));
    }

    #[test]
    fn a_profiles_name_cannot_leave_the_folder() {
        for bad in ["", "..", "a/b", ".", "a b"] {
            assert!(Store::new(Path::new("/x"), bad).is_err(), "{bad:?}");
        }
    }
}
