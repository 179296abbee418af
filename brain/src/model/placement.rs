//! Where a VM runs and where a disc lies: a snapshot in, a decision with its reason out (R158–R165).
//!
//! Two policies, both for both: *fill the fullest* takes the place with the least room that is
//! enough, and so keeps others empty for something big; *fill the emptiest* takes the one with the
//! most room, and so spreads. The flaw of each is a test below.

use crate::{config::FillPolicy, limits::POOL_FREE_PERCENT_MIN};
use spine::id::{Grade, NodeName};
use std::{cmp::Reverse, fmt};

/// A head, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadPlace {
    /// Its name.
    pub name: NodeName,
    /// MiB of RAM that it offers to VMs, with its overcommit.
    pub memory_total_mib: i64,
    /// MiB promised to the VMs that run there, or are about to.
    pub memory_promised_mib: i64,
    /// MiB free, as the head itself says.
    pub memory_reported_mib: Option<i64>,
    /// VMs that run there, or are about to.
    pub vms_count: i64,
    /// Of these, how many belong to the owner of the VM to be placed (R161).
    pub owner_vms_count: i64,
    /// Why nothing may be placed there, if so: away, marked as to be emptied, …
    pub closed: Option<String>,
}

/// A storage pool, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlace {
    /// Its row.
    pub id: i64,
    /// Its tail.
    pub tail: NodeName,
    /// `TAIL-POOL`.
    pub label: String,
    /// Its grade.
    pub grade: Grade,
    /// MiB of its filesystem.
    pub size_mib: i64,
    /// MiB free there.
    pub free_mib: i64,
    /// MiB promised to the discs in it.
    pub promised_mib: i64,
    /// Percent of its size that may be promised (R124).
    pub overcommit_percent: i64,
    /// Why nothing may be placed there, if so.
    pub closed: Option<String>,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<T> {
    /// What was chosen.
    pub place: T,
    /// Why, in one line (R165).
    pub reason: String,
}

/// There is no place: an ordinary answer, not a fault (R199).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlace {
    /// What there is none for, and what would fit.
    pub message: String,
    /// MiB of the biggest that would fit now (R025, R027).
    pub biggest_mib: i64,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl HeadPlace {
    /// MiB that may still be promised.
    pub fn room_mib(&self) -> i64 {
        let room = self.memory_total_mib - self.memory_promised_mib;
        self.memory_reported_mib.map_or(room, |reported| room.min(reported)).max(0)
    }
}

impl PoolPlace {
    /// MiB that may be promised in all.
    pub fn ceiling_mib(&self) -> i64 {
        let ceiling = i128::from(self.size_mib) * i128::from(self.overcommit_percent.max(0)) / 100;
        i64::try_from(ceiling).unwrap_or(i64::MAX)
    }

    /// MiB that may still be promised: none when the filesystem itself is nearly full.
    pub fn unpromised_mib(&self) -> i64 {
        if i128::from(self.free_mib) * 100 < i128::from(self.size_mib) * i128::from(POOL_FREE_PERCENT_MIN) {
            return 0;
        }
        (self.ceiling_mib() - self.promised_mib).max(0)
    }

    /// MiB that one more disc may have: at most what the pool holds (R027).
    pub fn room_mib(&self) -> i64 {
        self.unpromised_mib().min(self.size_mib.max(0))
    }
}

/// Chooses a head for a VM of `memory_mib`. A VM that has never run leaves `reserve_heads` heads
/// empty (R163); one that has may use them. Heads in `avoid` are taken only when no other will do.
///
/// # Errors
/// [`NoPlace`] says what would fit.
pub fn choose_head(
    heads: &[HeadPlace],
    memory_mib: i64,
    policy: FillPolicy,
    reserve_heads: usize,
    avoid: &[NodeName],
) -> Result<Choice<NodeName>, NoPlace> {
    let open: Vec<&HeadPlace> = heads.iter().filter(|head| head.closed.is_none()).collect();
    let reserved = reserved(&open, reserve_heads);
    let usable: Vec<&HeadPlace> = open.iter().filter(|head| !reserved.contains(&&head.name)).copied().collect();
    let best = pick(usable.iter().copied().filter(|head| head.room_mib() >= memory_mib), policy, |head| {
        (avoid.contains(&head.name), head.room_mib(), head.name.as_str())
    });
    let Some(head) = best else { return Err(no_head(heads, &usable, memory_mib, reserved.len())) };
    let owner = match (head.owner_vms_count, head.vms_count) {
        (0, _) => String::new(),
        (own, all) => format!("; {own} of its {all} VMs belong to the same account"),
    };
    let reason = format!("{}: {} MiB free of {}, {policy}{owner}", head.name, head.room_mib(), head.memory_total_mib);
    Ok(Choice { place: head.name.clone(), reason })
}

/// Chooses a pool for a disc; returns its row. Pools in `avoid` have refused the disc.
///
/// # Errors
/// [`NoPlace`] says what would fit.
pub fn choose_pool(
    pools: &[PoolPlace],
    grade: &Grade,
    size_mib: i64,
    policy: FillPolicy,
    avoid: &[i64],
) -> Result<Choice<i64>, NoPlace> {
    let of_grade: Vec<&PoolPlace> = pools.iter().filter(|pool| pool.grade == *grade).collect();
    let usable: Vec<&PoolPlace> = of_grade.iter().filter(|pool| pool.closed.is_none()).copied().collect();
    // With overcommit a pool may promise more than one disc can have: what orders them is all of it.
    let best = pick(usable.iter().copied().filter(|pool| pool.room_mib() >= size_mib), policy, |pool| {
        (avoid.contains(&pool.id), pool.unpromised_mib(), pool.label.as_str())
    });
    let Some(pool) = best else { return Err(no_pool(&of_grade, &usable, grade, size_mib)) };
    let reason = format!(
        "{}: {} MiB may still be promised of {}, {policy}",
        pool.label,
        pool.unpromised_mib(),
        pool.ceiling_mib()
    );
    Ok(Choice { place: pool.id, reason })
}

/// The best of the places that have enough room. `rank` gives whether to avoid it, its room, its name.
fn pick<'a, T>(
    places: impl Iterator<Item = &'a T>,
    policy: FillPolicy,
    rank: impl Fn(&'a T) -> (bool, i64, &'a str),
) -> Option<&'a T> {
    match policy {
        FillPolicy::FillFullest => places.min_by_key(|place| rank(place)),
        FillPolicy::FillEmptiest => places.min_by_key(|place| {
            let (avoid, room, name) = rank(place);
            (avoid, Reverse(room), name)
        }),
    }
}

/// The empty heads that stay empty: the largest ones, so that any VM finds room there (R163).
fn reserved<'a>(open: &[&'a HeadPlace], reserve_heads: usize) -> Vec<&'a NodeName> {
    let mut idle: Vec<&HeadPlace> = open.iter().filter(|head| head.vms_count == 0).copied().collect();
    idle.sort_by_key(|head| (Reverse(head.memory_total_mib), head.name.clone()));
    idle.into_iter().take(reserve_heads).map(|head| &head.name).collect()
}

fn no_head(heads: &[HeadPlace], usable: &[&HeadPlace], memory_mib: i64, reserved_count: usize) -> NoPlace {
    let biggest_mib = usable.iter().map(|head| head.room_mib()).max().unwrap_or(0);
    let largest_mib = heads.iter().map(|head| head.memory_total_mib).max().unwrap_or(0);
    let message = if heads.is_empty() {
        "no head has ever connected".to_owned()
    } else if memory_mib > largest_mib {
        format!("{memory_mib} MiB of memory are more than the largest head has: {largest_mib} MiB")
    } else {
        let closed = closed_reasons(heads.iter().map(|head| (head.name.as_str(), head.closed.as_deref())));
        let reserve = match reserved_count {
            0 => String::new(),
            count => format!("; heads kept in reserve: {count}"),
        };
        format!(
            "the cluster is full: no head has {memory_mib} MiB free, the most is {biggest_mib} MiB{reserve}{closed}"
        )
    };
    NoPlace { message, biggest_mib }
}

fn no_pool(of_grade: &[&PoolPlace], usable: &[&PoolPlace], grade: &Grade, size_mib: i64) -> NoPlace {
    let biggest_mib = usable.iter().map(|pool| pool.room_mib()).max().unwrap_or(0);
    let largest_mib = of_grade.iter().map(|pool| pool.size_mib).max().unwrap_or(0);
    let message = if of_grade.is_empty() {
        format!("no tail has a pool of grade {grade}")
    } else if size_mib > largest_mib {
        format!("a disc of {size_mib} MiB is bigger than the largest pool of grade {grade}: {largest_mib} MiB")
    } else if usable.is_empty() {
        let closed = closed_reasons(of_grade.iter().map(|pool| (pool.label.as_str(), pool.closed.as_deref())));
        format!("no pool of grade {grade} can take it{closed}")
    } else {
        let closed = closed_reasons(of_grade.iter().map(|pool| (pool.label.as_str(), pool.closed.as_deref())));
        format!(
            "the cluster is full: no pool of grade {grade} takes {size_mib} MiB, the most is {biggest_mib} MiB{closed}"
        )
    };
    NoPlace { message, biggest_mib }
}

/// The first few places that are closed, with their reasons.
fn closed_reasons<'a>(places: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let closed: Vec<String> =
        places.filter_map(|(name, reason)| reason.map(|reason| format!("; {name}: {reason}"))).take(4).collect();
    closed.concat()
}

impl fmt::Display for FillPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FillFullest => "fill-fullest",
            Self::FillEmptiest => "fill-emptiest",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FillPolicy::{FillEmptiest, FillFullest};
    use proptest::prelude::*;

    const GIB: i64 = 1024;

    fn head(number: usize, total_mib: i64) -> HeadPlace {
        HeadPlace {
            name: format!("head{number:02}").parse().unwrap(),
            memory_total_mib: total_mib,
            memory_promised_mib: 0,
            memory_reported_mib: None,
            vms_count: 0,
            owner_vms_count: 0,
            closed: None,
        }
    }

    fn pool(id: i64, size_mib: i64) -> PoolPlace {
        PoolPlace {
            id,
            tail: format!("tail{id}").parse().unwrap(),
            label: format!("tail{id}-sata1"),
            grade: "sata".parse().unwrap(),
            size_mib,
            free_mib: size_mib,
            promised_mib: 0,
            overcommit_percent: 100,
            closed: None,
        }
    }

    /// Places VMs one after another; returns how many found room.
    fn fill(heads: &mut [HeadPlace], policy: FillPolicy, reserve: usize, sizes_mib: &[i64]) -> usize {
        let mut placed = 0;
        for size_mib in sizes_mib {
            let Ok(choice) = choose_head(heads, *size_mib, policy, reserve, &[]) else { continue };
            let head = heads.iter_mut().find(|head| head.name == choice.place).unwrap();
            head.memory_promised_mib += size_mib;
            head.vms_count += 1;
            placed += 1;
        }
        placed
    }

    #[test]
    fn r159_filling_the_emptiest_leaves_no_room_for_a_big_one() {
        let cluster: Vec<_> = (1..=15).map(|n| head(n, 120 * GIB)).collect();
        for (policy, finds_room) in [(FillEmptiest, false), (FillFullest, true)] {
            let mut heads = cluster.clone();
            assert_eq!(fill(&mut heads, policy, 0, &[GIB; 15]), 15);
            let big = choose_head(&heads, 120 * GIB, policy, 0, &[]);
            assert_eq!(big.is_ok(), finds_room, "R159, R160: {policy}: {big:?}");
        }
    }

    #[test]
    fn r161_filling_the_fullest_concentrates_an_owner_and_says_so() {
        let mut heads = [head(1, 8 * GIB), head(2, 8 * GIB)];
        heads[0].memory_promised_mib = GIB;
        (heads[0].vms_count, heads[0].owner_vms_count) = (3, 2);
        let choice = choose_head(&heads, GIB, FillFullest, 0, &[]).unwrap();
        assert_eq!(
            choice.reason,
            "head01: 7168 MiB free of 8192, fill-fullest; 2 of its 3 VMs belong to the same account"
        );
    }

    #[test]
    fn r163_new_vms_leave_the_reserve_alone() {
        let mut heads: Vec<_> = (1..=3).map(|n| head(n, 4 * GIB)).collect();
        assert_eq!(fill(&mut heads, FillFullest, 1, &[GIB; 12]), 8, "two of three heads' worth");
        let refused = choose_head(&heads, GIB, FillFullest, 1, &[]).unwrap_err();
        assert!(refused.message.contains("reserve"), "{refused}");
        assert!(choose_head(&heads, GIB, FillFullest, 0, &[]).is_ok(), "a restart may use it");
    }

    #[test]
    fn r025_r199_refusals_say_what_would_fit() {
        let mut heads = [head(1, 4 * GIB), head(2, 2 * GIB)];
        let refused = choose_head(&heads, 5 * GIB, FillFullest, 0, &[]).unwrap_err();
        assert_eq!(refused.message, "5120 MiB of memory are more than the largest head has: 4096 MiB");
        heads[0].closed = Some("away".to_owned());
        let refused = choose_head(&heads, 3 * GIB, FillFullest, 0, &[]).unwrap_err();
        assert_eq!(
            refused.message,
            "the cluster is full: no head has 3072 MiB free, the most is 2048 MiB; head01: away"
        );
        assert_eq!(refused.biggest_mib, 2 * GIB);
    }

    #[test]
    fn a_head_is_avoided_but_not_for_ever() {
        let heads = [head(1, 4 * GIB), head(2, 4 * GIB)];
        let avoid = [heads[0].name.clone()];
        assert_eq!(choose_head(&heads, GIB, FillFullest, 0, &avoid).unwrap().place, heads[1].name);
        assert_eq!(choose_head(&heads[..1], GIB, FillFullest, 0, &avoid).unwrap().place, heads[0].name);
    }

    #[test]
    fn r027_r124_pools_promise_up_to_their_ceiling_and_never_more_than_their_size_at_once() {
        let grade: Grade = "sata".parse().unwrap();
        let mut pools = [pool(1, 100 * GIB), pool(2, 50 * GIB)];
        pools[0].overcommit_percent = 250;
        pools[0].promised_mib = 240 * GIB;
        let choose = |pools: &[PoolPlace], size| choose_pool(pools, &grade, size, FillEmptiest, &[]);
        assert_eq!(choose(&pools, 10 * GIB).unwrap().place, 2, "50 GiB of room against 10");
        assert_eq!(choose(&pools, 51 * GIB).unwrap_err().biggest_mib, 50 * GIB);
        let refused = choose(&pools, 101 * GIB).unwrap_err();
        assert_eq!(refused.message, "a disc of 103424 MiB is bigger than the largest pool of grade sata: 102400 MiB");
        pools[1].free_mib = 0;
        assert_eq!(choose(&pools, GIB).unwrap().place, 1, "a filesystem that is full takes nothing");
        let missing = choose_pool(&pools, &"ssd".parse().unwrap(), 1, FillEmptiest, &[]).unwrap_err();
        assert_eq!(missing.message, "no tail has a pool of grade ssd");
    }

    #[test]
    fn r164_discs_spread_over_pools_that_may_promise_more_than_they_hold() {
        let mut pools = [pool(1, 100 * GIB), pool(2, 100 * GIB)];
        pools.iter_mut().for_each(|pool| pool.overcommit_percent = 250);
        let mut chosen = vec![];
        for _ in 0..4 {
            let choice = choose_pool(&pools, &"sata".parse().unwrap(), 10 * GIB, FillEmptiest, &[]).unwrap();
            pools.iter_mut().find(|pool| pool.id == choice.place).unwrap().promised_mib += 10 * GIB;
            chosen.push(choice.place);
        }
        assert_eq!(chosen, [1, 2, 1, 2]);
    }

    proptest! {
        #[test]
        fn a_choice_always_has_room_and_a_refusal_is_true(
            rooms in prop::collection::vec((0i64..64, 0i64..64, any::<bool>()), 0..8),
            needed in 1i64..70, fullest in any::<bool>(), reserve in 0usize..3,
        ) {
            let heads: Vec<_> = rooms.iter().enumerate().map(|(n, (total, promised, closed))| HeadPlace {
                memory_promised_mib: *promised,
                vms_count: i64::from(*promised > 0),
                closed: closed.then(|| "away".to_owned()),
                ..head(n, *total)
            }).collect();
            let policy = if fullest { FillFullest } else { FillEmptiest };
            match choose_head(&heads, needed, policy, reserve, &[]) {
                Ok(choice) => {
                    let chosen = heads.iter().find(|head| head.name == choice.place).unwrap();
                    prop_assert!(chosen.closed.is_none() && chosen.room_mib() >= needed);
                    let other = |head: &&HeadPlace| head.closed.is_none() && head.room_mib() >= needed;
                    if fullest && reserve == 0 {
                        prop_assert!(heads.iter().filter(other).all(|head| head.room_mib() >= chosen.room_mib()), "R160");
                    }
                    if !fullest && reserve == 0 {
                        prop_assert!(heads.iter().filter(other).all(|head| head.room_mib() <= chosen.room_mib()), "R158");
                    }
                }
                Err(refused) => {
                    prop_assert!(refused.biggest_mib < needed, "R025");
                    let idle = heads.iter().filter(|head| head.closed.is_none() && head.vms_count == 0).count();
                    let room = heads.iter().filter(|head| head.closed.is_none() && head.room_mib() >= needed).count();
                    prop_assert!(room <= reserve.min(idle), "R163: refused although {} heads have room", room);
                }
            }
        }
    }
}
