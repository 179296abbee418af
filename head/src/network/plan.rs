//! Which taps to make and remove: pure.

use std::ops::RangeInclusive;

/// One card's tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Its name: [`tap_name`].
    pub name: String,
    /// The only user that may open it.
    pub uid: u32,
    /// The bridge it belongs to.
    pub bridge: String,
}

/// An interface that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The bridge that it belongs to.
    pub master: Option<String>,
}

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Remove an interface.
    Delete(String),
    /// Make a tap and put it on its bridge.
    Create(Tap),
    /// Put a tap that is there on its bridge.
    Attach(Tap),
}

/// The name of a machine's tap: at most 13 of the 15 bytes that the kernel allows.
pub fn tap_name(uid: u32, card: usize) -> String {
    format!("bv{uid}-{card}")
}

/// The uid that an interface belongs to; none when it is not one of ours.
pub fn uid_of(name: &str) -> Option<u32> {
    let (uid, card) = name.strip_prefix("bv")?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(uid) && digits(card) { uid.parse().ok() } else { None }
}

/// The steps from `observed` to `desired`, for the taps of the machines with `uids`. Others are not
/// touched. Removals come first.
pub fn plan(desired: &[Tap], observed: &[Link], uids: &RangeInclusive<u32>) -> Vec<Change> {
    let ours = |link: &&Link| uid_of(&link.name).is_some_and(|uid| uids.contains(&uid));
    let unwanted = |link: &&Link| !desired.iter().any(|tap| tap.name == link.name);
    let gone = observed.iter().filter(ours).filter(unwanted).map(|link| Change::Delete(link.name.clone()));
    let wanted = desired.iter().filter_map(|tap| match observed.iter().find(|link| link.name == tap.name) {
        None => Some(Change::Create(tap.clone())),
        Some(link) if link.master.as_ref() != Some(&tap.bridge) => Some(Change::Attach(tap.clone())),
        Some(_) => None,
    });
    gone.chain(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tap(uid: u32, card: usize, bridge: &str) -> Tap {
        Tap { name: tap_name(uid, card), uid, bridge: bridge.into() }
    }

    fn link(name: &str, master: Option<&str>) -> Link {
        Link { name: name.into(), master: master.map(str::to_owned) }
    }

    #[test]
    fn names_fit_and_tell_their_owner() {
        assert!(tap_name(u32::MAX - 1, 7).len() <= 15);
        assert_eq!(uid_of(&tap_name(70_003, 2)), Some(70_003));
        for other in ["eth0", "bv", "bv7", "bv7-", "bv-1", "bv+7-1", "bv7-x", "br-public", "bv99999999999-0"] {
            assert_eq!(uid_of(other), None, "{other}");
        }
    }

    #[test]
    fn r142_r143_steps() {
        let observed = [
            link("lo", None),
            link("bv70000-0", Some("br1")),
            link("bv70000-1", None),
            link("bv70001-0", Some("br1")),
            link("bv80000-0", Some("br1")),
        ];
        let desired = [tap(70_000, 0, "br1"), tap(70_000, 1, "br1"), tap(70_000, 2, "br2")];
        assert_eq!(
            plan(&desired, &observed, &(70_000..=70_999)),
            [
                Change::Delete("bv70001-0".into()),
                Change::Attach(tap(70_000, 1, "br1")),
                Change::Create(tap(70_000, 2, "br2")),
            ],
            "another head's taps stay"
        );
    }

    proptest! {
        #[test]
        fn r143_applying_the_plan_leaves_nothing_to_do(
            desired in proptest::collection::btree_set((0u32..4, 0usize..3), 0..8),
            observed in proptest::collection::btree_map((0u32..4, 0usize..3), proptest::option::of("br[12]"), 0..8),
        ) {
            let desired: Vec<_> = desired.into_iter().map(|(uid, card)| tap(uid, card, "br1")).collect();
            let mut links: Vec<_> =
                observed.iter().map(|((uid, card), master)| link(&tap_name(*uid, *card), master.as_deref())).collect();
            for change in plan(&desired, &links, &(0..=9)) {
                match change {
                    Change::Delete(name) => links.retain(|link| link.name != name),
                    Change::Create(tap) => links.push(link(&tap.name, Some(&tap.bridge))),
                    Change::Attach(tap) => {
                        links.iter_mut().filter(|link| link.name == tap.name).for_each(|link| link.master = Some(tap.bridge.clone()));
                    }
                }
            }
            prop_assert_eq!(plan(&desired, &links, &(0..=9)), []);
            prop_assert_eq!(links.len(), desired.len());
        }
    }
}
