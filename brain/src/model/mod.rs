//! Rules without I/O, clock or SQL.

pub mod network;
