//! Accounts, their groups, and the users who log in.

use super::privilege::{Grant, Level, Place, Scope};

/// The group that each account has (R155).
pub const DEFAULT_GROUP: &str = "default";

/// An account: who pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: i64,
    /// Its name, unique in the cluster.
    pub name: String,
    /// True while it may not start anything.
    pub suspended: bool,
}

impl Account {
    /// Where it is, for the policy.
    pub fn place(&self) -> Place {
        Place::account(self.id)
    }
}

/// A group of VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: i64,
    /// The account it is in.
    pub account_id: i64,
    /// Its name, unique in the account.
    pub name: String,
}

impl Group {
    /// Where it is, for the policy.
    pub fn place(&self) -> Place {
        Place::group(self.account_id, self.id)
    }
}

/// A login. The password's hash stays in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub id: i64,
    /// What it logs in as.
    pub username: String,
    /// Where mail goes.
    pub email: Option<String>,
    /// OpenSSH public keys, one a line.
    pub authorized_keys: Option<String>,
}

/// A privilege as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Its number.
    pub id: i64,
    /// Whose it is.
    pub user_id: i64,
    /// That user's name.
    pub username: String,
    /// What the policy needs of it.
    pub grant: Grant,
    /// How old a Yubikey's word may be, in seconds.
    pub yubikey_otp_max_age: Option<i64>,
    /// Who gave it.
    pub creating_username: Option<String>,
    /// The name of the account it is on, or that contains what it is on.
    pub account_name: Option<String>,
    /// The name of the group, likewise.
    pub group_name: Option<String>,
    /// The name of the VM.
    pub virtual_machine_name: Option<String>,
}

impl Privilege {
    /// How much it allows.
    pub fn level(&self) -> Level {
        self.grant.level
    }

    /// The place it holds in; none when it holds everywhere.
    pub fn place(&self) -> Option<Place> {
        match self.grant.scope {
            Scope::Cluster => None,
            Scope::Place(place) => Some(place),
        }
    }
}
