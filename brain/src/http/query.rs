//! Percent-decoding of paths, queries and forms.
//!
//! Old clients write a space as `+` in paths too; no name has a `+` or a space, so that it does not
//! matter there.

/// Bytes of a query or form that are looked at.
pub const QUERY_BYTES_MAX: usize = 8 << 10;

/// The names and values of a query or form, in order. What is not UTF-8 becomes U+FFFD, which is
/// part of no name.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let text = text.get(..QUERY_BYTES_MAX.min(text.len())).unwrap_or_default();
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    };
    text.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// `+` is a space, `%41` is an `A`; a `%` with anything else behind it stays.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = match byte {
            b'%' => hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2))).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match (escaped, byte) {
            (Some(value), _) => {
                decoded.push(value);
                at += 2;
            }
            (None, b'+') => decoded.push(b' '),
            (None, byte) => decoded.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    char::from(*digit?).to_digit(16).map(|value| value as u8)
}

/// The value of a boolean in a query: clients write `true` and `True`.
pub fn is_true(value: &str) -> bool {
    matches!(value, "true" | "True" | "TRUE" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_read() {
        let read = pairs("a=1&b=x+y%2Fz&&c&d=%zz%4");
        let expected = [("a", "1"), ("b", "x y/z"), ("c", ""), ("d", "%zz%4")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn purge_false_does_not_purge() {
        for (value, expected) in [("true", true), ("True", true), ("False", false), ("false", false), ("", false)] {
            assert_eq!(is_true(value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,100}") {
            pairs(&text);
        }
    }
}
