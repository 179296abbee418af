//! Heads and tails, as they introduced themselves (R053).

use super::StoreError;
use spine::{
    id::NodeName,
    message::{Hello, Role},
    resource::migration::MIGRATION_ADDRESS,
};
use std::net::{IpAddr, SocketAddr};
use tokio_postgres::Transaction;

/// What was known of a node before this hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is registered now.
    New,
    /// The same as it says now.
    Same,
    /// It has moved on the storage LAN.
    Moved {
        /// Where it was.
        from: Option<IpAddr>,
    },
    /// It was something else, and is not let in: its discs or runs belong to that.
    OtherRole(Role),
}

/// Registers a node or brings what is known of it up to date, and marks it online.
///
/// # Errors
/// When the database fails.
pub async fn register(tx: &Transaction<'_>, hello: &Hello) -> Result<Known, StoreError> {
    let address: Option<IpAddr> =
        hello.extra.get("storage_address").and_then(|value| value.as_str()).and_then(|text| text.parse().ok());
    // Absurd numbers count as none: sums and percentages of the others must not overflow.
    let credible = |number: &i64| (0..1 << 40).contains(number);
    let number = |name: &str| hello.extra.get(name).and_then(|value| value.as_i64()).filter(credible);
    let memory = number("memory_total");
    let cores = number("cores").and_then(|cores| i32::try_from(cores).ok());
    // What is not an address is as good as none: the tail takes no part in moves.
    let migration: Option<SocketAddr> =
        hello.extra.get(MIGRATION_ADDRESS).and_then(|value| value.as_str()).and_then(|text| text.parse().ok());
    let migration = migration.map(|address| address.to_string());
    let name = hello.node.as_str();
    let role = hello.role.to_string();
    let old = tx.query_opt("SELECT role, storage_address FROM nodes WHERE name = $1 FOR UPDATE", &[&name]).await?;
    let known = match &old {
        None => Known::New,
        Some(row) if row.get::<_, &str>(0) != role => {
            let other = if hello.role == Role::Head { Role::Tail } else { Role::Head };
            return Ok(Known::OtherRole(other));
        }
        Some(row) if row.get::<_, Option<IpAddr>>(1) != address => Known::Moved { from: row.get(1) },
        Some(_) => Known::Same,
    };
    tx.execute(
        "INSERT INTO nodes (name, role, storage_address, memory_total_mib, cores, migration_address, online, last_seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, true, now())
         ON CONFLICT (name) DO UPDATE SET storage_address = $3, memory_total_mib = $4, cores = $5,
                                          migration_address = $6, online = true, last_seen_at = now()",
        &[&name, &role, &address, &memory, &cores, &migration],
    )
    .await?;
    Ok(known)
}

/// Marks a node as gone (R034).
///
/// # Errors
/// When the database fails.
pub async fn offline(tx: &Transaction<'_>, name: &NodeName) -> Result<(), StoreError> {
    tx.execute("UPDATE nodes SET online = false, last_seen_at = now() WHERE name = $1", &[&name.as_str()]).await?;
    Ok(())
}

/// Marks all nodes as gone: the state of a brain that has just started.
///
/// # Errors
/// When the database fails.
pub async fn all_offline(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("UPDATE nodes SET online = false WHERE online", &[]).await?;
    Ok(())
}
