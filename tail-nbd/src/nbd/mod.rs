//! The NBD protocol: bytes in, bytes out. No I/O, no clock, no buffers of payload.
//!
//! ```text
//!               ┌────────────── Negotiation ──────────────┐
//!  Server::new ─▶ Flags ─▶ Option ⇄ OptionData            │
//!               │             ⇅                           │  GO, EXPORT_NAME granted
//!               │    AwaitExport, AwaitTls (no input)     │──────────▶ Transmission
//!               └──────────────┬──────────────────────────┘            Header ⇄ Payload
//!                   ABORT, refused EXPORT_NAME, Violation                 ⇅      │ the driver's
//!                              ▼                                       Discard   │ to receive
//!                            Closed ◀──────────────── DISC, Violation ─────┘
//! ```
//!
//! How a driver uses [`server::Server`]:
//! 1. hand received bytes to `handle_bytes` until all are consumed; send what it appends to `out`;
//! 2. on `Event::ExportWanted` decide, and call `handle_export`; nothing is consumed before;
//! 3. on `Event::TlsWanted` decide, and call `handle_tls`; when it is accepted, what is in `out` is the last that is
//!    sent in the clear, and the rest of the connection goes through TLS, of which nothing is known here;
//! 4. on `Event::Request` carry the request out and answer with the functions of [`reply`]. If it is a
//!    write, its payload comes next: the driver takes it from the bytes it has or receives it right where
//!    it will be written from, and says so by `handle_payload`. Nothing is consumed before all is there;
//! 5. `handle_leaving` when the server is going away: every later request is refused with ESHUTDOWN, and every later
//!    option but ABORT with ERR_SHUTDOWN;
//! 6. after `Event::Closed` or a violation nothing comes out any more.
//!
//! Supported: fixed newstyle with GO, INFO, LIST, EXPORT_NAME, ABORT, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS,
//! LIST and SET_META_CONTEXT with `base:allocation`; READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS, CACHE, DISC;
//! FUA, DF, NO_HOLE, FAST_ZERO, REQ_ONE, PAYLOAD_LEN with WRITE. What is offered, and with it which flags are
//! accepted, is one table in [`offer`]. Deliberately absent, and refused in step with the protocol: oldstyle,
//! RESIZE, and a choice of contexts in BLOCK_STATUS (there is one context).

pub mod client;
pub mod fuzz;
pub mod negotiation;
pub mod offer;
pub mod option;
pub mod reply;
pub mod request;
pub mod server;
pub mod transmission;
pub mod wire;
