//! What a request says: who sends it, what its path and query name, what its body asks for.

use super::{
    Api,
    fault::{Fault, answer},
    fields::Fields,
    query,
};
use crate::{
    auth::{AuthError, Caller, credentials::Credentials},
    model::{filter::Filter, invalid::Invalid, name::Spec},
};
use axum::{
    RequestPartsExt,
    extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Request},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Largest body, in bytes: eight discs, keys and a first-boot script fit many times.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

impl FromRequestParts<Api> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Fault> {
        let credentials = credentials(&parts.headers).ok_or(AuthError::Missing)?;
        Ok(api.service.gate.enter(&credentials, peer(parts, api)).await?)
    }
}

/// The caller of a request that needs none. Credentials that are there must be right.
pub struct MaybeCaller(pub Option<Caller>);

impl FromRequestParts<Api> for MaybeCaller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Fault> {
        match parts.headers.contains_key(header::AUTHORIZATION) {
            true => Caller::from_request_parts(parts, api).await.map(|caller| Self(Some(caller))),
            false => Ok(Self(None)),
        }
    }
}

/// The address of whoever is connected.
pub struct Peer(pub Option<IpAddr>);

impl FromRequestParts<Api> for Peer {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Fault> {
        Ok(Self(peer(parts, api)))
    }
}

/// Whoever is connected; behind a proxy that the configuration trusts, whom that names.
fn peer(parts: &Parts, api: &Api) -> Option<IpAddr> {
    let ConnectInfo(address) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    let proxies = &api.service.config.trusted_proxies;
    Some(client_address(address.ip().to_canonical(), proxies, &parts.headers))
}

/// The last address of `X-Forwarded-For` that is not a trusted proxy's: what is before it was said
/// by the client, who may say anything.
fn client_address(peer: IpAddr, proxies: &[IpAddr], headers: &HeaderMap) -> IpAddr {
    if !proxies.contains(&peer) {
        return peer;
    }
    let lines = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let named: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let read = named.iter().rev().map_while(|text| text.parse::<IpAddr>().ok());
    read.map(|address| address.to_canonical()).find(|address| !proxies.contains(address)).unwrap_or(peer)
}

fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    Credentials::read(headers.get(header::AUTHORIZATION)?.to_str().ok()?)
}

/// What path and query name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Accounts, groups, VMs, discs, cards.
    pub filter: Filter,
    path: HashMap<String, String>,
    query: Vec<(String, String)>,
}

impl Named {
    /// A segment of the path, as a number or name.
    ///
    /// # Errors
    /// When nothing can be called that.
    pub fn segment(&self, name: &str) -> Result<Spec, Fault> {
        self.path.get(name).and_then(|text| Spec::read(text)).ok_or(Fault::NotFound)
    }

    /// A segment of the path as it is.
    pub fn text(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter of the query is true.
    pub fn flag(&self, name: &str) -> bool {
        self.parameter(name).is_some_and(query::is_true)
    }

    /// Whether what is inside is to be shown too.
    pub fn wants_overview(&self) -> bool {
        self.parameter("view") == Some("overview")
    }

    /// Reads a number or name from the query; a number of something is `NAME_id`, a name `NAME_name`.
    fn spec(&self, name: &str) -> Result<Option<Spec>, Fault> {
        let id = self.parameter(&format!("{name}_id")).filter(|text| !text.is_empty());
        let text = id.or_else(|| self.parameter(&format!("{name}_name")).filter(|text| !text.is_empty()));
        text.map(|text| Spec::read(text).ok_or(Fault::NotFound)).transpose()
    }

    /// The user that the query names.
    ///
    /// # Errors
    /// When nobody can be called that.
    pub fn user(&self) -> Result<Option<Spec>, Fault> {
        self.spec("user")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let query = query::pairs(parts.uri.query().unwrap_or_default());
        // A path that is not UTF-8 once decoded names nothing.
        let Path(path) = parts.extract::<Path<HashMap<String, String>>>().await.map_err(|_| Fault::NotFound)?;
        let mut named = Self { path, query, filter: Filter::default() };
        let from_path = |name: &str| named.path.contains_key(name).then(|| named.segment(name)).transpose();
        let either = |name: &str| Ok::<_, Fault>(from_path(name)?.or(named.spec(name)?));
        named.filter = Filter {
            account: either("account")?,
            group: either("group")?,
            vm: either("vm")?,
            part: from_path("part")?,
            include_deleted: named.flag("include_deleted"),
        };
        Ok(named)
    }
}

/// A body: the attributes of a JSON object.
pub struct Body(pub Fields);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        object(request).await.map(|attributes| Self(Fields::new(attributes)))
    }
}

/// A body as it is, for answers that repeat it.
pub struct Echo(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Echo {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        object(request).await.map(Self)
    }
}

/// A JSON object, or nothing at all, which counts as an empty one.
async fn object(request: Request) -> Result<Map<String, Value>, Fault> {
    let is_json = is_json(request.headers());
    let bytes = bytes(request).await?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    if !is_json {
        return Err(Invalid::of("content_type", "must be application/json").into());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(attributes)) => Ok(attributes),
        Ok(_) => Err(Invalid::of("body", "must be a JSON object").into()),
        Err(error) => Err(Invalid::of("body", format!("is not JSON: {error}")).into()),
    }
}

/// The whole body.
pub(super) async fn bytes(request: Request) -> Result<bytes::Bytes, Fault> {
    let read = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
    match tokio::time::timeout(BODY_WAIT_MAX, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Invalid::of("body", format!("is longer than {BODY_BYTES_MAX} bytes, or ended early")).into()),
        Err(_) => Err(Invalid::of("body", "took too long to arrive").into()),
    }
}

/// Whether a body is said to be JSON: `application/json` or `application/vnd.bigv.*+json`.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/vnd.bigv.") && kind.ends_with("+json"))
}

/// A good answer: a code, an object, and the names of what was not acted on.
pub struct Answer {
    status: StatusCode,
    body: Value,
    ignored: Vec<String>,
}

impl Answer {
    /// 200 with this object.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which the API's types can.
    pub fn ok(body: &impl Serialize) -> Result<Self, Fault> {
        Self::with_status(StatusCode::OK, body)
    }

    /// Another code.
    ///
    /// # Errors
    /// As [`Answer::ok`].
    pub fn with_status(status: StatusCode, body: &impl Serialize) -> Result<Self, Fault> {
        let body = serde_json::to_value(body).map_err(|error| Fault::Internal(error.to_string()))?;
        Ok(Self { status, body, ignored: Vec::new() })
    }

    /// Names what was not acted on.
    #[must_use]
    pub fn ignoring(self, ignored: Vec<String>) -> Self {
        Self { ignored, ..self }
    }
}

impl axum::response::IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &self.body);
        if !self.ignored.is_empty() {
            // Names come from the client: what cannot stand in a header does not.
            let plain = |c: char| if c.is_ascii_graphic() && c != ',' { c } else { '?' };
            let names = self.ignored.iter().map(|name| name.chars().take(64).map(plain).collect::<String>());
            let list = names.collect::<Vec<_>>().join(", ");
            if let Ok(value) = HeaderValue::from_str(&list) {
                response.headers_mut().insert("X-Ignored-Attributes", value);
            }
        }
        response
    }
}

/// Reads a duration as `30s` or `30`; none when it is neither.
pub fn seconds(text: &str) -> Option<Duration> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    digits.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_said_in_two_ways() {
        let with = |value: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_str(value).unwrap())]);
        for good in ["application/json", "application/json; charset=utf-8", "application/vnd.bigv.disc+json"] {
            assert!(is_json(&with(good)), "{good}");
        }
        for bad in ["text/plain", "application/jsonx", "application/vnd.bigv.disc", ""] {
            assert!(!is_json(&with(bad)), "{bad}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        let proxy: IpAddr = "127.0.0.1".parse().unwrap();
        let from = |peer: &str, forwarded: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_str(forwarded).unwrap(),
            )]);
            client_address(peer.parse().unwrap(), &[proxy], &headers).to_string()
        };
        assert_eq!(from("127.0.0.1", "192.0.2.1"), "192.0.2.1");
        assert_eq!(from("127.0.0.1", "10.0.0.1, 192.0.2.1, 127.0.0.1"), "192.0.2.1", "a client says what it likes");
        assert_eq!(from("127.0.0.1", "192.0.2.1, nonsense"), "127.0.0.1");
        assert_eq!(from("198.51.100.1", "192.0.2.1"), "198.51.100.1");
        assert_eq!(client_address(proxy, &[proxy], &HeaderMap::new()), proxy);
    }

    #[test]
    fn waits_are_seconds() {
        assert_eq!(seconds("30s"), Some(Duration::from_secs(30)));
        assert_eq!(seconds("5"), Some(Duration::from_secs(5)));
        for bad in ["", "s", "-1", "1m", "99999999999"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
