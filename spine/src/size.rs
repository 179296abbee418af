//! Sizes as people write them. The API counts in MiB, the spine in bytes.

use std::{fmt, str::FromStr};
use thiserror::Error;

/// A size in MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct SizeMib(pub u64);

/// A text that is not a size.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{text:?} is not a size: {reason}; write a number and a unit, as 500M, 25GB or 1.5T (G when there is none)")]
pub struct SizeError {
    text: String,
    reason: &'static str,
}

impl SizeMib {
    /// The size in bytes; none beyond 2^64.
    pub fn bytes(self) -> Option<u64> {
        self.0.checked_mul(1 << 20)
    }
}

/// `NUMBER[M|G|T][iB|B]`, upper or lower case, decimals allowed, units of 1,024; G when none is given.
impl FromStr for SizeMib {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = |reason| SizeError { text: text.chars().take(40).collect(), reason };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit_mib: u128 = match unit.to_ascii_lowercase().as_str() {
            "m" | "mb" | "mib" => 1,
            "" | "g" | "gb" | "gib" => 1 << 10,
            "t" | "tb" | "tib" => 1 << 20,
            _ => return Err(error("its unit is unknown")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || (number.contains('.') && fraction.is_empty()) {
            return Err(error("it has no proper number"));
        }
        if whole.len() > 15 || fraction.len() > 6 {
            return Err(error("its number has too many digits"));
        }
        // At most 15 + 6 digits: the product fits a u128 with room to spare.
        let scale = 10u128.pow(fraction.len() as u32);
        let scaled: u128 = format!("{whole}{fraction}").parse().map_err(|_| error("it has no proper number"))?;
        let mib = scaled * unit_mib / scale;
        if mib == 0 {
            return Err(error("it is less than 1 MiB"));
        }
        u64::try_from(mib).ok().filter(|mib| *mib < 1 << 44).map(Self).ok_or_else(|| error("it is too big"))
    }
}

/// `25 GiB`, `1.5 TiB`, `500 MiB`: the largest unit that loses nothing up to two decimals.
impl fmt::Display for SizeMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, mib) in [("TiB", 1u64 << 20), ("GiB", 1 << 10)] {
            if self.0 >= mib {
                let hundredths = u128::from(self.0) * 100 / u128::from(mib);
                let exact = hundredths * u128::from(mib) == u128::from(self.0) * 100;
                if exact || self.0 >= mib * 10 {
                    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
                    return write!(f, "{} {unit}", text.trim_end_matches('0').trim_end_matches('.'));
                }
            }
        }
        write!(f, "{} MiB", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read() {
        for (text, mib) in
            [("25", 25 << 10), ("25GB", 25 << 10), ("25gib", 25 << 10), ("500M", 500), ("1.5T", 3 << 19), ("0.5g", 512)]
        {
            assert_eq!(text.parse::<SizeMib>().unwrap().0, mib, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_named() {
        for bad in
            ["", "G", "-1G", "1..5G", "1.G", ".5G", "1X", "1e9", "0", "0.0001M", "99999999999999999999", " 1G", "1 G"]
        {
            let error = bad.parse::<SizeMib>().unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit() {
        for (mib, text) in [
            (1, "1 MiB"),
            (1024, "1 GiB"),
            (25 << 10, "25 GiB"),
            (1536, "1.5 GiB"),
            (1 << 20, "1 TiB"),
            (1500, "1500 MiB"),
        ] {
            assert_eq!(SizeMib(mib).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "[0-9.a-zA-Z]{0,40}") {
            let _ = text.parse::<SizeMib>();
        }
    }
}
