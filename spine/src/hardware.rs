//! The names of virtual hardware that the brain offers and the heads make: profiles (B07), keyboards (R098)
//! and keys (B04).
//!
//! What a name means is the heads' business; which names there are is the same everywhere, so that the brain
//! never takes what no head would start.

use thiserror::Error;

/// Hardware profiles, the newest first: that one is meant when none is named.
pub const HARDWARE_PROFILES: &[&str] = &["virtio2013", "virtio2011", "compatibility2013", "compatibility2011"];

/// The model of a disc or network card that is the hardware profile's own (R102, R107).
pub const MODEL_OF_PROFILE: &str = "";

/// Keyboard layouts: every one that both qemu 7.2 and 10.0 bring.
pub const KEYMAPS: &[&str] = &[
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr", "fr-be", "fr-ca", "fr-ch",
    "hr", "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "no", "pl", "pt", "pt-br", "ru", "sl", "sv", "th", "tr",
];

/// The key combinations that clients offer for `sendkey`. Others can be sent as well.
pub const SENDKEYS: &[&str] = &["ctrl-alt-delete", "ctrl-alt-f1", "ctrl-alt-f2"];

/// Keys pressed together with one `sendkey`.
pub const KEYS_TOGETHER_MAX: usize = 8;

/// Why keys were not pressed.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum KeysError {
    /// A name that is not in [`KEYS`].
    #[error("{0:?} is not a key: expected names such as ctrl-alt-delete")]
    Unknown(String),
    /// None, or more than hands can press.
    #[error("between 1 and {KEYS_TOGETHER_MAX} keys can be pressed together, not {0}")]
    Count(usize),
}

/// Reads `ctrl-alt-delete` into qemu's names of keys.
///
/// # Errors
/// When a name is unknown, or there are none or too many.
pub fn parse_keys(text: &str) -> Result<Vec<&'static str>, KeysError> {
    let count = text.split('-').count();
    if text.is_empty() || count > KEYS_TOGETHER_MAX {
        return Err(KeysError::Count(if text.is_empty() { 0 } else { count }));
    }
    text.split('-').map(|name| find(name).ok_or_else(|| KeysError::Unknown(name.chars().take(40).collect()))).collect()
}

fn find(name: &str) -> Option<&'static str> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, key)| key);
    KEYS.iter().find(|key| **key == name).copied()
}

/// Other names of keys, as older clients and qemu's own human monitor have them.
const ALIASES: [(&str, &str); 5] =
    [("del", "delete"), ("enter", "ret"), ("escape", "esc"), ("control", "ctrl"), ("space", "spc")];

/// Every key, by qemu's name (its type QKeyCode).
pub const KEYS: &[&str] = &[
    "shift",
    "shift_r",
    "alt",
    "alt_r",
    "ctrl",
    "ctrl_r",
    "menu",
    "esc",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "0",
    "minus",
    "equal",
    "backspace",
    "tab",
    "q",
    "w",
    "e",
    "r",
    "t",
    "y",
    "u",
    "i",
    "o",
    "p",
    "bracket_left",
    "bracket_right",
    "ret",
    "a",
    "s",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "semicolon",
    "apostrophe",
    "grave_accent",
    "backslash",
    "z",
    "x",
    "c",
    "v",
    "b",
    "n",
    "m",
    "comma",
    "dot",
    "slash",
    "asterisk",
    "spc",
    "caps_lock",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "f6",
    "f7",
    "f8",
    "f9",
    "f10",
    "num_lock",
    "scroll_lock",
    "kp_divide",
    "kp_multiply",
    "kp_subtract",
    "kp_add",
    "kp_enter",
    "kp_decimal",
    "sysrq",
    "kp_0",
    "kp_1",
    "kp_2",
    "kp_3",
    "kp_4",
    "kp_5",
    "kp_6",
    "kp_7",
    "kp_8",
    "kp_9",
    "less",
    "f11",
    "f12",
    "print",
    "home",
    "pgup",
    "pgdn",
    "end",
    "left",
    "up",
    "down",
    "right",
    "insert",
    "delete",
    "stop",
    "again",
    "props",
    "undo",
    "front",
    "copy",
    "open",
    "paste",
    "find",
    "cut",
    "lf",
    "help",
    "meta_l",
    "meta_r",
    "compose",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b04_keys_are_read_under_either_name() {
        assert_eq!(parse_keys("ctrl-alt-delete").unwrap(), ["ctrl", "alt", "delete"]);
        assert_eq!(parse_keys("ctrl-alt-del").unwrap(), ["ctrl", "alt", "delete"]);
        assert_eq!(parse_keys("f12").unwrap(), ["f12"]);
    }

    #[test]
    fn what_is_no_key_is_named() {
        assert_eq!(parse_keys("ctrl-hyper"), Err(KeysError::Unknown("hyper".into())));
        assert_eq!(parse_keys(""), Err(KeysError::Count(0)));
        assert_eq!(parse_keys("a-b-c-d-e-f-g-h-i"), Err(KeysError::Count(9)));
        assert_eq!(parse_keys("a--b"), Err(KeysError::Unknown(String::new())));
    }

    #[test]
    fn aliases_lead_to_keys() {
        for (alias, key) in ALIASES {
            assert!(!KEYS.contains(&alias) && KEYS.contains(&key), "{alias} → {key}");
        }
    }

    #[test]
    fn b04_what_is_offered_can_be_pressed() {
        for &keys in SENDKEYS {
            assert_eq!(parse_keys(keys).unwrap().join("-"), keys);
        }
    }
}
