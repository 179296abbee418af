//! Names and numbers of things. Each is checked once, where it is parsed.

use crate::limits::NAME_BYTES_MAX;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// Why a text is not a name.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{text:?} is not a valid {what}: {reason}")]
pub struct IdError {
    what: &'static str,
    text: String,
    reason: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        // A hostile peer chooses the text: show a bounded part of it.
        let text = text.chars().take(NAME_BYTES_MAX + 1).collect();
        Self { what, text, reason }
    }
}

/// Checks that `text` is 1 to 63 bytes of `a–z 0–9 - _`, the first a letter or a digit.
fn check_word(what: &'static str, text: &str) -> Result<(), IdError> {
    let reason = match text.as_bytes() {
        [] => "it is empty",
        bytes if bytes.len() > NAME_BYTES_MAX => "it is longer than 63 bytes",
        [first, ..] if !first.is_ascii_lowercase() && !first.is_ascii_digit() => {
            "it must start with a lower-case letter or a digit"
        }
        bytes if bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) => return Ok(()),
        _ => "only a-z, 0-9, - and _ may be in it",
    };
    Err(IdError::new(what, text, reason))
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check_word($what, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

word!(
    /// A head or a tail, as it calls itself in `hello`.
    NodeName, "node name");
word!(
    /// The X of `vm.X`: unique in the cluster. The brain uses the VM's number.
    VmId, "VM id");
word!(
    /// A storage grade: `sata`, `ssd`.
    Grade, "storage grade");
word!(
    /// A storage pool, unique on its tail: `sata1`.
    PoolName, "storage pool name");
word!(
    /// A system image that tails hold: `tiny`.
    ImageName, "image name");

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next higher one; it stays at the highest, which nothing can reach by counting.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Who owns a disc: rises only with a change of owner (safety rule 1).
    Generation);
number!(
    /// Rises with each change of a disc's attachments (safety rule 1).
    AttachmentsVersion);
number!(
    /// Rises with each start of a brain as the active one (safety rule 8).
    Epoch);
number!(
    /// A disc's number, unique in the cluster and never used again.
    DiscNumber);

/// One attempt to move a disc from one tail to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MigrationId(pub uuid::Uuid);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `GRADE.N`, the part of a disc's resource name behind `disc.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiscName {
    /// The grade it was made in.
    pub grade: Grade,
    /// Its number.
    pub number: DiscNumber,
}

impl fmt::Display for DiscName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.grade, self.number)
    }
}

impl FromStr for DiscName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = |reason| IdError::new("disc name", text, reason);
        let (grade, number) = text.split_once('.').ok_or_else(|| error("it must be GRADE.NUMBER"))?;
        let digits_only = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let canonical = digits_only && !number.starts_with('0');
        let number = number.parse().ok().filter(|_| canonical).ok_or_else(|| error("its number must be 1 or more"))?;
        Ok(Self { grade: grade.parse()?, number: DiscNumber(number) })
    }
}

/// What a resource is called on the spine (R069–R074).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceName {
    /// `global.load` and its like: a property of the node.
    Global(String),
    /// `vm.X`: one qemu.
    Vm(VmId),
    /// `disc.GRADE.N`: one disc.
    Disc(DiscName),
    /// A kind this build does not know: carried and shown, never an error (R084).
    Other(String),
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global(name) => write!(f, "global.{name}"),
            Self::Vm(id) => write!(f, "vm.{id}"),
            Self::Disc(name) => write!(f, "disc.{name}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl FromStr for ResourceName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = |reason| IdError::new("resource name", text, reason);
        let (kind, rest) = text.split_once('.').ok_or_else(|| error("it must be KIND.NAME"))?;
        match kind {
            "global" => check_word("resource name", rest).map(|()| Self::Global(rest.to_owned())),
            "vm" => rest.parse().map(Self::Vm),
            "disc" => rest.parse().map(Self::Disc),
            _ if text.len() > 4 * NAME_BYTES_MAX => Err(error("it is longer than 252 bytes")),
            _ => {
                text.split('.').try_for_each(|part| check_word("resource name", part))?;
                Ok(Self::Other(text.to_owned()))
            }
        }
    }
}

impl Serialize for ResourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ResourceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_checked() {
        for good in ["tail1", "sata", "a-b_c", "0"] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "-a", "a.b", "ä", "a b", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn resource_names_read_back_as_written() {
        for text in ["global.load", "vm.web1", "vm.17", "disc.sata.7", "snapshot.sata.7.1"] {
            assert_eq!(text.parse::<ResourceName>().unwrap().to_string(), text);
        }
        for bad in [
            "disc.sata",
            "disc.sata.0",
            "disc.sata.07",
            "disc.sata.+7",
            "disc.sata.99999999999999999999",
            "vm.",
            "vm",
            "",
            ".",
        ] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_stay_short() {
        let error = "UPPER".parse::<VmId>().unwrap_err().to_string();
        assert_eq!(error, "\"UPPER\" is not a valid VM id: it must start with a lower-case letter or a digit");
        assert!("x".repeat(1 << 20).parse::<VmId>().unwrap_err().to_string().len() < 200);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_canonical(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<ResourceName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
