//! What can go wrong with the database.

use std::error::Error;
use thiserror::Error;

/// Why the store could not do something.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No connection could be had.
    #[error("the database cannot be reached: {0}")]
    Pool(String),
    /// A statement failed.
    #[error("the database refused a statement: {}", chain(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The schema is not one this build knows.
    #[error("{0}")]
    Schema(String),
    /// A migration failed.
    #[error("a migration failed, and nothing of it was kept: {0}")]
    Migration(String),
    /// A row holds what no version of the brain writes.
    #[error("the database holds a bad value in {place}: {message}")]
    Corrupt {
        /// Which table and row.
        place: String,
        /// What is wrong.
        message: String,
    },
}

impl StoreError {
    /// For a value that should have been checked before it was written.
    pub fn corrupt(place: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Corrupt { place: place.into(), message: message.to_string() }
    }

    /// The name of the constraint that a statement would have broken.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Database(error) => error.as_db_error().and_then(|error| error.constraint()),
            _ => None,
        }
    }
}

/// An error with all its causes in one line: PostgreSQL's own message is one of the causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
