//! Why the shards do not do what they are asked for.

use crate::memory::TooLittle;
use crate::ring::probe::ProbeError;
use spine::id::DiscNumber;
use std::io;
use thiserror::Error;

/// Why the shards did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The kernel lacks something that is required.
    #[error("this kernel cannot run tail-nbd")]
    Probe(#[from] ProbeError),
    /// There is not enough memory for the shards.
    #[error(transparent)]
    Memory(#[from] TooLittle),
    /// A thread or a descriptor was not to be had.
    #[error("shard {shard}: {what}")]
    Os {
        /// Which shard, counted from 0.
        shard: usize,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Why a shard refused an order.
#[derive(Debug, Error)]
pub enum ShardError {
    /// No such disc is open.
    #[error("disc {0} is not open")]
    NotOpen(DiscNumber),
    /// The number is open already.
    #[error("disc {0} is open already")]
    AlreadyOpen(DiscNumber),
    /// A named limit is reached.
    #[error("disc {number}: the limit {limit} is reached")]
    Full {
        /// The disc.
        number: DiscNumber,
        /// The limit's name in `limits.rs`.
        limit: &'static str,
    },
    /// Another resize or close of this disc is still under way, or it panicked and must be closed first.
    #[error("disc {0} is busy")]
    Busy(DiscNumber),
    /// The size would leave data beyond it.
    #[error("disc {number} has data at byte {at}")]
    WouldLoseData {
        /// The disc.
        number: DiscNumber,
        /// Where the first such data is.
        at: u64,
    },
    /// The operating system failed.
    #[error("disc {number}: {what}")]
    Os {
        /// The disc.
        number: DiscNumber,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// What another process says of the disc or its clients does not fit together.
    #[error("disc {0}: what was handed over does not fit together")]
    Unsound(DiscNumber),
    /// The shard's thread has ended.
    #[error("the shard of disc {0} has stopped")]
    Stopped(DiscNumber),
}
