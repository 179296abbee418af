//! The model's types in the shapes of the API.

use crate::{
    model::{
        account::{self, Privilege},
        disc, nic,
        vm::{self, Vm},
    },
    service::{
        accounts::{AccountTree, GroupTree},
        virtual_machines::VmTree,
    },
};
use serde_json::{Value, json};
use spine::{
    api::{self, kind},
    resource::migration::MigrationPhase,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An account by itself.
pub fn account(account: account::Account) -> api::Account {
    api::Account { id: account.id, name: account.name, suspended: account.suspended, groups: None }
}

/// An account with all that is in it.
pub fn account_tree(tree: AccountTree, domain: &str) -> api::Account {
    let groups = tree.groups.into_iter().map(|tree| group_tree(tree, domain)).collect();
    api::Account { groups: Some(groups), ..account(tree.account) }
}

/// A group by itself.
pub fn group(group: account::Group) -> api::Group {
    api::Group { id: group.id, account_id: group.account_id, name: group.name, kind: None, virtual_machines: None }
}

/// A group with all that is in it.
pub fn group_tree(tree: GroupTree, domain: &str) -> api::Group {
    let vms = tree.vms.into_iter().map(|tree| vm_tree(tree, domain)).collect();
    api::Group { kind: Some(kind::GROUP.to_owned()), virtual_machines: Some(vms), ..group(tree.group) }
}

/// A machine by itself.
pub fn vm(vm: Vm, domain: &str) -> api::VirtualMachine {
    api::VirtualMachine {
        hostname: vm.hostname(domain),
        id: vm.id,
        name: vm.name,
        group_id: vm.group_id,
        autoreboot_on: vm.autoreboot_on,
        power_on: vm.power_on,
        cdrom_url: vm.cdrom_url,
        cores: vm.cores,
        memory: vm.memory_mib,
        management_address: vm.management_address,
        keymap: vm.keymap,
        deleted: vm.deleted_at.is_some(),
        head: vm.head,
        hardware_profile: vm.hardware_profile,
        hardware_profile_locked: vm.hardware_profile_locked,
        zone_name: vm.zone_name,
        last_imaged_with: vm.last_imaged_with,
        status: Some(status(vm.status)),
        kind: None,
        discs: None,
        network_interfaces: None,
    }
}

/// A machine with its discs and cards.
pub fn vm_tree(tree: VmTree, domain: &str) -> api::VirtualMachine {
    api::VirtualMachine {
        kind: Some(kind::VIRTUAL_MACHINE.to_owned()),
        discs: Some(tree.discs.into_iter().map(disc).collect()),
        network_interfaces: Some(tree.nics.into_iter().map(nic).collect()),
        ..vm(tree.vm, domain)
    }
}

fn status(status: vm::Status) -> api::Status {
    // To the microsecond: a VM that was restarted within a second is told from one that was not.
    let since = OffsetDateTime::from(status.since);
    api::Status {
        state: status.state,
        reason: status.reason,
        since: since.format(&Rfc3339).ok(),
        progress: status.progress,
    }
}

/// A disc.
pub fn disc(disc: disc::Disc) -> api::Disc {
    api::Disc {
        id: disc.id,
        label: disc.label,
        size: disc.size_mib,
        virtual_machine_id: disc.virtual_machine_id,
        storage_pool: disc.storage_pool,
        storage_grade: disc.grade,
        backup_count: 0,
        backups_enabled: false,
        status: Some(status(disc.status)),
        moving: disc.moving.map(moving),
        kind: Some(kind::DISC.to_owned()),
    }
}

fn moving(moving: disc::Moving) -> api::DiscMove {
    let progress = moving.progress;
    let own = progress.as_ref().map(|progress| &progress.migration);
    let number = |number: Option<u64>| number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    api::DiscMove {
        new_storage_pool: moving.storage_pool,
        new_storage_grade: moving.grade,
        migration_job_id: moving.job_id,
        migration_phase: match (&moving.undo_reason, own) {
            (Some(_), _) => "undoing".to_owned(),
            (None, Some(own)) => word(own.phase),
            (None, None) => "preparing".to_owned(),
        },
        migration_reason: moving
            .undo_reason
            .or_else(|| own.and_then(|own| own.waiting.as_ref()).map(|waiting| waiting.message.clone())),
        migration_progress: progress.as_ref().and_then(|progress| progress.percent).unwrap_or(0).min(100).into(),
        migration_eta: number(progress.as_ref().and_then(|progress| progress.eta_s)),
        migration_speed: number(progress.as_ref().and_then(|progress| progress.speed_mb_per_s)),
        migration_limit_mb_per_s: moving.limit_mb_per_s,
        migration_bytes_copied: number(own.map(|own| own.bytes_copied)),
        migration_bytes_left: number(own.map(|own| own.bytes_left)),
        migration_dirtied_bytes_per_s: number(own.and_then(|own| own.dirtied_bytes_per_s)),
        migration_expected_pause_ms: number(own.and_then(|own| own.expected_pause_ms)),
        migration_verified_percent: own.and_then(|own| own.verified_percent).map(i64::from),
    }
}

/// The spine's word for a phase.
fn word(phase: MigrationPhase) -> String {
    serde_json::to_value(phase).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A network card.
pub fn nic(nic: nic::Nic) -> api::Nic {
    api::Nic {
        id: nic.id,
        label: nic.label,
        ips: nic.ips,
        vlan_num: nic.vlan_num,
        mac: nic.mac,
        extra_ips: nic.extra_ips,
        virtual_machine_id: nic.virtual_machine_id,
        kind: Some(kind::NIC.to_owned()),
    }
}

/// A user.
pub fn user(user: account::User) -> api::User {
    api::User { id: user.id, username: user.username, email: user.email, authorized_keys: user.authorized_keys }
}

/// A privilege, with links as old clients follow them.
pub fn privilege(privilege: Privilege) -> Value {
    let mut shown = json!({
        "id": privilege.id,
        "level": privilege.level().as_str(),
        "username": privilege.username,
        "password_required": privilege.grant.password_required,
        "yubikey_required": privilege.grant.yubikey_required,
        "yubikey_otp_max_age": privilege.yubikey_otp_max_age,
        "ip_restrictions": privilege.grant.ip_restrictions,
        "creating_username": privilege.creating_username,
        "_links": {
            "self": {"href": format!("/privileges/{}", privilege.id)},
            "user": {"href": format!("/users/{}", privilege.user_id)},
        },
    });
    let target = privilege.place().map(|place| match (place.group_id(), place.vm_id()) {
        (_, Some(vm)) => ("virtual_machine", vm, privilege.virtual_machine_name),
        (Some(group), None) => ("group", group, privilege.group_name),
        (None, None) => ("account", place.account_id(), privilege.account_name),
    });
    if let Some((what, id, name)) = target {
        shown[format!("{what}_id")] = json!(id);
        shown[format!("{what}_name")] = json!(name);
        shown["_links"][what] = json!({"href": format!("/{what}s/{id}"), "title": name});
    }
    shown
}
