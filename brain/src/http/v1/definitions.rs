//! `/definitions` and `/health`, for which nobody needs to log in.

use crate::{
    http::{Api, extract::Answer, fault::Fault},
    service::inventory,
};
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use spine::{
    api::Definition,
    hardware::{HARDWARE_PROFILES, KEYMAPS, SENDKEYS},
};

/// GET /definitions
pub(crate) async fn list(State(api): State<Api>) -> Result<Answer, Fault> {
    let config = &api.service.config;
    let images: Vec<&str> = config.images.iter().map(|image| image.name.as_str()).collect();
    let image_texts: Map<String, Value> =
        config.images.iter().map(|image| (image.name.to_string(), json!(image.description))).collect();
    let grades: Vec<&str> = config.grades.iter().map(|grade| grade.name.as_str()).collect();
    let grade_texts: Map<String, Value> =
        config.grades.iter().map(|grade| (grade.name.to_string(), json!(grade.description))).collect();
    let definitions = [
        ("distributions", json!(images)),
        ("storage_grades", json!(grades)),
        ("hardware_profiles", json!(HARDWARE_PROFILES)),
        ("keymaps", json!(KEYMAPS)),
        ("sendkeys", json!(SENDKEYS)),
        ("zone_names", json!([])),
        ("distribution_descriptions", Value::Object(image_texts)),
        ("storage_grade_descriptions", Value::Object(grade_texts)),
    ];
    Answer::ok(&definitions.map(|(id, data)| Definition { id: id.to_owned(), data }))
}

/// GET /health: 200 while the brain can work, 503 when its database cannot be asked.
pub(crate) async fn health(State(api): State<Api>) -> Result<Answer, Fault> {
    let problem = inventory::database_problem(&api.service).await;
    if let Some(problem) = &problem {
        tracing::warn!(problem, "the database cannot be asked");
    }
    let status = if problem.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::with_status(
        status,
        &json!({
            "brain": api.service.config.name,
            "active": true,
            "database": if problem.is_none() { "ok" } else { "unreachable" },
            "version": env!("CARGO_PKG_VERSION"),
        }),
    )
}
