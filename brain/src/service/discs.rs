//! Discs: looks at them, makes, changes and removes them.

use super::{
    Service, ServiceError,
    bounds::Bounds,
    error::{invalid, permit},
    one,
    virtual_machines::{locked, record},
};
use crate::{
    auth::Caller,
    model::{
        disc::{Disc, DiscChange, NewDisc, next_label},
        filter::Filter,
        invalid::Invalid,
        name::{Spec, check_label},
        privilege::{Action, Reach},
        vm::Vm,
    },
    store::{StoreError, capacity, discs, places, virtual_machines},
};
use tokio_postgres::Transaction;

/// The discs that the caller can see and the filter names.
///
/// # Errors
/// When the database fails.
pub async fn list(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Disc>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut found = discs::list(&tx, &caller.access.reach(), filter).await?;
    super::migrations::add_progress(service, &mut found);
    Ok(found)
}

/// The discs of one machine, which must be there.
///
/// # Errors
/// When the machine is not there, or the database fails.
pub async fn list_of_vm(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Disc>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let vm = one(virtual_machines::list(&tx, &caller.access.reach(), filter).await?)?;
    let mut found = discs::list(&tx, &caller.access.reach(), &Filter::vm_id(vm.id)).await?;
    super::migrations::add_progress(service, &mut found);
    Ok(found)
}

/// The one disc that the filter names.
///
/// # Errors
/// When there is none.
pub async fn show(service: &Service, caller: &Caller, filter: &Filter) -> Result<Disc, ServiceError> {
    one(list(service, caller, filter).await?)
}

/// Gives a machine another disc. A running guest sees it when it is next started.
///
/// # Errors
/// When the caller may not, a value is wrong, or the machine has all the discs it may have.
pub async fn create(service: &Service, caller: &Caller, vm: &Filter, mut disc: NewDisc) -> Result<Disc, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let vm = locked(&tx, caller, vm, Action::ChangeVm).await?;
    super::accounts::check_not_suspended(&tx, caller, vm.account_id).await?;
    let present = discs::list(&tx, &Reach::everything(), &Filter::vm_id(vm.id)).await?;
    let labels: Vec<&str> = present.iter().map(|disc| disc.label.as_str()).collect();
    let label = disc.label.get_or_insert_with(|| next_label(labels.iter().copied())).clone();
    let bounds = Bounds::new(&service.config, capacity::read(&tx).await?);
    let wrong = bounds.check_new_discs(std::slice::from_ref(&disc), &labels);
    wrong.into_iter().next().unwrap_or_default().result()?;
    let row = discs::DiscRow {
        virtual_machine_id: vm.id,
        label: &label,
        size_mib: disc.size_mib.unwrap_or(0),
        grade: disc.grade.as_deref().unwrap_or(spine::spec::GRADE_DEFAULT),
        image: None,
    };
    let id = discs::insert(&tx, &row).await?;
    let message = format!("disc {label} of {} MiB {} was added", row.size_mib, row.grade);
    record(&tx, caller, &vm, "disc-created", &message).await?;
    let made = find(&tx, id).await;
    tx.commit().await?;
    service.poke.vm(vm.id);
    made
}

/// Changes a disc's size or label. It grows at once, under a running guest too; it shrinks only
/// while its machine is off, and only by force, since what lies beyond is lost.
///
/// # Errors
/// When the caller may not, or a value is wrong.
pub async fn change(
    service: &Service,
    caller: &Caller,
    filter: &Filter,
    change: &DiscChange,
) -> Result<Disc, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let (vm, mut disc) = locked_disc(&tx, caller, filter).await?;
    let label = change.label.clone().filter(|label| *label != disc.label);
    let size_mib = change.size_mib.filter(|size| *size != disc.size_mib);
    if size_mib.is_some_and(|size| size > disc.size_mib) {
        super::accounts::check_not_suspended(&tx, caller, vm.account_id).await?;
    }
    let bounds = Bounds::new(&service.config, capacity::read(&tx).await?);
    let mut wrong = Invalid::default();
    if let Some(Err(sentence)) = label.as_deref().map(check_label) {
        wrong.add("label", sentence);
    }
    let fits = match size_mib {
        Some(size) => match check_size(&bounds, &vm, &disc, size, change.force) {
            Ok(()) => check_room(&tx, &disc, size - disc.size_mib).await?,
            refused => refused,
        },
        None => Ok(()),
    };
    if let Err(sentence) = fits {
        wrong.add("size", sentence);
    }
    if let Some(moving) = disc.moving.as_ref().filter(|_| size_mib.is_some()) {
        let to = &moving.storage_pool;
        let sentence = format!("cannot be changed while the disc is being moved to {to}: wait, or call the move off");
        wrong.add("size", sentence);
    }
    if change.virtual_machine_id.is_some_and(|id| id != disc.virtual_machine_id) {
        wrong.add("virtual_machine_id", "cannot be changed: discs cannot be moved between VMs yet");
    }
    wrong.result()?;
    if label.is_none() && size_mib.is_none() {
        return Ok(disc);
    }
    let message = format!(
        "disc {}: now {}, {} MiB",
        disc.label,
        label.as_ref().unwrap_or(&disc.label),
        size_mib.unwrap_or(disc.size_mib)
    );
    let shrinks = size_mib.is_some_and(|size| size < disc.size_mib);
    disc.label = label.unwrap_or(disc.label);
    disc.size_mib = size_mib.unwrap_or(disc.size_mib);
    discs::update(&tx, &disc, shrinks).await.map_err(label_taken)?;
    record(&tx, caller, &vm, "disc-changed", &message).await?;
    let changed = find(&tx, disc.id).await;
    tx.commit().await?;
    service.poke.vm(vm.id);
    changed
}

fn check_size(bounds: &Bounds<'_>, vm: &Vm, disc: &Disc, size_mib: i64, force: bool) -> Result<(), String> {
    if size_mib < disc.size_mib && !(force && vm.is_off()) {
        return Err(format!(
            "must be greater than or equal to {}: a disc is made smaller only with `force`, while its VM is off, \
             and loses what lies beyond",
            disc.size_mib
        ));
    }
    bounds.check_size(size_mib, &disc.grade)
}

/// A disc grows within what its pool may still promise, as a new one is placed (R124). Nobody else
/// promises anything in that pool until the transaction ends.
async fn check_room(tx: &Transaction<'_>, disc: &Disc, growth_mib: i64) -> Result<Result<(), String>, ServiceError> {
    let Some(label) = disc.storage_pool.as_deref().filter(|_| growth_mib > 0) else { return Ok(Ok(())) };
    places::take_turn(tx).await?;
    let pools = places::pools(tx).await?;
    let room_mib = pools.iter().find(|pool| pool.label == label).map_or(0, |pool| pool.unpromised_mib());
    if growth_mib <= room_mib {
        return Ok(Ok(()));
    }
    let most_mib = disc.size_mib + room_mib;
    Ok(Err(format!("must be less than or equal to {most_mib}: storage pool {label} promises no more than that")))
}

/// Removes a disc for good: there is no way back, and so `purge` must be said. A running guest has
/// it until it stops.
///
/// # Errors
/// When the caller may not, or `purge` was not said.
pub async fn delete(service: &Service, caller: &Caller, filter: &Filter, purge: bool) -> Result<(), ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let (vm, disc) = locked_disc(&tx, caller, filter).await?;
    if !purge {
        return Err(invalid("purge", "must be true: a disc that is removed cannot be brought back"));
    }
    discs::mark_removed(&tx, disc.id, &format!("removed by {}", caller.username)).await?;
    record(&tx, caller, &vm, "disc-removed", &format!("disc {} is to be removed", disc.label)).await?;
    tx.commit().await?;
    service.poke.vm(vm.id);
    Ok(())
}

/// The one disc that the filter names, its machine held until the transaction ends.
async fn locked_disc(tx: &Transaction<'_>, caller: &Caller, filter: &Filter) -> Result<(Vm, Disc), ServiceError> {
    let reach = caller.access.reach();
    let seen = one(discs::list(tx, &reach, filter).await?)?;
    permit(caller, Action::ChangeVm, seen.vm_place)?;
    let vm = locked(tx, caller, &Filter::vm_id(seen.virtual_machine_id), Action::ChangeVm).await?;
    // Read again, now that nobody else changes it.
    Ok((vm, find(tx, seen.id).await?))
}

async fn find(tx: &Transaction<'_>, id: i64) -> Result<Disc, ServiceError> {
    let filter = Filter { part: Some(Spec::Id(id)), ..Filter::default() }.with_deleted();
    one(discs::list(tx, &Reach::everything(), &filter).await?)
}

fn label_taken(error: StoreError) -> ServiceError {
    super::error::taken("discs_label", "label")(error)
}
