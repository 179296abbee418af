//! Where a brain is: `https://brain.example`.

use super::ClientError;
use std::{fmt, net::IpAddr, str::FromStr};
use ureq::http::Uri;

/// The base URL of a brain, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    base: String,
    tls: bool,
    loopback: bool,
}

impl Location {
    /// True when the brain is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Refuses to send a password in the clear over a network.
    ///
    /// # Errors
    /// [`ClientError::PlainHttp`] for `http://` to another machine.
    pub fn require_private(&self) -> Result<(), ClientError> {
        if self.tls || self.loopback { Ok(()) } else { Err(ClientError::PlainHttp { location: self.to_string() }) }
    }
}

impl FromStr for Location {
    type Err = ClientError;
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let error = |reason: &str| ClientError::BadLocation {
            location: text.chars().take(200).collect(),
            reason: reason.to_owned(),
        };
        let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| error("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(error("it must start with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| error("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(error("a user name and password do not belong in it"));
        }
        if uri.query().is_some() {
            return Err(error("it must not have a query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(error("it names no host"));
        }
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        Ok(Self { base: text.trim_end_matches('/').to_owned(), tls, loopback })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for (text, private) in [
            ("https://brain.example", true),
            ("http://127.0.0.1:8600", true),
            ("http://[::1]:8600/", true),
            ("http://localhost", true),
            ("http://brain.example", false),
            ("http://127.0.0.1.example", false),
            ("http://10.0.0.1", false),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.require_private().is_ok(), private, "{text}");
        }
    }

    #[test]
    fn what_is_no_location_is_named() {
        for bad in [
            "",
            "brain",
            "ftp://x",
            "http://",
            "https://user:secret@brain.example",
            "http://a b",
            "https://x/?a=1",
            "/",
        ] {
            let error = bad.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{bad}: {error}");
        }
    }

    #[test]
    fn a_path_is_kept_and_its_last_slash_is_not() {
        assert_eq!("https://x.example/api/".parse::<Location>().unwrap().to_string(), "https://x.example/api");
    }
}
