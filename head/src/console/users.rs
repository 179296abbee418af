//! Who may use a console, and what proves who they are (R111, R112, R140).

use super::limits::{ARGON2_COST_MAX, ARGON2_MEMORY_KIB_MAX, AUTHORIZED_KEYS_MAX, PASSWORD_MAX};
use argon2::{
    Argon2,
    password_hash::{PasswordVerifier, phc::PasswordHash},
};
use russh::keys::{PublicKey, parse_public_key_base64, ssh_key::public::KeyData};
use spine::{resource::vm::UserAuthentication, secret::Secret};
use std::collections::BTreeMap;

/// The users of one console. A name must be in both: listed, and with something to prove it by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsoleUsers {
    /// Who may come in; others are refused (R111).
    pub names: Vec<String>,
    /// How each of them proves who they are (R112).
    pub authentication: BTreeMap<String, UserAuthentication>,
}

/// Who a connection has proved to be, and with what: enough to ask again after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// What was accepted.
    pub proof: Proof,
}

/// What a user was let in with.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// A public key out of `authorized_keys`, whose owner signed.
    Key(KeyData),
    /// The password as it is stored, not as it was typed.
    Password(Secret),
}

impl ConsoleUsers {
    /// True when `user` may come in with `key`.
    pub fn accept_key(&self, user: &str, key: &KeyData) -> bool {
        let keys = self.authentication_of(user).and_then(|of| of.authorized_keys.as_deref()).unwrap_or_default();
        authorized_keys(keys).any(|authorized| authorized.key_data() == key)
    }

    /// The stored password of `user`, to be given to [`password_matches`].
    pub fn stored_password(&self, user: &str) -> Option<&Secret> {
        self.authentication_of(user)?.password.as_ref()
    }

    /// True when what `identity` was let in with would still be accepted.
    pub fn still_accept(&self, identity: &Identity) -> bool {
        match &identity.proof {
            Proof::Key(key) => self.accept_key(&identity.user, key),
            Proof::Password(stored) => self.stored_password(&identity.user) == Some(stored),
        }
    }

    fn authentication_of(&self, user: &str) -> Option<&UserAuthentication> {
        self.names.iter().find(|name| name.as_str() == user)?;
        self.authentication.get(user)
    }
}

/// True when `typed` is the stored password: a PHC string of the argon2 family, or plain text.
/// Takes a core for some 50 ms: not for the threads of the runtime. An empty password matches
/// nothing, nor does a hash that is damaged or whose cost is beyond the limits.
pub fn password_matches(stored: &Secret, typed: &str) -> bool {
    if stored.reveal().is_empty() || typed.is_empty() || typed.len() > PASSWORD_MAX {
        return false;
    }
    // A damaged hash must not become a plain password, or the hash itself would open the console.
    if !stored.reveal().starts_with("$argon2") {
        return stored.hash().matches(typed);
    }
    let Ok(hash) = PasswordHash::new(stored.reveal()) else { return false };
    affordable(&hash) && Argon2::default().verify_password(typed.as_bytes(), &hash).is_ok()
}

/// The cost stands in the hash itself, which came from outside.
fn affordable(hash: &PasswordHash) -> bool {
    let within = |name: &str, most: u32| hash.params.get_decimal(name).is_none_or(|value| value <= most);
    within("m", ARGON2_MEMORY_KIB_MAX) && within("t", ARGON2_COST_MAX) && within("p", ARGON2_COST_MAX)
}

/// The usable keys of an `authorized_keys` text, one a line. Blank lines, comments and lines that
/// cannot be read are passed over. A line with options is refused unless they only forbid what no
/// console does: honouring `from=` half would be worse than not letting the key in.
fn authorized_keys(text: &str) -> impl Iterator<Item = PublicKey> {
    let end = (0..=text.len().min(AUTHORIZED_KEYS_MAX)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].lines().filter_map(authorized_key)
}

fn authorized_key(line: &str) -> Option<PublicKey> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let mut algorithm = words.next()?;
    if algorithm.split(',').all(|option| HARMLESS_OPTIONS.iter().any(|known| known.eq_ignore_ascii_case(option))) {
        algorithm = words.next()?;
    }
    if !ALGORITHMS.contains(&algorithm) {
        return None;
    }
    let key = parse_public_key_base64(words.next()?).ok()?;
    (key.algorithm().as_str() == algorithm).then_some(key)
}

/// DSA is gone from OpenSSH; keys held in hardware (`sk-`) sign with the same client.
const ALGORITHMS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Options that forbid only what a console never does.
const HARMLESS_OPTIONS: [&str; 3] = ["no-agent-forwarding", "no-x11-forwarding", "no-user-rc"];

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::{Algorithm, Params, Version, password_hash::PasswordHasher};
    use proptest::prelude::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn blob(line: &str) -> KeyData {
        let base64 = line.split(' ').nth(1).unwrap();
        parse_public_key_base64(base64).unwrap().key_data().clone()
    }

    fn users(authorized_keys: &str) -> ConsoleUsers {
        let of = UserAuthentication { authorized_keys: Some(authorized_keys.into()), ..Default::default() };
        ConsoleUsers {
            names: vec!["amy".into()],
            authentication: [("amy".into(), of.clone()), ("rory".into(), of)].into(),
        }
    }

    #[test]
    fn r112_keys_are_read_one_a_line() {
        for line in [
            ED25519.to_owned(),
            format!("  {ED25519} amy@leadworth, with a long comment  "),
            format!("# a comment\r\n\r\n{ED25519}\r\n"),
            format!("not a key\nssh-rsa rubbish\n{ED25519}"),
            format!("no-X11-forwarding,no-agent-forwarding {ED25519} amy"),
        ] {
            assert!(users(&line).accept_key("amy", &blob(ED25519)), "R112: {line:?}");
        }
    }

    #[test]
    fn r112_a_key_with_options_that_are_not_understood_is_refused() {
        for line in [
            format!("from=\"10.0.0.1\" {ED25519}"),
            format!("command=\"true\" {ED25519}"),
            format!("no-X11-forwarding,from=\"10.0.0.1\" {ED25519}"),
            format!("cert-authority {ED25519}"),
            format!("#{ED25519}"),
            ED25519.replacen("ssh-ed25519", "ssh-rsa", 1),
            format!("{}{ED25519}", "#\n".repeat(AUTHORIZED_KEYS_MAX)),
        ] {
            let start: String = line.chars().take(80).collect();
            assert!(!users(&line).accept_key("amy", &blob(ED25519)), "R112: {start:?}");
        }
    }

    #[test]
    fn r111_a_user_who_is_not_listed_is_refused() {
        let users = users(ED25519);
        assert!(!users.accept_key("rory", &blob(ED25519)), "R111: has a key, is not listed");
        assert!(!users.accept_key("", &blob(ED25519)));
        assert!(!users.accept_key("root", &blob(ED25519)), "R140: UNIX users mean nothing here");
    }

    #[test]
    fn r112_plain_passwords() {
        let stored = Secret::new("R0ry $ignificant");
        assert!(password_matches(&stored, "R0ry $ignificant"));
        assert!(password_matches(&Secret::new("$dollar$first"), "$dollar$first"));
        assert!(!password_matches(&stored, "R0ry"));
        assert!(!password_matches(&stored, ""));
        assert!(!password_matches(&Secret::new(""), ""), "R112: an empty password opens nothing");
        let long = "x".repeat(PASSWORD_MAX + 1);
        assert!(!password_matches(&Secret::new(long.clone()), &long));
    }

    #[test]
    fn r112_hashed_passwords() {
        let small = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let stored = Secret::new(small.hash_password(b"R0ry").unwrap().to_string());
        assert!(stored.reveal().starts_with("$argon2id$"));
        assert!(password_matches(&stored, "R0ry"));
        assert!(!password_matches(&stored, "Rory"));
        assert!(!password_matches(&stored, stored.reveal()), "R112: the hash itself is no password");
        let damaged = &stored.reveal()[..20];
        assert!(!password_matches(&Secret::new(damaged), damaged), "R112: nor is a damaged one");
    }

    #[test]
    fn a_hash_that_asks_for_too_much_is_not_computed() {
        let small = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let hash = small.hash_password(b"R0ry").unwrap().to_string();
        for (cheap, costly) in [("m=64", "m=4194304"), ("t=1", "t=1000000"), ("p=1", "p=255")] {
            let costly = hash.replacen(cheap, costly, 1);
            assert_ne!(costly, hash);
            assert!(!password_matches(&Secret::new(costly), "R0ry"));
        }
    }

    #[test]
    fn a_withdrawn_proof_is_not_accepted_again() {
        let mut users = users(ED25519);
        let by_key = Identity { user: "amy".into(), proof: Proof::Key(blob(ED25519)) };
        assert!(users.still_accept(&by_key));
        users.authentication.get_mut("amy").unwrap().password = Some(Secret::new("new"));
        let by_password = Identity { user: "amy".into(), proof: Proof::Password(Secret::new("old")) };
        assert!(!users.still_accept(&by_password), "R112: the password was changed");
        assert!(users.still_accept(&by_key));
        users.names.clear();
        assert!(!users.still_accept(&by_key), "R111: not listed any more");
    }

    proptest! {
        /// What is stored came from outside: damage lets nobody in, and harms nobody.
        #[test]
        fn damaged_keys_are_passed_over(
            damage in prop::collection::vec((12usize..80, proptest::char::range('!', '~')), 1..4),
            noise in ".{0,200}",
        ) {
            let mut line: Vec<char> = ED25519.chars().collect();
            for (at, character) in damage {
                line[at] = character;
            }
            let line: String = line.into_iter().collect();
            prop_assume!(line != ED25519);
            prop_assert!(!users(&line).accept_key("amy", &blob(ED25519)));
            let with_a_good_one = users(&format!("{line}\n{noise}\n{ED25519}"));
            prop_assert!(with_a_good_one.accept_key("amy", &blob(ED25519)));
        }

        #[test]
        fn damaged_hashes_match_nothing(text in "\\$argon2(id|i|d)(\\$(v=[0-9]{1,4}|m=[0-9]{1,3},t=[12],p=[12]|[A-Za-z0-9+/]{0,40})){0,5}") {
            prop_assert!(!password_matches(&Secret::new(text), "R0ry"));
        }
    }
}
