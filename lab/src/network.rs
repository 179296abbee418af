//! The plan as `ip` commands: namespaces, bridges and the cables between them, and their removal.
//!
//! A cable is a veth pair made with both its ends in their namespaces, so the root namespace never
//! sees it; with a namespace gone its ends are gone too, so removing the namespaces removes all.

use crate::{
    error::LabError,
    plan::{Interface, Lan, Node, Plan},
    process,
};
use std::path::{Path, PathBuf};

/// Makes every namespace, bridge and cable of `plan`. None of them may be there.
pub fn make(plan: &Plan) -> Result<(), LabError> {
    make_commands(plan).iter().try_for_each(|command| ip(command))
}

/// Removes what [`make`] made, or as much of it as is there.
pub fn remove(plan: &Plan) -> Result<(), LabError> {
    for node in plan.nodes() {
        let namespace = plan.namespace(node);
        if exists(&namespace) {
            ip(&words(&["netns", "del", &namespace]))?;
        }
    }
    Ok(())
}

/// Whether all the namespaces are there.
pub fn complete(plan: &Plan) -> bool {
    plan.nodes().into_iter().all(|node| exists(&plan.namespace(node)))
}

/// Where the kernel shows a namespace of this name.
pub fn namespace_path(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// The processes in a namespace.
pub fn processes(namespace: &str) -> Result<Vec<u32>, LabError> {
    if !exists(namespace) {
        return Ok(vec![]);
    }
    let listed = process::output("ip", &["netns", "pids", namespace])?;
    Ok(listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The switch's end of a node's cable.
pub(crate) fn switch_port(node: Node, lan: Lan) -> String {
    let node = node.to_string().replace("customer", "cust");
    format!("{node}-{}", lan.name())
}

fn exists(namespace: &str) -> bool {
    namespace_path(namespace).exists()
}

fn make_commands(plan: &Plan) -> Vec<Vec<String>> {
    let switch = plan.namespace(Node::Switch);
    let mut commands = Vec::new();
    for node in plan.nodes() {
        let namespace = plan.namespace(node);
        commands.push(words(&["netns", "add", &namespace]));
        commands.push(words(&["-n", &namespace, "link", "set", "lo", "up"]));
    }
    for lan in Lan::ALL {
        commands.extend(bridge_commands(&switch, lan.name()));
    }
    for node in plan.nodes() {
        for interface in plan.interfaces(node) {
            commands.extend(cable_commands(&switch, &plan.namespace(node), node, &interface));
        }
    }
    commands
}

/// Snooping is off because neighbour discovery is multicast and nobody here queries for listeners.
fn bridge_commands(namespace: &str, name: &str) -> [Vec<String>; 2] {
    let add = ["-n", namespace, "link", "add", "name", name, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"];
    [words(&add), words(&["-n", namespace, "link", "set", name, "up"])]
}

fn cable_commands(switch: &str, namespace: &str, node: Node, interface: &Interface) -> Vec<Vec<String>> {
    let name = interface.lan.interface();
    let port = switch_port(node, interface.lan);
    let add =
        ["link", "add", "name", &name, "netns", namespace, "type", "veth", "peer", "name", &port, "netns", switch];
    let mut commands =
        vec![words(&add), words(&["-n", switch, "link", "set", &port, "master", interface.lan.name(), "up"])];
    if let Some(bridge) = interface.bridge {
        commands.extend(bridge_commands(namespace, bridge));
        commands.push(words(&["-n", namespace, "link", "set", &name, "master", bridge]));
    }
    commands.push(words(&["-n", namespace, "link", "set", &name, "up"]));
    for address in &interface.addresses {
        let mut add = vec!["-n", namespace, "addr", "add", address.as_str(), "dev", &name];
        // An address is usable at once: nobody else in the lab can have it.
        add.extend(address.contains(':').then_some("nodad"));
        commands.push(words(&add));
    }
    for prefix in &interface.on_link {
        commands.push(words(&["-n", namespace, "route", "add", prefix, "dev", &name]));
    }
    commands
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn ip(arguments: &[String]) -> Result<(), LabError> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    process::output("ip", &arguments).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_in_the_root_namespace() {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 2, tails: 2, slot: 0 };
        for command in make_commands(&plan) {
            let inside = command[0] == "-n" && command[1].starts_with("lab-");
            let namespace = command[0] == "netns";
            let cable = command.iter().filter(|word| *word == "netns").count() == 2;
            assert!(inside || namespace || cable, "{command:?}");
        }
    }

    #[test]
    fn each_node_is_on_its_lans() {
        let plan = Plan { name: "lab".parse().unwrap(), heads: 1, tails: 1, slot: 0 };
        let text: Vec<String> = make_commands(&plan).iter().map(|command| command.join(" ")).collect();
        let has = |wanted: &str| assert!(text.iter().any(|line| line == wanted), "{wanted:?} is not in\n{text:#?}");
        has("-n lab-head1 addr add fd00:b16:0:2::11/64 dev storage0 nodad");
        has("-n lab-head1 route add fd00:b16:0:d::/64 dev storage0");
        has("-n lab-head1 link set public0 master br-public");
        has("-n lab-switch link set head1-public master public up");
        has("link add name storage0 netns lab-tail1 type veth peer name tail1-storage netns lab-switch");
        has("-n lab-customer addr add 10.16.3.2/24 dev mgmt0");
    }
}
