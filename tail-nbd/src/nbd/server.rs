//! One connection as the protocol sees it: the handshake, then requests. See the front page for how
//! a driver uses it.

use super::negotiation::{self, Agreement, Negotiation, Refusal};
use super::offer::Tls;
use super::option::Export;
use super::request::Request;
use super::transmission::{self, Transmission};
use super::wire::Error;
use crate::error::Violation;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The server's half of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    phase: Phase,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    // Boxed because it is large, and gone after the first milliseconds.
    Negotiation(Box<Negotiation>),
    Transmission(Transmission),
    // What is in flight is still answered as was agreed on.
    Closed(Option<Agreement>),
}

/// What a connection asks of its driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// May the client have the export of this name? Answer by [`Server::handle_export`].
    ExportWanted(String),
    /// May it go on through TLS? Answer by [`Server::handle_tls`].
    TlsWanted,
    /// Carry this out and answer it.
    Request(Request),
    /// A request was refused with this; the refusal is in what is to be sent.
    Refused(Error),
    /// The client wants no more: finish what is in flight, send what is to be sent, and close.
    Closed,
}

impl Server {
    /// Starts a connection; the greeting is appended to `out`.
    pub fn new(tls: Tls, out: &mut Vec<u8>) -> Self {
        Self { phase: Phase::Negotiation(Box::new(Negotiation::new(tls, out))) }
    }

    /// A connection whose handshake ended in this agreement, and whose client has asked for nothing yet, or for nothing
    /// that is not answered.
    pub fn agreed(agreement: Agreement) -> Self {
        Self { phase: Phase::Transmission(Transmission::new(agreement)) }
    }

    /// Consumes a prefix of `bytes` and says how long it is. It stops behind the first event, before a payload
    /// (see [`Server::payload_remaining`]), and while an answer is awaited. Harmless with no bytes.
    ///
    /// # Errors
    /// When the peer broke the protocol. What is in `out` may still be sent, then the connection is closed.
    pub fn handle_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event>), Violation> {
        let result = match &mut self.phase {
            Phase::Negotiation(negotiation) => negotiation.handle_bytes(bytes, out).map(|(consumed, outcome)| {
                (
                    consumed,
                    outcome.map(|outcome| match outcome {
                        negotiation::Outcome::ExportWanted(name) => Event::ExportWanted(name),
                        negotiation::Outcome::TlsWanted => Event::TlsWanted,
                        negotiation::Outcome::Aborted => Event::Closed,
                    }),
                )
            }),
            Phase::Transmission(transmission) => transmission.handle_bytes(bytes, out).map(|(consumed, outcome)| {
                (
                    consumed,
                    outcome.map(|outcome| match outcome {
                        transmission::Outcome::Request(request) => Event::Request(request),
                        transmission::Outcome::Refused(error) => Event::Refused(error),
                        transmission::Outcome::Disconnected => Event::Closed,
                    }),
                )
            }),
            Phase::Closed(_) => return Ok((bytes.len(), None)),
        };
        if matches!(result, Err(_) | Ok((_, Some(Event::Closed)))) {
            self.phase = Phase::Closed(self.agreement().copied());
        }
        result
    }

    /// Answers an [`Event::ExportWanted`].
    ///
    /// # Errors
    /// When the client asked in a way that has no reply for a refusal.
    ///
    /// # Panics
    /// When no export is awaited, which is a bug of the caller.
    pub fn handle_export(&mut self, answer: Result<Export, Refusal>, out: &mut Vec<u8>) -> Result<(), Violation> {
        let Phase::Negotiation(negotiation) = &mut self.phase else { panic!("no export is awaited") };
        match negotiation.handle_export(answer, out) {
            Ok(Some(agreement)) => *self = Self::agreed(agreement),
            Ok(None) => {}
            Err(violation) => {
                self.phase = Phase::Closed(None);
                return Err(violation);
            }
        }
        Ok(())
    }

    /// Answers an [`Event::TlsWanted`]. When TLS is `accepted`, the driver sends what is in `out` by now in the clear and
    /// nothing else, and hands in from now on only what has come through TLS.
    ///
    /// # Panics
    /// When it is not awaited, which is a bug of the caller.
    pub fn handle_tls(&mut self, accepted: bool, out: &mut Vec<u8>) {
        let Phase::Negotiation(negotiation) = &mut self.phase else { panic!("TLS is not awaited") };
        negotiation.handle_tls(accepted, out);
    }

    /// The server is going away: what is under way goes on, and every later request is refused with ESHUTDOWN; during
    /// the handshake every later option with ERR_SHUTDOWN. An export that is awaited still has to be answered.
    pub fn handle_leaving(&mut self) {
        match &mut self.phase {
            Phase::Negotiation(negotiation) => negotiation.handle_leaving(),
            Phase::Transmission(transmission) => transmission.handle_leaving(),
            Phase::Closed(_) => {}
        }
    }

    /// True when the export of the last [`Event::ExportWanted`] is asked for by LIST. Who has several answers by
    /// [`Server::handle_list`]; [`Server::handle_export`] lists the one without a name.
    pub fn is_list_wanted(&self) -> bool {
        matches!(&self.phase, Phase::Negotiation(negotiation) if negotiation.is_list_wanted())
    }

    /// Answers a LIST with these names and texts for people.
    ///
    /// # Panics
    /// When no list is awaited, which is a bug of the caller.
    pub fn handle_list<'a>(&mut self, exports: impl Iterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
        let Phase::Negotiation(negotiation) = &mut self.phase else { panic!("no list is awaited") };
        negotiation.handle_list(exports, out);
    }

    /// The driver has taken so many bytes of the payload of the last write.
    ///
    /// # Panics
    /// When there are not so many to come, which is a bug of the caller.
    pub fn handle_payload(&mut self, received: u32) {
        let Phase::Transmission(transmission) = &mut self.phase else { panic!("no payload is awaited") };
        transmission.handle_payload(received);
    }

    /// The driver gives back so many bytes of a payload that it had taken: they are in front of the bytes to come.
    ///
    /// # Panics
    /// When something behind the payload was looked at, which is a bug of the caller.
    pub fn handle_payload_returned(&mut self, returned: u32) {
        let Phase::Transmission(transmission) = &mut self.phase else { panic!("there was no payload") };
        transmission.handle_payload_returned(returned);
    }

    /// True for what a connection can come to. One that another process hands over is asked before it is used.
    pub fn is_sound(&self) -> bool {
        match &self.phase {
            Phase::Negotiation(negotiation) => negotiation.is_sound(),
            Phase::Transmission(transmission) => transmission.is_sound(),
            Phase::Closed(_) => true,
        }
    }

    /// Bytes of payload that the driver has to take before anything else is consumed.
    pub fn payload_remaining(&self) -> u32 {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.payload_remaining(),
            _ => 0,
        }
    }

    /// What was agreed on, once the handshake is over.
    pub fn agreement(&self) -> Option<&Agreement> {
        match &self.phase {
            Phase::Transmission(transmission) => Some(transmission.agreement()),
            Phase::Closed(agreement) => agreement.as_ref(),
            Phase::Negotiation(_) => None,
        }
    }

    /// True while the handshake lasts.
    pub fn is_negotiating(&self) -> bool {
        matches!(self.phase, Phase::Negotiation(_))
    }

    /// True when it is as [`Server::agreed()`] makes it.
    pub fn is_at_rest(&self) -> bool {
        matches!(&self.phase, Phase::Transmission(transmission) if transmission.is_at_rest())
    }

    /// True when a request has arrived in part.
    pub fn is_midway(&self) -> bool {
        matches!(&self.phase, Phase::Transmission(transmission) if transmission.is_midway())
    }
}

#[cfg(test)]
mod tests;
