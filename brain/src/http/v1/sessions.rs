//! `/session`: what the separate authentication service of old did.

use crate::{
    auth::AuthError,
    http::{
        Api,
        extract::{Answer, Named, Peer, bytes, is_json},
        fault::Fault,
        fields::Fields,
        query,
    },
};
use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use spine::secret::Secret;

/// POST /session: a token as plain text, without a newline, since clients use the body as it is.
pub(crate) async fn create(State(api): State<Api>, Peer(address): Peer, request: Request) -> Result<Response, Fault> {
    let json = is_json(request.headers());
    let bytes = bytes(request).await?;
    let Some(mut body) = read(&bytes, json).map(Fields::new) else {
        return Ok(text(StatusCode::BAD_REQUEST, "Badly-formed parameters: send username and password"));
    };
    let (username, password) = (body.text("username").value(), body.text("password").value());
    let validity_s = body.integer("validity").value();
    let (invalid, _) = body.finish();
    let (Some(username), Some(password), true) = (username, password, invalid.is_empty()) else {
        return Ok(text(StatusCode::BAD_REQUEST, "Badly-formed parameters: send username and password"));
    };
    match api.service.gate.begin_session(&username, &Secret::new(password), validity_s, address).await {
        Ok(token) => Ok(text(StatusCode::OK, token.reveal())),
        Err(error @ (AuthError::Wrong | AuthError::TooManyFailures { .. })) => {
            Ok(text(StatusCode::FORBIDDEN, &error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// GET /session/{token}
pub(crate) async fn show(State(api): State<Api>, named: Named) -> Result<Answer, Fault> {
    let token = Secret::new(named.text("token"));
    let session = api.service.gate.session(&token).await?;
    let session = session.ok_or(Fault::NotFound)?;
    Answer::ok(&json!({ "username": session.username, "factors": session.factors, "group_memberships": [] }))
}

/// The parameters of a login, as JSON or as a form.
fn read(bytes: &[u8], is_json: bool) -> Option<Map<String, Value>> {
    if is_json {
        return match serde_json::from_slice(bytes) {
            Ok(Value::Object(attributes)) => Some(attributes),
            _ => None,
        };
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= query::QUERY_BYTES_MAX)?;
    Some(query::pairs(text).into_iter().map(|(name, value)| (name, Value::String(value))).collect())
}

fn text(status: StatusCode, body: &str) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))];
    (status, headers, body.to_owned()).into_response()
}
