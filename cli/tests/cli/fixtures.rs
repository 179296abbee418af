//! Objects of the API, and their paths.

use crate::brain::{Brain, Reply};
use serde_json::{Value, json};

pub const GROUP: &str = "/accounts/acme/groups/default";
pub const VM: &str = "/accounts/acme/groups/default/virtual_machines/web1";

/// `GET` of the VM as `vm show` asks for it.
pub fn get_vm() -> String {
    format!("GET {VM}?view=overview&include_deleted=true")
}

/// `GET` of the VM as waiting asks for it.
pub fn wait_vm(until: &str) -> String {
    let until = if until == "running" { "running%2Cfailed" } else { until };
    format!("GET {VM}?wait=…&until={until}")
}

pub fn disc(id: u64, label: &str, grade: &str, size: u64) -> Value {
    json!({
        "id": id, "label": label, "size": size, "virtual_machine_id": 17, "storage_pool": format!("tail1-{grade}1"),
        "storage_grade": grade, "backup_count": 0, "backups_enabled": true, "status": {"state": "serving"},
        "type": "application/vnd.bigv.disc",
    })
}

/// A VM that runs; with something a newer brain says that this build does not know.
pub fn vm() -> Value {
    json!({
        "id": 17, "name": "web1", "group_id": 3, "autoreboot_on": true, "power_on": true, "cdrom_url": null,
        "cores": 2, "memory": 2048, "management_address": "10.16.3.100", "keymap": null, "deleted": false,
        "hostname": "web1.default.acme.lab.bigv.example", "head": "head1", "hardware_profile": "virtio2013",
        "hardware_profile_locked": false, "zone_name": null, "last_imaged_with": "tiny",
        "status": {"state": "running", "since": "2026-01-02T03:04:05Z"},
        "discs": [disc(21, "disc-1", "sata", 1024), disc(22, "disc-2", "ssd", 2560)],
        "network_interfaces": [{
            "id": 9, "label": null, "ips": ["10.16.4.100", "fd00:b16:0:4::100"], "vlan_num": 1,
            "mac": "fe:ff:00:00:00:11", "extra_ips": {}, "virtual_machine_id": 17,
        }],
        "colour": "red",
    })
}

/// The same in another state.
pub fn vm_in(state: &str, changes: Value) -> Reply {
    let mut vm = vm();
    vm["head"] = Value::Null;
    vm["status"] = json!({ "state": state });
    for (key, value) in changes.as_object().unwrap() {
        vm[key] = value.clone();
    }
    Reply::Json(200, vm.to_string())
}

pub fn running() -> Reply {
    Reply::Json(200, vm().to_string())
}

pub fn definitions() -> Value {
    json!([
        {"id": "distributions", "data": ["tiny", "trixie"]},
        {"id": "storage_grades", "data": ["sata", "ssd"]},
        {"id": "keymaps", "data": ["de", "en-gb"]},
        {"id": "distribution_descriptions", "data": {"tiny": "a kernel and a shell"}},
        {"id": "storage_grade_descriptions", "data": {"sata": "big", "ssd": "fast"}},
    ])
}

/// A brain with an account, a group, a VM and its discs.
pub fn brain() -> Brain {
    let brain = Brain::start();
    let group = json!({"id": 3, "account_id": 1, "name": "default", "virtual_machines": [vm()]});
    let empty = json!({"id": 4, "account_id": 1, "name": "shop", "virtual_machines": []});
    let account = json!({"id": 1, "name": "acme", "suspended": false, "groups": [group, empty]});
    brain.json("GET /definitions", definitions().to_string());
    brain.json("GET /accounts", json!([{"id": 1, "name": "acme", "suspended": false}]).to_string());
    brain.json("GET /accounts/acme?view=overview", account.to_string());
    brain.json("GET /accounts/acme/groups", json!([group, empty]).to_string());
    brain.json(&format!("GET {GROUP}?view=overview"), group.to_string());
    brain.json("GET /accounts/acme/groups/shop?view=overview", empty.to_string());
    brain.on(&get_vm(), [running()]);
    brain.json(&format!("GET {VM}/discs"), vm()["discs"].to_string());
    brain.json(&format!("GET {VM}/discs/disc-2"), disc(22, "disc-2", "ssd", 2560).to_string());
    let keys = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIabcdefghijkl me@home\nssh-rsa AAAAB3NzaC1yc2Exyz0123456789 work";
    let user = json!({"id": 5, "username": "alice", "email": "alice@example.com", "authorized_keys": keys});
    brain.json("GET /users/alice", user.to_string());
    brain.json("PUT /users/alice", user.to_string());
    brain
}
