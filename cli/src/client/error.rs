//! Why a call did not work, sorted by who can do something about it.

use super::Location;
use serde_json::Value;
use std::{fmt, io};
use thiserror::Error;
use ureq::http::StatusCode;

/// Problems of one answer that are shown: more would not help anyone.
const PROBLEMS_MAX: usize = 50;
/// How deep a 400 body is searched: `discs[1].size` is three.
const PROBLEM_DEPTH_MAX: usize = 8;

/// One wrong attribute: `discs[1].size`, `must be greater than or equal to 50`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, from the outside in; empty when the brain did not say.
    pub attribute: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attribute.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.attribute, self.message)
        }
    }
}

/// Why a call did not work.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The base URL.
    #[error("{location:?} is not the location of a brain: {reason}")]
    BadLocation {
        /// As it was given.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A password would go over a network unencrypted.
    #[error("{location} is plain http to another machine, which would show your password to the network")]
    PlainHttp {
        /// The brain.
        location: String,
    },
    /// A name is empty, `.` or `..`.
    #[error("a name is empty: there is nothing to ask the brain for")]
    NoName,
    /// There are no credentials, and the call needs some.
    #[error("this needs a login, and there are no credentials")]
    LoginNeeded,
    /// The brain does not accept the credentials.
    #[error("the brain does not accept the login of {username:?}{text}")]
    LoginRefused {
        /// The login.
        username: String,
        /// What the brain said.
        text: String,
    },
    /// A fresh session was not accepted either.
    #[error("the brain does not accept this session{0}")]
    Unauthorized(String),
    /// You may see it but not do this.
    #[error("you may see {what}, but you may not do this to it{text}")]
    Forbidden {
        /// The object.
        what: String,
        /// What the brain said, if anything.
        text: String,
    },
    /// It does not exist, or you may not see it; the brain does not say which.
    #[error("{what} does not exist, or you may not see it")]
    NotFound {
        /// The object.
        what: String,
    },
    /// The brain refused the values.
    #[error("the brain refused {what}:{}", join(problems))]
    BadRequest {
        /// The object.
        what: String,
        /// Attribute by attribute.
        problems: Vec<Problem>,
    },
    /// No connection.
    #[error("cannot reach the brain at {location}: {reason}")]
    Unreachable {
        /// The brain.
        location: String,
        /// Why.
        reason: String,
    },
    /// The connection broke off: what was asked may have been done.
    #[error("the connection to the brain at {location} broke off: {reason}")]
    BrokeOff {
        /// The brain.
        location: String,
        /// How.
        reason: String,
    },
    /// No answer in time.
    #[error("the brain at {location} did not answer in time ({what})")]
    TimedOut {
        /// The brain.
        location: String,
        /// Which of the timeouts.
        what: String,
    },
    /// 502, 503 or 504: it, or what stands before it, says so.
    #[error("the brain is unavailable just now{0}")]
    Unavailable(String),
    /// 500.
    #[error("the brain met an internal error{0}")]
    Internal(String),
    /// A status code that has no meaning in this API.
    #[error("the brain answered {status} about {what}, which this version of bigv does not understand{text}")]
    Unexpected {
        /// The object.
        what: String,
        /// The code.
        status: u16,
        /// What the brain said, if anything.
        text: String,
    },
    /// An answer that is not what the API says.
    #[error("the brain's answer about {what} makes no sense: {reason}")]
    BadAnswer {
        /// The object.
        what: String,
        /// Why not.
        reason: String,
    },
}

impl ClientError {
    /// True when the same read may well work in a moment: worth waiting on.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::BrokeOff { .. } | Self::TimedOut { .. } | Self::Unavailable(_))
    }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// `text` is the body cut to a screenful, `body` all of it.
pub(super) fn from_status(what: &str, status: StatusCode, text: &str, body: &str) -> ClientError {
    let what = what.to_owned();
    let said = said(text);
    match status.as_u16() {
        400 => ClientError::BadRequest { what, problems: problems(body, text) },
        401 => ClientError::Unauthorized(said),
        403 => ClientError::Forbidden { what, text: said },
        404 => ClientError::NotFound { what },
        502..=504 => ClientError::Unavailable(said),
        500 => ClientError::Internal(said),
        status => ClientError::Unexpected { what, status, text: said },
    }
}

/// Pages of proxies are not worth showing, sentences are.
pub(super) fn said(text: &str) -> String {
    if text.is_empty() || text.starts_with('<') {
        return String::new();
    }
    if let Ok(Value::Object(object)) = serde_json::from_str(text) {
        let words: Vec<String> = object
            .iter()
            .filter_map(|(key, value)| {
                let value = value.as_str()?;
                Some(if key == "error" { value.to_owned() } else { format!("{key} {value}") })
            })
            .collect();
        if !words.is_empty() {
            return format!(": {}", words.join(", "));
        }
    }
    format!(": {text}")
}

fn problems(body: &str, text: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::from_str::<Value>(body) {
        collect(&mut found, String::new(), &value, PROBLEM_DEPTH_MAX);
    }
    if found.is_empty() {
        let message = if text.is_empty() { "it did not say why".to_owned() } else { text.to_owned() };
        found.push(Problem { attribute: String::new(), message });
    }
    found
}

/// `{"size":["a","b"]}`, `{"size":"a"}`, and for discs a list by position: `{"discs":[{},{"size":["a"]}]}`.
fn collect(found: &mut Vec<Problem>, at: String, value: &Value, depth: usize) {
    if found.len() >= PROBLEMS_MAX || depth == 0 {
        return;
    }
    match value {
        Value::String(message) => {
            found.push(Problem { attribute: at, message: message.chars().take(300).collect() });
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let at = if item.is_object() { format!("{at}[{n}]") } else { at.clone() };
                collect(found, at, item, depth - 1);
            }
        }
        Value::Object(object) => {
            for (key, item) in object {
                let key: String = key.chars().take(80).collect();
                let at = if at.is_empty() { key } else { format!("{at}.{key}") };
                collect(found, at, item, depth - 1);
            }
        }
        _ => {}
    }
}

pub(super) fn from_transport(location: &Location, error: ureq::Error) -> ClientError {
    let location = location.to_string();
    match error {
        ureq::Error::Timeout(what) => ClientError::TimedOut { location, what: what.to_string() },
        ureq::Error::HostNotFound => {
            ClientError::Unreachable { location, reason: "there is no host of that name".into() }
        }
        ureq::Error::ConnectionFailed => ClientError::Unreachable { location, reason: "connecting failed".into() },
        ureq::Error::Io(e) if is_before_sending(e.kind()) => {
            ClientError::Unreachable { location, reason: e.to_string() }
        }
        ureq::Error::Io(e) => ClientError::BrokeOff { location, reason: e.to_string() },
        ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
            ClientError::BadAnswer { what: "this".into(), reason: format!("it is not HTTP: {error}") }
        }
        other => ClientError::Unreachable { location, reason: other.to_string() },
    }
}

pub(super) fn from_body(location: &Location, error: ureq::Error) -> ClientError {
    match error {
        ureq::Error::BodyExceedsLimit(limit) => {
            ClientError::BadAnswer { what: "this".to_owned(), reason: format!("it is longer than {} MiB", limit >> 20) }
        }
        ureq::Error::Timeout(_) => from_transport(location, error),
        other => ClientError::BrokeOff { location: location.to_string(), reason: other.to_string() },
    }
}

/// True for what connecting fails with: nothing was sent yet.
fn is_before_sending(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    matches!(kind, ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(body: &str) -> Vec<String> {
        problems(body, body).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn b02_refusals_are_read_in_every_shape() {
        assert_eq!(
            lines(r#"{"discs":[{},{"size":["must be greater than or equal to 50"]}],"name":"can't be blank"}"#),
            ["discs[1].size: must be greater than or equal to 50", "name: can't be blank"]
        );
        assert_eq!(lines(r#"{"size":["a","b"]}"#), ["size: a", "size: b"]);
        assert_eq!(lines("group still has VMs"), ["group still has VMs"]);
        assert_eq!(lines(""), ["it did not say why"]);
        assert_eq!(lines("{}"), ["{}"]);
    }

    #[test]
    fn a_hostile_refusal_stays_bounded() {
        let many: String = (0..10_000).map(|n| format!("\"a{n}\":\"x\",")).collect();
        assert!(lines(&format!("{{{many}\"z\":\"y\"}}")).len() <= PROBLEMS_MAX);
        let deep = format!("{}\"x\"{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(problems(&deep, "deep"), [Problem { attribute: String::new(), message: "deep".into() }]);
    }

    #[test]
    fn the_number_of_an_internal_error_is_shown() {
        let text = r#"{"error":"internal error","request_id":"r-17"}"#;
        let error = from_status("VM web1", StatusCode::INTERNAL_SERVER_ERROR, text, text);
        assert_eq!(error.to_string(), "the brain met an internal error: internal error, request_id r-17");
    }
}
