//! The brain's public API for Rust programs: blocking, typed, bounded.
//!
//! ```no_run
//! use cli::client::{Client, Credentials, Location, VmPath};
//! # fn main() -> Result<(), cli::client::ClientError> {
//! let location: Location = "http://127.0.0.1:8600".parse()?;
//! let client = Client::new(location, Some(Credentials { username: "alice".into(), password: "hunter2".into() }));
//! let web1 = VmPath { account: "acme".into(), group: "default".into(), vm: "web1".into() };
//! println!("{:?}", client.vm(&web1)?.value.status);
//! # Ok(())
//! # }
//! ```
//!
//! * Each call is one request; the first that needs it logs in (`POST /session`), and a session that
//!   has run out is renewed once. Nothing else is repeated: a change whose answer got lost may have
//!   been made.
//! * An [`Answer`] has the typed value and the JSON exactly as it came.
//! * Names in paths may be names or numbers (section "paths" of the API).
//! * Nothing a server sends can make it panic or hold more than [`ANSWER_BYTES_MAX`].
//!
//! Deliberately absent: async. A program that needs it calls from a thread.

mod calls;
mod error;
mod location;
mod path;

pub use error::{ClientError, Problem};
pub use location::Location;
pub use path::{GroupPath, Path, VmPath};

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{cell::RefCell, fmt, time::Duration};
use ureq::{
    Agent,
    http::{Method, Request, Response, StatusCode, header},
};

/// How long connecting may take: a brain is at most a continent away.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole answer may take: more than the longest wait the brain allows (60 s), so that
/// the outermost timeout is the longest (R220).
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// The largest answer that is read. A VM with eight discs is 4 KiB: this is 8,000 of them.
pub const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// Error texts are shown: a screenful is enough.
const ERROR_TEXT_CHARS_MAX: usize = 2000;

/// Who logs in.
#[derive(Clone)]
pub struct Credentials {
    /// The login.
    pub username: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// What the brain answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The answer as its type.
    pub value: T,
    /// The answer as it came: for scripts, which may know attributes that this build does not.
    pub json: Value,
}

/// A connection to one brain, as one user.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    location: Location,
    credentials: Option<Credentials>,
    token: RefCell<Option<String>>,
    ignored: RefCell<Vec<String>>,
}

impl Client {
    /// Makes a client. Nothing is sent yet. Without credentials only public calls work.
    pub fn new(location: Location, credentials: Option<Credentials>) -> Self {
        let mut config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A connection the brain closes meanwhile would fail a request that cannot be repeated.
            .max_idle_age(Duration::from_secs(5))
            .user_agent(concat!("bigv/", env!("CARGO_PKG_VERSION")));
        if location.is_loopback() {
            config = config.proxy(None);
        }
        Self {
            agent: config.build().into(),
            location,
            credentials,
            token: RefCell::default(),
            ignored: RefCell::default(),
        }
    }

    /// Where the brain is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Attributes that the brain said it ignored (`X-Ignored-Attributes`, B02), since the last call
    /// of this.
    pub fn take_ignored(&self) -> Vec<String> {
        std::mem::take(&mut self.ignored.borrow_mut())
    }

    /// Logs in now, rather than at the first call that needs it.
    ///
    /// # Errors
    /// [`ClientError::LoginRefused`] when the brain does not accept the credentials.
    pub fn login(&self) -> Result<(), ClientError> {
        let credentials = self.credentials.as_ref().ok_or(ClientError::LoginNeeded)?;
        let body = serde_json::json!({"username": credentials.username, "password": credentials.password});
        let mut response = self.send(&Method::POST, &Path::new("session"), "text/plain", None, Some(&body))?;
        let text = self.read_text(&mut response)?;
        match response.status() {
            status if status.is_success() => {
                let token = text.trim();
                // It goes into a header: anything else in it is not a token.
                if token.is_empty() || token.len() > 4096 || !token.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(ClientError::BadAnswer { what: "session".into(), reason: "it is not a token".into() });
                }
                *self.token.borrow_mut() = Some(token.to_owned());
                Ok(())
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                Err(ClientError::LoginRefused {
                    username: credentials.username.clone(),
                    text: error::said(&shorten(&text)),
                })
            }
            status => Err(error::from_status("session", status, &shorten(&text), &text)),
        }
    }

    /// Any request of the API that needs a login. `what` names the object in errors, as `VM web1`.
    ///
    /// # Errors
    /// Whatever stands in the way; an answer without a body is [`Value::Null`].
    pub fn call(&self, method: &Method, path: &Path, what: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        if self.token.borrow().is_none() {
            self.login()?;
        }
        let fresh = self.token.borrow().clone();
        match self.exchange(method, path, what, fresh.as_deref(), body) {
            // The session may have run out: 401 means that nothing was done, so asking again is safe.
            Err(ClientError::Unauthorized(_)) => {
                self.login()?;
                let renewed = self.token.borrow().clone();
                self.exchange(method, path, what, renewed.as_deref(), body)
            }
            other => other,
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &Path, what: &str) -> Result<Answer<T>, ClientError> {
        typed(self.call(&Method::GET, path, what, None)?, what)
    }

    fn exchange(
        &self,
        method: &Method,
        path: &Path,
        what: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let mut response = self.send(method, path, "application/json", token, body)?;
        self.note_ignored(&response);
        let status = response.status();
        let text = self.read_text(&mut response)?;
        if !status.is_success() {
            return Err(error::from_status(what, status, &shorten(&text), &text));
        }
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text)
            .map_err(|e| ClientError::BadAnswer { what: what.to_owned(), reason: format!("it is not JSON: {e}") })
    }

    fn send(
        &self,
        method: &Method,
        path: &Path,
        accept: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Response<ureq::Body>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{}", self.location, path.as_str()?))
            .header(header::ACCEPT, accept);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let sent = if let Some(body) = body {
            let request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
            self.agent.run(request.map_err(|e| self.failed(e.into()))?)
        } else {
            self.agent.run(request.body(()).map_err(|e| self.failed(e.into()))?)
        };
        sent.map_err(|e| self.failed(e))
    }

    fn read_text(&self, response: &mut Response<ureq::Body>) -> Result<String, ClientError> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = body.map_err(|e| error::from_body(&self.location, e))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn failed(&self, error: ureq::Error) -> ClientError {
        error::from_transport(&self.location, error)
    }

    fn note_ignored(&self, response: &Response<ureq::Body>) {
        let Some(value) = response.headers().get("x-ignored-attributes") else { return };
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut ignored = self.ignored.borrow_mut();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()).take(50) {
            if !ignored.iter().any(|known| known == name) && ignored.len() < 200 {
                ignored.push(name.to_owned());
            }
        }
    }
}

fn typed<T: DeserializeOwned>(json: Value, what: &str) -> Result<Answer<T>, ClientError> {
    let value = T::deserialize(&json)
        .map_err(|e| ClientError::BadAnswer { what: what.to_owned(), reason: shorten(&e.to_string()) })?;
    Ok(Answer { value, json })
}

fn shorten(text: &str) -> String {
    text.trim().chars().take(ERROR_TEXT_CHARS_MAX).collect()
}
