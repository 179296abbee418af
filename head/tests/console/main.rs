//! The serial console as its users meet it: with OpenSSH's client, against a serial line of the
//! test's own.
#![forbid(unsafe_code)]

mod address;
mod login;
mod rig;
mod viewing;
