//! A VM's rows as the resource its head is given: complete, so that the head needs to remember
//! nothing (R080).

use crate::{
    config::{Config, NetworkConfig},
    model::work::{CardRow, DiscRow, UserRow, Work},
};
use serde_json::{Value, json};
use spine::{
    address::StoragePrefix,
    hardware::MODEL_OF_PROFILE,
    resource::{
        Attributes,
        vm::{Dhcp, NbdAddress, NetworkInterface, UserAuthentication, VmDisc, VmResource},
    },
    secret::Secret,
};
use std::{collections::BTreeMap, net::IpAddr};

/// The attribute that says which run of the VM this is.
pub const RUN: &str = "run";

/// The attribute that says which proofs of its console's users a machine has: heads tell no
/// passwords, so that a changed one could not be seen otherwise.
pub const USERS_DIGEST: &str = "users_digest";

/// Most bytes that all the users of a console take in a machine's resource: it has to fit into one line
/// of the spine (1 MiB) with all the rest, and 500 such machines into a head's dump (64 MiB); its owner
/// says how many users there are. A hundred users with an RSA key each take 100 KiB.
const CONSOLE_USERS_BYTES_MAX: usize = 128 << 10;

/// Longest serial number that a virtio disc shows.
const SERIAL_BYTES_MAX: usize = 20;

/// What of the cluster goes into every VM's resource.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// What VMs' names end with.
    pub cluster_domain: String,
    /// Where discs' addresses come from.
    pub storage_prefix: StoragePrefix,
    /// The networks that guests are on.
    pub networks: Vec<NetworkConfig>,
}

impl Surroundings {
    /// The part of a configuration that matters here.
    pub fn of(config: &Config) -> Self {
        Self {
            cluster_domain: config.cluster_domain.clone(),
            storage_prefix: config.storage_prefix,
            networks: config.networks.clone(),
        }
    }

    /// Where a disc is served, as a machine is told.
    pub fn address_of(&self, disc: &DiscRow) -> NbdAddress {
        NbdAddress::of_disc(self.storage_prefix.address_of(disc.number))
    }

    /// The machine as its head is to run it; `key` opens its discs, `run` is the run's number.
    pub fn resource(&self, work: &Work, run: i64, key: &Secret) -> VmResource {
        let vm = &work.vm;
        let mut extra = Attributes::new();
        extra.insert(RUN.to_owned(), json!(run));
        extra.insert(USERS_DIGEST.to_owned(), json!(users_digest(work)));
        VmResource {
            memory: u32::try_from(vm.memory_mib).unwrap_or(0),
            cores: u16::try_from(vm.cores).unwrap_or(1),
            balloon_on: false,
            cdrom_url: vm.cdrom_url.clone(),
            imager_options: None,
            display_name: format!("{}.{}.{}", vm.name, vm.group, vm.account),
            keymap: vm.keymap.clone(),
            hardware_profile: vm.hardware_profile.clone(),
            network_interfaces: work.cards.iter().map(|card| self.card(work, card)).collect(),
            discs: work.kept_discs().map(|disc| self.disc(disc, key)).collect(),
            management_address: vm.management_address,
            management_ssh_keys: vm.management_ssh_keys.clone(),
            console_users: console_users(work).map(|user| user.username.clone()).collect(),
            user_authentication: authentication(work),
            extra,
        }
    }

    fn disc(&self, disc: &DiscRow, key: &Secret) -> VmDisc {
        VmDisc {
            address: self.address_of(disc),
            model: MODEL_OF_PROFILE.to_owned(),
            serial: Some(serial(disc)),
            key: Some(key.clone()),
            size: Some(disc.size_bytes()),
            extra: Attributes::new(),
        }
    }

    fn card(&self, work: &Work, card: &CardRow) -> NetworkInterface {
        let network = self.networks.iter().find(|network| i64::from(network.vlan) == card.vlan);
        let vm = &work.vm;
        let dhcp = network.map(|network| Dhcp {
            network: network.ipv4.to_string(),
            router: IpAddr::V4(network.ipv4_router),
            hostname: vm.name.clone(),
            domain: format!("{}.{}.{}", vm.group, vm.account, self.cluster_domain),
            extra: Attributes::new(),
        });
        NetworkInterface {
            mac: card.mac.clone(),
            vlan_id: u32::try_from(card.vlan).unwrap_or(0),
            model: MODEL_OF_PROFILE.to_owned(),
            ips: card.ips.iter().map(ToString::to_string).collect(),
            dhcp,
            extra: Attributes::new(),
        }
    }

    /// What should be different about a machine that runs: the attributes of an `update`. Empty
    /// when nothing is. Cards, memory, cores and additional discs wait for the next start.
    pub fn differences(&self, work: &Work, running: &VmResource) -> Attributes {
        let mut changes = Attributes::new();
        if running.cdrom_url != work.vm.cdrom_url {
            changes.insert("cdrom_url".to_owned(), json!(work.vm.cdrom_url));
        }
        if let Some(discs) = self.resized_discs(work, running) {
            changes.insert("discs".to_owned(), discs);
        }
        let digest = users_digest(work);
        if running.extra.get(USERS_DIGEST).and_then(Value::as_str) != Some(&digest) {
            let names: Vec<&str> = console_users(work).map(|user| user.username.as_str()).collect();
            let left_out_count = work.users.len() - names.len();
            if left_out_count > 0 {
                tracing::warn!(
                    vm = work.vm.id,
                    left_out_count,
                    "its console has more users than can be told to a head"
                );
            }
            changes.insert("console_users".to_owned(), json!(names));
            changes.insert("user_authentication".to_owned(), json!(authentication(work)));
            changes.insert(USERS_DIGEST.to_owned(), json!(digest));
        }
        changes
    }

    /// The discs that the machine has, with the sizes that they should have; none when they have.
    fn resized_discs(&self, work: &Work, running: &VmResource) -> Option<Value> {
        let mut discs = running.discs.clone();
        for disc in &mut discs {
            let own = work.discs.iter().find(|row| self.address_of(row) == disc.address);
            if let Some(row) = own {
                disc.size = Some(row.size_bytes());
            }
        }
        (discs != running.discs).then(|| json!(discs))
    }
}

fn authentication(work: &Work) -> BTreeMap<String, UserAuthentication> {
    let one = |user: &UserRow| UserAuthentication {
        authorized_keys: user.authorized_keys.clone(),
        password: user.password_hash.clone(),
        extra: Attributes::new(),
    };
    console_users(work).map(|user| (user.username.clone(), one(user))).collect()
}

/// The users of the console, by name. One who does not fit with those before them is left out.
fn console_users(work: &Work) -> impl Iterator<Item = &UserRow> {
    let mut left_bytes = CONSOLE_USERS_BYTES_MAX;
    work.users.iter().filter(move |user| match left_bytes.checked_sub(told_bytes(user)) {
        Some(left) => {
            left_bytes = left;
            true
        }
        None => false,
    })
}

/// About what a user takes in a resource: keys as JSON has them, and twice the name with what stands
/// around them all.
fn told_bytes(user: &UserRow) -> usize {
    const AROUND_BYTES: usize = 64;
    let hash_bytes = user.password_hash.as_ref().map_or(0, |hash| hash.reveal().len());
    json!(user.authorized_keys).to_string().len() + hash_bytes + 2 * user.username.len() + AROUND_BYTES
}

/// Tells one set of users and proofs from another. The proofs are hashes and public keys already.
fn users_digest(work: &Work) -> String {
    Secret::new(json!(authentication(work)).to_string()).hash().as_str().to_owned()
}

/// A serial number that the guest sees under /dev/disk/by-id: the label where it can be one, made
/// unique by the disc's number where it was cut or changed.
fn serial(disc: &DiscRow) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !disc.label.is_empty() && disc.label.len() <= SERIAL_BYTES_MAX && disc.label.chars().all(plain) {
        return disc.label.clone();
    }
    let number = format!("-{}", disc.number);
    let kept = SERIAL_BYTES_MAX.saturating_sub(number.len());
    let label: String = disc.label.chars().map(|c| if plain(c) { c } else { '_' }).take(kept).collect();
    format!("{label}{number}")
}
