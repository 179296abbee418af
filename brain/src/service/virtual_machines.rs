//! Looks at machines, changes them, deletes them and brings them back.

use super::{
    Service, ServiceError,
    bounds::{Bounds, check_image_fits},
    error::{invalid, permit, taken},
    one,
};
use crate::{
    auth::Caller,
    fleet::FleetError,
    model::{
        disc::Disc,
        filter::Filter,
        invalid::Invalid,
        name::Spec,
        nic::Nic,
        privilege::{Action, Reach},
        vm::{Vm, VmChange, check_sendkey},
    },
    store::{
        capacity, discs,
        events::{self, Event},
        groups, nics, purge, virtual_machines,
    },
};
use spine::resource::vm::Signal;
use std::{collections::HashMap, time::Duration};
use tokio_postgres::Transaction;

/// Longest time a request may wait for a status.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks while it waits: at first what a person does not notice; each look costs three
/// queries, and hundreds may wait.
const LOOK_INTERVAL_FIRST: Duration = Duration::from_millis(200);
const LOOK_INTERVAL_LAST: Duration = Duration::from_secs(2);

/// A machine with its discs and cards.
#[derive(Clone, Debug, PartialEq)]
pub struct VmTree {
    /// The machine.
    pub vm: Vm,
    /// Its discs, in the guest's order.
    pub discs: Vec<Disc>,
    /// Its network cards, in the guest's order.
    pub nics: Vec<Nic>,
}

/// The machines that the caller can see and the filter names.
///
/// # Errors
/// When the database fails.
pub async fn list(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<Vm>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    Ok(virtual_machines::list(&tx, &caller.access.reach(), filter).await?)
}

/// The machines of one group, which must be there.
///
/// # Errors
/// When the group is not there, or the database fails.
pub async fn list_in_group(service: &Service, caller: &Caller, filter: &Filter) -> Result<Vec<VmTree>, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let found = groups::list(&tx, &caller.access.reach(), filter).await?;
    if found.is_empty() {
        return Err(ServiceError::NotFound);
    }
    tree(&tx, caller, filter).await
}

/// The one machine that the filter names, with its discs and cards.
///
/// # Errors
/// When there is none, or more than one of that name.
pub async fn show(service: &Service, caller: &Caller, filter: &Filter) -> Result<VmTree, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    one(tree(&tx, caller, filter).await?)
}

/// As [`show`], once the machine's status is one of `until`, or the time is up.
///
/// # Errors
/// As [`show`].
pub async fn wait(
    service: &Service,
    caller: &Caller,
    filter: &Filter,
    until: &[String],
    wait: Duration,
) -> Result<VmTree, ServiceError> {
    let deadline = tokio::time::Instant::now() + wait.min(WAIT_MAX);
    let mut interval = LOOK_INTERVAL_FIRST;
    loop {
        let found = show(service, caller, filter).await?;
        let now = tokio::time::Instant::now();
        if until.contains(&found.vm.status.state) || now >= deadline {
            return Ok(found);
        }
        tokio::time::sleep_until((now + interval).min(deadline)).await;
        interval = (interval * 3 / 2).min(LOOK_INTERVAL_LAST);
    }
}

/// Machines with their discs and cards.
pub(super) async fn tree(tx: &Transaction<'_>, caller: &Caller, filter: &Filter) -> Result<Vec<VmTree>, ServiceError> {
    let reach = caller.access.reach();
    let vms = virtual_machines::list(tx, &reach, filter).await?;
    let mut discs = by_vm(discs::list(tx, &reach, filter).await?, |disc| disc.virtual_machine_id);
    let mut nics = by_vm(nics::list(tx, &reach, filter).await?, |nic| nic.virtual_machine_id);
    let with_parts = |vm: Vm| VmTree {
        discs: discs.remove(&vm.id).unwrap_or_default(),
        nics: nics.remove(&vm.id).unwrap_or_default(),
        vm,
    };
    Ok(vms.into_iter().map(with_parts).collect())
}

fn by_vm<T>(parts: Vec<T>, vm_id: impl Fn(&T) -> i64) -> HashMap<i64, Vec<T>> {
    let mut map: HashMap<i64, Vec<T>> = HashMap::new();
    for part in parts {
        map.entry(vm_id(&part)).or_default().push(part);
    }
    map
}

/// The one machine that the filter names, held until the transaction ends, if the caller may do
/// this to it.
pub(super) async fn locked(
    tx: &Transaction<'_>,
    caller: &Caller,
    filter: &Filter,
    action: Action,
) -> Result<Vm, ServiceError> {
    let vm = one(virtual_machines::list_locked(tx, &caller.access.reach(), filter).await?)?;
    permit(caller, action, vm.place())?;
    Ok(vm)
}

/// Changes a machine. What it now is applies at once where that is possible, else when it is next
/// started.
///
/// # Errors
/// When the caller may not, a value is wrong, or the machine is deleted.
pub async fn change(
    service: &Service,
    caller: &Caller,
    filter: &Filter,
    change: VmChange,
) -> Result<VmTree, ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let filter = filter.clone().with_deleted();
    let mut vm = locked(&tx, caller, &filter, Action::ChangeVm).await?;
    let change = change.meant(&vm).without_unchanged(&vm);
    if change.concerns_group() {
        permit(caller, Action::ManageVms, vm.place())?;
    }
    check_change(service, &tx, &vm, &change).await?;
    if change.power_on == Some(true) {
        super::accounts::check_not_suspended(&tx, caller, vm.account_id).await?;
    }
    if change.deleted == Some(false) {
        virtual_machines::undelete(&tx, vm.id).await?;
        record(&tx, caller, &vm, "vm-undeleted", "it was brought back").await?;
    }
    if let Some(group_id) = change.group_id {
        check_move(&tx, caller, group_id).await?;
    }
    let message = describe(&change);
    apply(&mut vm, change);
    virtual_machines::update(&tx, &vm).await.map_err(taken("virtual_machines_name", "name"))?;
    if let Some(message) = message {
        record(&tx, caller, &vm, "vm-changed", &message).await?;
    }
    let changed = one(tree(&tx, caller, &Filter::vm_id(vm.id)).await?);
    tx.commit().await?;
    service.poke.vm(vm.id);
    changed
}

async fn check_change(service: &Service, tx: &Transaction<'_>, vm: &Vm, change: &VmChange) -> Result<(), ServiceError> {
    let bounds = Bounds::new(&service.config, capacity::read(tx).await?);
    let mut wrong = bounds.check_vm_change(change);
    if change.hardware_profile.is_some() && vm.hardware_profile_locked && change.hardware_profile_locked != Some(false)
    {
        wrong.add("hardware_profile", "is locked: set hardware_profile_locked to false first");
    }
    if change.deleted == Some(true) {
        wrong.add("deleted", "cannot be set: use DELETE");
    }
    let is_change = *change != VmChange { deleted: change.deleted, ..VmChange::default() };
    if vm.deleted_at.is_some() && change.deleted.is_none() && is_change {
        wrong.add("deleted", "is true: set it to false first");
    }
    Ok(wrong.result()?)
}

/// Whether the caller may bring a machine into this group.
async fn check_move(tx: &Transaction<'_>, caller: &Caller, group_id: i64) -> Result<(), ServiceError> {
    let filter = Filter { group: Some(Spec::Id(group_id)), ..Filter::default() };
    let found = groups::list(tx, &caller.access.reach(), &filter).await?.into_iter().next();
    let group = found.ok_or_else(|| invalid("group_id", "is not included in the list"))?;
    permit(caller, Action::ManageVms, group.place())?;
    super::accounts::check_not_suspended(tx, caller, group.account_id).await
}

fn apply(vm: &mut Vm, change: VmChange) {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    set(&mut vm.name, change.name);
    set(&mut vm.group_id, change.group_id);
    set(&mut vm.cores, change.cores);
    set(&mut vm.memory_mib, change.memory_mib);
    set(&mut vm.power_on, change.power_on);
    set(&mut vm.autoreboot_on, change.autoreboot_on);
    set(&mut vm.cdrom_url, change.cdrom_url);
    set(&mut vm.keymap, change.keymap);
    set(&mut vm.hardware_profile, change.hardware_profile);
    set(&mut vm.hardware_profile_locked, change.hardware_profile_locked);
}

/// What an event says of a change; none when nothing changed.
fn describe(change: &VmChange) -> Option<String> {
    let mut parts = Vec::new();
    let mut add = |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name} {value}")));
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    add("name", change.name.clone());
    add("group_id", change.group_id.map(|v| v.to_string()));
    add("cores", change.cores.map(|v| v.to_string()));
    add("memory", change.memory_mib.map(|v| v.to_string()));
    add("power_on", change.power_on.map(|v| v.to_string()));
    add("autoreboot_on", change.autoreboot_on.map(|v| v.to_string()));
    add("cdrom_url", change.cdrom_url.as_ref().map(text));
    add("keymap", change.keymap.as_ref().map(text));
    add("hardware_profile", change.hardware_profile.as_ref().map(text));
    add("hardware_profile_locked", change.hardware_profile_locked.map(|v| v.to_string()));
    (!parts.is_empty()).then(|| format!("set: {}", parts.join(", ")))
}

/// Deletes a machine. Without `purge` it is off and can be brought back; with it, it is gone.
///
/// # Errors
/// When the caller may not, or there is no such machine.
pub async fn delete(service: &Service, caller: &Caller, filter: &Filter, purge: bool) -> Result<(), ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let vm = locked(&tx, caller, &filter.clone().with_deleted(), Action::ManageVms).await?;
    if purge {
        purge::purge(&tx, vm.id, &format!("purged by {}", caller.username)).await?;
        record(&tx, caller, &vm, "vm-purged", "it was purged: it cannot be brought back").await?;
    } else if vm.deleted_at.is_none() {
        virtual_machines::delete(&tx, vm.id).await?;
        record(&tx, caller, &vm, "vm-deleted", "it was deleted: it can be brought back").await?;
    }
    tx.commit().await?;
    service.poke.vm(vm.id);
    Ok(())
}

/// Writes an image onto a machine's first disc; afterwards the machine is on, and stays off when it
/// stops.
///
/// # Errors
/// When the caller may not, the machine is not off, or the image is unknown or too large.
pub async fn reimage(
    service: &Service,
    caller: &Caller,
    filter: &Filter,
    distribution: &str,
) -> Result<(), ServiceError> {
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let mut vm = locked(&tx, caller, filter, Action::ChangeVm).await?;
    super::accounts::check_not_suspended(&tx, caller, vm.account_id).await?;
    let mut wrong = Invalid::default();
    if !vm.is_off() {
        wrong.add("power_on", "must be off: stop the VM first, and wait until it has stopped");
    }
    let bounds = Bounds::new(&service.config, capacity::read(&tx).await?);
    let disc = discs::list(&tx, &Reach::everything(), &Filter::vm_id(vm.id)).await?.into_iter().next();
    match (bounds.image(distribution), &disc) {
        (Err(sentence), _) => wrong.add("distribution", sentence),
        (Ok(_), None) => wrong.add("distribution", "needs a disc to be written onto"),
        (Ok(image), Some(disc)) => {
            if let Some(moving) = &disc.moving {
                let to = &moving.storage_pool;
                wrong.add("distribution", format!("cannot be written while {} is being moved to {to}", disc.label));
            }
            if let Err(sentence) = check_image_fits(image, disc.size_mib) {
                wrong.add("distribution", format!("does not fit: the size of {} {sentence}", disc.label));
            }
        }
    }
    wrong.result()?;
    if let Some(disc) = disc {
        discs::order_image(&tx, disc.id, distribution).await?;
    }
    (vm.power_on, vm.autoreboot_on) = (true, false);
    virtual_machines::update(&tx, &vm).await?;
    record(&tx, caller, &vm, "vm-reimaged", &format!("{distribution} is to be written onto its first disc")).await?;
    tx.commit().await?;
    service.poke.vm(vm.id);
    Ok(())
}

/// A signal as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct SignalOrder {
    /// `powerdown`, `reset` or `sendkey`.
    pub signal: Option<String>,
    /// The keys of `sendkey`.
    pub data: Option<String>,
}

/// Passes a signal on to a running machine, at once.
///
/// # Errors
/// When the caller may not, the signal is unknown, the machine is not running, or its head does not
/// take the signal.
pub async fn signal(
    service: &Service,
    caller: &Caller,
    filter: &Filter,
    order: &SignalOrder,
) -> Result<(), ServiceError> {
    let vm = show(service, caller, filter).await?.vm;
    permit(caller, Action::ChangeVm, vm.place())?;
    let signal = match order.signal.as_deref() {
        Some("powerdown") => Signal::Powerdown,
        Some("reset") => Signal::Reset,
        Some("sendkey") => {
            Signal::Sendkey(check_sendkey(order.data.as_deref().unwrap_or_default()).map_err(|s| invalid("data", s))?)
        }
        Some(_) => return Err(invalid("signal", "is not included in the list")),
        None => return Err(invalid("signal", "can't be blank")),
    };
    if vm.head.is_none() {
        return Err(invalid("power_on", "must be on: the VM is not running"));
    }
    service.registry.signal_vm(vm.id, signal).await.map_err(|error| match error {
        // Only the head knows every key.
        FleetError::Refused { error, message, .. } if error == "bad-value" => invalid("data", message),
        other => other.into(),
    })?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let message = format!("signal {}", order.signal.as_deref().unwrap_or_default());
    record(&tx, caller, &vm, "vm-signalled", &message).await?;
    tx.commit().await?;
    Ok(())
}

/// Writes down what a caller did to a machine.
pub(super) async fn record(
    tx: &Transaction<'_>,
    caller: &Caller,
    vm: &Vm,
    kind: &str,
    message: &str,
) -> Result<(), ServiceError> {
    let event = Event { actor: &caller.username, kind, vm_id: Some(vm.id), message, ..Event::default() };
    Ok(events::record(tx, &event).await?)
}
