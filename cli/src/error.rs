//! Why a command did not work, and which exit code says so.

use crate::{
    client::{ClientError, Problem},
    exit::Exit,
};
use std::{io, path::PathBuf};
use thiserror::Error;

/// Why a command did not work.
#[derive(Debug, Error)]
pub enum Error {
    /// Something typed makes no sense.
    #[error("{0}")]
    BadInput(String),
    /// Something is missing and may not be asked for.
    #[error("{what} is missing: say it with {option}")]
    Missing {
        /// The thing.
        what: &'static str,
        /// The option that says it.
        option: &'static str,
    },
    /// The profile cannot be used.
    #[error("{}: {reason}", path.display())]
    Profile {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The profile cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    ProfileWrite {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer to "shall I" was no.
    #[error("not done: {0}")]
    Declined(String),
    /// There is no account to take.
    #[error("{0}")]
    NoAccount(String),
    /// The call to the brain.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It was accepted and then failed.
    #[error("{0}")]
    Failed(String),
    /// It goes on, but the time to wait is up.
    #[error("{0}")]
    StillGoing(String),
    /// ssh.
    #[error("cannot run {program}: {source}")]
    Subprocess {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that always works.
    #[error("{0}")]
    System(String),
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::BadInput(_) | Self::Missing { .. } => Exit::BadInput,
            Self::Profile { .. } => Exit::Config,
            Self::ProfileWrite { .. } => Exit::ConfigWrite,
            Self::Declined(_) => Exit::Declined,
            Self::NoAccount(_) => Exit::NoAccount,
            Self::Failed(_) => Exit::Failed,
            Self::StillGoing(_) => Exit::StillGoing,
            Self::Subprocess { .. } => Exit::Subprocess,
            Self::System(_) => Exit::Bug,
            Self::Client(error) => match error {
                ClientError::BadLocation { .. } | ClientError::PlainHttp { .. } | ClientError::NoName => Exit::BadInput,
                ClientError::LoginNeeded | ClientError::LoginRefused { .. } | ClientError::Unauthorized(_) => {
                    Exit::Credentials
                }
                ClientError::Forbidden { .. } => Exit::Forbidden,
                ClientError::NotFound { .. } => Exit::NotFound,
                ClientError::BadRequest { .. } => Exit::BadRequest,
                ClientError::Unreachable { .. }
                | ClientError::BrokeOff { .. }
                | ClientError::TimedOut { .. }
                | ClientError::Unavailable(_) => Exit::Unreachable,
                ClientError::Internal(_) => Exit::Internal,
                ClientError::Unexpected { .. } | ClientError::BadAnswer { .. } => Exit::UnknownAnswer,
            },
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let Self::Client(error) = self else { return None };
        let text = match error {
            ClientError::BadLocation { .. } => "say it with --location, or put it into the profile",
            ClientError::PlainHttp { .. } => "use https, or say --insecure if that network is yours",
            ClientError::LoginNeeded | ClientError::LoginRefused { .. } | ClientError::Unauthorized(_) => {
                "check the user name and password: `bigv help settings` says where they come from"
            }
            ClientError::Unreachable { .. } => {
                "check that the brain runs and that --location, BIGV_LOCATION or the profile names it"
            }
            ClientError::TimedOut { .. } | ClientError::BrokeOff { .. } => {
                "if this was a change, it may have been made: look before you try again"
            }
            ClientError::Unavailable(_) => "try again in a minute",
            ClientError::Internal(_) => "if it stays, tell the operator what you did and the text above",
            ClientError::BadRequest { problems, .. } => {
                let mut hints: Vec<&str> = problems.iter().filter_map(hint_of).collect();
                hints.dedup();
                return (!hints.is_empty()).then(|| hints.join("; "));
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Which option of `bigv` sets the attribute that the brain complains about.
fn hint_of(problem: &Problem) -> Option<&'static str> {
    let attribute = problem.attribute.rsplit('.').next().unwrap_or_default();
    Some(match attribute {
        "distribution" => "--vm-distribution takes one of `bigv definitions images`",
        "storage_grade" => "a disc's grade is one of `bigv definitions grades`",
        "size" => "a disc's size is counted in MiB here; --vm-discs and --disc-size take 500M, 25GB, 1.5T",
        "memory" => "memory is counted in MiB here; --vm-memory takes 512M, 2GB",
        "cores" => "say it with --vm-cores",
        "cdrom_url" => "say it with --vm-cdrom-url",
        "label" => "say it with --disc-label",
        "new_pool_spec" | "new_grade" => "say --plan to see where the disc could go",
        "sources" | "destinations" => "`bigv tail list`, `bigv pool list` and `bigv pool discs` know what there is",
        _ => return None,
    })
}
