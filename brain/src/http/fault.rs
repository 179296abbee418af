//! What an error looks like to a client, and which code it has.
//!
//! ```text
//!   400 {"size":["must be greater than or equal to 50"]}      a wrong value, by attribute
//!   401 403 404 405 503 {"error":"a sentence"}
//!   500, and 503 of the database: {"error":"a sentence","request_id":"…"}   the log has the cause under this number
//! ```

use crate::{
    auth::AuthError,
    model::invalid::{Complaint, Invalid},
    service::ServiceError,
    store::StoreError,
};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use tokio_postgres::error::SqlState;

/// Why a request has no good answer.
#[derive(Debug)]
pub enum Fault {
    /// 400: values are wrong, or things do not stand so that it can be done.
    Invalid(Invalid),
    /// 401: it is not known who asks.
    Unauthorised(String),
    /// 403: the caller can see it and may not do this.
    Forbidden(String),
    /// 404: there is no such thing for the caller.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 503: try again.
    Unavailable(String),
    /// 503, since the database is away or busy: the cause is for the log alone.
    Database(String),
    /// 500: the cause is for the log alone.
    Internal(String),
}

/// A cause that only the log tells, on its way to [`super::guard`], and what the client is told.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    /// For the log.
    pub cause: String,
    /// For the client.
    pub sentence: &'static str,
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let passes = match &error {
            StoreError::Pool(_) => true,
            StoreError::Database(error) => error.is_closed() || error.code().is_some_and(|code| PASSING.contains(code)),
            _ => false,
        };
        match passes {
            true => Self::Database(error.to_string()),
            false => Self::Internal(error.to_string()),
        }
    }
}

/// What PostgreSQL says when the same statement may work in a moment.
const PASSING: [SqlState; 6] = [
    SqlState::T_R_DEADLOCK_DETECTED,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::TOO_MANY_CONNECTIONS,
];

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::NotFound,
            ServiceError::Forbidden(sentence) => Self::Forbidden(sentence),
            ServiceError::Invalid(invalid) => Self::Invalid(invalid),
            ServiceError::Unavailable(sentence) => Self::Unavailable(sentence),
            ServiceError::Store(error) => error.into(),
            ServiceError::Internal(sentence) => Self::Internal(sentence),
        }
    }
}

impl From<AuthError> for Fault {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Store(error) => error.into(),
            AuthError::Password(error) => ServiceError::from(error).into(),
            other => Self::Unauthorised(other.to_string()),
        }
    }
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let sentence = |sentence: &str| json!({ "error": sentence });
        match self {
            Self::Invalid(invalid) => answer(StatusCode::BAD_REQUEST, &Value::Object(complaints(&invalid))),
            Self::Unauthorised(why) => {
                let mut response = answer(StatusCode::UNAUTHORIZED, &sentence(&why));
                let challenge = HeaderValue::from_static("Basic realm=\"bigv\", Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                response
            }
            Self::Forbidden(why) => answer(StatusCode::FORBIDDEN, &sentence(&why)),
            Self::NotFound => answer(StatusCode::NOT_FOUND, &sentence("there is no such thing, or you may not see it")),
            Self::MethodNotAllowed => {
                answer(StatusCode::METHOD_NOT_ALLOWED, &sentence("this method cannot be used here"))
            }
            Self::Unavailable(why) => answer(StatusCode::SERVICE_UNAVAILABLE, &sentence(&why)),
            Self::Database(cause) => {
                let sentence = "the database cannot be reached, or is busy: try again in a moment";
                caused(StatusCode::SERVICE_UNAVAILABLE, Cause { cause, sentence })
            }
            Self::Internal(cause) => {
                let sentence = "internal error: tell the operators the request_id";
                caused(StatusCode::INTERNAL_SERVER_ERROR, Cause { cause, sentence })
            }
        }
    }
}

/// An answer without a body: the guard, which knows the request's number, writes that.
fn caused(status: StatusCode, cause: Cause) -> Response {
    let mut response = status.into_response();
    response.extensions_mut().insert(cause);
    response
}

/// An answer in JSON. Clients compare the content type as text: nothing may follow it.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, headers, body.to_string()).into_response()
}

fn complaints(invalid: &Invalid) -> Map<String, Value> {
    let shape = |complaint: &Complaint| match complaint {
        Complaint::Sentences(sentences) => json!(sentences),
        Complaint::List(members) => members.iter().map(|member| Value::Object(complaints(member))).collect(),
    };
    invalid.iter().map(|(attribute, complaint)| (attribute.to_owned(), shape(complaint))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_entry_a_member() {
        let mut invalid = Invalid::of("name", "can't be blank");
        let size = Invalid::of("size", "must be greater than or equal to 50");
        invalid.add_list("discs", vec![Invalid::default(), size]);
        let expected = json!({"discs":[{},{"size":["must be greater than or equal to 50"]}],"name":["can't be blank"]});
        assert_eq!(Value::Object(complaints(&invalid)), expected);
    }

    #[test]
    fn the_content_type_is_bare() {
        let response = Fault::NotFound.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    }
}
