//! Storage pools that run short (R126): said, with the moves that would help; ordered, where the pool is set to that.

use crate::{
    config::FillPolicy,
    fleet::{Registry, registry::Presence},
    limits::SHORT_REPORT_INTERVAL,
    model::{migration::Planned, relief::relief},
    store::{
        Store, StoreError,
        events::{self, BRAIN, Event},
        inventory::{self, Pool},
        migrations::{self, Sources},
        places,
    },
};
use serde_json::json;
use spine::id::DiscName;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use time::OffsetDateTime;
use tokio_postgres::Transaction;
use tracing::warn;

/// Between two looks at all pools: their tails report what is free every few seconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// Which pools were said to be short, and when.
#[derive(Debug, Default)]
pub struct Short {
    looked_at: Option<OffsetDateTime>,
    reported: HashMap<i64, OffsetDateTime>,
}

impl Short {
    /// Looks at all pools now and then.
    pub async fn look(
        &mut self,
        store: &Store,
        registry: &Registry,
        policy: FillPolicy,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        if self.looked_at.is_some_and(|at| now - at < LOOK_INTERVAL) {
            return Ok(());
        }
        self.looked_at = Some(now);
        self.reported.retain(|_, at| now - *at < SHORT_REPORT_INTERVAL);
        let mut client = store.client().await?;
        let tx = client.transaction().await?;
        for pool in inventory::pools(&tx, None).await?.into_iter().filter(Pool::is_short) {
            if self.reported.contains_key(&pool.id) {
                continue;
            }
            places::take_turn(&tx).await?;
            let moves = propose(&tx, registry, &pool, policy).await?;
            let names: Vec<String> = moves.iter().map(|one| one.disc.id.to_string()).collect();
            let help = match names.is_empty() {
                true => "no move would help: there is no room elsewhere".to_owned(),
                false => format!("moving these discs away would help: {}", names.join(", ")),
            };
            let message = format!(
                "storage pool {} is short: {} of {} MiB are free; {help}",
                pool.label, pool.free_mib, pool.size_mib
            );
            warn!(pool = pool.label, free_mib = pool.free_mib, help, "a storage pool is short");
            let event = Event { actor: BRAIN, kind: "pool-short", message: &message, ..Event::default() };
            events::record(&tx, &event).await?;
            self.reported.insert(pool.id, now);
            if pool.relieve_automatically && !moves.is_empty() {
                order(&tx, &pool, &moves).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}

async fn order(tx: &Transaction<'_>, pool: &Pool, moves: &[Planned]) -> Result<(), StoreError> {
    let discs: Vec<i64> = moves.iter().map(|one| one.disc.id).collect();
    let arguments = json!({"options": {"relieves": pool.label}, "sources": {"discs": discs}, "destinations": {}});
    let job_id = migrations::insert_job(tx, &arguments, BRAIN, 0).await?;
    for one in moves {
        let target = one.target.as_ref().map(|choice| choice.place).map_err(String::as_str);
        migrations::insert(tx, job_id, &one.disc, target).await?;
    }
    migrations::finish_jobs(tx, &BTreeSet::from([job_id])).await
}

/// The moves that would bring a pool back over its threshold, as far as they can. What is on its way out already counts.
///
/// # Errors
/// When the database fails.
pub async fn propose(
    tx: &Transaction<'_>,
    registry: &Registry,
    pool: &Pool,
    policy: FillPolicy,
) -> Result<Vec<Planned>, StoreError> {
    let able = migrations::able_tails(tx).await?;
    let mut pools = places::pools(tx).await?;
    let Some(tail) = pools.iter().find(|place| place.id == pool.id).map(|place| place.tail.clone()) else {
        return Ok(vec![]);
    };
    if !able.contains(tail.as_str()) {
        return Ok(vec![]);
    }
    for place in &mut pools {
        if !able.contains(place.tail.as_str()) || registry.presence(&place.tail) != Presence::Ready {
            place.closed.get_or_insert_with(|| "it takes no discs now".to_owned());
        }
    }
    let wanted_mib = i128::from(pool.size_mib) * i128::from(pool.short_percent) / 100;
    let mut missing_mib = i64::try_from(wanted_mib).unwrap_or(i64::MAX) - pool.free_mib;
    let mut discs = vec![];
    for disc in migrations::candidates(tx, &Sources { pool_ids: vec![pool.id], ..Sources::default() }).await? {
        let name = DiscName { grade: disc.grade.clone(), number: disc.number };
        let Some(report) = registry.disc(&tail, &name) else { continue };
        let allocated_mib = i64::try_from(report.allocated >> 20).unwrap_or(i64::MAX);
        match disc.obstacle {
            Some(_) => missing_mib -= allocated_mib,
            None => discs.push((disc, allocated_mib)),
        }
    }
    Ok(if missing_mib > 0 { relief(discs, missing_mib, &pools, policy) } else { vec![] })
}
