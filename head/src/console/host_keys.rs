//! The machine's SSH host keys (R110): they come with `vm.X`, so that a machine that moves is
//! known again by its users' clients.

use super::limits::HOST_KEY_MAX;
use russh::keys::{Algorithm, PrivateKey, decode_secret_key};
use spine::secret::Secret;
use thiserror::Error;

/// None of the keys given could be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "none of the {given_count} SSH host keys can be used (ed25519, ecdsa or rsa, in OpenSSH or PEM form, without a passphrase)"
)]
pub struct NoHostKey {
    /// How many were given.
    pub given_count: usize,
}

/// Reads the keys that can be read; each other one is named in a warning by its place in the list.
///
/// # Errors
/// When no key is left.
pub fn read(secrets: &[Secret], machine: &str) -> Result<Vec<PrivateKey>, NoHostKey> {
    let mut keys = Vec::new();
    for (place, secret) in secrets.iter().enumerate() {
        match read_one(secret.reveal()) {
            Ok(key) => keys.push(key),
            Err(reason) => tracing::warn!(machine, "console: host key {place} is left out: {reason}"),
        }
    }
    if keys.is_empty() { Err(NoHostKey { given_count: secrets.len() }) } else { Ok(keys) }
}

/// The reason of a failure never quotes the key.
fn read_one(text: &str) -> Result<PrivateKey, String> {
    if text.len() > HOST_KEY_MAX {
        return Err(format!("longer than {HOST_KEY_MAX} bytes"));
    }
    let key = decode_secret_key(text.trim(), None).map_err(|error| error.to_string())?;
    if key.is_encrypted() {
        return Err("it has a passphrase".into());
    }
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. } => Ok(key),
        other => Err(format!("{other} is not served")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn make(arguments: &[&str]) -> Secret {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(arguments).status().unwrap();
        assert!(made.success(), "ssh-keygen {arguments:?}");
        Secret::new(std::fs::read_to_string(path).unwrap())
    }

    #[test]
    fn r110_ed25519_ecdsa_and_rsa_are_read_in_either_form() {
        let kinds: [(&[&str], &str); 4] = [
            (&["-t", "ed25519", "-N", ""], "ssh-ed25519"),
            (&["-t", "ecdsa", "-N", ""], "ecdsa-sha2-nistp256"),
            (&["-t", "rsa", "-b", "2048", "-N", ""], "ssh-rsa"),
            (&["-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"], "ssh-rsa"),
        ];
        for (arguments, algorithm) in kinds {
            let keys = read(&[make(arguments)], "m").unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
            assert_eq!(keys[0].algorithm().as_str(), algorithm, "{arguments:?}");
        }
    }

    #[test]
    fn r110_one_bad_key_does_not_lose_the_good_one() {
        let good = make(&["-t", "ed25519", "-N", ""]);
        let with_passphrase = make(&["-t", "ed25519", "-N", "secret"]);
        let cut: Secret = Secret::new(&good.reveal()[..good.reveal().len() / 2]);
        let bad = [Secret::new(""), Secret::new("x".repeat(HOST_KEY_MAX + 1)), with_passphrase, cut];
        assert_eq!(read(&bad, "m").unwrap_err(), NoHostKey { given_count: 4 });
        let mixed: Vec<Secret> = bad.into_iter().chain([good]).collect();
        assert_eq!(read(&mixed, "m").unwrap().len(), 1);
        assert_eq!(read(&[], "m").unwrap_err(), NoHostKey { given_count: 0 });
    }
}
