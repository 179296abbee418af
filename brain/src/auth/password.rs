//! Passwords: argon2id, on blocking threads, a few at a time.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use spine::secret::Secret;
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::Semaphore;

/// Hashes computed at the same time: each takes 19 MiB and some 30 ms of a core, and logins must
/// leave cores for the rest of the brain.
const HASHES_AT_ONCE_MAX: usize = 2;
/// New passwords that wait to be hashed, or are: half a second of the hasher's work. Anybody may sign up, and who logs in
/// waits for the same turns.
const NEW_AT_ONCE_MAX: usize = 32;
/// How long a login may wait for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Fewest characters of a new password.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Most bytes of a password: more is no better, and has to be hashed.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Why a hash was not computed.
#[derive(Debug, Error)]
pub enum PasswordError {
    /// Too many others are waiting.
    #[error("too many logins at once: try again in a moment")]
    Busy,
    /// Too many others have new passwords.
    #[error("too many requests: try again in a moment")]
    TooManyNew,
    /// The computation failed: no memory, or no random bytes.
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

/// Makes and checks hashes.
#[derive(Clone, Debug)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    /// Places for those with a new password.
    new: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(HASHES_AT_ONCE_MAX)), new: Arc::new(Semaphore::new(NEW_AT_ONCE_MAX)) }
    }
}

impl Passwords {
    /// The hash of a new password, as a PHC string.
    ///
    /// # Errors
    /// At once when too many have new passwords; when too many wait, or the computation fails.
    pub async fn hash(&self, password: &Secret) -> Result<String, PasswordError> {
        let _place = self.new.try_acquire().map_err(|_| PasswordError::TooManyNew)?;
        let password = password.clone();
        let hashed = move || Argon2::default().hash_password(password.reveal().as_bytes());
        let _turn = self.turn().await?;
        let hash = tokio::task::spawn_blocking(hashed).await.map_err(failed)?.map_err(failed)?;
        Ok(hash.to_string())
    }

    /// Whether `password` is the one that `hash` was made of. Without a hash the answer is no, and
    /// takes as long.
    ///
    /// `gate` is asked once it is this check's turn: `Some` ends it with that value. So a guesser
    /// who sends many at once gets no more tries than one who waits for each answer.
    ///
    /// # Errors
    /// When too many wait, or the computation fails.
    pub async fn check<T>(
        &self,
        hash: Option<String>,
        password: &Secret,
        gate: impl FnOnce() -> Option<T>,
    ) -> Result<Result<bool, T>, PasswordError> {
        let password = password.clone();
        let _turn = self.turn().await?;
        if let Some(refusal) = gate() {
            return Ok(Err(refusal));
        }
        let checked = move || match hash.as_deref().map(PasswordHash::new) {
            Some(Ok(hash)) => Argon2::default().verify_password(password.reveal().as_bytes(), &hash).is_ok(),
            _ => {
                // The result is of no interest, the time it takes is.
                let _ = Argon2::default().hash_password(password.reveal().as_bytes());
                false
            }
        };
        tokio::task::spawn_blocking(checked).await.map(Ok).map_err(failed)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, PasswordError> {
        match tokio::time::timeout(TURN_WAIT_MAX, self.turns.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(PasswordError::Busy),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

/// Checks a password that a user chooses.
///
/// # Errors
/// The API's sentence.
pub fn check_new(password: &str) -> Result<(), String> {
    const CRYPT_PREFIXES: [&str; 7] = ["$1$", "$5$", "$6$", "$2a$", "$2b$", "$2y$", "$argon2"];
    if password.is_empty() {
        Err("can't be blank".into())
    } else if CRYPT_PREFIXES.iter().any(|prefix| password.starts_with(prefix)) {
        Err("must be the password itself, not a hash of it".into())
    } else if password.chars().count() < PASSWORD_CHARS_MIN {
        Err(format!("is too short (minimum is {PASSWORD_CHARS_MIN} characters)"))
    } else if password.len() > PASSWORD_BYTES_MAX {
        Err(format!("is too long (maximum is {PASSWORD_BYTES_MAX} characters)"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_knows_its_password() {
        let passwords = Passwords::default();
        let hash = passwords.hash(&Secret::new("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        let open = || None::<()>;
        let right = Secret::new("correct horse");
        assert_eq!(passwords.check(Some(hash.clone()), &right, open).await.unwrap(), Ok(true));
        let wrong = Secret::new("wrong");
        assert_eq!(passwords.check(Some(hash.clone()), &wrong, open).await.unwrap(), Ok(false));
        assert_eq!(passwords.check(None, &right, open).await.unwrap(), Ok(false));
        assert_eq!(passwords.check(Some("x".into()), &right, open).await.unwrap(), Ok(false));
        assert_eq!(passwords.check(Some(hash.clone()), &right, || Some(3)).await.unwrap(), Err(3));
    }

    #[tokio::test]
    async fn new_passwords_do_not_queue_without_end_and_logins_are_not_turned_away_for_them() {
        let passwords = Passwords::default();
        let held = passwords.turns.acquire_many(HASHES_AT_ONCE_MAX as u32).await.unwrap();
        let new = || {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.hash(&Secret::new("correct horse")).await })
        };
        let waiting: Vec<_> = (0..NEW_AT_ONCE_MAX).map(|_| new()).collect();
        while passwords.new.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(new().await.unwrap(), Err(PasswordError::TooManyNew)));
        drop(held);
        let open = || None::<()>;
        assert_eq!(passwords.check(None, &Secret::new("wrong"), open).await.unwrap(), Ok(false));
        for hash in waiting {
            assert!(hash.await.unwrap().is_ok());
        }
        assert!(new().await.unwrap().is_ok(), "there is room again");
    }

    #[test]
    fn hashes_are_not_passwords() {
        assert!(check_new("$6$salt$abcdefgh").unwrap_err().contains("not a hash"));
        assert!(check_new("short").is_err());
        assert!(check_new(&"x".repeat(2000)).is_err());
        assert_eq!(check_new("long enough"), Ok(()));
    }
}
