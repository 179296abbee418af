//! From credentials to a caller with what they may do.

use super::{
    credentials::Credentials,
    password::{PasswordError, Passwords},
    throttle::{Refused, Throttle},
};
use crate::{
    model::privilege::{Access, Proof},
    store::{Store, StoreError, privileges, sessions, users},
};
use spine::secret::Secret;
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;

/// The factor of whoever gave a password.
pub const PASSWORD_FACTOR: &str = "password";

/// Seconds a session lasts when nothing is said.
const VALIDITY_S_DEFAULT: i64 = 1800;
/// Shortest and longest; what is asked beyond is cut to these.
const VALIDITY_S_RANGE: std::ops::RangeInclusive<i64> = 60..=3600;

/// Who sent a request, and what they may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user's number.
    pub user_id: i64,
    /// The user's name.
    pub username: String,
    /// How they proved who they are.
    pub factors: Vec<String>,
    /// What they may do.
    pub access: Access,
}

/// Why a request has no caller.
#[derive(Debug, Error)]
pub enum AuthError {
    /// There are no credentials, or none that can be read.
    #[error("log in first: send Basic credentials, or a session's token as Bearer")]
    Missing,
    /// User and password do not fit.
    #[error("Bad login credentials")]
    Wrong,
    /// There is no such session, or it has run out.
    #[error("there is no such session, or it has run out: log in again")]
    NoSession,
    /// There were too many failures of late.
    #[error("Bad login credentials: too many failed logins, try again in {} s", wait.as_secs() + 1)]
    TooManyFailures {
        /// How much longer to wait.
        wait: Duration,
    },
    /// Passwords cannot be checked at the moment.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Refused> for AuthError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wait(wait) => Self::TooManyFailures { wait },
            Refused::Busy => Self::Password(PasswordError::Busy),
        }
    }
}

/// Lets callers in.
#[derive(Clone, Debug)]
pub struct Gate {
    store: Store,
    passwords: Passwords,
    throttle: Arc<Throttle>,
}

impl Gate {
    /// A gate before this database.
    pub fn new(store: Store) -> Self {
        Self { store, passwords: Passwords::default(), throttle: Arc::default() }
    }

    /// The hasher, which all who hash share.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// The caller with these credentials.
    ///
    /// # Errors
    /// When they are wrong, or cannot be checked.
    pub async fn enter(&self, credentials: &Credentials, address: Option<IpAddr>) -> Result<Caller, AuthError> {
        match credentials {
            Credentials::Basic { username, password } => {
                let user_id = self.log_in(username, password, address).await?;
                self.caller(user_id, username.clone(), vec![PASSWORD_FACTOR.to_owned()], address).await
            }
            Credentials::Bearer(token) => {
                let session = self.session(token).await?.ok_or(AuthError::NoSession)?;
                self.caller(session.user_id, session.username, session.factors, address).await
            }
        }
    }

    /// Begins a session; returns its token.
    ///
    /// # Errors
    /// When user and password do not fit, or cannot be checked.
    pub async fn begin_session(
        &self,
        username: &str,
        password: &Secret,
        validity_s: Option<i64>,
        address: Option<IpAddr>,
    ) -> Result<Secret, AuthError> {
        let user_id = self.log_in(username, password, address).await?;
        let token = Secret::random().map_err(|error| PasswordError::Failed(error.to_string()))?;
        let validity_s = validity_s.unwrap_or(VALIDITY_S_DEFAULT);
        let validity_s = validity_s.clamp(*VALIDITY_S_RANGE.start(), *VALIDITY_S_RANGE.end()) as i32;
        let mut client = self.store.client().await?;
        let tx = client.transaction().await.map_err(StoreError::from)?;
        sessions::insert(&tx, &token.hash(), user_id, &[PASSWORD_FACTOR.to_owned()], validity_s).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(token)
    }

    /// The session with this token; each look makes it last its whole time again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session(&self, token: &Secret) -> Result<Option<sessions::Session>, StoreError> {
        let mut client = self.store.client().await?;
        let tx = client.transaction().await?;
        let session = sessions::touch(&tx, &token.hash()).await?;
        tx.commit().await?;
        Ok(session)
    }

    async fn log_in(&self, username: &str, password: &Secret, address: Option<IpAddr>) -> Result<i64, AuthError> {
        // Before the database and the hasher have anything to do with it.
        let attempt = self.throttle.begin(username, address, Instant::now())?;
        // A name or password that nobody can have is not worth a look into the database.
        let possible = !username.contains('\0') && username.len() <= 253 && password.reveal().len() <= 1024;
        let credentials = match possible {
            true => self.credentials(username).await?,
            false => None,
        };
        let (user_id, hash) = credentials.map_or((None, None), |(id, hash)| (Some(id), hash));
        let gate = || attempt.wait(Instant::now());
        match (self.passwords.check(hash, password, gate).await?, user_id) {
            (Err(wait), _) => Err(AuthError::TooManyFailures { wait }),
            (Ok(true), Some(user_id)) => {
                attempt.succeeded(Instant::now());
                Ok(user_id)
            }
            (Ok(_), _) => {
                attempt.failed(Instant::now());
                Err(AuthError::Wrong)
            }
        }
    }

    async fn credentials(&self, username: &str) -> Result<Option<(i64, Option<String>)>, StoreError> {
        let mut client = self.store.client().await?;
        let tx = client.transaction().await?;
        users::credentials(&tx, username).await
    }

    async fn caller(
        &self,
        user_id: i64,
        username: String,
        factors: Vec<String>,
        address: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        let mut client = self.store.client().await?;
        let tx = client.transaction().await.map_err(StoreError::from)?;
        let grants = privileges::of_user(&tx, user_id).await?;
        let proof = Proof { factors, address };
        let access = Access::new(grants.into_iter().map(|privilege| privilege.grant), &proof);
        Ok(Caller { user_id, username, factors: proof.factors, access })
    }
}
