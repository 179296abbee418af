//! Why files are not served.

use super::listen::ListenError;
use crate::limits::DISCS_MAX;
use crate::shard::{ShardError, StartError};
use crate::tls::FrontError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// Why a stand-alone server did not start, or not stop in order.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The system failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another program has the lock.
    #[error("{} is in use: another program has locked it", .0.display())]
    Locked(PathBuf),
    /// It is something else.
    #[error("{} is neither a file nor a directory", .0.display())]
    NoFile(PathBuf),
    /// It has more bytes than a file can have.
    #[error("{0} bytes are more than a disc can have")]
    TooLarge(u64),
    /// Nothing to serve.
    #[error("{} has no file in it that could be served", .0.display())]
    Empty(PathBuf),
    /// Too many files.
    #[error("{} has more than {DISCS_MAX} files in it", .0.display())]
    TooMany(PathBuf),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Metrics cannot be told.
    #[error("cannot listen for Prometheus at {address}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No TLS can be offered.
    #[error(transparent)]
    Tls(#[from] FrontError),
    /// The shards did not start.
    #[error("cannot serve files")]
    Start(#[from] StartError),
    /// At the end something in this program still had a share of the shards.
    #[error("the files were not closed in order: a part of this program still used them")]
    StillUsed,
    /// A shard refused a file.
    #[error("cannot serve a file")]
    Shard(#[from] ShardError),
}
