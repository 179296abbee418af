//! .
pub mod console;
