//! The `Authorization` header: Basic (RFC 7617) and Bearer (RFC 6750).

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use spine::secret::Secret;

/// Longest header that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// Old clients leave out the padding, or write it.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// What a request says of who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password with every request.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A session's token.
    Bearer(Secret),
}

impl Credentials {
    /// Reads the header's value; none when it is of no known form.
    pub fn read(header: &str) -> Option<Self> {
        if header.len() > HEADER_BYTES_MAX {
            return None;
        }
        let (scheme, value) = header.trim().split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Self::read_basic(value.trim()),
            "bearer" => Some(Self::Bearer(Secret::new(value.trim()))),
            _ => None,
        }
    }

    fn read_basic(value: &str) -> Option<Self> {
        // Some clients use the alphabet that is safe in URLs.
        let alphabet = if value.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
        let bytes = GeneralPurpose::new(alphabet, LENIENT).decode(value).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Self::Basic { username: username.to_owned(), password: Secret::new(password) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(header: &str) -> Option<(String, String)> {
        match Credentials::read(header)? {
            Credentials::Basic { username, password } => Some((username, password.reveal().to_owned())),
            Credentials::Bearer(_) => None,
        }
    }

    #[test]
    fn both_alphabets_of_base64_are_read() {
        let expected = Some(("alice".to_owned(), "a?>~b:c".to_owned()));
        assert_eq!(basic("Basic YWxpY2U6YT8+fmI6Yw=="), expected);
        assert_eq!(basic("basic YWxpY2U6YT8-fmI6Yw=="), expected);
        assert_eq!(basic("Basic YWxpY2U6YT8-fmI6Yw"), expected, "without padding");
    }

    #[test]
    fn tokens_are_taken_as_they_are() {
        assert_eq!(Credentials::read("Bearer abc"), Some(Credentials::Bearer(Secret::new("abc"))));
        assert!(!format!("{:?}", Credentials::read("Bearer abc")).contains("abc"));
    }

    #[test]
    fn anything_else_is_nothing() {
        let long = format!("Bearer {}", "x".repeat(5000));
        for bad in ["", "Basic", "Basic !!!", "Basic YWxpY2U=", "Token token=x", "Basic /w==", &long] {
            assert_eq!(Credentials::read(bad), None, "{bad}");
        }
    }
}
