//! What happened, to what, by whom and why (R166).

use super::StoreError;
use tokio_postgres::Transaction;

/// Who the brain's own events are by.
pub const BRAIN: &str = "brain";

/// One line of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// A user's name, or [`BRAIN`].
    pub actor: &'a str,
    /// A word: `vm-created`, `vm-stopped`, `disc-removed`.
    pub kind: &'a str,
    /// The VM it is about.
    pub vm_id: Option<i64>,
    /// The disc it is about.
    pub disc_number: Option<i64>,
    /// The head or tail it is about.
    pub node: Option<&'a str>,
    /// A sentence with the reason.
    pub message: &'a str,
}

/// Writes an event; it counts when the transaction does.
///
/// # Errors
/// When the database fails.
pub async fn record(tx: &Transaction<'_>, event: &Event<'_>) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO events (actor, kind, virtual_machine_id, disc_number, node, message) VALUES ($1, $2, $3, $4, $5, $6)",
        &[&event.actor, &event.kind, &event.vm_id, &event.disc_number, &event.node, &event.message],
    )
    .await?;
    Ok(())
}
