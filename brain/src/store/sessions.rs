//! Sessions. The database holds a token's hash, never the token.

use super::StoreError;
use spine::secret::SecretHash;
use tokio_postgres::Transaction;

/// A session that has not run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub user_id: i64,
    /// That user's name.
    pub username: String,
    /// How they proved who they are.
    pub factors: Vec<String>,
}

/// Begins a session; those that have run out are dropped.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    tx: &Transaction<'_>,
    token: &SecretHash,
    user_id: i64,
    factors: &[String],
    validity_s: i32,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM sessions WHERE expires_at < now()", &[]).await?;
    tx.execute(
        "INSERT INTO sessions (token_hash, user_id, factors, validity_s, expires_at) \
         VALUES ($1, $2, $3, $4::integer, now() + make_interval(secs => $4::integer))",
        &[&token.as_str(), &user_id, &factors, &validity_s],
    )
    .await?;
    Ok(())
}

/// The session with this token, which lasts its whole time again from now.
///
/// # Errors
/// When the database fails.
pub async fn touch(tx: &Transaction<'_>, token: &SecretHash) -> Result<Option<Session>, StoreError> {
    let row = tx
        .query_opt(
            "UPDATE sessions s SET expires_at = now() + make_interval(secs => s.validity_s) FROM users u \
             WHERE u.id = s.user_id AND s.token_hash = $1 AND s.expires_at > now() \
             RETURNING s.user_id, u.username, s.factors",
            &[&token.as_str()],
        )
        .await?;
    Ok(row.map(|row| Session { user_id: row.get(0), username: row.get(1), factors: row.get(2) }))
}
