//! Text that must not reach a log: keys, passwords, host keys.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// A secret text. `Debug` shows nothing of it; serialising does, because the spine has to carry it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// 32 random bytes from the kernel as 64 hexadecimal digits.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(hex(&bytes)))
    }

    /// The text itself: only for the peer it is meant for.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be kept on disc and shown in dumps in place of the secret.
    pub fn hash(&self) -> SecretHash {
        SecretHash(format!("sha256:{}", hex(&Sha256::digest(self.0.as_bytes()))))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a [`Secret`], as `sha256:` and 64 hexadecimal digits. Secrets here are 256 random
/// bits, so that a fast hash without salt is enough.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(String);

impl SecretHash {
    /// True when `candidate` is the secret this was made of. The time taken does not depend on
    /// where the two differ.
    pub fn matches(&self, candidate: &str) -> bool {
        let theirs = Secret::new(candidate).hash();
        let (a, b) = (self.0.as_bytes(), theirs.0.as_bytes());
        a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("R0ry")), "Secret(…)");
    }

    #[test]
    fn a_hash_knows_its_secret_and_no_other() {
        let secret = Secret::new("abc");
        assert_eq!(secret.hash().as_str(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(secret.hash().matches("abc"));
        assert!(!secret.hash().matches("abd"));
        assert!(!secret.hash().matches(""));
    }

    #[test]
    fn random_secrets_differ() {
        let (a, b) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.reveal().len(), 64);
    }
}
