//! What a sidecar keeps of its disc.

use crate::migration::handover::Attempt;
use serde::{Deserialize, Serialize};
use spine::{
    id::{AttachmentsVersion, DiscName, DiscNumber, Generation, Grade, ImageName, PoolName},
    resource::{
        Attributes,
        disc::AttachmentReport,
        migration::{IncomingOrder, MigrationOrder, Ownership, RetireOrder},
    },
};
use std::net::{IpAddr, Ipv6Addr};

/// Smallest unit a disc's size is counted in, in bytes (R113): the sector of old discs.
pub const SECTOR_BYTES: u64 = 512;

/// Largest disc, in bytes. 64 TiB is more than the largest pool that is sold today, and far below
/// the largest file of XFS and the largest `off_t`.
pub const DISC_BYTES_MAX: u64 = 64 << 40;

/// One disc: enough to serve it without the brain (safety rule 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The disc's number, the same as in the file's name.
    pub number: DiscNumber,
    /// The grade it was made in.
    pub grade: Grade,
    /// The pool its data is in.
    pub pool: PoolName,
    /// What this tail is to the disc.
    pub owner: Owner,
    /// Newest generation this tail was given.
    pub generation: Generation,
    /// Version of `access`.
    pub attachments_version: AttachmentsVersion,
    /// Who may use it.
    pub access: RecordedAccess,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Where it is served.
    pub address: Ipv6Addr,
    /// The image that is being written onto it; nobody is let in until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importing: Option<ImageName>,
    /// A flush failed: Linux says so only once, so it is kept until an operator has looked
    /// (safety rule 17).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flush_failed: bool,
    /// Attributes of the order that this build does not know (R084).
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub extra: Attributes,
}

/// What a tail is to a disc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// It serves it.
    Owner,
    /// It takes the disc in from another tail; what it has is worth nothing yet.
    Incoming(IncomingOrder),
    /// It has all of it, for this freeze of the source, and waits for the source's word (safety rule 18).
    Prepared(IncomingOrder, Attempt),
    /// It has given the disc up to another tail and never serves this generation again.
    Fenced(MigrationOrder, Attempt),
    /// The other tail serves it; what is here waits for its removal.
    Retired(MigrationOrder),
    /// The brain gave the disc to another tail when this one was away (safety rule 9); what is here is kept for an operator.
    Superseded {
        /// By whom.
        order: RetireOrder,
        /// What is here was the disc once, or all of it.
        whole: bool,
    },
    /// It has promised to delete it, and carries on with that after a restart.
    Removed,
}

impl Owner {
    /// The same for the report.
    pub fn ownership(&self) -> Ownership {
        match self {
            Self::Owner | Self::Removed => Ownership::Owner,
            Self::Incoming(_) => Ownership::Incoming,
            Self::Prepared(..) => Ownership::Prepared,
            Self::Fenced(..) => Ownership::Fenced,
            Self::Retired(_) | Self::Superseded { .. } => Ownership::Retired,
        }
    }
}

/// Who may use a disc: attachments or a list, never both (safety rule 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedAccess {
    /// Clients at an address that know its key.
    Attachments(Vec<AttachmentReport>),
    /// Clients at an address.
    List(Vec<IpAddr>),
}

impl RecordedAccess {
    /// True when nobody has a right to the disc.
    pub fn is_nobody(&self) -> bool {
        match self {
            Self::Attachments(attachments) => attachments.is_empty(),
            Self::List(addresses) => addresses.is_empty(),
        }
    }
}

impl Record {
    /// The disc's name on the spine, without `disc.`.
    pub fn name(&self) -> DiscName {
        DiscName { grade: self.grade.clone(), number: self.number }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence about the first thing that is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.number.0 == 0 {
            return Err("its number is 0");
        }
        check_size(self.size_bytes)
    }
}

/// Checks a size in bytes: a positive multiple of [`SECTOR_BYTES`] up to [`DISC_BYTES_MAX`].
///
/// # Errors
/// A sentence about what is wrong.
pub fn check_size(size_bytes: u64) -> Result<(), &'static str> {
    match size_bytes {
        0 => Err("its size is 0"),
        size if !size.is_multiple_of(SECTOR_BYTES) => Err("its size is not a multiple of 512 bytes"),
        size if size > DISC_BYTES_MAX => Err("its size is over 64 TiB"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r113_sizes_are_checked() {
        for good in [512, 1 << 30, DISC_BYTES_MAX] {
            assert_eq!(check_size(good), Ok(()), "{good}");
        }
        for bad in [0, 1, 511, 513, DISC_BYTES_MAX + 512, u64::MAX] {
            assert!(check_size(bad).is_err(), "{bad}");
        }
    }
}
