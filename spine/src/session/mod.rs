//! Both ends of a spine connection, without I/O, clock or randomness.
//!
//! ```text
//!   node                                   brain
//!   AwaitWelcome ──── * hello ───────────▶ AwaitHello
//!        │                                     │ (who calls decides: welcome or close)
//!   AwaitDump    ◀─── * welcome ────────── Dumping
//!        │       ──── * created … ───────▶     │   nothing counts yet
//!      Ready     ──── * ready ───────────▶   Ready
//!                ◀─── t1 create … ────────
//!                ──── t1 ok … ───────────▶       any order, notices in between (R060, R061)
//! ```
//!
//! Inputs are `handle_*`, outputs `poll_*`; `now_ms` counts from any fixed moment. After each input
//! take everything that [`Session::poll_event`] and [`Session::poll_transmit`] give; extra calls are
//! harmless. A closed session still gives out what it has
//! to say, and swallows every input.
//!
//! Invariants: tags in flight are unique; nothing is sent after goodbye; the last event is always
//! `Closed`; what is queued is bounded by [`crate::limits::OUTGOING_BYTES_MAX`].

mod brain;
mod node;
mod outgoing;
mod view;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use brain::{BrainSession, NodeSaid};
pub use node::{BrainSaid, NodeSession};
pub use view::View;

/// What both ends have in common: how a driver moves their bytes and tells them the time.
pub trait Session {
    /// What the peer said, in order; `Closed` is always the last.
    type Event;

    /// Takes received bytes.
    fn handle_bytes(&mut self, bytes: &[u8]);
    /// Tells the session what time it is.
    fn handle_timeout(&mut self, now_ms: u64);
    /// Ends the session from this side, and tells the peer why.
    fn handle_close(&mut self, reason: &str);
    /// The connection is gone.
    fn handle_disconnect(&mut self, reason: &str);
    /// What the peer said next.
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// Bytes to send next: whole lines.
    fn poll_transmit(&mut self) -> Option<Bytes>;
    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    fn poll_timeout(&self) -> Option<u64>;
    /// True once the connection is to be closed, after what is left to transmit.
    fn is_closed(&self) -> bool;
}
