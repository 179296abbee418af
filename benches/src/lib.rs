//! Load generators and measurements for the tail and its peers.
//!
//! * [`load`]: an NBD client that costs as little as it can, so that it is the server that is measured.
//!
//! Deliberately absent: anything that judges. Reports show what was measured, with its spread.
#![forbid(unsafe_code)]

pub mod load;
