//! What operators force when one of the tails of a move is lost for good, and the old copies that remain (safety rule 9).

use super::{
    Service, ServiceError,
    error::{invalid, permit_admin},
    migrations::find,
};
use crate::{
    auth::Caller,
    limits::REASON_CHARS_MAX,
    model::{disc::Disc, work::Force},
    reconcile::force_refusal,
    store::{
        forced::{self, OldCopy, Order},
        work,
    },
};
use spine::id::DiscNumber;

/// What the operator says with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceOrder {
    /// Which end gets the disc.
    pub how: Force,
    /// Why, for those who look later.
    pub reason: String,
    /// That writes which were acknowledged may be lost.
    pub writes_may_be_lost: bool,
}

/// Gives a disc in the middle of a move to one of its ends, because the other is lost. The reconciler carries it out.
///
/// # Errors
/// When there is no such disc, it is not confirmed, or why it cannot be done now.
pub async fn force(service: &Service, caller: &Caller, disc_id: i64, order: &ForceOrder) -> Result<Disc, ServiceError> {
    permit_admin(caller)?;
    check(order)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let disc = find(&tx, disc_id).await?;
    let vm_id = disc.virtual_machine_id;
    // Whoever starts the machine, or moves the disc on, waits.
    if !work::lock(&tx, vm_id).await? {
        return Err(ServiceError::NotFound);
    }
    let number = forced::number_of(&tx, disc_id).await?.ok_or(ServiceError::NotFound)?;
    let works = work::load(&tx, &[vm_id]).await?;
    let row = works.first().ok_or(ServiceError::NotFound)?;
    let seen = force_refusal(&service.registry, row, number, order.how)
        .map_err(|why| invalid("migration", format!("disc {disc_id} cannot be forced: {why}")))?;
    let order = Order { how: order.how, by: &caller.username, reason: order.reason.trim(), seen };
    forced::order(&tx, vm_id, number, &order).await?;
    let disc = find(&tx, disc_id).await?;
    tx.commit().await?;
    service.poke.vm(vm_id);
    Ok(disc)
}

fn check(order: &ForceOrder) -> Result<(), ServiceError> {
    let reason = order.reason.trim();
    if reason.is_empty() {
        return Err(invalid("reason", "can't be blank"));
    }
    if reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        return Err(invalid("reason", format!("is one line of at most {REASON_CHARS_MAX} characters")));
    }
    if !order.writes_may_be_lost {
        let sentence = "must be true: what the other tail has acknowledged and this one does not have is lost";
        return Err(invalid("acknowledged_writes_may_be_lost", sentence));
    }
    Ok(())
}

/// The old copies of discs that there are.
///
/// # Errors
/// When the caller does not run the cluster.
pub async fn old_copies(service: &Service, caller: &Caller) -> Result<Vec<OldCopy>, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(forced::old_copies(&tx).await?)
}

/// Has the old copies of a disc removed that were kept for the operator.
///
/// # Errors
/// When there is no such disc, or nothing is kept of it.
pub async fn remove_old_copies(service: &Service, caller: &Caller, disc_id: i64) -> Result<Disc, ServiceError> {
    permit_admin(caller)?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let disc = find(&tx, disc_id).await?;
    let number: DiscNumber = forced::number_of(&tx, disc_id).await?.ok_or(ServiceError::NotFound)?;
    if forced::release(&tx, number, &caller.username).await? == 0 {
        return Err(invalid("base", format!("no old copy of disc {disc_id} is kept")));
    }
    tx.commit().await?;
    service.poke.vm(disc.virtual_machine_id);
    Ok(disc)
}
