//! Accounts.

use super::{StoreError, select};
use crate::model::{account::Account, filter::Filter, privilege::Reach};
use tokio_postgres::{Row, Transaction};

fn from_row(row: &Row) -> Account {
    Account { id: row.get("id"), name: row.get("name"), suspended: row.get("suspended") }
}

/// The accounts that the caller can see and the filter names, by name. A grant on a group or VM in
/// an account makes the account visible.
///
/// # Errors
/// When the database fails.
pub async fn list(tx: &Transaction<'_>, reach: &Reach, filter: &Filter) -> Result<Vec<Account>, StoreError> {
    // The condition speaks of groups and VMs too: both are there once, as nothing, for an account
    // without any.
    let sql = format!(
        "SELECT DISTINCT a.id, a.name, a.suspended FROM accounts a LEFT JOIN groups g ON g.account_id = a.id \
         LEFT JOIN virtual_machines v ON v.group_id = g.id AND v.purged_at IS NULL WHERE {} ORDER BY a.name",
        select::VISIBLE_AND_NAMED
    );
    let filter = filter.clone().with_deleted();
    let bound = select::Bound::new(reach, &filter);
    Ok(tx.query(&sql, &bound.params()).await?.iter().map(from_row).collect())
}

/// Writes a new account and returns its number.
///
/// # Errors
/// When the name is taken (see [`StoreError::constraint`]), or the database fails.
pub async fn insert(tx: &Transaction<'_>, name: &str) -> Result<i64, StoreError> {
    Ok(tx.query_one("INSERT INTO accounts (name) VALUES ($1) RETURNING id", &[&name]).await?.get(0))
}

/// The number of the account with this name, whoever asks.
///
/// # Errors
/// When the database fails.
pub async fn id_of(tx: &Transaction<'_>, name: &str) -> Result<Option<i64>, StoreError> {
    Ok(tx.query_opt("SELECT id FROM accounts WHERE name = $1", &[&name]).await?.map(|row| row.get(0)))
}
