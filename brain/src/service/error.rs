//! Why a use case was not carried out, sorted by who must act.

use crate::{
    auth::{AuthError, Caller, password::PasswordError},
    fleet::FleetError,
    model::{
        invalid::Invalid,
        privilege::{Action, Place, Verdict},
    },
    store::StoreError,
};
use thiserror::Error;

/// Why a use case was not carried out. Nothing was changed then.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// It does not exist, or the caller cannot see it.
    #[error("there is no such thing, or you may not see it")]
    NotFound,
    /// The caller can see it and may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for is wrong, or cannot be done as things stand.
    #[error("{0}")]
    Invalid(Invalid),
    /// Something is busy or away; the same request may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that should always work did not.
    #[error("{0}")]
    Internal(String),
}

impl From<Invalid> for ServiceError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<tokio_postgres::Error> for ServiceError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<PasswordError> for ServiceError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy | PasswordError::TooManyNew => Self::Unavailable(error.to_string()),
            PasswordError::Failed(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<FleetError> for ServiceError {
    fn from(error: FleetError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<AuthError> for ServiceError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Store(error) => Self::Store(error),
            AuthError::Password(error) => error.into(),
            other => Self::Forbidden(other.to_string()),
        }
    }
}

/// One wrong value and nothing else.
pub(super) fn invalid(attribute: &str, sentence: impl Into<String>) -> ServiceError {
    ServiceError::Invalid(Invalid::of(attribute, sentence))
}

/// Ok when the caller may do this there.
pub(super) fn permit(caller: &Caller, action: Action, place: Place) -> Result<(), ServiceError> {
    match caller.access.check(action, place) {
        Verdict::Allowed => Ok(()),
        Verdict::Hidden => Err(ServiceError::NotFound),
        Verdict::Forbidden { needs } => Err(ServiceError::Forbidden(format!("this needs {needs} here"))),
    }
}

/// Ok when the caller runs the cluster. Others cannot see that there is anything.
pub(super) fn permit_admin(caller: &Caller) -> Result<(), ServiceError> {
    match caller.access.is_admin() {
        true => Ok(()),
        false => Err(ServiceError::NotFound),
    }
}

/// Turns the database's refusal of a second thing of the same name into the API's complaint.
pub(super) fn taken(constraint: &'static str, attribute: &'static str) -> impl Fn(StoreError) -> ServiceError {
    move |error| match error.constraint() {
        Some(broken) if broken == constraint => invalid(attribute, "has already been taken"),
        _ => ServiceError::Store(error),
    }
}
