//! A disc as it is in the books.

use super::{privilege::Place, vm::Status};
use spine::{
    id::{DiscNumber, MigrationId, NodeName},
    resource::migration::MigrationReport,
};

/// Smallest disc, in MiB.
pub const SIZE_MIB_MIN: i64 = 50;
/// Largest disc while no pool is known that says less, in MiB: 64 TiB.
pub const SIZE_MIB_MAX: i64 = 64 << 20;

/// A disc.
#[derive(Clone, Debug, PartialEq)]
pub struct Disc {
    /// Its number in the API.
    pub id: i64,
    /// The VM it belongs to.
    pub virtual_machine_id: i64,
    /// Where that VM is, for the policy.
    pub vm_place: Place,
    /// The guest's order.
    pub position: i64,
    /// Unique on its VM.
    pub label: String,
    /// MiB.
    pub size_mib: i64,
    /// Its grade.
    pub grade: String,
    /// The pool's label, once it is placed.
    pub storage_pool: Option<String>,
    /// How it stands, as the reconciler says.
    pub status: Status,
    /// Its move to another tail that is under way.
    pub moving: Option<Moving>,
}

/// A disc's move that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Moving {
    /// What the tails know it by.
    pub id: MigrationId,
    /// The disc's number in the cluster.
    pub number: DiscNumber,
    /// The tail that has it.
    pub source_tail: NodeName,
    /// The label of the pool that it goes to.
    pub storage_pool: String,
    /// That pool's grade.
    pub grade: String,
    /// The job that it is part of.
    pub job_id: i64,
    /// Why it is being undone, if so.
    pub undo_reason: Option<String>,
    /// The most that is sent, in 10⁶ bytes a second.
    pub limit_mb_per_s: Option<i64>,
    /// What its tail says of it; none while it has not begun, or its tail is away.
    pub progress: Option<MoveProgress>,
}

/// How far a move is, as the source says.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveProgress {
    /// Percent moved.
    pub percent: Option<u8>,
    /// Seconds until it is over.
    pub eta_s: Option<u64>,
    /// 10⁶ bytes a second.
    pub speed_mb_per_s: Option<u64>,
    /// All the rest.
    pub migration: MigrationReport,
}

/// A disc to be made, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewDisc {
    /// `disc-N` when left out.
    pub label: Option<String>,
    /// The default grade when left out.
    pub grade: Option<String>,
    /// MiB.
    pub size_mib: Option<i64>,
}

/// What is to change in a disc.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiscChange {
    /// A new label.
    pub label: Option<String>,
    /// A new size in MiB.
    pub size_mib: Option<i64>,
    /// Allows a shrink, which cuts off what lies beyond.
    pub force: bool,
    /// The VM it belongs to: must be the one it already belongs to.
    pub virtual_machine_id: Option<i64>,
}

/// The label of the next disc: `disc-N`, N one more than the number of discs and than the highest
/// N in use.
pub fn next_label<'a>(labels: impl IntoIterator<Item = &'a str>) -> String {
    let (mut count, mut highest) = (0u64, 0u64);
    for label in labels {
        count += 1;
        let number = label.strip_prefix("disc-").or_else(|| label.strip_prefix("disk-"));
        // Nine digits: the next one always fits.
        let number = number.filter(|n| n.len() <= 9).and_then(|n| n.parse::<u64>().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    format!("disc-{}", count.max(highest) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_count_on() {
        assert_eq!(next_label([]), "disc-1");
        assert_eq!(next_label(["vda"]), "disc-2");
        assert_eq!(next_label(["disc-1", "disk-7"]), "disc-8");
        assert_eq!(next_label(["disc-99999999999999999999"]), "disc-2");
    }
}
