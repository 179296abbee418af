//! Short texts that people type: `vm.group.account` and `grade:size`.

use crate::{
    id::{Grade, IdError},
    limits::DISCS_PER_VM_MAX,
    size::{SizeError, SizeMib},
};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The grade of a disc when none is said.
pub const GRADE_DEFAULT: &str = "sata";

/// `vm[.group[.account[.anything]]]`: what is missing comes from the caller's defaults. A whole DNS
/// name works too (R155).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// The VM's name or number.
    pub vm: String,
    /// Its group, when said.
    pub group: Option<String>,
    /// Its account, when said.
    pub account: Option<String>,
}

/// A text that does not name a VM.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{text:?} does not name a VM: {reason}; write it as vm, vm.group or vm.group.account")]
pub struct VmSpecError {
    text: String,
    reason: &'static str,
}

impl FromStr for VmSpec {
    type Err = VmSpecError;
    fn from_str(text: &str) -> Result<Self, VmSpecError> {
        let error = |reason| VmSpecError { text: text.chars().take(80).collect(), reason };
        if text.len() > 253 {
            return Err(error("it is longer than 253 bytes"));
        }
        let parts: Vec<&str> = text.split('.').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(error("a part of it is empty"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !text.bytes().all(|b| plain(b) || b == b'.') {
            return Err(error("only letters, digits, - and _ may be in it"));
        }
        let part = |n: usize| parts.get(n).map(|part| (*part).to_owned());
        Ok(Self { vm: parts[0].to_owned(), group: part(1), account: part(2) })
    }
}

/// `[grade:]size`, as `ssd:2GB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscSpec {
    /// The storage grade.
    pub grade: Grade,
    /// The size.
    pub size: SizeMib,
}

/// A text that does not describe a disc.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum DiscSpecError {
    /// The part before the colon.
    #[error(transparent)]
    Grade(#[from] IdError),
    /// The part behind it.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Over [`DISCS_PER_VM_MAX`] (R026).
    #[error("{0} discs are too many: a VM has at most {DISCS_PER_VM_MAX}")]
    TooMany(usize),
}

impl FromStr for DiscSpec {
    type Err = DiscSpecError;
    fn from_str(text: &str) -> Result<Self, DiscSpecError> {
        let (grade, size) = text.rsplit_once(':').unwrap_or((GRADE_DEFAULT, text));
        Ok(Self { grade: grade.parse()?, size: size.parse()? })
    }
}

impl fmt::Display for DiscSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}M", self.grade, self.size.0)
    }
}

/// A comma list of disc specs, in the guest's order.
///
/// # Errors
/// The first spec that is wrong, or that there are too many.
pub fn parse_disc_specs(text: &str) -> Result<Vec<DiscSpec>, DiscSpecError> {
    let count = text.split(',').count();
    if count > DISCS_PER_VM_MAX {
        return Err(DiscSpecError::TooMany(count));
    }
    text.split(',').map(|spec| spec.trim().parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r155_vm_names_have_up_to_three_parts_and_a_domain() {
        let whole: VmSpec = "inkling.default.matthew.uk0.bigv.io".parse().unwrap();
        assert_eq!(
            (whole.vm.as_str(), whole.group.as_deref(), whole.account.as_deref()),
            ("inkling", Some("default"), Some("matthew"))
        );
        assert_eq!("web1".parse::<VmSpec>().unwrap().group, None);
        for bad in ["", ".", "a.", ".a", "a..b", "a/b", "a b", "ä", &"x".repeat(300)] {
            assert!(bad.parse::<VmSpec>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn disc_specs_have_a_grade_and_a_size() {
        let specs = parse_disc_specs("sata:25GB,archive:500,10").unwrap();
        let shown: Vec<String> = specs.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["sata:25600M", "archive:512000M", "sata:10240M"]);
        for bad in ["", "sata:", ":5", "SATA:5", "sata:5,,", "a:b:5"] {
            assert!(parse_disc_specs(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn r026_the_ninth_disc_is_refused() {
        assert_eq!(parse_disc_specs(&["1"; 9].join(",")), Err(DiscSpecError::TooMany(9)));
        assert_eq!(parse_disc_specs(&["1"; 8].join(",")).unwrap().len(), 8);
    }
}
