//! Rules without I/O, clock or SQL.

pub mod account;
pub mod address;
pub mod disc;
pub mod filter;
pub mod invalid;
pub mod name;
pub mod network;
pub mod nic;
pub mod privilege;
pub mod vm;
