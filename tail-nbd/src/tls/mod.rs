//! TLS: who we are to others, and how they prove who they are.
//!
//! [`identity`] reads certificates and keys from files, once, and makes what the TLS library takes of them.

pub mod identity;

pub use identity::{Files, Identity, IdentityError};
