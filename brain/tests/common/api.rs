//! The API in this process, in front of a real PostgreSQL.

use axum::{Router, body::Body, extract::ConnectInfo};
use base64::Engine as _;
use brain::{
    config::Config,
    fleet::Registry,
    http::{AppState, router},
    model::privilege::Level,
    reconcile::Poke,
    service::users::{self, AddUser, NewUser},
    store::Store,
};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use spine::secret::Secret;
use std::{net::SocketAddr, path::Path, sync::Arc};
use tower::ServiceExt as _;

/// The password of every user of these tests.
pub const PASSWORD: &str = "correct horse";

/// The cluster that the example configuration describes.
pub const CONFIG: &str = include_str!("../../example.toml");

/// The API, and whom its next request comes from.
#[derive(Clone)]
pub struct Client {
    pub router: Router,
    pub store: Store,
    authorization: Option<String>,
    peer: SocketAddr,
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json", "no charset behind it: {}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    /// The body, of an answer with this code.
    #[track_caller]
    pub fn with(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

impl Client {
    /// With the configuration of these tests.
    pub fn new(store: Store) -> Self {
        Self::with_config(store, CONFIG)
    }

    pub fn with_config(store: Store, config: &str) -> Self {
        Self::with_nodes(store, config, Poke::default(), Registry::default())
    }

    /// With nodes that are connected, and a reconciler that is poked. There are addresses for 20 machines.
    pub fn with_nodes(store: Store, config: &str, poke: Poke, registry: Registry) -> Self {
        let config = config.replace("10.16.4.199", "10.16.4.119");
        let config = Arc::new(Config::parse(&config, Path::new("brain.toml")).unwrap());
        let state = AppState { store: store.clone(), poke, registry, config };
        Self { router: router(state), store, authorization: None, peer: "192.0.2.1:5000".parse().unwrap() }
    }

    /// Makes a user, perhaps with an account or a level of the cluster.
    pub async fn add_user(&self, username: &str, account: Option<&str>, level: Option<Level>) {
        let user = NewUser {
            username: Some(username.into()),
            password: Some(Secret::new(PASSWORD)),
            account_name: account.map(str::to_owned),
            ..NewUser::default()
        };
        users::add(&self.store, AddUser { user, cluster_level: level }).await.unwrap();
    }

    /// Requests from now on come from this user, with a session.
    pub async fn as_user(&self, username: &str) -> Self {
        let body = serde_json::json!({"username": username, "password": PASSWORD});
        let token = self.post("/session", body).await;
        assert_eq!(token.status, StatusCode::OK, "{}", token.text);
        Self { authorization: Some(format!("Bearer {}", token.text)), ..self.clone() }
    }

    /// Requests from now on come from nobody in particular.
    pub fn as_nobody(&self) -> Self {
        Self { authorization: None, ..self.clone() }
    }

    pub fn with_authorization(&self, value: impl Into<String>) -> Self {
        Self { authorization: Some(value.into()), ..self.clone() }
    }

    pub fn with_basic(&self, username: &str, password: &str) -> Self {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        self.with_authorization(format!("Basic {text}"))
    }

    pub fn at_address(&self, address: &str) -> Self {
        Self { peer: SocketAddr::new(address.parse().unwrap(), 5000), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None, Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some("application/json"), body.to_string().into_bytes()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some("application/json"), body.to_string().into_bytes()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None, Vec::new()).await
    }

    pub async fn send(&self, method: &str, path: &str, content_type: Option<&str>, body: Vec<u8>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// Runs a statement, for what only the reconciler writes.
    pub async fn sql(&self, statement: &str) {
        self.store.client().await.unwrap().batch_execute(statement).await.unwrap();
    }

    /// The first column of the only row.
    pub async fn number(&self, query: &str) -> i64 {
        self.store.client().await.unwrap().query_one(query, &[]).await.unwrap().get(0)
    }

    /// As if a head had started this machine.
    pub async fn run(&self, vm_id: i64) {
        self.sql(&format!(
            "INSERT INTO nodes (name, role, memory_total_mib, cores) VALUES ('head1', 'head', 4096, 8)
               ON CONFLICT DO NOTHING;
             INSERT INTO runs (virtual_machine_id, head_id, attachment_key, state, memory_mib)
               SELECT {vm_id}, id, 'key', 'running', 1024 FROM nodes WHERE name = 'head1';
             UPDATE virtual_machines SET status_state = 'running', status_reason = NULL WHERE id = {vm_id}"
        ))
        .await;
    }

    /// As if it had stopped.
    pub async fn end_run(&self, vm_id: i64) {
        self.sql(&format!(
            "UPDATE runs SET state = 'ended', ended_at = now(), end_reason = 'test' WHERE virtual_machine_id = {vm_id};
             UPDATE virtual_machines SET status_state = 'off', power_on = autoreboot_on WHERE id = {vm_id}"
        ))
        .await;
    }
}

/// The value without what differs from run to run.
pub fn steady(mut value: Value) -> Value {
    fn scrub(value: &mut Value) {
        match value {
            Value::Object(attributes) => {
                for (name, value) in attributes {
                    match name.as_str() {
                        "since" | "uuid" | "request_id" if value.is_string() => *value = "…".into(),
                        _ => scrub(value),
                    }
                }
            }
            Value::Array(members) => members.iter_mut().for_each(scrub),
            _ => {}
        }
    }
    scrub(&mut value);
    value
}
