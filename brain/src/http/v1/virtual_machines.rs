//! `…/virtual_machines`, nested and flat, and `…/vm_create`.

use crate::{
    auth::Caller,
    http::{
        Api,
        extract::{Answer, Body, Echo, Named, seconds},
        fault::Fault,
        fields::Fields,
        shape,
    },
    model::{
        disc::NewDisc,
        invalid::Invalid,
        vm::{NewVm, VmChange},
    },
    service::{
        new_vm::{self, Order},
        virtual_machines::{self, SignalOrder, VmTree},
    },
};
use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use spine::api::{VirtualMachine, VmCreated};
use std::time::Duration;

/// What is shown of a machine and cannot be set: clients send whole objects back.
const SHOWN_ONLY: [&str; 10] = [
    "id",
    "type",
    "hostname",
    "head",
    "management_address",
    "last_imaged_with",
    "status",
    "discs",
    "network_interfaces",
    "zone_name",
];

impl Api {
    fn shape(&self, tree: VmTree, overview: bool) -> VirtualMachine {
        let domain = &self.service.config.cluster_domain;
        if overview { shape::vm_tree(tree, domain) } else { shape::vm(tree.vm, domain) }
    }
}

/// GET /virtual_machines
pub(crate) async fn list(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let domain = &api.service.config.cluster_domain;
    let found = virtual_machines::list(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(|vm| shape::vm(vm, domain)).collect::<Vec<_>>())
}

/// GET …/groups/{group}/virtual_machines
pub(crate) async fn list_in_group(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let overview = named.wants_overview();
    let found = virtual_machines::list_in_group(&api.service, &caller, &named.filter).await?;
    Answer::ok(&found.into_iter().map(|tree| api.shape(tree, overview)).collect::<Vec<_>>())
}

/// GET …/virtual_machines/{vm}; with `wait` and `until`, once the status is one of those named.
pub(crate) async fn show(State(api): State<Api>, caller: Caller, named: Named) -> Result<Answer, Fault> {
    let until: Vec<String> = match named.parameter("until") {
        Some(states) => states.split(['|', ',']).map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let asked = match named.parameter("wait").filter(|_| !until.is_empty()) {
        Some(text) => seconds(text).ok_or_else(|| Invalid::of("wait", "is not a number of seconds, as 30s"))?,
        None => Duration::ZERO,
    };
    // Without a turn it is answered at once: clients ask again.
    let turn = api.waiting.turn(caller.user_id);
    let wait = if turn.is_some() { asked } else { Duration::ZERO };
    let found = virtual_machines::wait(&api.service, &caller, &named.filter, &until, wait).await?;
    Answer::ok(&api.shape(found, named.wants_overview()))
}

/// POST …/groups/{group}/virtual_machines: a machine without discs.
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let vm = read_new_vm(&mut body);
    let (invalid, ignored) = body.finish();
    let order = Order { vm, invalid, ..Order::default() };
    let made = new_vm::create(&api.service, &caller, &named.filter, order).await?;
    Ok(Answer::with_status(StatusCode::ACCEPTED, &api.shape(made, false))?.ignoring(ignored))
}

/// POST …/groups/{group}/vm_create: a machine with its discs and what is on them.
pub(crate) async fn vm_create(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(body): Body,
) -> Result<Answer, Fault> {
    let (order, ignored) = read_order(body);
    let made = new_vm::create(&api.service, &caller, &named.filter, order).await?;
    let virtual_machine = api.shape(made, true);
    let discs = virtual_machine.discs.clone().unwrap_or_default();
    Ok(Answer::with_status(StatusCode::ACCEPTED, &VmCreated { virtual_machine, discs })?.ignoring(ignored))
}

fn read_order(mut body: Fields) -> (Order, Vec<String>) {
    let mut order = Order::default();
    match body.object("virtual_machine").value() {
        Some(mut vm) => {
            order.vm = read_new_vm(&mut vm);
            body.take_object("virtual_machine", vm);
        }
        None => body.complain("virtual_machine", "can't be blank"),
    }
    if let Some(mut discs) = body.list("discs").value() {
        order.discs = discs.iter_mut().map(read_new_disc).collect();
        body.take_list("discs", discs);
    }
    if let Some(mut reimage) = body.object("reimage").value() {
        order.distribution = reimage.text("distribution").value();
        if order.distribution.is_none() {
            reimage.complain("distribution", "can't be blank");
        }
        ignore_personal(&mut reimage);
        body.take_object("reimage", reimage);
    }
    if body.object("ips").value().is_some() {
        body.complain("ips", "cannot be chosen: the group is not on a private network");
    }
    let (invalid, ignored) = body.finish();
    order.invalid = invalid;
    (order, ignored)
}

fn read_new_vm(body: &mut Fields) -> NewVm {
    body.skip(&["type", "group_id", "id"]);
    NewVm {
        name: body.text("name").value(),
        cores: body.integer("cores").value(),
        memory_mib: body.integer("memory").value(),
        cdrom_url: body.text("cdrom_url").value().filter(|url| !url.is_empty()),
        autoreboot_on: body.boolean("autoreboot_on").value(),
        power_on: body.boolean("power_on").value(),
        keymap: body.text("keymap").value().filter(|keymap| !keymap.is_empty()),
        hardware_profile: body.text("hardware_profile").value().filter(|profile| !profile.is_empty()),
        hardware_profile_locked: body.boolean("hardware_profile_locked").value(),
        zone_name: body.text("zone_name").value().filter(|zone| !zone.is_empty()),
    }
}

pub(super) fn read_new_disc(body: &mut Fields) -> NewDisc {
    body.skip(&["type", "id", "virtual_machine_id", "storage_pool"]);
    NewDisc {
        label: body.text("label").value(),
        grade: body.text("storage_grade").value(),
        size_mib: body.integer("size").value(),
    }
}

/// What is for the inside of the guest cannot be put there yet: it is named as ignored.
fn ignore_personal(reimage: &mut Fields) {
    for name in ["root_password", "ssh_public_key", "firstboot_script"] {
        reimage.ignore(name);
    }
}

/// PUT …/virtual_machines/{vm}
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Body(mut body): Body,
) -> Result<Answer, Fault> {
    let change = read_change(&mut body);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    let changed = virtual_machines::change(&api.service, &caller, &named.filter, change).await?;
    Ok(Answer::ok(&api.shape(changed, false))?.ignoring(ignored))
}

fn read_change(body: &mut Fields) -> VmChange {
    body.skip(&SHOWN_ONLY);
    if body.object("appliance").value().is_some() {
        body.complain("appliance", "is not included in the list");
    }
    let cleared = |text: Option<Option<String>>| text.map(|text| text.filter(|text| !text.is_empty()));
    VmChange {
        name: body.text("name").value(),
        group_id: body.integer("group_id").value(),
        cores: body.integer("cores").value(),
        memory_mib: body.integer("memory").value(),
        power_on: body.boolean("power_on").value(),
        autoreboot_on: body.boolean("autoreboot_on").value(),
        cdrom_url: cleared(body.text("cdrom_url").change()),
        keymap: cleared(body.text("keymap").change()),
        hardware_profile: cleared(body.text("hardware_profile").change()),
        hardware_profile_locked: body.boolean("hardware_profile_locked").value(),
        deleted: body.boolean("deleted").value(),
    }
}

/// DELETE …/virtual_machines/{vm}
pub(crate) async fn delete(State(api): State<Api>, caller: Caller, named: Named) -> Result<StatusCode, Fault> {
    virtual_machines::delete(&api.service, &caller, &named.filter, named.flag("purge")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// POST …/virtual_machines/{vm}/signal
pub(crate) async fn signal(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Echo(echo): Echo,
) -> Result<Answer, Fault> {
    let mut body = Fields::new(echo.clone());
    let order = SignalOrder { signal: body.text("signal").value(), data: body.text("data").value() };
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    virtual_machines::signal(&api.service, &caller, &named.filter, &order).await?;
    Ok(Answer::ok(&Value::Object(echo))?.ignoring(ignored))
}

/// POST …/virtual_machines/{vm}/reimage
pub(crate) async fn reimage(
    State(api): State<Api>,
    caller: Caller,
    named: Named,
    Echo(echo): Echo,
) -> Result<Answer, Fault> {
    let mut body = Fields::new(echo.clone());
    let distribution = body.text("distribution").value().unwrap_or_default();
    if distribution.is_empty() {
        body.complain("distribution", "can't be blank");
    }
    ignore_personal(&mut body);
    let (invalid, ignored) = body.finish();
    invalid.result()?;
    virtual_machines::reimage(&api.service, &caller, &named.filter, &distribution).await?;
    Ok(Answer::ok(&Value::Object(echo))?.ignoring(ignored))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any JSON, with the attributes that are looked for where they are looked for more often than
    /// chance would have it.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("virtual_machine".to_owned()),
            Just("discs".to_owned()),
            Just("reimage".to_owned()),
            Just("size".to_owned()),
            Just("name".to_owned()),
            Just("power_on".to_owned()),
            "[a-z_]{0,6}",
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..6)
                    .prop_map(|attributes| Value::Object(attributes.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reading_an_order_never_panics(value in json()) {
            if let Value::Object(attributes) = value {
                read_order(Fields::new(attributes.clone()));
                read_change(&mut Fields::new(attributes));
            }
        }
    }
}
