//! Rules without I/O, clock or SQL.

pub mod account;
pub mod address;
pub mod change;
pub mod disc;
pub mod filter;
pub mod invalid;
pub mod migration;
pub mod name;
pub mod network;
pub mod nic;
pub mod placement;
pub mod privilege;
pub mod relief;
pub mod vm;
pub mod work;
