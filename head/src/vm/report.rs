//! What may be said of a machine: all of its resource but its secrets.

use serde_json::{Value, json};
use spine::resource::{Attributes, to_attributes, vm::VmResource};

/// What is shown of a disc in place of its key.
pub const KEY_HASH: &str = "key_hash";

/// `vm.X` as it is shown: without passwords and private keys, attachment keys as hashes.
pub fn redacted(vm: &VmResource) -> Attributes {
    let mut shown = vm.clone();
    shown.management_ssh_keys.clear();
    shown.user_authentication.values_mut().for_each(|user| user.password = None);
    for disc in &mut shown.discs {
        if let Some(key) = disc.key.take() {
            disc.extra.insert(KEY_HASH.into(), json!(key.hash().as_str()));
        }
    }
    to_attributes(&shown)
}

/// The attributes of `after` that differ from those of `before`; one that is gone is null.
pub fn changes(before: &Attributes, after: &Attributes) -> Attributes {
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    changed.map(|(name, value)| (name.clone(), value.clone())).chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r112_rule_6_no_secret_is_shown() {
        let vm: VmResource = serde_json::from_value(json!({
            "memory": 64, "cores": 1, "management_ssh_keys": ["PRIVATE"], "detected_kernel": "linux",
            "discs": [{"address": "nbd:h:1", "model": "virtio", "key": "sesame"}],
            "user_authentication": {"amy": {"password": "R0ry", "authorized_keys": "ssh-ed25519 AAAA"}},
        }))
        .unwrap();
        let shown = redacted(&vm);
        let text = serde_json::to_string(&shown).unwrap();
        for secret in ["PRIVATE", "sesame", "R0ry"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(shown["detected_kernel"], "linux", "R084");
        assert!(shown["discs"][0]["key_hash"].as_str().unwrap().starts_with("sha256:"));
        assert_eq!(shown["user_authentication"]["amy"]["authorized_keys"], "ssh-ed25519 AAAA");
    }

    #[test]
    fn only_what_changed_is_told() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let before = object(json!({"a": 1, "b": 2, "c": 3}));
        let after = object(json!({"a": 1, "b": 5, "d": 4}));
        assert_eq!(changes(&before, &after), object(json!({"b": 5, "c": null, "d": 4})));
    }
}
