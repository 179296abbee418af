//! Around every request: one line in the log with its time, and a number for errors of ours.

use super::fault::{Cause, answer};
use axum::{extract::Request, middleware::Next, response::Response};
use http::HeaderValue;
use serde_json::json;
use std::time::Instant;

/// Longest part of a path in the log, in bytes.
const PATH_BYTES_MAX: usize = 200;

pub(super) async fn around(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = uuid::Uuid::new_v4().simple().to_string();
    let method = request.method().clone();
    let path = shown(request.uri().path());
    let mut response = next.run(request).await;
    if let Some(Cause { cause, sentence }) = response.extensions_mut().remove::<Cause>() {
        tracing::error!(%request_id, %method, path, cause, "a request failed");
        response = answer(response.status(), &json!({ "error": sentence, "request_id": request_id }));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("X-Request-Id", value);
    }
    let elapsed_ms = started.elapsed().as_millis() as u64;
    tracing::info!(%request_id, %method, path, status = response.status().as_u16(), elapsed_ms, "request");
    response
}

/// The path for the log: a session's token is no one's business.
fn shown(path: &str) -> String {
    if path.starts_with("/session/") {
        return "/session/…".to_owned();
    }
    // A path is ASCII here: it is still escaped.
    path.get(..PATH_BYTES_MAX.min(path.len())).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_logged() {
        assert_eq!(shown("/session/abc"), "/session/…");
        assert_eq!(shown("/accounts/acme"), "/accounts/acme");
        assert_eq!(shown(&"/x".repeat(500)).len(), PATH_BYTES_MAX);
    }
}
