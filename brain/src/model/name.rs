//! Names that customers choose. VMs, groups and accounts become labels of DNS names (R155).

use spine::limits::NAME_BYTES_MAX;

/// Shortest name of an account, a group or a user.
pub const NAME_CHARS_MIN: usize = 3;
/// Longest label of a disc, in bytes.
pub const LABEL_BYTES_MAX: usize = NAME_BYTES_MAX;

/// Checks a VM's name: a DNS label of 1 to 63 lower-case letters, digits and dashes.
///
/// A name of digits alone is refused: in a path it would be taken for a number.
///
/// # Errors
/// The API's sentence.
pub fn check_vm(name: &str) -> Result<(), String> {
    check(name, 1)
}

/// Checks the name of an account, a group or a user: as a VM's, and at least three characters.
///
/// # Errors
/// The API's sentence.
pub fn check_owner(name: &str) -> Result<(), String> {
    check(name, NAME_CHARS_MIN)
}

/// Checks a disc's label: 1 to 63 letters, digits, dashes, dots and underscores, not digits alone.
///
/// # Errors
/// The API's sentence.
pub fn check_label(label: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match label {
        "" => Err("can't be blank".into()),
        _ if label.len() > LABEL_BYTES_MAX => Err(format!("is too long (maximum is {LABEL_BYTES_MAX} characters)")),
        _ if !label.bytes().all(plain) || is_number(label) || label.starts_with('.') => Err("is invalid".into()),
        _ => Ok(()),
    }
}

fn check(name: &str, chars_min: usize) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() {
        Err("can't be blank".into())
    } else if name.chars().count() < chars_min {
        Err(format!("is too short (minimum is {chars_min} characters)"))
    } else if name.len() > NAME_BYTES_MAX {
        Err(format!("is too long (maximum is {NAME_BYTES_MAX} characters)"))
    } else if !name.bytes().all(plain) || name.starts_with('-') || name.ends_with('-') || is_number(name) {
        Err("is invalid".into())
    } else {
        Ok(())
    }
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

/// The position of a thing in a path or query: its number, or its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Spec {
    /// All digits: a number.
    Id(i64),
    /// Anything else.
    Name(String),
}

impl Spec {
    /// Reads a path segment; none when nothing can have it as its name.
    pub fn read(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 253 || text.contains('\0') {
            return None;
        }
        match is_number(text) {
            true => text.parse().ok().map(Self::Id),
            false => Some(Self::Name(text.to_owned())),
        }
    }

    /// The number, for stores that look up by either.
    pub fn id(&self) -> Option<i64> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(_) => None,
        }
    }

    /// The name, for stores that look up by either.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r155_names_are_dns_labels() {
        for good in ["a", "web1", "a-b", "1a", &"x".repeat(63)] {
            assert_eq!(check_vm(good), Ok(()), "{good}");
        }
        for bad in ["A", "a.b", "-a", "a-", "17", "a b", "ä", "a_b", "a\0", "../x"] {
            assert_eq!(check_vm(bad), Err("is invalid".into()), "{bad:?}");
        }
        assert_eq!(check_vm(""), Err("can't be blank".into()));
        assert_eq!(check_vm(&"x".repeat(64)), Err("is too long (maximum is 63 characters)".into()));
    }

    #[test]
    fn owners_have_three_characters() {
        assert_eq!(check_owner("ab"), Err("is too short (minimum is 3 characters)".into()));
        assert_eq!(check_owner("abc"), Ok(()));
    }

    #[test]
    fn labels_are_what_clients_send() {
        for good in ["vda", "disc-1", "x-backup-20161122134250", "Data.1_a"] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for bad in ["1", "a b", "a/b", ".", "..", "a+b", "\0"] {
            assert!(check_label(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn specs_are_numbers_or_names() {
        assert_eq!(Spec::read("17"), Some(Spec::Id(17)));
        assert_eq!(Spec::read("web1"), Some(Spec::Name("web1".into())));
        for nothing in ["", "99999999999999999999", "a\0b", &"x".repeat(300)] {
            assert_eq!(Spec::read(nothing), None, "{nothing:?}");
        }
    }
}
