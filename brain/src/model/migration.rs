//! Moving discs: what goes where, and what is begun when (R126, R164, B13, B14). Pure.
//!
//! ```text
//!   sources, destinations ──plan──▶ one move a disc, with its pool or why there is none
//!                                        │ written down: the queue
//!                                        ▼
//!   queue, pools, moves under way ──next──▶ what begins now, and what each of the others waits for
//! ```
//!
//! A plan spreads the discs by the same policy as new ones, counting what it has promised already. A
//! pool takes part in so many moves at once (`migration_concurrency`), as source or as target.

use super::placement::{Choice, PoolPlace, choose_pool};
use crate::config::FillPolicy;
use spine::id::{DiscNumber, Grade};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// How far the move of one disc is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MigrationState {
    /// Its turn has not come.
    Queued,
    /// A generation is granted, the tails are at work.
    Moving,
    /// The target owns the disc.
    Done,
    /// It came to nothing; the disc is where it was.
    Errored,
    /// It was called off; the disc is where it was.
    Cancelled,
    /// It was never begun.
    Skipped,
}

impl MigrationState {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Queued, Self::Moving, Self::Done, Self::Errored, Self::Cancelled, Self::Skipped];

    /// The word of the database and of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Moving => "moving",
            Self::Done => "done",
            Self::Errored => "errored",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// True once nothing more happens.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Moving)
    }
}

impl fmt::Display for MigrationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of a word that is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no state of a migration is called that")]
pub struct UnknownState;

impl FromStr for MigrationState {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// A disc that may be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number in the API.
    pub id: i64,
    /// Its number in the cluster.
    pub number: DiscNumber,
    /// Its label.
    pub label: String,
    /// The VM it belongs to.
    pub virtual_machine_id: i64,
    /// That VM's name.
    pub virtual_machine_name: String,
    /// MiB.
    pub size_mib: i64,
    /// Its grade.
    pub grade: Grade,
    /// The pool it lies in; none while it is not placed.
    pub pool_id: Option<i64>,
    /// Why it cannot be moved as things stand, if so: it is being moved already, or removed.
    pub obstacle: Option<String>,
    /// The tails that still have an old copy of it.
    pub leftover_tails: BTreeSet<String>,
}

/// Where discs may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Only these pools; none: any.
    pub pool_ids: Option<BTreeSet<i64>>,
    /// Pools of this grade instead of the disc's own.
    pub grade: Option<Grade>,
}

/// What is to become of one disc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub disc: Candidate,
    /// The pool it goes to and why that one, or why it stays.
    pub target: Result<Choice<i64>, String>,
}

/// Finds a place for each disc, in order, counting those before it. `pools` are all there are, as they stand.
pub fn plan(
    discs: Vec<Candidate>,
    pools: &[PoolPlace],
    destinations: &Destinations,
    policy: FillPolicy,
) -> Vec<Planned> {
    let mut pools = pools.to_vec();
    let one = |disc: Candidate| {
        let target = place(&disc, &pools, destinations, policy);
        if let Ok(choice) = &target
            && let Some(pool) = pools.iter_mut().find(|pool| pool.id == choice.place)
        {
            pool.promised_mib += disc.size_mib;
        }
        Planned { disc, target }
    };
    discs.into_iter().map(one).collect()
}

/// The pool for one disc.
///
/// # Errors
/// Why it stays where it is.
pub fn place(
    disc: &Candidate,
    pools: &[PoolPlace],
    destinations: &Destinations,
    policy: FillPolicy,
) -> Result<Choice<i64>, String> {
    if let Some(obstacle) = &disc.obstacle {
        return Err(obstacle.clone());
    }
    let source = disc.pool_id.and_then(|id| pools.iter().find(|pool| pool.id == id));
    let Some(source) = source else { return Err("it is not in any storage pool yet".to_owned()) };
    let allowed = |pool: &PoolPlace| destinations.pool_ids.as_ref().is_none_or(|ids| ids.contains(&pool.id));
    let mut usable: Vec<PoolPlace> = pools.iter().filter(|pool| allowed(pool)).cloned().collect();
    for pool in &mut usable {
        let elsewhere = if pool.id == source.id {
            Some("it lies there already".to_owned())
        } else if pool.tail == source.tail {
            Some("it is on the same tail, and discs move between tails".to_owned())
        } else if disc.leftover_tails.contains(pool.tail.as_str()) {
            Some("an old copy of the disc is still to be removed there".to_owned())
        } else {
            None
        };
        pool.closed = elsewhere.or(pool.closed.take());
    }
    let grade = destinations.grade.as_ref().unwrap_or(&disc.grade);
    if destinations.pool_ids.is_some() && !usable.iter().any(|pool| pool.grade == *grade) {
        return Err(format!(
            "no pool among those that are named is of grade {grade}: a regrade changes a disc's grade"
        ));
    }
    choose_pool(&usable, grade, disc.size_mib, policy, &[]).map_err(|full| full.message)
}

/// A move whose turn has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedMove {
    /// Its row.
    pub id: i64,
    /// Its job's priority; higher goes first.
    pub priority: i32,
    /// The pool it leaves.
    pub source_pool_id: i64,
    /// The pool it was planned for.
    pub target_pool_id: i64,
    /// Why it cannot begin, if so: its VM's image is being written, a tail is away.
    pub obstacle: Option<String>,
}

/// How many moves a pool takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLoad {
    /// `TAIL-POOL`.
    pub label: String,
    /// Under way, from it and to it.
    pub moves_count: i64,
    /// At most at once.
    pub moves_max: i64,
}

/// What is to be done about the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Rows of the moves that begin now.
    pub begin: Vec<i64>,
    /// What each of the others waits for.
    pub wait: BTreeMap<i64, String>,
}

/// Chooses what begins: by priority, then by age. One that has to wait does not hold up those behind it. `loads` are
/// all pools; `moves_max` bounds the moves of the whole cluster, of which `moves_count` are under way.
pub fn next(queue: &[QueuedMove], loads: &BTreeMap<i64, PoolLoad>, moves_count: usize, moves_max: usize) -> Next {
    let mut queue: Vec<&QueuedMove> = queue.iter().collect();
    queue.sort_by_key(|one| (-i64::from(one.priority), one.id));
    let mut loads = loads.clone();
    let mut next = Next::default();
    for one in queue {
        let pools = [one.source_pool_id, one.target_pool_id];
        let busy = pools.iter().filter_map(|id| loads.get(id)).find(|load| load.moves_count >= load.moves_max);
        let reason = if let Some(obstacle) = &one.obstacle {
            obstacle.clone()
        } else if moves_count + next.begin.len() >= moves_max {
            format!("{moves_max} discs are being moved in the cluster, which is the limit")
        } else if let Some(busy) = busy {
            format!("{} takes part in {} moves at once, which is its limit", busy.label, busy.moves_max)
        } else {
            next.begin.push(one.id);
            for id in pools {
                if let Some(load) = loads.get_mut(&id) {
                    load.moves_count += 1;
                }
            }
            continue;
        };
        next.wait.insert(one.id, reason);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use FillPolicy::{FillEmptiest, FillFullest};
    use proptest::prelude::*;

    const GIB: i64 = 1024;

    fn pool(id: i64, tail: &str, grade: &str) -> PoolPlace {
        PoolPlace {
            id,
            tail: tail.parse().unwrap(),
            label: format!("{tail}-{grade}1"),
            grade: grade.parse().unwrap(),
            size_mib: 100 * GIB,
            free_mib: 100 * GIB,
            promised_mib: 0,
            overcommit_percent: 100,
            closed: None,
        }
    }

    fn disc(id: i64, pool_id: i64, size_mib: i64) -> Candidate {
        Candidate {
            id,
            number: DiscNumber(id.unsigned_abs()),
            label: format!("disc-{id}"),
            virtual_machine_id: 1,
            virtual_machine_name: "web1".to_owned(),
            size_mib,
            grade: "sata".parse().unwrap(),
            pool_id: Some(pool_id),
            obstacle: None,
            leftover_tails: BTreeSet::new(),
        }
    }

    fn cluster() -> Vec<PoolPlace> {
        vec![
            pool(1, "tail1", "sata"),
            pool(2, "tail2", "sata"),
            pool(3, "tail3", "sata"),
            pool(4, "tail1", "ssd"),
            pool(5, "tail2", "ssd"),
        ]
    }

    fn targets(planned: &[Planned]) -> Vec<Option<i64>> {
        planned.iter().map(|one| one.target.as_ref().ok().map(|choice| choice.place)).collect()
    }

    #[test]
    fn r164_an_evacuation_spreads_what_it_moves() {
        let discs: Vec<_> = (1..=4).map(|id| disc(id, 1, 10 * GIB)).collect();
        let spread = plan(discs.clone(), &cluster(), &Destinations::default(), FillEmptiest);
        assert_eq!(targets(&spread), [Some(2), Some(3), Some(2), Some(3)]);
        let packed = plan(discs, &cluster(), &Destinations::default(), FillFullest);
        assert_eq!(targets(&packed), [Some(2); 4]);
    }

    #[test]
    fn r126_a_plan_never_promises_more_than_there_is() {
        let discs: Vec<_> = (1..=3).map(|id| disc(id, 1, 80 * GIB)).collect();
        let planned = plan(discs, &cluster(), &Destinations::default(), FillEmptiest);
        assert_eq!(targets(&planned), [Some(2), Some(3), None]);
        let reason = planned[2].target.as_ref().unwrap_err();
        assert!(reason.contains("the most is 20480 MiB"), "{reason}");
    }

    #[test]
    fn a_disc_stays_on_neither_its_pool_nor_its_tail_nor_one_with_an_old_copy() {
        let place = |disc: &Candidate, destinations: &Destinations| place(disc, &cluster(), destinations, FillEmptiest);
        let only = |ids: &[i64]| Destinations { pool_ids: Some(ids.iter().copied().collect()), grade: None };
        let refused = place(&disc(1, 1, GIB), &only(&[1])).unwrap_err();
        assert_eq!(refused, "no pool of grade sata can take it; tail1-sata1: it lies there already");
        let refused = place(&disc(1, 1, GIB), &only(&[5])).unwrap_err();
        assert!(refused.contains("named is of grade sata: a regrade changes"), "there are such pools: {refused}");
        let ssd = Destinations { grade: Some("ssd".parse().unwrap()), ..Destinations::default() };
        assert_eq!(place(&disc(1, 1, GIB), &ssd).unwrap().place, 5, "not the one of its own tail");
        let refused = place(&disc(1, 1, GIB), &Destinations { grade: ssd.grade.clone(), ..only(&[4]) }).unwrap_err();
        assert!(refused.contains("discs move between tails"), "{refused}");
        let mut returning = disc(1, 1, GIB);
        returning.leftover_tails.insert("tail2".to_owned());
        assert_eq!(place(&returning, &Destinations::default()).unwrap().place, 3);
        assert!(place(&returning, &only(&[2])).unwrap_err().contains("an old copy"));
        returning.obstacle = Some("it is being moved already".to_owned());
        assert_eq!(place(&returning, &Destinations::default()).unwrap_err(), "it is being moved already");
        let unplaced = Candidate { pool_id: None, ..disc(1, 1, GIB) };
        assert_eq!(place(&unplaced, &Destinations::default()).unwrap_err(), "it is not in any storage pool yet");
    }

    fn queued(id: i64, priority: i32, source: i64, target: i64) -> QueuedMove {
        QueuedMove { id, priority, source_pool_id: source, target_pool_id: target, obstacle: None }
    }

    fn loads(counts: &[(i64, i64, i64)]) -> BTreeMap<i64, PoolLoad> {
        let load =
            |&(id, moves_count, moves_max)| (id, PoolLoad { label: format!("pool{id}"), moves_count, moves_max });
        counts.iter().map(load).collect()
    }

    #[test]
    fn b12_b14_priority_goes_first_and_pools_take_part_in_so_many() {
        let queue = [queued(1, 0, 1, 2), queued(2, 0, 1, 3), queued(3, 5, 1, 3), queued(4, 0, 2, 3)];
        let chosen = next(&queue, &loads(&[(1, 0, 2), (2, 0, 2), (3, 0, 2)]), 0, 100);
        assert_eq!(chosen.begin, [3, 1, 4], "2 waits for pool 1, and does not hold up 4");
        assert_eq!(chosen.wait[&2], "pool1 takes part in 2 moves at once, which is its limit");
        let chosen = next(&queue, &loads(&[(1, 2, 2), (2, 0, 2), (3, 0, 2)]), 2, 2);
        assert!(chosen.begin.is_empty() && chosen.wait[&4].contains("in the cluster"), "{chosen:?}");
    }

    #[test]
    fn what_cannot_begin_says_why_and_holds_up_nobody() {
        let mut queue = [queued(1, 9, 1, 2), queued(2, 0, 1, 2)];
        queue[0].obstacle = Some("tail2 is not connected".to_owned());
        let chosen = next(&queue, &loads(&[(1, 0, 1), (2, 0, 1)]), 0, 100);
        assert_eq!((chosen.begin, chosen.wait[&1].as_str()), (vec![2], "tail2 is not connected"));
    }

    #[test]
    fn states_read_back() {
        for state in MigrationState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("flying".parse::<MigrationState>(), Err(UnknownState));
    }

    proptest! {
        #[test]
        fn limits_hold_whatever_the_queue(
            moves in prop::collection::vec((0i32..4, 1i64..6, 1i64..6, any::<bool>()), 0..40),
            counts in prop::collection::vec((0i64..4, 0i64..4), 5..6),
            under_way in 0usize..6, moves_max in 0usize..8,
        ) {
            let queue: Vec<_> = moves.iter().enumerate().filter(|(_, (_, from, to, _))| from != to).map(|(n, (priority, from, to, held))| {
                let obstacle = held.then(|| "held".to_owned());
                QueuedMove { obstacle, ..queued(i64::try_from(n).unwrap(), *priority, *from, *to) }
            }).collect();
            let counts: Vec<_> = (1..).zip(&counts).map(|(id, (now, most))| (id, *now, *most)).collect();
            let before = loads(&counts);
            let chosen = next(&queue, &before, under_way, moves_max);
            prop_assert_eq!(chosen.begin.len() + chosen.wait.len(), queue.len(), "each begins or is told why not");
            prop_assert!(chosen.begin.is_empty() || under_way + chosen.begin.len() <= moves_max);
            for (id, load) in &before {
                let own = queue.iter().filter(|one| chosen.begin.contains(&one.id));
                let more = own.filter(|one| one.source_pool_id == *id || one.target_pool_id == *id).count();
                prop_assert!(more == 0 || load.moves_count + i64::try_from(more).unwrap() <= load.moves_max, "pool {}", id);
            }
            let held = queue.iter().filter(|one| one.obstacle.is_some());
            prop_assert!(held.clone().all(|one| !chosen.begin.contains(&one.id)));
        }

        #[test]
        fn a_plan_leaves_no_pool_over_its_ceiling(sizes in prop::collection::vec(1i64..(60 * GIB), 0..12), fullest in any::<bool>()) {
            let discs: Vec<_> = (1..).zip(&sizes).map(|(id, size)| disc(id, 1, *size)).collect();
            let pools = cluster();
            let policy = if fullest { FillFullest } else { FillEmptiest };
            let planned = plan(discs, &pools, &Destinations::default(), policy);
            prop_assert_eq!(planned.len(), sizes.len());
            for pool in &pools {
                let to_it = planned.iter().filter(|one| one.target.as_ref().is_ok_and(|choice| choice.place == pool.id));
                let sum: i64 = to_it.map(|one| one.disc.size_mib).sum();
                prop_assert!(sum <= pool.ceiling_mib(), "{} holds {}", pool.label, sum);
                prop_assert!(sum == 0 || (pool.grade.as_str() == "sata" && pool.tail.as_str() != "tail1"));
            }
        }
    }
}
