//! Users: who logs in.

use super::StoreError;
use crate::model::{account::User, name::Spec};
use tokio_postgres::{Row, Transaction};

fn from_row(row: &Row) -> User {
    User {
        id: row.get("id"),
        username: row.get("username"),
        email: row.get("email"),
        authorized_keys: row.get("authorized_keys"),
    }
}

/// All users, or the one with this number or name, by name.
///
/// # Errors
/// When the database fails.
pub async fn list(tx: &Transaction<'_>, spec: Option<&Spec>) -> Result<Vec<User>, StoreError> {
    let sql = "SELECT id, username, email, authorized_keys FROM users \
         WHERE ($1::bigint IS NULL OR id = $1) AND ($2::text IS NULL OR username = $2) ORDER BY username";
    let (id, name) = (spec.and_then(Spec::id), spec.and_then(Spec::name));
    Ok(tx.query(sql, &[&id, &name]).await?.iter().map(from_row).collect())
}

/// The number and the password's hash of a user; an inner none when there is no password.
///
/// # Errors
/// When the database fails.
pub async fn credentials(tx: &Transaction<'_>, username: &str) -> Result<Option<(i64, Option<String>)>, StoreError> {
    let row = tx.query_opt("SELECT id, password_hash FROM users WHERE username = $1", &[&username]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Writes a new user and returns its number.
///
/// # Errors
/// When the name is taken (see [`StoreError::constraint`]), or the database fails.
pub async fn insert(
    tx: &Transaction<'_>,
    username: &str,
    email: Option<&str>,
    authorized_keys: Option<&str>,
    password_hash: Option<&str>,
) -> Result<i64, StoreError> {
    let sql =
        "INSERT INTO users (username, email, authorized_keys, password_hash) VALUES ($1, $2, $3, $4) RETURNING id";
    Ok(tx.query_one(sql, &[&username, &email, &authorized_keys, &password_hash]).await?.get(0))
}

/// Replaces a user's keys.
///
/// # Errors
/// When the database fails.
pub async fn set_authorized_keys(tx: &Transaction<'_>, id: i64, keys: Option<&str>) -> Result<(), StoreError> {
    tx.execute("UPDATE users SET authorized_keys = $2 WHERE id = $1", &[&id, &keys]).await?;
    Ok(())
}

/// Replaces a user's password and ends all sessions begun with the old one.
///
/// # Errors
/// When the database fails.
pub async fn set_password(tx: &Transaction<'_>, id: i64, password_hash: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE users SET password_hash = $2 WHERE id = $1", &[&id, &password_hash]).await?;
    tx.execute("DELETE FROM sessions WHERE user_id = $1", &[&id]).await?;
    Ok(())
}
