//! Which things a request is about: what its path and query name.

use super::name::Spec;

/// Names or numbers of what contains a thing. What is none does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The account.
    pub account: Option<Spec>,
    /// The group.
    pub group: Option<Spec>,
    /// The VM.
    pub vm: Option<Spec>,
    /// The disc (by number or label) or network card on that VM.
    pub part: Option<Spec>,
    /// Whether deleted VMs count.
    pub include_deleted: bool,
}

impl Filter {
    /// Everything in an account.
    pub fn account(account: Spec) -> Self {
        Self { account: Some(account), ..Self::default() }
    }

    /// Everything in a group.
    pub fn group(account: Spec, group: Spec) -> Self {
        Self { account: Some(account), group: Some(group), ..Self::default() }
    }

    /// One VM by its number, deleted or not.
    pub fn vm_id(id: i64) -> Self {
        Self { vm: Some(Spec::Id(id)), include_deleted: true, ..Self::default() }
    }

    /// The same, deleted VMs too.
    #[must_use]
    pub fn with_deleted(self) -> Self {
        Self { include_deleted: true, ..self }
    }
}
