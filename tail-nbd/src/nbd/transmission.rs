//! The request half of a connection after the handshake.

use super::negotiation::Agreement;
use super::reply::Answer;
use super::request::{Checked, Command, Header, Request};
use super::wire::{EXTENDED_REQUEST_BYTES, Error};
use crate::error::Violation;
use crate::limits::{DRAIN_BYTES_MAX, PAYLOAD_BYTES_MAX};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Turns bytes into checked requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transmission {
    agreement: Agreement,
    state: State,
    /// Every request from now on is refused with ESHUTDOWN.
    leaving: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// `partial` has room for the longest kind of header.
    Header {
        partial: [u8; EXTENDED_REQUEST_BYTES],
        filled: usize,
    },
    Payload {
        remaining: u32,
    },
    Discard {
        remaining: u32,
        answer: Answer,
        error: Error,
    },
    Ended,
}

/// What came out of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carry this out. If it is a write, its payload comes next.
    Request(Request),
    /// A request was refused with this, and the refusal is written.
    Refused(Error),
    /// The client said good-bye: finish what is in flight and close.
    Disconnected,
}

const HEADER: State = State::Header { partial: [0; EXTENDED_REQUEST_BYTES], filled: 0 };

impl Transmission {
    /// Starts with what the handshake agreed on.
    pub fn new(agreement: Agreement) -> Self {
        Self { agreement, state: HEADER, leaving: false }
    }

    /// What the handshake agreed on.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// Bytes of payload that the driver has to receive before anything else is consumed.
    pub fn payload_remaining(&self) -> u32 {
        match self.state {
            State::Payload { remaining } => remaining,
            _ => 0,
        }
    }

    /// True when it is as [`Transmission::new()`] makes it.
    pub fn is_at_rest(&self) -> bool {
        !self.leaving && matches!(self.state, State::Header { filled: 0, .. })
    }

    /// True when a request has arrived in part.
    pub fn is_midway(&self) -> bool {
        match self.state {
            State::Header { filled, .. } => filled > 0,
            State::Payload { .. } | State::Discard { .. } => true,
            State::Ended => false,
        }
    }

    /// The server is going away: what is under way goes on, every later request is refused with ESHUTDOWN.
    pub fn handle_leaving(&mut self) {
        self.leaving = true;
    }

    /// Consumes a prefix of `bytes`, up to the first outcome, and appends refusals to `out`.
    ///
    /// # Errors
    /// When the peer broke the protocol: the connection is to be closed.
    pub fn handle_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Outcome>), Violation> {
        let mut consumed = 0;
        let header_bytes = self.agreement.style.request_bytes();
        loop {
            let rest = &bytes[consumed..];
            match &mut self.state {
                State::Payload { .. } => return Ok((consumed, None)),
                State::Ended => return Ok((bytes.len(), None)),
                State::Discard { remaining, answer, error } => {
                    let discarded = rest.len().min(*remaining as usize);
                    consumed += discarded;
                    *remaining -= u32::try_from(discarded).expect("it is at most a u32");
                    if *remaining > 0 {
                        return Ok((consumed, None));
                    }
                    let error = *error;
                    answer.write_error(out, error);
                    self.state = HEADER;
                    return Ok((consumed, Some(Outcome::Refused(error))));
                }
                State::Header { partial, filled } => {
                    let taken = (header_bytes - *filled).min(rest.len());
                    partial[*filled..*filled + taken].copy_from_slice(&rest[..taken]);
                    *filled += taken;
                    consumed += taken;
                    if *filled < header_bytes {
                        return Ok((consumed, None));
                    }
                    let header = Header::parse(&partial[..header_bytes], self.agreement.style)?;
                    if let Some(outcome) = self.handle_header(header)? {
                        return Ok((consumed, Some(outcome)));
                    }
                }
            }
        }
    }

    /// The driver has taken so many bytes of the payload.
    ///
    /// # Panics
    /// When there are not so many to come, which is a bug of the caller.
    pub fn handle_payload(&mut self, received: u32) {
        let State::Payload { remaining } = &mut self.state else { panic!("no payload is awaited") };
        *remaining = remaining.checked_sub(received).expect("more payload than was announced");
        if *remaining == 0 {
            self.state = HEADER;
        }
    }

    /// The driver gives back so many bytes of a payload that it had taken: they are in front of the bytes to come.
    ///
    /// # Panics
    /// When something behind the payload was looked at, which is a bug of the caller.
    pub fn handle_payload_returned(&mut self, returned: u32) {
        let remaining = match self.state {
            State::Payload { remaining } => remaining,
            State::Header { filled: 0, .. } => 0,
            _ => panic!("there was no payload just before"),
        };
        if returned > 0 {
            self.state = State::Payload { remaining: remaining + returned };
        }
    }

    /// True for what a connection can come to; false for what was made up.
    pub fn is_sound(&self) -> bool {
        match &self.state {
            State::Header { filled, .. } => *filled < self.agreement.style.request_bytes(),
            State::Payload { remaining } => (1..=PAYLOAD_BYTES_MAX).contains(remaining),
            State::Discard { remaining, answer, .. } => {
                (1..=DRAIN_BYTES_MAX).contains(remaining) && answer.style == self.agreement.style
            }
            State::Ended => true,
        }
    }

    fn handle_header(&mut self, header: Header) -> Result<Option<Outcome>, Violation> {
        let answer = Answer { style: self.agreement.style, cookie: header.cookie, offset: header.offset };
        match header.check(&self.agreement)? {
            Checked::Request(request) => {
                // A payload that is refused was looked at: `check` has bounded it.
                let payload_bytes = match request.command {
                    Command::Write { range, .. } => u32::try_from(range.length()).expect("a payload is bounded"),
                    _ => 0,
                };
                if self.leaving {
                    self.state = State::Discard { remaining: payload_bytes, answer, error: Error::Eshutdown };
                    return Ok(None);
                }
                self.state = if payload_bytes > 0 { State::Payload { remaining: payload_bytes } } else { HEADER };
                Ok(Some(Outcome::Request(request)))
            }
            Checked::Rejected { error, payload_bytes } => {
                let error = if self.leaving { Error::Eshutdown } else { error };
                self.state = State::Discard { remaining: payload_bytes, answer, error };
                Ok(None)
            }
            Checked::Disconnect => {
                self.state = State::Ended;
                Ok(Some(Outcome::Disconnected))
            }
        }
    }
}
