//! `global.*`: what a node has as a whole (R070–R072).

use super::Attributes;
use crate::id::{Grade, PoolName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `global.load`: the load averages of one, five and fifteen minutes (R070).
pub type Load = [f64; 3];

/// `global.memory`: MiB of RAM free for VMs; heads only (R071).
pub type FreeMemoryMib = u64;

/// `global.storage_pools`: tails only (R072).
pub type StoragePools = BTreeMap<PoolName, Pool>;

/// One storage pool of a tail. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The grade of every disc in it (R122).
    pub grade: Grade,
    /// Size of the filesystem that holds it.
    pub size: u64,
    /// Bytes still free on that filesystem.
    pub free: u64,
    /// Bytes its discs have allocated.
    pub allocated: u64,
    /// Bytes its discs promise to their owners.
    pub promised: u64,
    /// How many discs it holds.
    pub discs: u64,
    /// For people: `RAID10`, `mirror of nvme0 and nvme1`.
    #[serde(default)]
    pub note: String,
    /// Attributes this build does not know.
    #[serde(flatten)]
    pub extra: Attributes,
}
