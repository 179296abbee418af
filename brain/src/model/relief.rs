//! What to move away from a storage pool that runs short (R126). Pure.

use super::{
    migration::{Candidate, Destinations, Planned, plan},
    placement::PoolPlace,
};
use crate::config::FillPolicy;

/// Chooses discs whose removal brings the pool back over its threshold, and a place for each. The discs that take most
/// go first, so that few move; one that finds no place is passed over. `discs` are those of the pool with what each takes
/// there, in MiB; `missing_mib` is what has to become free.
///
/// What is chosen may not be enough: nothing else is possible then.
pub fn relief(discs: Vec<(Candidate, i64)>, missing_mib: i64, pools: &[PoolPlace], policy: FillPolicy) -> Vec<Planned> {
    let mut discs: Vec<(Candidate, i64)> = discs.into_iter().filter(|(_, allocated_mib)| *allocated_mib > 0).collect();
    discs.sort_by_key(|(disc, allocated_mib)| (-*allocated_mib, disc.id));
    // The smallest of those that are enough alone moves least.
    if let Some(one) = discs.iter().rposition(|(_, allocated_mib)| *allocated_mib >= missing_mib) {
        discs.drain(..one);
    }
    let allocated: Vec<(i64, i64)> = discs.iter().map(|(disc, allocated_mib)| (disc.id, *allocated_mib)).collect();
    let discs = discs.into_iter().map(|(disc, _)| disc).collect();
    let mut freed_mib = 0;
    let mut chosen = vec![];
    for planned in plan(discs, pools, &Destinations::default(), policy) {
        if freed_mib >= missing_mib {
            break;
        }
        if planned.target.is_ok() {
            freed_mib += allocated.iter().find(|(id, _)| *id == planned.disc.id).map_or(0, |(_, mib)| *mib);
            chosen.push(planned);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pool(id: i64, room_mib: i64) -> PoolPlace {
        PoolPlace {
            id,
            tail: format!("tail{id}").parse().unwrap(),
            label: format!("tail{id}-sata1"),
            grade: "sata".parse().unwrap(),
            size_mib: 1000,
            free_mib: 1000,
            promised_mib: 1000 - room_mib,
            overcommit_percent: 100,
            closed: None,
        }
    }

    fn disc(id: i64, size_mib: i64) -> Candidate {
        Candidate {
            id,
            number: spine::id::DiscNumber(id.unsigned_abs()),
            label: format!("disc-{id}"),
            virtual_machine_id: 1,
            virtual_machine_name: "web1".to_owned(),
            size_mib,
            grade: "sata".parse().unwrap(),
            pool_id: Some(1),
            obstacle: None,
            leftover_tails: BTreeSet::new(),
        }
    }

    fn chosen(discs: &[(i64, i64, i64)], missing_mib: i64, rooms: &[i64]) -> Vec<i64> {
        let discs = discs.iter().map(|(id, size, allocated)| (disc(*id, *size), *allocated)).collect();
        let mut pools = vec![pool(1, 0)];
        pools.extend((2..).zip(rooms).map(|(id, room)| pool(id, *room)));
        let planned = relief(discs, missing_mib, &pools, FillPolicy::FillEmptiest);
        planned.into_iter().map(|one| one.disc.id).collect()
    }

    #[test]
    fn r126_few_discs_move_and_no_more_than_needed() {
        let discs = [(1, 100, 10), (2, 100, 80), (3, 100, 30), (4, 100, 0)];
        assert_eq!(chosen(&discs, 25, &[500]), [3], "the smallest that is enough alone");
        assert_eq!(chosen(&discs, 100, &[500]), [2, 3]);
        assert_eq!(chosen(&discs, 1000, &[500]), [2, 3, 1], "all that helps; an empty disc does not");
        assert_eq!(chosen(&discs, 100, &[100]), [2], "as far as there is room");
        assert_eq!(chosen(&[(2, 900, 80), (3, 100, 30)], 80, &[200]), [3], "one that fits nowhere is passed over");
        assert!(chosen(&discs, 10, &[]).is_empty());
    }
}
