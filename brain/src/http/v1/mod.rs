//! The handlers: each reads what a request says, calls one use case, and shapes its answer.

pub mod accounts;
pub mod admin;
pub mod definitions;
pub mod discs;
pub mod forced;
pub mod groups;
pub mod migrations;
pub mod nics;
pub mod privileges;
pub mod sessions;
pub mod users;
pub mod virtual_machines;
