//! Begins queued disc moves, when their turn has come and nothing is in their way.

use super::driver::Worker;
use crate::{
    limits::QUEUED_MOVES_MAX,
    model::{
        migration::{Destinations, MigrationState, QueuedMove, next, place},
        placement::Choice,
    },
    store::{
        StoreError,
        migrations::{self, Queued, Sources},
        places, work as rows,
    },
};
use std::collections::BTreeSet;
use tracing::{error, info};

impl Worker {
    /// Begins what may begin.
    pub(super) async fn begin_moves(&self) -> Result<(), StoreError> {
        for one in self.due_moves().await? {
            if let Err(error) = self.begin_move(&one).await {
                error!(migration = one.id, %error, "a queued disc move cannot begin");
            }
        }
        Ok(())
    }

    /// Looks at the queue, and writes down what those wait for whose turn has not come.
    async fn due_moves(&self) -> Result<Vec<Queued>, StoreError> {
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        let queue = migrations::queue(&tx, QUEUED_MOVES_MAX).await?;
        if queue.is_empty() {
            return Ok(queue);
        }
        let (gone, queue): (Vec<Queued>, Vec<Queued>) = queue.into_iter().partition(|one| one.removed);
        let gone: Vec<i64> = gone.iter().map(|one| one.id).collect();
        migrations::end_queued(&tx, &gone, MigrationState::Skipped, "the disc was removed").await?;
        let moves: Vec<QueuedMove> = queue.iter().map(|one| self.queued_move(one)).collect();
        let loads = migrations::loads(&tx).await?;
        let moving_count = migrations::moving_count(&tx).await?;
        let moves_max = usize::try_from(self.config.limits.disc_moves_max).unwrap_or(usize::MAX);
        let next = next(&moves, &loads, moving_count, moves_max);
        for one in &queue {
            if let Some(reason) = next.wait.get(&one.id).filter(|reason| one.reason.as_ref() != Some(*reason)) {
                migrations::wait(&tx, one.id, reason).await?;
            }
        }
        tx.commit().await?;
        Ok(queue.into_iter().filter(|one| next.begin.contains(&one.id)).collect())
    }

    fn queued_move(&self, one: &Queued) -> QueuedMove {
        QueuedMove {
            id: one.id,
            priority: one.priority,
            source_pool_id: one.source_pool_id,
            target_pool_id: one.target_pool_id,
            obstacle: self.obstacle(one),
        }
    }

    /// What is in the way of a move, if anything: it waits until that is over.
    fn obstacle(&self, one: &Queued) -> Option<String> {
        for tail in [&one.source_tail, &one.target_tail] {
            if let Some(closed) = self.closed(tail) {
                return Some(format!("{tail} is {closed}"));
            }
            if !one.able_tails.contains(tail.as_str()) {
                return Some(format!("{tail} does not say where it takes discs from other tails"));
            }
        }
        if !one.settled {
            return Some("the disc is still being made, or its image written".to_owned());
        }
        let disc = one.disc.as_ref()?;
        match self.registry.disc(&one.source_tail, disc) {
            Some(report) if report.size >> 20 == one.size_mib.unsigned_abs() => None,
            Some(_) => Some("the size of the disc is being changed".to_owned()),
            None => Some(format!("{} does not have the disc, or says what cannot be understood", one.source_tail)),
        }
    }

    /// Grants the generation, if the pool it was planned for still has room.
    async fn begin_move(&self, one: &Queued) -> Result<(), StoreError> {
        let Some(vm_id) = one.vm_id else { return Ok(()) };
        let (_turn, mut client) = self.client().await?;
        let tx = client.transaction().await?;
        if !rows::lock(&tx, vm_id).await? {
            return Ok(());
        }
        places::take_turn(&tx).await?;
        match self.room(&tx, one).await? {
            Ok(choice) => {
                let limit = self.config.limits.disc_move_limit();
                if migrations::begin(&tx, one.id, choice.place, limit, &choice.reason).await? {
                    info!(vm = vm_id, migration = one.id, reason = choice.reason, "a disc is being moved");
                }
            }
            Err(reason) => migrations::end_queued(&tx, &[one.id], MigrationState::Skipped, &reason).await?,
        }
        tx.commit().await?;
        self.poke_vm(vm_id);
        Ok(())
    }

    /// The planned pool, as it stands now.
    async fn room(
        &self,
        tx: &tokio_postgres::Transaction<'_>,
        one: &Queued,
    ) -> Result<Result<Choice<i64>, String>, StoreError> {
        let mut pools = places::pools(tx).await?;
        for pool in &mut pools {
            pool.closed = pool.closed.take().or_else(|| self.closed(&pool.tail));
        }
        let Some(disc_id) = migrations::disc_of(tx, one.id).await? else {
            return Ok(Err("the disc was removed".to_owned()));
        };
        let sources = Sources { disc_ids: vec![disc_id], ..Sources::default() };
        let Some(mut disc) = migrations::candidates(tx, &sources).await?.pop() else {
            return Ok(Err("the disc was removed".to_owned()));
        };
        // That it is queued is no obstacle to its beginning.
        disc.obstacle = None;
        let target = pools.iter().find(|pool| pool.id == one.target_pool_id);
        let destinations = Destinations {
            pool_ids: Some(BTreeSet::from([one.target_pool_id])),
            grade: target.map(|pool| pool.grade.clone()),
        };
        Ok(place(&disc, &pools, &destinations, self.config.placement.discs))
    }
}
