//! Golden argument lists: what a name or a field means must not change under a running cluster.

use super::*;
use crate::{config::Config, config::tests::EXAMPLE};
use proptest::prelude::*;
use serde_json::{Value, json};

const FIGURE_5: &str = include_str!("../../../../spine/tests/figure5.json");

fn config() -> Config {
    let extra = "[[network]]\nvlan = 10000\nbridge = \"br10000\"\n";
    toml::from_str(&format!("{EXAMPLE}{extra}")).unwrap()
}

fn spec(value: &Value) -> Spec {
    Spec::check(&serde_json::from_value(value.clone()).unwrap(), &config()).unwrap()
}

fn place(cards: usize) -> Place {
    Place {
        accelerator: Accelerator::Tcg,
        cpu_model: None,
        taps: (0..cards).map(|n| format!("bv70000-{n}")).collect(),
        directory: "/run/bigv-head/vm-17".into(),
    }
}

/// One option a line, as an operator would write it.
fn lines(arguments: &[String]) -> String {
    arguments.join(" ").replace(" -", "\n-")
}

fn shown(value: &Value) -> String {
    let spec = spec(value);
    let place = place(spec.cards.len());
    lines(&arguments(&spec, &place))
}

fn smallest() -> Value {
    json!({"memory": 64, "cores": 1, "display_name": "web1.default.acme"})
}

/// The lines that a change to the smallest machine adds, and those it takes away.
fn difference(changes: &Value) -> String {
    let mut changed = smallest();
    for (name, change) in changes.as_object().unwrap() {
        changed[name] = change.clone();
    }
    let (before, after) = (shown(&smallest()), shown(&changed));
    let gone = before.lines().filter(|line| !after.lines().any(|other| other == *line)).map(|line| format!("- {line}"));
    let new = after.lines().filter(|line| !before.lines().any(|other| other == *line)).map(|line| format!("+ {line}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}

#[test]
fn r079_the_smallest_machine() {
    insta::assert_snapshot!(shown(&smallest()));
}

#[test]
fn r092_to_r112_figure_5_of_the_paper() {
    insta::assert_snapshot!(shown(&serde_json::from_str(FIGURE_5).unwrap()));
}

#[test]
fn r092_r093_memory_and_cores() {
    insta::assert_snapshot!(difference(&json!({"memory": 4096, "cores": 4})));
}

#[test]
fn r094_balloon() {
    insta::assert_snapshot!(difference(&json!({"balloon_on": true})));
}

#[test]
fn r095_r096_what_is_not_on_the_command_line() {
    let changes = json!({
        "cdrom_url": "https://example.org/debian.iso", "imager_options": {"distribution": "tiny"},
        "management_address": "10.16.3.100", "management_ssh_keys": ["PRIVATE"], "console_users": ["amy"],
        "user_authentication": {"amy": {"password": "R0ry"}}, "detected_kernel": "linux",
    });
    assert_eq!(difference(&changes), "", "the CD goes over the monitor, consoles are the head's own, R096 is carried");
}

#[test]
fn r097_r098_name_and_keymap() {
    insta::assert_snapshot!(difference(&json!({"display_name": "a,b=c,debug-threads=off", "keymap": "en-gb"})));
}

#[test]
fn r099_to_r102_cards() {
    let card = |mac: &str, vlan: u32, model: &str| json!({"mac": mac, "vlan_id": vlan, "model": model});
    let cards = [
        card("FE:ff:00:00:00:01", 1, "virtio"),
        card("fe:ff:00:00:00:02", 950, "e1000"),
        card("fe:ff:00:00:00:03", 10_000, "rtl8139"),
    ];
    insta::assert_snapshot!(difference(&json!({"network_interfaces": cards})));
}

#[test]
fn r105_to_r108_discs() {
    let discs = json!([
        {"address": "nbd:[fd00::8]:10809", "model": "virtio", "serial": "root,if=none", "key": "sesame"},
        {"address": "nbd:[fd00::9]:10809", "model": "ide"},
    ]);
    insta::assert_snapshot!(difference(&json!({"discs": discs})));
}

#[test]
fn b07_compatibility_profile() {
    let disc = |n: usize| json!({"address": format!("nbd:[fd00::{n}]:10809"), "model": ""});
    let discs: Vec<_> = (1..=5).map(disc).collect();
    let card = json!({"mac": "fe:ff:00:00:00:01", "vlan_id": 1, "model": ""});
    let changes = json!({
        "hardware_profile": "compatibility2013", "discs": discs, "network_interfaces": [card], "balloon_on": true,
    });
    insta::assert_snapshot!(difference(&changes));
}

#[test]
fn b07_virtio2011() {
    let discs = json!([{"address": "nbd:[fd00::8]:10809", "model": "virtio"}]);
    insta::assert_snapshot!(difference(&json!({"hardware_profile": "virtio2011", "discs": discs})));
}

#[test]
fn kvm_and_a_chosen_cpu() {
    let spec = spec(&smallest());
    let mut place = place(0);
    place.accelerator = Accelerator::Kvm;
    let kvm = lines(&arguments(&spec, &place));
    assert!(kvm.contains("-accel kvm\n-cpu host\n"), "{kvm}");
    place.cpu_model = Some("Nehalem".into());
    assert!(lines(&arguments(&spec, &place)).contains("-cpu Nehalem\n"));
}

/// Reads a value as qemu does: pairs end at single commas.
fn pairs(value: &str) -> Vec<String> {
    let mut pairs = vec![String::new()];
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ',' if rest.peek() == Some(&',') => {
                rest.next();
                pairs.last_mut().unwrap().push(',');
            }
            ',' => pairs.push(String::new()),
            c => pairs.last_mut().unwrap().push(c),
        }
    }
    pairs
}

proptest! {
    /// Safety rule 6, R079: whatever a customer writes, the options are the same ones, and no key shows.
    #[test]
    fn no_text_becomes_an_option(name in "[ -~]{0,40}", serial in "[ -~]{0,20}", key in "[a-z]{24}") {
        let value = |name: &str, serial: &str| json!({
            "memory": 64, "cores": 1, "display_name": name,
            "discs": [{"address": "nbd:[fd00::8]:10809", "model": "virtio", "serial": serial, "key": key}],
        });
        let list = |value: &Value| arguments(&spec(value), &place(0));
        let (plain, hostile) = (list(&value("n", "s")), list(&value(&name, &serial)));
        prop_assert_eq!(plain.len(), hostile.len());
        for (plain, hostile) in plain.iter().zip(&hostile) {
            let keys = |text: &str| {
                pairs(text).iter().map(|pair| pair.split('=').next().unwrap().to_owned()).collect::<Vec<_>>()
            };
            prop_assert_eq!(keys(plain), keys(hostile));
        }
        prop_assert!(!hostile.concat().contains(&key));
        let named = format!("guest={name}");
        prop_assert!(hostile.iter().any(|argument| pairs(argument).contains(&named)));
    }
}
