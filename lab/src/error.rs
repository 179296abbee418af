//! What can go wrong with a lab, each with what was being done and where to look.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a lab could not do what it was asked to.
#[derive(Debug, Error)]
pub enum LabError {
    /// A name that cannot be that of a lab or a node.
    #[error("{0}")]
    BadName(String),
    /// The operating system refused something on a file, a socket or a process.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: std::io::Error,
    },
    /// A command of the system failed.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// As it would be typed.
        command: String,
        /// Its standard error, or how it ended.
        reason: String,
    },
    /// A daemon did not come up.
    #[error("{node} {what}; the end of its log {}:\n{log_end}", log.display())]
    NotReady {
        /// Which.
        node: String,
        /// How it failed.
        what: String,
        /// Where its log is.
        log: PathBuf,
        /// The log's last lines.
        log_end: String,
    },
    /// The state file is not one.
    #[error("{}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program or a file that the lab needs is not there.
    #[error("{} is missing: {hint}", path.display())]
    Missing {
        /// What.
        path: PathBuf,
        /// What to do about it.
        hint: &'static str,
    },
    /// The lab is not in the state that the command needs.
    #[error("{0}")]
    Refused(String),
}

impl LabError {
    /// For `map_err`: an I/O error with what was being done to what.
    pub fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { what, path, source }
    }
}
