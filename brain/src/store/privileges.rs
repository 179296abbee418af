//! Privileges: which user may do how much, where.

use super::StoreError;
use crate::model::{
    account::Privilege,
    privilege::{Grant, Level, Place, Scope},
};
use tokio_postgres::{Row, Transaction};

const SELECT: &str = "SELECT p.id, p.user_id, u.username, p.level::text AS level, \
     coalesce(p.account_id, g.account_id) AS account_id, a.name AS account_name, \
     coalesce(p.group_id, v.group_id) AS group_id, g.name AS group_name, \
     p.virtual_machine_id, v.name AS virtual_machine_name, \
     p.password_required, p.yubikey_required, p.yubikey_otp_max_age, p.ip_restrictions, p.creating_username \
     FROM privileges p JOIN users u ON u.id = p.user_id \
     LEFT JOIN virtual_machines v ON v.id = p.virtual_machine_id \
     LEFT JOIN groups g ON g.id = coalesce(p.group_id, v.group_id) \
     LEFT JOIN accounts a ON a.id = coalesce(p.account_id, g.account_id) ";

fn from_row(row: &Row) -> Result<Privilege, StoreError> {
    let id: i64 = row.get("id");
    let level: Level = row
        .get::<_, &str>("level")
        .parse()
        .map_err(|error| StoreError::corrupt(format!("privileges row {id}, level"), error))?;
    let account: Option<i64> = row.get("account_id");
    let scope = match (account, row.get("group_id"), row.get("virtual_machine_id")) {
        (None, ..) => Scope::Cluster,
        (Some(account), None, _) => Scope::Place(Place::account(account)),
        (Some(account), Some(group), None) => Scope::Place(Place::group(account, group)),
        (Some(account), Some(group), Some(vm)) => Scope::Place(Place::vm(account, group, vm)),
    };
    Ok(Privilege {
        id,
        user_id: row.get("user_id"),
        username: row.get("username"),
        grant: Grant {
            level,
            scope,
            password_required: row.get("password_required"),
            yubikey_required: row.get("yubikey_required"),
            ip_restrictions: row.get("ip_restrictions"),
        },
        yubikey_otp_max_age: row.get::<_, Option<i32>>("yubikey_otp_max_age").map(i64::from),
        creating_username: row.get("creating_username"),
        account_name: row.get("account_name"),
        group_name: row.get("group_name"),
        virtual_machine_name: row.get("virtual_machine_name"),
    })
}

/// All privileges of a user.
///
/// # Errors
/// When the database fails.
pub async fn of_user(tx: &Transaction<'_>, user_id: i64) -> Result<Vec<Privilege>, StoreError> {
    let rows = tx.query(&format!("{SELECT} WHERE p.user_id = $1 ORDER BY p.id"), &[&user_id]).await?;
    rows.iter().map(from_row).collect()
}

/// The privilege with this number.
///
/// # Errors
/// When the database fails.
pub async fn find(tx: &Transaction<'_>, id: i64) -> Result<Option<Privilege>, StoreError> {
    let row = tx.query_opt(&format!("{SELECT} WHERE p.id = $1"), &[&id]).await?;
    row.as_ref().map(from_row).transpose()
}

/// The privileges given on exactly this place.
///
/// # Errors
/// When the database fails.
pub async fn on_place(tx: &Transaction<'_>, place: Place) -> Result<Vec<Privilege>, StoreError> {
    let (column, id) = target(place);
    let rows = tx.query(&format!("{SELECT} WHERE p.{column} = $1 ORDER BY p.id"), &[&id]).await?;
    rows.iter().map(from_row).collect()
}

/// Gives a privilege and returns its number.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    tx: &Transaction<'_>,
    user_id: i64,
    grant: &Grant,
    creating_username: &str,
) -> Result<i64, StoreError> {
    let [mut account_id, mut group_id, mut vm_id] = [None; 3];
    if let Scope::Place(place) = grant.scope {
        match target(place) {
            ("account_id", id) => account_id = Some(id),
            ("group_id", id) => group_id = Some(id),
            (_, id) => vm_id = Some(id),
        }
    }
    let sql = "INSERT INTO privileges (user_id, level, account_id, group_id, virtual_machine_id, password_required, \
         yubikey_required, ip_restrictions, creating_username) \
         VALUES ($1, $2::text::privilege_level, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
    let row = tx
        .query_one(
            sql,
            &[
                &user_id,
                &grant.level.as_str(),
                &account_id,
                &group_id,
                &vm_id,
                &grant.password_required,
                &grant.yubikey_required,
                &grant.ip_restrictions,
                &creating_username,
            ],
        )
        .await?;
    Ok(row.get(0))
}

/// Takes a privilege back.
///
/// # Errors
/// When the database fails.
pub async fn delete(tx: &Transaction<'_>, id: i64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM privileges WHERE id = $1", &[&id]).await?;
    Ok(())
}

/// The column that names a place, and its value.
fn target(place: Place) -> (&'static str, i64) {
    match (place.group_id(), place.vm_id()) {
        (_, Some(vm)) => ("virtual_machine_id", vm),
        (Some(group), None) => ("group_id", group),
        (None, None) => ("account_id", place.account_id()),
    }
}
