//! Why an order about a disc was not carried out.

use crate::{describe::describe, pool::PoolError, shard::ShardError, sidecar::SidecarError};
use rustix::io::Errno;
use spine::{
    id::{AttachmentsVersion, DiscName, DiscNumber, Generation, Grade, ImageName, NodeName, PoolName},
    message::Refusal as SpineRefusal,
};
use std::io;
use thiserror::Error;

/// A refusal or a failure. Nothing was changed unless the message says so.
#[derive(Debug, Error)]
pub enum Refusal {
    /// There is a disc of this number already, and it is not as ordered.
    #[error("disc {name} exists already, with {difference}")]
    Exists {
        /// The disc.
        name: DiscName,
        /// What is not as ordered.
        difference: String,
    },
    /// There is no such disc here.
    #[error("there is no disc {0} here")]
    NotFound(DiscName),
    /// There is no disc of such a number here.
    #[error("there is no disc {0} here")]
    NoSuchNumber(DiscNumber),
    /// There is no such pool here.
    #[error("there is no storage pool {0} here")]
    NoSuchPool(PoolName),
    /// The pool is for another grade.
    #[error("storage pool {pool} is of grade {grade}, and disc {name} is not")]
    WrongGrade {
        /// The disc.
        name: DiscName,
        /// The pool.
        pool: PoolName,
        /// The pool's grade.
        grade: Grade,
    },
    /// There is no such image here.
    #[error("there is no image {image} here ({reason})")]
    NoSuchImage {
        /// The image.
        image: ImageName,
        /// What was found in its place.
        reason: String,
    },
    /// The filesystem has no room.
    #[error("storage pool {pool} is full: {reason}")]
    PoolFull {
        /// The pool.
        pool: PoolName,
        /// What did not fit.
        reason: String,
    },
    /// The disc is larger than it can be.
    #[error("{what} is {size_bytes} bytes, and the largest possible is {largest_bytes}: {reason}")]
    TooBig {
        /// The disc or image.
        what: String,
        /// The size ordered.
        size_bytes: u64,
        /// The largest that would do.
        largest_bytes: u64,
        /// What the bound is.
        reason: &'static str,
    },
    /// The order is of an owner of former times (safety rule 1).
    #[error("disc {name} has generation {own}, and the order has {given}")]
    StaleGeneration {
        /// The disc.
        name: DiscName,
        /// The generation it has.
        own: Generation,
        /// The one in the order.
        given: Generation,
    },
    /// The attachments are older than those in force, or differ without a higher version.
    #[error("disc {name} has attachments of version {own}, and the order has other ones of version {given}")]
    StaleAttachments {
        /// The disc.
        name: DiscName,
        /// The version in force.
        own: AttachmentsVersion,
        /// The one in the order.
        given: AttachmentsVersion,
    },
    /// A shrink would cut data off.
    #[error("disc {name} has data at byte {at} and beyond {size_bytes}: shrink it with force to lose that")]
    WouldLoseData {
        /// The disc.
        name: DiscName,
        /// The size ordered.
        size_bytes: u64,
        /// Where the first such data is.
        at: u64,
    },
    /// An attribute is not what it should be.
    #[error("{attribute}: {reason}")]
    BadValue {
        /// The attribute.
        attribute: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It has to wait.
    #[error("disc {name} is busy: {reason}")]
    Busy {
        /// The disc.
        name: DiscName,
        /// With what.
        reason: String,
    },
    /// It was given to another tail (safety rule 5).
    #[error("disc {name} was given to {target}, with generation {generation}")]
    Moved {
        /// The disc.
        name: DiscName,
        /// Who has it.
        target: NodeName,
        /// Its generation there.
        generation: Generation,
    },
    /// The disc is here and cannot be used.
    #[error("disc {name} cannot be used: {reason}")]
    Unusable {
        /// The disc.
        name: DiscName,
        /// Why.
        reason: String,
    },
    /// The operating system failed.
    #[error("disc {name}: cannot {what}")]
    Io {
        /// The disc.
        name: DiscName,
        /// What was tried.
        what: &'static str,
        /// What it says.
        source: io::Error,
    },
    /// The sidecar could not be written.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
    /// A shard refused.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A pool's folder cannot be used.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Refusal {
    /// The word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "exists",
            Self::NotFound(_) | Self::NoSuchNumber(_) => "not-found",
            Self::NoSuchPool(_) => "no-such-pool",
            Self::NoSuchImage { .. } => "no-such-image",
            Self::PoolFull { .. } => "pool-full",
            Self::TooBig { .. } => "too-big",
            Self::StaleGeneration { .. } => "stale-generation",
            Self::StaleAttachments { .. } => "stale-attachments",
            Self::WouldLoseData { .. } => "would-lose-data",
            Self::BadValue { .. } | Self::WrongGrade { .. } | Self::Sidecar(SidecarError::TooLong { .. }) => {
                "bad-value"
            }
            Self::Moved { .. } => "moved",
            Self::Busy { .. } | Self::Shard(ShardError::Busy(_)) => "busy",
            Self::Unusable { .. } | Self::Io { .. } | Self::Sidecar(_) | Self::Shard(_) | Self::Pool(_) => "io-error",
        }
    }

    /// The refusal as it goes over the spine.
    pub fn to_spine(&self) -> SpineRefusal {
        SpineRefusal { error: self.word().to_owned(), message: describe(self) }
    }

    /// A failure of the system while making something in `pool`: a full filesystem has a word of its own.
    pub fn making(name: &DiscName, pool: &PoolName, what: &'static str, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::PoolFull { pool: pool.clone(), reason: format!("cannot {what} of disc {name}") };
        }
        Self::Io { name: name.clone(), what, source }
    }
}

/// True when the filesystem or a quota on it has no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}
