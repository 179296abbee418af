//! What an operator forces when one end of a move is lost for good: the other end owns the disc, and the lost one is
//! superseded once it is back (safety rules 9, 19).

use super::{
    Store, blocking,
    disc::{Disc, Held, Phase},
    refusal::Refusal,
    update::unusable,
};
use crate::{
    describe::describe,
    migration::handover::{Source, Target, outranks},
    sidecar::{Owner, Record, RecordedAccess},
};
use spine::{
    id::{Generation, MigrationId},
    resource::migration::{PromoteOrder, RetireOrder},
};
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

impl Store {
    /// Owns the disc from now on, with nobody let in: durably, then listening with its address up. The same order again
    /// changes nothing.
    ///
    /// # Errors
    /// When what is here is not all of the disc, or the order is of former times; or when serving it fails, and then it
    /// is recorded and reported as failed.
    pub(super) async fn promote(self: &Arc<Self>, disc: &Arc<Disc>, order: PromoteOrder) -> Result<(), Refusal> {
        let held = self.without_move(disc).await?;
        let Some(record) = promoted(held.record(), &order)? else { return Ok(()) };
        if held.data.is_none() {
            return Err(Refusal::Unusable { name: disc.name.clone(), reason: "its data is not open".to_owned() });
        }
        let (mut held, written) = blocking(held, move |held| held.sidecar.write(record)).await;
        written?;
        tracing::warn!(disc = %disc.name, generation = %order.generation, "an operator has made this tail the owner of a disc; acknowledged writes may be missing");
        // Ends the connection that the disc came over, if it came over one; and clients of an owner of former times.
        self.end_use(disc, &mut held.phase).await;
        let address = held.record().address;
        let served = self.serve(&held).await;
        held.phase = match &served {
            Ok(()) => Phase::Serving,
            Err(refusal) => Phase::Failed(describe(refusal)),
        };
        disc.forget_moving();
        self.publish(disc, &held);
        drop(held);
        served?;
        self.parts.addresses.add(address).await;
        Ok(())
    }

    /// Serves the disc no more: durably, then its clients are cut off and its address goes. What is here stays. The same
    /// order again changes nothing.
    ///
    /// # Errors
    /// When the order is of former times.
    pub(super) async fn retire(self: &Arc<Self>, disc: &Arc<Disc>, order: RetireOrder) -> Result<(), Refusal> {
        let held = self.without_move(disc).await?;
        let Some(record) = retired(held.record(), &order)? else { return Ok(()) };
        let (mut held, written) = blocking(held, move |held| held.sidecar.write(record)).await;
        written?;
        tracing::warn!(disc = %disc.name, owner = %order.owner, generation = %order.generation, "a disc was given to another tail when this one was away; what is here is kept");
        self.end_use(disc, &mut held.phase).await;
        self.parts.addresses.remove(held.record().address).await;
        held.phase = Phase::Moved;
        disc.forget_moving();
        self.publish(disc, &held);
        Ok(())
    }

    /// The disc when this tail is not sending it: what comes before FENCED ends first, and what comes after it waits for
    /// the lock like everybody else.
    async fn without_move(&self, disc: &Disc) -> Result<OwnedMutexGuard<Held>, Refusal> {
        let lock = disc.held.clone().ok_or_else(|| unusable(disc))?;
        // That it is too late for that is no obstacle here.
        let _ = self.cancel_move(disc).await;
        let held = lock.lock_owned().await;
        match held.phase {
            Phase::Gone => Err(Refusal::NotFound(disc.name.clone())),
            _ if held.record().owner == Owner::Removed => Err(unusable(disc)),
            _ => Ok(held),
        }
    }
}

/// The record of an owner of that generation; none when it is that already.
fn promoted(record: &Record, order: &PromoteOrder) -> Result<Option<Record>, Refusal> {
    if record.owner == Owner::Owner && record.generation == order.generation {
        return Ok(None);
    }
    check_generation(record, order.generation)?;
    let busy = |reason: &str| Refusal::Busy { name: record.name(), reason: reason.to_owned() };
    if move_of(&record.owner).is_some_and(|id| id != order.id) {
        return Err(busy("what is here is of another migration"));
    }
    let may = match &record.owner {
        Owner::Owner => Source::Serving.handle_promote().is_some(),
        Owner::Fenced(_, attempt) => Source::Fenced(*attempt).handle_promote().is_some(),
        Owner::Retired(_) => Source::Retired.handle_promote().is_some(),
        Owner::Incoming(_) => Target::Incoming.handle_promote().is_some(),
        Owner::Prepared(_, attempt) => Target::Prepared(*attempt).handle_promote().is_some(),
        Owner::Superseded { whole, .. } => Target::Superseded { whole: *whole }.handle_promote().is_some(),
        Owner::Removed => false,
    };
    if !may {
        return Err(busy("its copy here is not whole"));
    }
    let (own, given) = (record.attachments_version, order.attachments_version);
    if given < own || (given == own && !record.access.is_nobody()) {
        return Err(Refusal::StaleAttachments { name: record.name(), own, given });
    }
    Ok(Some(Record {
        owner: Owner::Owner,
        generation: order.generation,
        attachments_version: given,
        access: RecordedAccess::Attachments(vec![]),
        ..record.clone()
    }))
}

/// The record of an end that is superseded; none when it is that already.
fn retired(record: &Record, order: &RetireOrder) -> Result<Option<Record>, Refusal> {
    if matches!(&record.owner, Owner::Superseded { order: own, .. } if own.generation == order.generation) {
        return Ok(None);
    }
    check_generation(record, order.generation)?;
    let state = match &record.owner {
        Owner::Incoming(_) => Target::Incoming,
        Owner::Prepared(_, attempt) => Target::Prepared(*attempt),
        Owner::Superseded { whole, .. } => Target::Superseded { whole: *whole },
        Owner::Owner | Owner::Fenced(..) | Owner::Retired(_) | Owner::Removed => Target::Owner,
    };
    let whole = state.handle_retire() == Target::Superseded { whole: true };
    let owner = Owner::Superseded { order: order.clone(), whole };
    Ok(Some(Record { owner, generation: order.generation, ..record.clone() }))
}

/// Refuses what does not outrank all that this tail knows to have been granted.
fn check_generation(record: &Record, given: Generation) -> Result<(), Refusal> {
    let granted = match &record.owner {
        Owner::Fenced(order, _) | Owner::Retired(order) => order.generation,
        _ => record.generation,
    };
    let own = record.generation.max(granted);
    if outranks(given, own) { Ok(()) } else { Err(Refusal::StaleGeneration { name: record.name(), own, given }) }
}

/// The migration that a record is about.
fn move_of(owner: &Owner) -> Option<MigrationId> {
    match owner {
        Owner::Incoming(order) | Owner::Prepared(order, _) => Some(order.id),
        Owner::Fenced(order, _) | Owner::Retired(order) => Some(order.id),
        Owner::Superseded { order, .. } => Some(order.id),
        Owner::Owner | Owner::Removed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{migration::handover::Attempt, sidecar::slots::tests::record};
    use serde_json::json;
    use spine::{id::AttachmentsVersion, resource::migration::IncomingOrder};

    const ID: MigrationId = MigrationId(uuid::Uuid::from_u128(1));
    const FREEZE: Attempt = Attempt(uuid::Uuid::from_u128(9));

    fn incoming() -> IncomingOrder {
        IncomingOrder { id: ID, source: "tail1".parse().unwrap(), address: "fd00::21".parse().unwrap() }
    }

    fn with(owner: Owner) -> Record {
        // Version 3, with somebody attached.
        Record { owner, generation: Generation(2), ..record(7) }
    }

    fn fenced() -> Owner {
        let order = json!({"id": ID, "target": "tail2", "address": "[fd00::22]:7771", "generation": 3});
        Owner::Fenced(serde_json::from_value(order).unwrap(), FREEZE)
    }

    fn promote(owner: Owner, generation: u64, version: u64) -> Result<Option<Record>, &'static str> {
        let order = PromoteOrder {
            id: ID,
            generation: Generation(generation),
            attachments_version: AttachmentsVersion(version),
        };
        promoted(&with(owner), &order).map_err(|refusal| refusal.word())
    }

    fn retire(owner: Owner, generation: u64) -> Result<Option<Record>, &'static str> {
        let order = RetireOrder { id: ID, owner: "tail2".parse().unwrap(), generation: Generation(generation) };
        retired(&with(owner), &order).map_err(|refusal| refusal.word())
    }

    #[test]
    fn rule9_a_whole_copy_is_promoted_with_nobody_let_in() {
        for owner in [Owner::Prepared(incoming(), FREEZE), fenced(), Owner::Owner] {
            let new = promote(owner, 4, 4).unwrap().unwrap();
            assert_eq!((&new.owner, new.generation), (&Owner::Owner, Generation(4)));
            assert!(new.access.is_nobody() && new.attachments_version == AttachmentsVersion(4));
        }
        assert_eq!(promote(Owner::Incoming(incoming()), 4, 4), Err("busy"), "a part of a disc is no disc");
        let other = IncomingOrder { id: MigrationId(uuid::Uuid::from_u128(2)), ..incoming() };
        assert_eq!(promote(Owner::Prepared(other, FREEZE), 4, 4), Err("busy"), "of another migration");
    }

    #[test]
    fn rule1_rule9_an_order_of_former_times_changes_nothing() {
        assert_eq!(promote(Owner::Prepared(incoming(), FREEZE), 2, 4), Err("stale-generation"));
        assert_eq!(promote(fenced(), 3, 4), Err("stale-generation"), "the target may have that one");
        assert_eq!(promote(fenced(), 4, 3), Err("stale-attachments"), "keys of former times are let in by it");
        assert_eq!(promote(Owner::Owner, 2, 4), Ok(None), "said again");
        assert_eq!(retire(Owner::Owner, 2), Err("stale-generation"));
        assert_eq!(retire(fenced(), 3), Err("stale-generation"));
    }

    #[test]
    fn rule9_who_is_superseded_may_be_promoted_again_if_it_was_whole() {
        for (owner, promoted_again) in
            [(Owner::Owner, true), (fenced(), true), (Owner::Prepared(incoming(), FREEZE), true)]
                .into_iter()
                .chain([(Owner::Incoming(incoming()), false)])
        {
            let superseded = retire(owner, 4).unwrap().unwrap();
            assert_eq!(superseded.generation, Generation(4));
            let retired_again = RetireOrder { id: ID, owner: "tail2".parse().unwrap(), generation: Generation(4) };
            assert!(retired(&superseded, &retired_again).unwrap().is_none(), "said again");
            let order = PromoteOrder { id: ID, generation: Generation(5), attachments_version: AttachmentsVersion(4) };
            assert_eq!(promoted(&superseded, &order).is_ok(), promoted_again);
        }
    }
}
