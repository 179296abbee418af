//! What nodes have and the database does not know: reported, never touched (R058, safety rule 8).

use crate::{
    fleet::Registry,
    limits::STRAY_REPORT_INTERVAL,
    store::{
        Store, StoreError,
        events::{self, BRAIN, Event},
        work as rows,
    },
};
use spine::id::{NodeName, ResourceName};
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;
use tracing::warn;

/// Between two comparisons of all that there is.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// What was reported, and when.
#[derive(Debug, Default)]
pub struct Strays {
    looked_at: Option<OffsetDateTime>,
    reported: HashMap<(NodeName, ResourceName), OffsetDateTime>,
}

impl Strays {
    /// Compares all that ready nodes have with the database, now and then, and reports what is new.
    pub async fn look(&mut self, store: &Store, registry: &Registry, now: OffsetDateTime) -> Result<(), StoreError> {
        if self.looked_at.is_some_and(|at| now - at < LOOK_INTERVAL) {
            return Ok(());
        }
        self.looked_at = Some(now);
        self.reported.retain(|_, at| now - *at < STRAY_REPORT_INTERVAL);
        let mut client = store.client().await?;
        let tx = client.transaction().await?;
        // The nodes first: what is in the database before it is ordered cannot be missing there.
        let resources = registry.resources();
        let known = rows::known(&tx).await?;
        for (node, resource) in resources {
            if known.contains(&node, &resource) || self.reported.contains_key(&(node.clone(), resource.clone())) {
                continue;
            }
            let message = format!("{node} has {resource}, which the database knows nothing of there; it is left alone");
            warn!(%node, %resource, "a stray: the database knows nothing of it there; it is left alone");
            let kind = "stray-seen";
            let event = Event { actor: BRAIN, kind, node: Some(node.as_str()), message: &message, ..Event::default() };
            events::record(&tx, &event).await?;
            self.reported.insert((node.clone(), resource), now);
        }
        tx.commit().await?;
        Ok(())
    }
}
