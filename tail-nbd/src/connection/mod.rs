//! One client: the protocol's state, what is being received for it, and what is on its way to it.
//!
//! ```text
//!   accept ─▶ Open ──DISC, resize, close──▶ Draining ──all answered and sent──▶ Cut ──no operation left──▶ gone
//!              ├──the tail stops──▶ Leaving ──all answered and sent──────────────▶┤
//!              └──violation, error, withdrawal, deadline──────────────────────────▶┘
//! ```
//!
//! * Open: requests are read and started.
//! * Leaving: the tail stops. Requests are refused with ESHUTDOWN until all that was started is answered, and the options
//!   of a handshake with ERR_SHUTDOWN until the client gives up. A machine's
//!   disc is never left so: qemu hands that error to the guest, while without an answer it asks again elsewhere;
//! * Draining: nothing new is started; what is in flight is answered and sent.
//! * Cut: the socket is shut down, nothing is answered; the connection stays until its last operation is over,
//!   because a withdrawal is answered only then (safety rule 4).
//!
//! [`receive`] says what to receive next, [`parking`] keeps what came too early, [`transfer`] is one request being carried out.

pub mod parking;
pub mod receive;
pub mod transfer;

use crate::nbd::offer::{Style, Tls};
use crate::nbd::request::Request;
use crate::nbd::server::Server;
use crate::ring::batch::Batch;
use crate::ring::op::Handle;
use crate::ring::slots::Token;
use crate::shard::Grant;
use crate::time::Instant;
use receive::{Input, Landing};
use std::net::IpAddr;
use std::time::Duration;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The disc it belongs to.
    pub disc: Token,
    /// Its socket; when it goes through TLS, ours, where the plain text comes out.
    pub socket: Handle,
    /// What the socket is.
    pub transport: Transport,
    /// Where it comes from; a client on this machine has the tail's own address.
    pub peer: IpAddr,
    /// The access of the disc knew this address when it connected.
    pub known: bool,
    /// What it was let in by.
    pub grant: Option<Grant>,
    /// The protocol.
    pub server: Server,
    /// Where it is in its life.
    pub state: State,
    /// Bytes that are received and not looked at.
    pub input: Option<Input>,
    /// The export it asks for, while the decision has to wait.
    pub asked: Option<String>,
    /// A request that waits for a buffer.
    pub pending: Option<Request>,
    /// When the bytes had arrived that are being looked at.
    pub arrived: Instant,
    /// A write whose payload is arriving.
    pub landing: Option<Landing>,
    /// A receive is in the kernel.
    pub receiving: bool,
    /// The last request was a large write, and so may be the next.
    pub after_large: bool,
    /// Replies for the next send.
    pub filling: Option<Box<Batch>>,
    /// A send is in the kernel.
    pub sending: bool,
    /// Requests being carried out.
    pub in_flight_count: u32,
    /// When it is cut, unless something happens before.
    pub deadline: Option<Instant>,
    /// When it is looked at because of that.
    pub alarm: Option<Instant>,
    /// Its disc is frozen: nothing is received, looked at or sent.
    pub held: bool,
    /// What a cancelled send has left; it comes before `filling`.
    pub unsent: Option<Box<Batch>>,
    /// When it is cut, unless it takes some of its replies before.
    pub send_deadline: Option<Instant>,
    /// Bytes of the batch that is being sent which it had taken when that was set.
    pub taken_bytes: u64,
    /// What it is called by two processes, of which one has lent it to the other. Of no meaning when neither waits for the other.
    pub lent: Option<u64>,
    /// It is in the queue for buffers.
    pub queued: bool,
    /// It is in the list of connections to be looked at in this turn.
    pub touched: bool,
}

/// How a client's bytes come to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As they are.
    Clear,
    /// As they are, but the client was told to go on through TLS: nothing more is received in the clear.
    TlsAwaited,
    /// Through TLS, which ends elsewhere.
    Tls,
}

/// See the picture at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests are read and started.
    Open,
    /// Requests are read and refused with ESHUTDOWN.
    Leaving,
    /// What is in flight is answered.
    Draining,
    /// It waits for its last operation.
    Cut,
}

impl Connection {
    /// A connection that was just accepted; the greeting is in the batch that was filled.
    pub fn new(disc: Token, socket: Handle, peer: IpAddr, known: bool, tls: Tls, mut filling: Box<Batch>) -> Self {
        let server = Server::new(tls, filling.headers());
        Self { known, filling: Some(filling), ..Self::adopted(disc, socket, peer, server, None) }
    }

    /// A connection with a past: what the protocol knows of it, and what it was let in by, if it was.
    pub fn adopted(disc: Token, socket: Handle, peer: IpAddr, server: Server, grant: Option<Grant>) -> Self {
        Self {
            disc,
            socket,
            transport: Transport::Clear,
            peer,
            known: true,
            grant,
            server,
            state: State::Open,
            input: None,
            asked: None,
            pending: None,
            arrived: Instant::default(),
            landing: None,
            receiving: false,
            after_large: false,
            filling: None,
            sending: false,
            in_flight_count: 0,
            deadline: None,
            send_deadline: None,
            taken_bytes: 0,
            alarm: None,
            held: false,
            lent: None,
            unsent: None,
            queued: false,
            touched: false,
        }
    }

    /// When it is to be looked at, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.deadline, self.send_deadline].into_iter().flatten().min()
    }

    /// So long nothing was expected of it.
    pub fn put_off_deadlines(&mut self, rested: Duration) {
        self.deadline = self.deadline.map(|deadline| deadline.plus(rested));
        self.send_deadline = self.send_deadline.map(|deadline| deadline.plus(rested));
    }

    /// True when no operation of it is left.
    pub fn is_over(&self) -> bool {
        self.state == State::Cut && !self.receiving && !self.sending && self.in_flight_count == 0
    }

    /// True when everything that was started is answered and sent.
    pub fn is_drained(&self) -> bool {
        let is_sent = !self.sending && self.unsent.is_none();
        self.in_flight_count == 0 && is_sent && self.filling.as_ref().is_none_or(|batch| batch.is_empty())
    }

    /// True when requests are read from it.
    pub fn is_reading(&self) -> bool {
        matches!(self.state, State::Open | State::Leaving)
    }

    /// True when it is what was agreed on and nothing more: no request is under way, or has arrived in part.
    pub fn is_at_rest(&self) -> bool {
        let is_idle = self.input.is_none() && self.landing.is_none() && self.pending.is_none() && self.is_drained();
        self.state == State::Open && is_idle && self.server.is_at_rest()
    }

    /// True when a connection that is leaving has nothing left to do.
    pub fn has_left(&self) -> bool {
        let idle =
            self.input.is_none() && self.landing.is_none() && !self.is_waiting() && !self.server.is_negotiating();
        self.state == State::Leaving && idle && self.is_drained()
    }

    /// How requests and replies look, once that is agreed on.
    pub fn style(&self) -> Style {
        self.server.agreement().map_or(Style::Simple, |agreement| agreement.style)
    }

    /// Conditions that hold between turns.
    pub fn invariants(&self) {
        assert!(self.state != State::Cut || self.landing.is_none(), "a cut connection takes no payload");
        assert!(self.is_reading() || self.pending.is_none(), "only a connection that is read from starts requests");
        assert!(self.grant.is_some() || self.in_flight_count == 0, "a request of nobody");
    }
}
