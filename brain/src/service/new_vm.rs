//! Makes a machine with its discs, network card, addresses and host key: all of it, or nothing.

use super::{
    Service, ServiceError, addresses,
    bounds::{Bounds, NO_DISTRIBUTION, check_image_fits},
    error::{permit, taken},
    virtual_machines::{VmTree, tree},
};
use crate::{
    auth::Caller,
    config::ImageConfig,
    model::{
        account::Group,
        disc::{NewDisc, next_label},
        filter::Filter,
        invalid::Invalid,
        privilege::Action,
        vm::{MEMORY_MIB_DEFAULT, NewVm},
    },
    store::{
        capacity, discs,
        events::{self, Event},
        groups, virtual_machines,
    },
};
use russh::keys::{
    PrivateKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};
use std::net::IpAddr;
use tokio_postgres::Transaction;

/// A machine that is asked for, with its discs.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The machine.
    pub vm: NewVm,
    /// Its discs, in order.
    pub discs: Vec<NewDisc>,
    /// The image for its first disc; none, or `none`, leaves that empty.
    pub distribution: Option<String>,
    /// What its reader found wrong already: complained of together with the rest.
    pub invalid: Invalid,
}

/// Makes a machine in a group; it is there at once, and what it needs follows.
///
/// # Errors
/// When the caller may not, a value is wrong, or addresses have run out. Nothing is made then.
pub async fn create(service: &Service, caller: &Caller, group: &Filter, order: Order) -> Result<VmTree, ServiceError> {
    // Made before the transaction, which holds the lock on addresses.
    let host_key = new_host_key()?;
    let mut client = service.store.client().await?;
    let tx = client.transaction().await?;
    let group = permitted_group(&tx, caller, group).await?;
    let bounds = Bounds::new(&service.config, capacity::read(&tx).await?);
    let image = check(&bounds, &order)?;
    let management_address = addresses::management(service, &tx).await?;
    let vm_id = insert_vm(&tx, &group, &order.vm, management_address, host_key).await?;
    insert_discs(&tx, vm_id, &order.discs, image).await?;
    addresses::network_card(service, &tx, vm_id).await?;
    let message = format!("{} was made in group {}", order.vm.name.as_deref().unwrap_or_default(), group.name);
    let event = Event {
        actor: &caller.username,
        kind: "vm-created",
        vm_id: Some(vm_id),
        message: &message,
        ..Event::default()
    };
    events::record(&tx, &event).await?;
    let made = tree(&tx, caller, &Filter::vm_id(vm_id)).await?;
    tx.commit().await?;
    service.poke.vm(vm_id);
    made.into_iter().next().ok_or_else(|| ServiceError::Internal(format!("VM {vm_id} was made and is not there")))
}

async fn permitted_group(tx: &Transaction<'_>, caller: &Caller, group: &Filter) -> Result<Group, ServiceError> {
    let found = groups::list(tx, &caller.access.reach(), group).await?.into_iter().next();
    let group = found.ok_or(ServiceError::NotFound)?;
    permit(caller, Action::ManageVms, group.place())?;
    super::accounts::check_not_suspended(tx, caller, group.account_id).await?;
    Ok(group)
}

/// Checks the whole order; returns the image to write.
fn check<'a>(bounds: &Bounds<'a>, order: &Order) -> Result<Option<&'a ImageConfig>, Invalid> {
    let mut invalid = order.invalid.clone();
    // What could not be read counts as absent: to say that it "can't be blank" would mislead.
    invalid.merge(bounds.check_new_vm(&order.vm).without(&order.invalid));
    let mut of_discs = bounds.check_new_discs(&order.discs, &[]);
    for (of_disc, read) in of_discs.iter_mut().zip(order.invalid.list("discs")) {
        *of_disc = std::mem::take(of_disc).without(read);
    }
    let wanted = order.distribution.as_deref().filter(|name| *name != NO_DISTRIBUTION);
    let image = match wanted.map(|name| bounds.image(name)) {
        None => None,
        Some(Ok(image)) => Some(image),
        Some(Err(sentence)) => {
            invalid.add("distribution", sentence);
            None
        }
    };
    match (image, order.discs.first(), of_discs.first_mut()) {
        (Some(image), Some(disc), Some(of_disc)) if !of_disc.has("size") => {
            if let Err(sentence) = check_image_fits(image, disc.size_mib.unwrap_or(0)) {
                of_disc.add("size", sentence);
            }
        }
        (Some(_), None, _) => invalid.add("distribution", "needs a disc to be written onto"),
        _ => {}
    }
    invalid.add_list("discs", of_discs);
    invalid.result().map(|()| image)
}

async fn insert_vm(
    tx: &Transaction<'_>,
    group: &Group,
    vm: &NewVm,
    management_address: IpAddr,
    host_key: String,
) -> Result<i64, ServiceError> {
    let autoreboot_on = vm.autoreboot_on.unwrap_or(true);
    // Clients that want a machine to stay off say no more than `autoreboot_on: false`.
    let power_on = vm.power_on.unwrap_or(autoreboot_on);
    let (status_state, status_reason) =
        if power_on { ("waiting", Some("it has just been made")) } else { ("off", None) };
    let row = virtual_machines::VmRow {
        group_id: group.id,
        name: vm.name.as_deref().unwrap_or_default(),
        cores: vm.cores.and_then(|cores| i32::try_from(cores).ok()).unwrap_or(1),
        memory_mib: i32::try_from(vm.memory_mib.unwrap_or(MEMORY_MIB_DEFAULT)).unwrap_or(i32::MAX),
        power_on,
        autoreboot_on,
        cdrom_url: vm.cdrom_url.as_deref(),
        keymap: vm.keymap.as_deref(),
        hardware_profile: vm.hardware_profile.as_deref(),
        hardware_profile_locked: vm.hardware_profile_locked.unwrap_or(false),
        zone_name: vm.zone_name.as_deref(),
        management_address,
        management_ssh_keys: &[host_key],
        status_state,
        status_reason,
    };
    virtual_machines::insert(tx, &row).await.map_err(|error| match error.constraint() {
        // The group was deleted meanwhile.
        Some("virtual_machines_group_id_fkey") => ServiceError::NotFound,
        _ => taken("virtual_machines_name", "name")(error),
    })
}

async fn insert_discs(
    tx: &Transaction<'_>,
    vm_id: i64,
    asked: &[NewDisc],
    image: Option<&ImageConfig>,
) -> Result<(), ServiceError> {
    let mut labels: Vec<String> = asked.iter().filter_map(|disc| disc.label.clone()).collect();
    for (position, disc) in asked.iter().enumerate() {
        let label = match &disc.label {
            Some(label) => label.clone(),
            None => numbered_label(position, &mut labels),
        };
        let row = discs::DiscRow {
            virtual_machine_id: vm_id,
            label: &label,
            size_mib: disc.size_mib.unwrap_or(0),
            grade: disc.grade.as_deref().unwrap_or(spine::spec::GRADE_DEFAULT),
            image: image.filter(|_| position == 0).map(|image| image.name.as_str()),
        };
        discs::insert(tx, &row).await?;
    }
    Ok(())
}

/// `disc-1` for the first disc, and so on; another number where another disc is called that.
fn numbered_label(position: usize, labels: &mut Vec<String>) -> String {
    let mut label = format!("disc-{}", position + 1);
    if labels.contains(&label) {
        label = next_label(labels.iter().map(String::as_str));
    }
    labels.push(label.clone());
    label
}

/// A new private host key for a console, in OpenSSH's form (R110).
fn new_host_key() -> Result<String, ServiceError> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| ServiceError::Internal(format!("no random bytes: {error}")))?;
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let text = key.to_openssh(LineEnding::LF);
    text.map(|text| text.to_string()).map_err(|error| ServiceError::Internal(format!("no host key: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r110_host_keys_are_new_and_read_back() {
        let (a, b) = (new_host_key().unwrap(), new_host_key().unwrap());
        assert_ne!(a, b);
        assert!(PrivateKey::from_openssh(&a).is_ok());
    }

    #[test]
    fn labels_count_and_step_aside() {
        let mut labels = vec!["disc-2".to_owned()];
        assert_eq!(numbered_label(0, &mut labels), "disc-1");
        assert_eq!(numbered_label(1, &mut labels), "disc-3");
    }
}
