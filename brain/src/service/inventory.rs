//! What operators see of heads, tails and pools, and whether the brain can work.

use super::{Service, ServiceError, error::permit_admin};
use crate::{auth::Caller, model::name::Spec, store::inventory};
use spine::message::Role;
use std::time::Duration;

pub use crate::store::inventory::{Node, Pool};

/// How long the database may take to answer before it counts as unreachable.
const DATABASE_ANSWER_MAX: Duration = Duration::from_secs(5);

/// The nodes of one role, or the one of this number or name.
///
/// # Errors
/// When the caller does not run the cluster, or the database fails.
pub async fn nodes(
    service: &Service,
    caller: &Caller,
    role: Role,
    spec: Option<&Spec>,
) -> Result<Vec<Node>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut found = inventory::nodes(&tx, &role.to_string(), spec).await?;
    let connected = service.registry.nodes();
    for node in &mut found {
        let known = connected.iter().find(|known| known.name.as_str() == node.name);
        // The registry knows at once, the table a moment later.
        node.online = known.is_some_and(|known| known.ready);
        node.free_memory_mib = known.and_then(|known| known.free_memory_mib);
        node.last_note = known.and_then(|known| known.last_words.clone());
    }
    Ok(found)
}

/// All pools, or the one of this number or label.
///
/// # Errors
/// When the caller does not run the cluster, or the database fails.
pub async fn pools(service: &Service, caller: &Caller, spec: Option<&Spec>) -> Result<Vec<Pool>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(inventory::pools(&tx, spec).await?)
}

/// Why the database cannot be asked; none while it can.
pub async fn database_problem(service: &Service) -> Option<String> {
    let asked = async {
        let client = service.store.client().await.map_err(|error| error.to_string())?;
        client.simple_query("SELECT 1").await.map(drop).map_err(|error| error.to_string())
    };
    match tokio::time::timeout(DATABASE_ANSWER_MAX, asked).await {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(format!("no answer within {} s", DATABASE_ANSWER_MAX.as_secs())),
    }
}
