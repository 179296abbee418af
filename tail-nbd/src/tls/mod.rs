//! TLS: who we are to others, how they prove who they are, and where it ends for NBD clients.
//!
//! ```text
//!   client ══ TLS ══▶ Front (threads of its own) ── socket pair, plain text ──▶ shard
//!             TCP       │ a task a connection
//!                       └ Identity (certificates; rustls) or Keys (shared keys; OpenSSL), read again on SIGHUP
//! ```
//!
//! The data plane knows nothing of TLS. A client's connection begins in the clear, with whoever accepted it: a shard,
//! or the door of the stand-alone server. When the client has asked for STARTTLS and its ACK is sent,
//! [`Front::secure`] takes the socket and gives another one in its place, at which the rest of the handshake and all
//! requests come out as plain text. Who the client is does not change with it: access is still decided by its address.
//!
//! * Whatever was received in the clear behind STARTTLS ends the connection before this (`nbd::negotiation`), and what
//!   is still in the socket is taken for TLS, which it is not.
//! * Back-pressure goes through: nothing is read from one side before all of it is written to the other.
//! * An end goes through as well: when the shard closes its side, for whatever reason, the client gets what was sent
//!   before, then close_notify and FIN. The shard's deadline for the handshake covers that of TLS.
//! * Everything is bounded: connections, bytes, the time of a handshake, and the time that a client reads nothing.
//!
//! Deliberately absent: encryption by the kernel (kTLS), which would keep the data plane's path without copies; resumed
//! sessions; authorities' lists of withdrawn certificates (take the address off the disc's access instead).

#[cfg(test)]
#[path = "../../tests/common/certificates.rs"]
mod certificates;
pub mod front;
pub mod identity;
pub mod psk;

pub use front::{Credentials, Front, FrontConfig, FrontError, FrontStatus, reload_on_hangup};
pub use identity::{Files, Identity, IdentityError};
