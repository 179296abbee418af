//! Thousands of discs in one tail: what each costs, and whether it is as good as if it were alone.
//!
//! ```text
//!   fill ──▶ idle ──▶ come and go ──▶ busy ──▶ restart ──▶ cold start ──▶ figures, each against its bar
//!   create a disc   CPU      a new disc,     400 discs   the addresses   no address
//!   and connect to  and      a removed one   against     are there       is there
//!   it; memory      memory                   one
//! ```
//!
//! Everything is in network namespaces of the measurement's own: this process is the brain and all the clients, the
//! tail is a process of its own with a folder of its own. Both are gone at the end.
//!
//! Deliberately absent: writes (the disc under the pool would be measured), and heads.

pub(crate) mod client;
pub(crate) mod net;
pub(crate) mod orders;
mod record;
mod run;
pub(crate) mod tail;

pub use record::Scale;
pub(crate) use run::raise_open_files;
pub use run::{Config, run};
