//! Paths of the API. Each position takes a name or a number.

use super::ClientError;
use std::fmt;

/// A path with its query; names are escaped as they are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    text: String,
    has_query: bool,
    nameless: bool,
}

impl Path {
    /// A path of one fixed word.
    pub fn new(word: &'static str) -> Self {
        Self { text: format!("/{word}"), has_query: false, nameless: false }
    }

    /// Adds a segment. An empty one would name the collection around it, so a path with one cannot
    /// be used; the same goes for `.` and `..`.
    #[must_use]
    pub fn segment(mut self, name: &str) -> Self {
        self.nameless |= matches!(name, "" | "." | "..");
        self.text.push('/');
        escape(&mut self.text, name);
        self
    }

    /// Adds `key=value` to the query.
    #[must_use]
    pub fn query(mut self, key: &'static str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(key);
        self.text.push('=');
        escape(&mut self.text, value);
        self
    }

    pub(super) fn as_str(&self) -> Result<&str, ClientError> {
        if self.nameless { Err(ClientError::NoName) } else { Ok(&self.text) }
    }
}

/// RFC 3986 section 2.3: all but the unreserved characters is written as `%XX`.
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A group: which account, which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPath {
    /// The account's name or number.
    pub account: String,
    /// The group's name or number.
    pub group: String,
}

impl GroupPath {
    pub(super) fn path(&self) -> Path {
        Path::new("accounts").segment(&self.account).segment("groups").segment(&self.group)
    }
}

impl fmt::Display for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.account)
    }
}

/// A VM: which account, which group, which VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPath {
    /// The account's name or number.
    pub account: String,
    /// The group's name or number.
    pub group: String,
    /// The VM's name or number.
    pub vm: String,
}

impl VmPath {
    /// The group it is in.
    pub fn group(&self) -> GroupPath {
        GroupPath { account: self.account.clone(), group: self.group.clone() }
    }

    pub(super) fn path(&self) -> Path {
        self.group().path().segment("virtual_machines").segment(&self.vm)
    }

    pub(super) fn disc(&self, disc: &str) -> Path {
        self.path().segment("discs").segment(disc)
    }
}

impl fmt::Display for VmPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.vm, self.group, self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        let vm = VmPath { account: "a/b".into(), group: "ü".into(), vm: "x?purge=true".into() };
        assert_eq!(
            vm.disc("my disc#1").as_str().unwrap(),
            "/accounts/a%2Fb/groups/%C3%BC/virtual_machines/x%3Fpurge%3Dtrue/discs/my%20disc%231"
        );
    }

    #[test]
    fn a_path_with_a_missing_name_is_not_sent() {
        let vm = VmPath { account: "a".into(), group: "g".into(), vm: "v".into() };
        for bad in ["", ".", ".."] {
            assert!(matches!(vm.disc(bad).as_str(), Err(ClientError::NoName)), "{bad:?}");
        }
    }
}
