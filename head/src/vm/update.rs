//! What an `update vm.X` asks for (R086–R089): pure.

use super::{
    report::KEY_HASH,
    spec::{CdromUrl, Spec, read},
};
use crate::{config::Config, control::refusal};
use spine::{
    hardware::parse_keys,
    message::Refusal,
    resource::{
        Attributes, apply_update, to_attributes,
        vm::{NetworkInterface, SIGNAL, Signal, VmDisc, VmResource},
    },
};

/// An update, fully checked.
#[derive(Debug, PartialEq)]
pub struct Update {
    /// The resource as it will be.
    pub next: VmResource,
    /// Put this into the drive; `Some(None)`: take out what is there.
    pub cdrom: Option<Option<CdromUrl>>,
    /// Discs that change their size: which, and the new one in bytes.
    pub sizes: Vec<(usize, u64)>,
    /// Who may use the console has changed.
    pub users_changed: bool,
    /// What to do to the guest.
    pub signal: Option<Press>,
}

/// What is done to a guest from outside.
#[derive(Debug, PartialEq, Eq)]
pub enum Press {
    /// The ACPI power button.
    Powerdown,
    /// The reset button.
    Reset,
    /// These keys together.
    Keys(Vec<&'static str>),
}

/// Checks an update of a running machine. Nothing of a refused one is done.
///
/// # Errors
/// Names the attribute.
pub fn check(current: &VmResource, changes: &Attributes, config: &Config) -> Result<Update, Refusal> {
    let mut changes = changes.clone();
    let signal = changes.remove(SIGNAL).map(|value| serde_json::from_value(value).map_err(|e| bad(SIGNAL, e)));
    let signal = match signal.transpose()? {
        None => None,
        Some(Signal::Powerdown) => Some(Press::Powerdown),
        Some(Signal::Reset) => Some(Press::Reset),
        Some(Signal::Sendkey(text)) => Some(Press::Keys(parse_keys(&text).map_err(|e| bad(SIGNAL, e))?)),
    };
    let mut attributes = to_attributes(current);
    apply_update(&mut attributes, &changes);
    let mut next: VmResource = read(&attributes).map_err(|e| refusal(e.code, e.to_string()))?;
    // A change of size need not repeat the key.
    for (disc, before) in next.discs.iter_mut().zip(&current.discs) {
        // It is in what the brain was told of the machine, in place of the key.
        disc.extra.remove(KEY_HASH);
        disc.key = disc.key.take().or_else(|| before.key.clone());
        disc.size = disc.size.or(before.size);
    }
    if let Some(attribute) = fixed(current, &next) {
        let message = format!("{attribute} of a running machine cannot change: it takes effect at the next start");
        return Err(refusal("needs-restart", message));
    }
    Spec::check_running(&next, config).map_err(|e| refusal(e.code, e.to_string()))?;
    let cdrom = (next.cdrom_url != current.cdrom_url)
        .then(|| next.cdrom_url.as_deref().map(CdromUrl::parse).transpose())
        .transpose()
        .map_err(|e| refusal(e.code, e.to_string()))?;
    let size = |(n, (disc, before)): (usize, (&VmDisc, &VmDisc))| {
        disc.size.filter(|size| before.size != Some(*size)).map(|size| (n, size))
    };
    let sizes = next.discs.iter().zip(&current.discs).enumerate().filter_map(size).collect();
    let users_changed =
        next.console_users != current.console_users || next.user_authentication != current.user_authentication;
    Ok(Update { cdrom, sizes, users_changed, signal, next })
}

fn bad(attribute: &str, error: impl std::fmt::Display) -> Refusal {
    refusal("bad-value", format!("{attribute}: {error}"))
}

/// The first attribute that would change and cannot.
fn fixed(current: &VmResource, next: &VmResource) -> Option<&'static str> {
    let card = |card: &NetworkInterface| (card.mac.to_ascii_lowercase(), card.vlan_id, card.model.clone());
    let disc = |disc: &VmDisc| (disc.address.clone(), disc.model.clone(), disc.serial.clone(), disc.key.clone());
    let same = |same: bool, attribute| (!same).then_some(attribute);
    same(current.memory == next.memory, "memory")
        .or(same(current.cores == next.cores, "cores"))
        .or(same(current.balloon_on == next.balloon_on, "balloon_on"))
        .or(same(current.hardware_profile == next.hardware_profile, "hardware_profile"))
        .or(same(current.keymap == next.keymap, "keymap"))
        .or(same(current.management_address == next.management_address, "management_address"))
        .or(same(current.management_ssh_keys == next.management_ssh_keys, "management_ssh_keys"))
        .or(same(
            current.network_interfaces.iter().map(card).eq(next.network_interfaces.iter().map(card)),
            "network_interfaces",
        ))
        .or(same(current.discs.iter().map(disc).eq(next.discs.iter().map(disc)), "discs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::EXAMPLE;
    use serde_json::{Value, json};

    fn current() -> VmResource {
        serde_json::from_value(json!({
            "memory": 64, "cores": 1, "console_users": ["amy"], "display_name": "web1",
            "user_authentication": {"amy": {"password": "R0ry"}},
            "discs": [{"address": "nbd:h:1", "model": "virtio", "key": "sesame", "size": 1024}],
        }))
        .unwrap()
    }

    fn checked(changes: Value) -> Result<Update, Refusal> {
        check(&current(), changes.as_object().unwrap(), &toml::from_str(EXAMPLE).unwrap())
    }

    #[test]
    fn r086_only_what_is_named_changes() {
        let update = checked(json!({"detected_kernel": "linux"})).unwrap();
        assert_eq!((update.cdrom, update.sizes, update.users_changed, update.signal), (None, vec![], false, None));
        assert_eq!(update.next.extra["detected_kernel"], "linux", "R084");
    }

    #[test]
    fn r089_a_cd_goes_in_and_out() {
        assert!(matches!(checked(json!({"cdrom_url": "http://a/b"})).unwrap().cdrom, Some(Some(_))));
        assert_eq!(checked(json!({"cdrom_url": null})).unwrap().cdrom, None, "it is empty already");
        assert_eq!(checked(json!({"cdrom_url": "file://a/b"})).unwrap_err().error, "bad-value");
        assert_eq!(checked(json!({"cdrom_url": 7})).unwrap_err().error, "bad-value");
    }

    #[test]
    fn r087_a_size_is_passed_on_without_the_key() {
        // As the brain writes it, from what it was told.
        let mut disc = crate::vm::report::redacted(&current())["discs"][0].clone();
        disc["size"] = json!(2048);
        let update = checked(json!({"discs": [disc]})).unwrap();
        assert_eq!(update.sizes, [(0, 2048)]);
        assert!(update.next.discs[0].extra.is_empty());
        assert_eq!(update.next.discs[0].key.as_ref().unwrap().reveal(), "sesame");
    }

    #[test]
    fn what_a_running_machine_cannot_change_is_named() {
        let other = json!([{"address": "nbd:h:2", "model": "virtio"}]);
        for (changes, attribute) in [
            (json!({"memory": 65}), "memory"),
            (json!({"cores": 2}), "cores"),
            (json!({"keymap": "en-gb"}), "keymap"),
            (json!({"discs": []}), "discs"),
            (json!({"discs": other}), "discs"),
            (json!({"management_address": "10.0.0.1"}), "management_address"),
        ] {
            let refusal = checked(changes).unwrap_err();
            assert_eq!(refusal.error, "needs-restart");
            assert!(refusal.message.starts_with(attribute), "{}", refusal.message);
        }
        assert!(checked(json!({"memory": 64, "display_name": "web2"})).is_ok(), "the same memory is no change");
    }

    #[test]
    fn r186_a_network_that_the_head_has_lost_stands_in_the_way_of_nothing_else() {
        let card = json!({"mac": "fe:ff:00:00:00:01", "vlan_id": 7, "model": "virtio"});
        let adopted = VmResource { network_interfaces: serde_json::from_value(json!([card])).unwrap(), ..current() };
        let config: Config = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(config.bridge_of(7), None);
        let checked = |changes: Value| check(&adopted, changes.as_object().unwrap(), &config);
        assert!(matches!(checked(json!({"cdrom_url": "http://a/b"})).unwrap().cdrom, Some(Some(_))));
        assert_eq!(checked(json!({"signal": {"signal": "reset"}})).unwrap().signal, Some(Press::Reset));
        assert!(checked(json!({"network_interfaces": [card]})).is_ok(), "the same card is no change");
        let moved = json!([{"mac": "fe:ff:00:00:00:01", "vlan_id": 8, "model": "virtio"}]);
        assert_eq!(checked(json!({"network_interfaces": moved})).unwrap_err().error, "needs-restart");
        assert_eq!(checked(json!({"cdrom_url": "file://a/b"})).unwrap_err().error, "bad-value");
    }

    #[test]
    fn b04_signals_are_checked_and_not_kept() {
        let sendkey = |keys: &str| checked(json!({"signal": {"signal": "sendkey", "data": keys}}));
        let update = sendkey("ctrl-alt-del").unwrap();
        assert_eq!(update.signal, Some(Press::Keys(vec!["ctrl", "alt", "delete"])));
        assert!(!update.next.extra.contains_key("signal"));
        assert!(sendkey("ctrl-bang").unwrap_err().message.contains("\"bang\" is not a key"));
        assert_eq!(checked(json!({"signal": {"signal": "explode"}})).unwrap_err().error, "bad-value");
        assert_eq!(checked(json!({"signal": {"signal": "reset"}})).unwrap().signal, Some(Press::Reset));
    }
}
