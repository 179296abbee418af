//! What every list and look-up has in common: what the caller can see, and what the request names.

use crate::model::{filter::Filter, name::Spec, privilege::Reach};
use tokio_postgres::types::ToSql;

/// Accounts, groups and VMs that the caller can see and the request names, as a condition on the
/// aliases `a`, `g` and `v`. Its parameters are those of [`Bound::params`].
pub(super) const VISIBLE_AND_NAMED: &str = "($1 OR a.id = ANY($2) OR g.id = ANY($3) OR v.id = ANY($4)) \
     AND ($5::bigint IS NULL OR a.id = $5) AND ($6::text IS NULL OR a.name = $6) \
     AND ($7::bigint IS NULL OR g.id = $7) AND ($8::text IS NULL OR g.name = $8) \
     AND ($9::bigint IS NULL OR v.id = $9) AND ($10::text IS NULL OR v.name = $10) \
     AND ($11 OR v.deleted_at IS NULL) AND v.purged_at IS NULL";

/// The values of [`VISIBLE_AND_NAMED`]; further parameters start at `$12` with the number and
/// `$13` with the name of a part of a VM.
pub(super) struct Bound<'a> {
    reach: &'a Reach,
    ids: [Option<i64>; 4],
    names: [Option<&'a str>; 4],
    include_deleted: bool,
}

impl<'a> Bound<'a> {
    pub(super) fn new(reach: &'a Reach, filter: &'a Filter) -> Self {
        let specs = [&filter.account, &filter.group, &filter.vm, &filter.part];
        Self {
            reach,
            ids: specs.map(|spec| spec.as_ref().and_then(Spec::id)),
            names: specs.map(|spec| spec.as_ref().and_then(Spec::name)),
            include_deleted: filter.include_deleted,
        }
    }

    /// `$1` to `$11`.
    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.reach.everything,
            &self.reach.account_ids,
            &self.reach.group_ids,
            &self.reach.vm_ids,
            &self.ids[0],
            &self.names[0],
            &self.ids[1],
            &self.names[1],
            &self.ids[2],
            &self.names[2],
            &self.include_deleted,
        ]
    }

    /// `$1` to `$13`.
    pub(super) fn params_with_part(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut params = self.params();
        params.push(&self.ids[3]);
        params.push(&self.names[3]);
        params
    }
}
