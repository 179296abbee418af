//! From the API's objects to pages.

use super::Page;
use crate::wait::vm as wait;
use serde_json::Value;
use spine::{
    api::{Account, Definition, Disc, Group, Nic, Status, User, VirtualMachine},
    size::SizeMib,
};

/// One VM, with its discs and network cards when the brain sent them.
pub fn vm(vm: &VirtualMachine) -> Page {
    let mut facts = vec![
        ("name", vm.hostname.clone()),
        ("number", vm.id.to_string()),
        ("state", status_text(wait::state(vm), vm.status.as_ref())),
        ("power", power(vm)),
        ("cores", vm.cores.to_string()),
        ("memory", size(vm.memory)),
        ("console", vm.management_address.map_or_else(|| "-".to_owned(), |address| address.to_string())),
    ];
    let optional = [
        ("image", &vm.last_imaged_with),
        ("CD", &vm.cdrom_url),
        ("head", &vm.head),
        ("hardware", &vm.hardware_profile),
        ("zone", &vm.zone_name),
        ("keymap", &vm.keymap),
    ];
    facts.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let mut pages = vec![Page::Facts(facts)];
    if let Some(list) = &vm.discs {
        pages.push(titled("discs", discs(list)));
    }
    if let Some(list) = &vm.network_interfaces {
        pages.push(titled("network", nics(list)));
    }
    Page::Several(pages)
}

/// VMs. `none` is said when there are none.
pub fn vms<'a>(vms: impl Iterator<Item = &'a VirtualMachine>, none: String) -> Page {
    let rows = vms
        .map(|vm| {
            // The primary address; `vm show` has them all.
            let address = vm.network_interfaces.iter().flatten().flat_map(|nic| &nic.ips).next();
            vec![
                short_name(vm),
                wait::state(vm).to_owned(),
                vm.cores.to_string(),
                size(vm.memory),
                vm.discs.iter().flatten().map(disc_spec).collect::<Vec<_>>().join(", "),
                address.map(ToString::to_string).unwrap_or_default(),
            ]
        })
        .collect();
    list(["name", "state", "cores", "memory", "discs", "address"], rows, none)
}

/// Discs of one VM.
pub fn discs(discs: &[Disc]) -> Page {
    let rows = discs
        .iter()
        .map(|disc| {
            vec![
                disc.label.clone(),
                disc.storage_grade.clone(),
                size(disc.size),
                disc.status.as_ref().map_or_else(String::new, |status| status_text(&status.state, Some(status))),
                disc.storage_pool.clone().unwrap_or_default(),
                disc.id.to_string(),
            ]
        })
        .collect();
    list(["label", "grade", "size", "state", "pool", "number"], rows, "There are no discs.".to_owned())
}

fn nics(nics: &[Nic]) -> Page {
    let rows = nics
        .iter()
        .map(|nic| {
            let addresses = nic.ips.iter().chain(nic.extra_ips.keys());
            vec![
                addresses.map(ToString::to_string).collect::<Vec<_>>().join(", "),
                nic.mac.clone(),
                nic.vlan_num.to_string(),
            ]
        })
        .collect();
    list(["addresses", "MAC", "VLAN"], rows, "There are no network cards.".to_owned())
}

/// Groups.
pub fn groups(groups: &[Group]) -> Page {
    let rows = groups.iter().map(|group| vec![group.name.clone(), group.id.to_string()]).collect();
    list(["group", "number"], rows, "There are no groups.".to_owned())
}

/// Accounts; `selected` is marked.
pub fn accounts(accounts: &[Account], selected: Option<&str>) -> Page {
    let rows = accounts
        .iter()
        .map(|account| {
            let mark = if selected == Some(account.name.as_str()) { "default" } else { "" };
            let state = if account.suspended { "suspended" } else { "active" };
            vec![account.name.clone(), account.id.to_string(), state.to_owned(), mark.to_owned()]
        })
        .collect();
    list(["account", "number", "state", ""], rows, "There are no accounts that you can use.".to_owned())
}

/// An account with its groups and VMs.
pub fn account(account: &Account) -> Page {
    let groups = account.groups.as_deref().unwrap_or_default();
    let all = || groups.iter().flat_map(|group| group.virtual_machines.iter().flatten());
    let facts = vec![
        ("account", account.name.clone()),
        ("number", account.id.to_string()),
        ("state", if account.suspended { "suspended" } else { "active" }.to_owned()),
        ("groups", groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")),
        ("VMs", all().count().to_string()),
    ];
    let vms = titled("VMs", vms(all(), "There are no VMs.".to_owned()));
    Page::Several(vec![Page::Facts(facts), vms])
}

/// A login.
pub fn user(user: &User) -> Page {
    Page::Facts(vec![
        ("user", user.username.clone()),
        ("number", user.id.to_string()),
        ("email", user.email.clone().unwrap_or_default()),
        ("SSH keys", user.authorized_keys.iter().flat_map(|keys| keys.lines()).count().to_string()),
    ])
}

/// SSH keys, each with its kind, its end and its comment: the middle tells nobody anything.
pub fn keys(keys: &[&str]) -> Page {
    let rows = keys
        .iter()
        .map(|key| {
            let mut words = key.splitn(3, ' ');
            let (kind, body, comment) = (words.next(), words.next().unwrap_or(""), words.next());
            let tail: String = body.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect();
            vec![kind.unwrap_or("").to_owned(), format!("…{tail}"), comment.unwrap_or("").to_owned()]
        })
        .collect();
    list(["kind", "key", "comment"], rows, "There are no SSH keys.".to_owned())
}

/// What there is to choose from: a row each for what is described; of the rest the names together.
pub fn definitions(all: &[Definition], shown: &[&Definition]) -> Page {
    let text = |name: &Value| name.as_str().map_or_else(|| name.to_string(), str::to_owned);
    let (mut described, mut plain) = (Vec::new(), Vec::new());
    for definition in shown {
        let Value::Array(names) = &definition.data else { continue };
        let kind = definition.id.replace('_', " ");
        // `distributions` is described by `distribution_descriptions`.
        let described_by = format!("{}_descriptions", definition.id.trim_end_matches('s'));
        match all.iter().find(|other| other.id == described_by).map(|other| &other.data) {
            Some(descriptions) => described.extend(names.iter().map(|name| {
                let description = descriptions.get(text(name)).and_then(Value::as_str).unwrap_or_default();
                vec![kind.clone(), text(name), description.to_owned()]
            })),
            None if names.is_empty() => {}
            None => plain.push(vec![kind, names.iter().map(text).collect::<Vec<_>>().join(", ")]),
        }
    }
    let none = || "There is nothing to choose from.".to_owned();
    let mut pages = Vec::new();
    if !described.is_empty() || plain.is_empty() {
        pages.push(list(["kind", "name", "description"], described, none()));
    }
    if !plain.is_empty() {
        pages.push(list(["kind", "names"], plain, none()));
    }
    Page::Several(pages)
}

fn list<const N: usize>(headers: [&'static str; N], rows: Vec<Vec<String>>, none: String) -> Page {
    Page::List { title: None, headers: headers.to_vec(), rows, none }
}

fn titled(name: &'static str, page: Page) -> Page {
    match page {
        Page::List { headers, rows, none, .. } => Page::List { title: Some(name), headers, rows, none },
        other => other,
    }
}

fn short_name(vm: &VirtualMachine) -> String {
    // The host name is name.group.account.cluster; the cluster is the same for all.
    vm.hostname.splitn(4, '.').take(3).collect::<Vec<_>>().join(".")
}

fn status_text(state: &str, status: Option<&Status>) -> String {
    let percent = status.and_then(|status| status.progress).map(|n| format!(" {n}%")).unwrap_or_default();
    let reason = status.and_then(|status| status.reason.as_deref()).map(|text| format!(": {text}")).unwrap_or_default();
    format!("{state}{percent}{reason}")
}

fn power(vm: &VirtualMachine) -> String {
    let text = match (vm.power_on, vm.autoreboot_on) {
        (true, true) => "on, started again when it stops",
        (true, false) => "on, stays off when it stops",
        (false, true) => "off, started again when it stops",
        (false, false) => "off",
    };
    text.to_owned()
}

fn disc_spec(disc: &Disc) -> String {
    format!("{}:{}", disc.storage_grade, size(disc.size))
}

/// A size of the API, in MiB. One that makes no sense is shown as it is.
pub fn size(mib: i64) -> String {
    u64::try_from(mib).map_or_else(|_| format!("{mib} MiB"), |mib| SizeMib(mib).to_string())
}
