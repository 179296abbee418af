//! Who may do what: levels, where they hold, and what an action needs (R022).
//!
//! ```text
//!   cluster ⊃ account ⊃ group ⊃ vm          a grant holds in its place and in all below it
//!   cluster_su > cluster_admin > account_admin > group_admin > vm_admin > vm_console
//! ```
//!
//! A place is *visible* to whoever holds a grant on it, above it or below it: who has one VM can see
//! the names of its group and account. What is not visible does not exist for the caller (404); what
//! is visible and needs more than the caller holds is forbidden (403).

use std::{fmt, net::IpAddr, str::FromStr};

/// Longest list of networks that a grant is limited to, in bytes.
const NETWORKS_BYTES_MAX: usize = 1024;

/// How much a grant allows, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// See a VM and use its console.
    VmConsole,
    /// Change a VM and its discs.
    VmAdmin,
    /// Make and delete VMs.
    GroupAdmin,
    /// Make and delete groups.
    AccountAdmin,
    /// Run the cluster.
    ClusterAdmin,
    /// Run the cluster, and name its admins.
    ClusterSu,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 6] =
        [Self::VmConsole, Self::VmAdmin, Self::GroupAdmin, Self::AccountAdmin, Self::ClusterAdmin, Self::ClusterSu];

    /// The word of the API and of the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VmConsole => "vm_console",
            Self::VmAdmin => "vm_admin",
            Self::GroupAdmin => "group_admin",
            Self::AccountAdmin => "account_admin",
            Self::ClusterAdmin => "cluster_admin",
            Self::ClusterSu => "cluster_su",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of a word that is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not included in the list")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or(UnknownLevel)
    }
}

/// An account, a group or a VM, with all that contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    account_id: i64,
    group_id: Option<i64>,
    vm_id: Option<i64>,
}

impl Place {
    /// An account.
    pub fn account(account_id: i64) -> Self {
        Self { account_id, group_id: None, vm_id: None }
    }

    /// A group of an account.
    pub fn group(account_id: i64, group_id: i64) -> Self {
        Self { account_id, group_id: Some(group_id), vm_id: None }
    }

    /// A VM of a group.
    pub fn vm(account_id: i64, group_id: i64, vm_id: i64) -> Self {
        Self { account_id, group_id: Some(group_id), vm_id: Some(vm_id) }
    }

    /// The account.
    pub fn account_id(&self) -> i64 {
        self.account_id
    }

    /// The group; none for an account.
    pub fn group_id(&self) -> Option<i64> {
        self.group_id
    }

    /// The VM; none for an account or a group.
    pub fn vm_id(&self) -> Option<i64> {
        self.vm_id
    }

    fn contains(&self, other: &Self) -> bool {
        self.account_id == other.account_id
            && self.group_id.is_none_or(|group| other.group_id == Some(group))
            && self.vm_id.is_none_or(|vm| other.vm_id == Some(vm))
    }
}

/// Where a grant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere.
    Cluster,
    /// In one place and all below it.
    Place(Place),
}

/// One privilege of a user, as far as the policy needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How much.
    pub level: Level,
    /// Where.
    pub scope: Scope,
    /// Counts only when the caller has given a password.
    pub password_required: bool,
    /// Counts only when the caller has shown a Yubikey.
    pub yubikey_required: bool,
    /// Counts only for callers from these networks: CIDRs, separated by commas or spaces.
    pub ip_restrictions: Option<String>,
}

/// How the caller has proved who they are, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Proof {
    /// `password`, `yubikey`, …
    pub factors: Vec<String>,
    /// The peer's address; none when it is not known.
    pub address: Option<IpAddr>,
}

impl Proof {
    fn has(&self, factor: &str) -> bool {
        self.factors.iter().any(|known| known == factor)
    }
}

impl Grant {
    /// Whether the grant counts for this caller.
    fn holds_for(&self, proof: &Proof) -> bool {
        let password = !self.password_required || proof.has("password");
        let yubikey = !self.yubikey_required || proof.has("yubikey");
        password && yubikey && self.ip_restrictions.as_deref().is_none_or(|networks| permits(networks, proof.address))
    }
}

/// Checks networks that a grant is to be limited to: addresses or CIDRs, separated by commas or
/// spaces.
///
/// # Errors
/// The API's sentence.
pub fn check_networks(networks: &str) -> Result<(), String> {
    if networks.len() > NETWORKS_BYTES_MAX {
        return Err(format!("is too long (maximum is {NETWORKS_BYTES_MAX} characters)"));
    }
    // A network that can be read holds its own base.
    let readable = |part: &str| {
        let base = part.split('/').next().unwrap_or_default();
        base.parse().is_ok_and(|base| in_network(part, base))
    };
    match split(networks).find(|part| !readable(part)) {
        Some(bad) => Err(format!("is invalid: {bad:?} is no address or network, as 192.0.2.0/24")),
        None => Ok(()),
    }
}

fn split(networks: &str) -> impl Iterator<Item = &str> {
    networks.split([',', ' ', '\n']).filter(|part| !part.is_empty())
}

/// Whether one of `networks` holds `address`. What cannot be read holds nobody.
fn permits(networks: &str, address: Option<IpAddr>) -> bool {
    let Some(address) = address else { return false };
    let mut parts = split(networks).peekable();
    parts.peek().is_none() || parts.any(|network| in_network(network, address))
}

fn in_network(network: &str, address: IpAddr) -> bool {
    let (base, length) = match network.split_once('/') {
        Some((base, length)) => (base, length.parse::<u32>().ok().filter(|length| *length <= 128)),
        None => (network, Some(128)),
    };
    let (Ok(base), Some(length)) = (base.parse::<IpAddr>(), length) else { return false };
    let same = |a: u128, b: u128, width: u32| {
        let shift = width - length.min(width);
        shift == width || a >> shift == b >> shift
    };
    match (base, address.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
        _ => false,
    }
}

/// What somebody wants to do in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Look at it.
    See,
    /// Switch a VM on and off, change it, its discs and what is on them.
    ChangeVm,
    /// Make, rename, move, delete and bring back VMs of a group; rename the group.
    ManageVms,
    /// Make and delete groups of an account.
    ManageGroups,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::See, Self::ChangeVm, Self::ManageVms, Self::ManageGroups];

    /// The lowest level that allows it.
    pub fn needs(self) -> Level {
        match self {
            Self::See => Level::VmConsole,
            Self::ChangeVm => Level::VmAdmin,
            Self::ManageVms => Level::GroupAdmin,
            Self::ManageGroups => Level::AccountAdmin,
        }
    }
}

/// What the policy says of an action in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Allowed,
    /// The place may be seen, the action needs this level there: 403.
    Forbidden {
        /// The lowest level that would do.
        needs: Level,
    },
    /// The place does not exist for the caller: 404.
    Hidden,
}

/// All that one caller may do.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Access {
    grants: Vec<(Level, Scope)>,
}

impl Access {
    /// Keeps those grants that count for a caller with this proof.
    pub fn new(grants: impl IntoIterator<Item = Grant>, proof: &Proof) -> Self {
        let counts = |grant: &Grant| grant.holds_for(proof);
        Self { grants: grants.into_iter().filter(counts).map(|grant| (grant.level, grant.scope)).collect() }
    }

    /// Whether the caller may do this there.
    pub fn check(&self, action: Action, place: Place) -> Verdict {
        if !self.sees(place) {
            return Verdict::Hidden;
        }
        let needs = action.needs();
        match action == Action::See || self.level_at(place).is_some_and(|level| level >= needs) {
            true => Verdict::Allowed,
            false => Verdict::Forbidden { needs },
        }
    }

    /// The highest level held in a place.
    pub fn level_at(&self, place: Place) -> Option<Level> {
        let here = |scope: &Scope| match scope {
            Scope::Cluster => true,
            Scope::Place(held) => held.contains(&place),
        };
        self.grants.iter().filter(|(_, scope)| here(scope)).map(|(level, _)| *level).max()
    }

    /// The highest level held in the whole cluster.
    pub fn cluster_level(&self) -> Option<Level> {
        self.grants.iter().filter(|(_, scope)| *scope == Scope::Cluster).map(|(level, _)| *level).max()
    }

    /// Whether the caller runs the cluster.
    pub fn is_admin(&self) -> bool {
        self.cluster_level().is_some_and(|level| level >= Level::ClusterAdmin)
    }

    /// Whether the caller holds this level, or a higher one, anywhere.
    pub fn holds_anywhere(&self, least: Level) -> bool {
        self.grants.iter().any(|(level, _)| *level >= least)
    }

    /// Everything the caller can see, for the store's lists.
    pub fn reach(&self) -> Reach {
        let mut reach = Reach::default();
        for (_, scope) in &self.grants {
            match scope {
                Scope::Cluster => reach.everything = true,
                Scope::Place(Place { vm_id: Some(vm), .. }) => reach.vm_ids.push(*vm),
                Scope::Place(Place { group_id: Some(group), .. }) => reach.group_ids.push(*group),
                Scope::Place(Place { account_id, .. }) => reach.account_ids.push(*account_id),
            }
        }
        reach
    }

    fn sees(&self, place: Place) -> bool {
        self.grants.iter().any(|(_, scope)| match scope {
            Scope::Cluster => true,
            Scope::Place(held) => held.contains(&place) || place.contains(held),
        })
    }
}

/// The places a caller holds grants on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reach {
    /// True for those who run the cluster.
    pub everything: bool,
    /// Whole accounts.
    pub account_ids: Vec<i64>,
    /// Whole groups.
    pub group_ids: Vec<i64>,
    /// Single VMs.
    pub vm_ids: Vec<i64>,
}

impl Reach {
    /// Of whoever may see all there is.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: Place = Place { account_id: 1, group_id: None, vm_id: None };
    const GROUP: Place = Place { account_id: 1, group_id: Some(2), vm_id: None };
    const VM: Place = Place { account_id: 1, group_id: Some(2), vm_id: Some(3) };
    const OTHER_VM: Place = Place { account_id: 1, group_id: Some(2), vm_id: Some(4) };
    const ELSEWHERE: Place = Place { account_id: 9, group_id: Some(8), vm_id: Some(7) };

    fn holding(level: Level, scope: Scope) -> Access {
        Access { grants: vec![(level, scope)] }
    }

    /// `+` allowed, `-` forbidden, `.` hidden; one letter for See, ChangeVm, ManageVms, ManageGroups.
    fn row(access: &Access, place: Place) -> String {
        let letter = |action| match access.check(action, place) {
            Verdict::Allowed => '+',
            Verdict::Forbidden { .. } => '-',
            Verdict::Hidden => '.',
        };
        Action::ALL.into_iter().map(letter).collect()
    }

    #[test]
    fn r022_the_policy_is_this_table() {
        use Level::{AccountAdmin, ClusterAdmin, ClusterSu, GroupAdmin, VmAdmin, VmConsole};
        let place = Scope::Place;
        // level, where it is held        account  group   the vm  another  elsewhere
        #[rustfmt::skip]
        let table = [
            (ClusterSu,    Scope::Cluster,  "++++", "++++", "++++", "++++", "++++"),
            (ClusterAdmin, Scope::Cluster,  "++++", "++++", "++++", "++++", "++++"),
            (AccountAdmin, place(ACCOUNT),  "++++", "++++", "++++", "++++", "...."),
            (GroupAdmin,   place(ACCOUNT),  "+++-", "+++-", "+++-", "+++-", "...."),
            (GroupAdmin,   place(GROUP),    "+---", "+++-", "+++-", "+++-", "...."),
            (VmAdmin,      place(GROUP),    "+---", "++--", "++--", "++--", "...."),
            (VmAdmin,      place(VM),       "+---", "+---", "++--", "....", "...."),
            (VmConsole,    place(GROUP),    "+---", "+---", "+---", "+---", "...."),
            (VmConsole,    place(VM),       "+---", "+---", "+---", "....", "...."),
        ];
        for (level, scope, account, group, vm, other, elsewhere) in table {
            let access = holding(level, scope);
            let shown = [ACCOUNT, GROUP, VM, OTHER_VM, ELSEWHERE].map(|place| row(&access, place));
            assert_eq!(shown, [account, group, vm, other, elsewhere], "R022: {level} on {scope:?}");
        }
    }

    #[test]
    fn nobody_sees_nothing() {
        assert_eq!(row(&Access::default(), VM), "....");
        assert!(!Access::default().is_admin());
    }

    #[test]
    fn conditions_must_be_met() {
        let grant = Grant {
            level: Level::AccountAdmin,
            scope: Scope::Place(ACCOUNT),
            password_required: true,
            yubikey_required: false,
            ip_restrictions: Some("192.0.2.0/24, 2001:db8::/32".into()),
        };
        let from = |address: &str, factors: &[&str]| {
            let factors = factors.iter().map(|f| (*f).to_owned()).collect();
            let proof = Proof { factors, address: address.parse().ok() };
            Access::new([grant.clone()], &proof).level_at(ACCOUNT).is_some()
        };
        assert!(from("192.0.2.9", &["password"]));
        assert!(from("::ffff:192.0.2.9", &["password"]), "an IPv4 caller on an IPv6 socket");
        assert!(from("2001:db8::1", &["password"]));
        assert!(!from("192.0.3.9", &["password"]));
        assert!(!from("192.0.2.9", &["impersonated"]));
        assert!(!from("nowhere", &["password"]));
        let yubikey = Grant { yubikey_required: true, ip_restrictions: None, ..grant };
        let proof = Proof { factors: vec!["password".into()], address: None };
        assert!(Access::new([yubikey], &proof).level_at(ACCOUNT).is_none());
    }

    #[test]
    fn networks_that_cannot_be_read_hold_nobody() {
        for bad in ["x", "192.0.2.0/x", "192.0.2.0/-1", "/"] {
            assert!(!permits(bad, "192.0.2.1".parse().ok()), "{bad}");
        }
        for bad in ["x", "192.0.2.0/x", "192.0.2.0/-1", "/", "192.0.2.0/24, ::/129"] {
            assert!(check_networks(bad).is_err(), "{bad}");
        }
        assert_eq!(check_networks("192.0.2.0/24, 2001:db8::/32 198.51.100.7"), Ok(()));
        assert!(permits("0.0.0.0/0", "192.0.2.1".parse().ok()));
        assert!(permits("::/0", "2001:db8::1".parse().ok()));
        assert!(permits("192.0.2.1", "192.0.2.1".parse().ok()));
        assert!(!permits("192.0.2.1", "192.0.2.2".parse().ok()));
    }

    #[test]
    fn levels_are_words() {
        for level in Level::ALL {
            assert_eq!(level.as_str().parse(), Ok(level));
        }
        assert_eq!("root".parse::<Level>(), Err(UnknownLevel));
    }
}
