//! qemu's monitor protocol (QMP) as a state machine without I/O.
//!
//! ```text
//!   Greeting ──{"QMP":…}──▶ Negotiating ──{"return":{}}──▶ Ready
//! ```
//!
//! Feed bytes to [`Session::handle_bytes`]; then take all of [`Session::poll_transmit`] and
//! [`Session::poll_output`]. Commands given before the session is ready are sent when it is. Calls
//! that find nothing are harmless.

use crate::limits::QMP_LINE_BYTES_MAX;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use thiserror::Error;

/// Ties an answer to its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// One monitor connection.
#[derive(Debug, Default)]
pub struct Session {
    state: State,
    received: Vec<u8>,
    /// Bytes of `received` that are known to hold no line's end.
    searched: usize,
    next_id: u64,
    in_flight: BTreeSet<RequestId>,
    waiting: VecDeque<String>,
    transmit: VecDeque<String>,
    output: VecDeque<Output>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Greeting,
    Negotiating,
    Ready,
}

/// What the session has to say.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Commands are carried out from now on.
    Ready,
    /// The answer to a command.
    Answer(RequestId, Result<Value, QmpError>),
    /// Something happened.
    Event(Event),
}

/// What happened, as far as it matters here.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// qemu is about to exit.
    Shutdown {
        /// True when the guest asked for it.
        guest: bool,
        /// qemu's word for why: `guest-shutdown`, `host-qmp-quit`, …
        reason: String,
    },
    /// The guest's system crashed and said so.
    GuestPanicked,
    /// Any other.
    Other(String),
}

/// A command that qemu refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{description}")]
pub struct QmpError {
    /// qemu's class of it: mostly `GenericError`.
    pub class: String,
    /// qemu's sentence.
    pub description: String,
}

/// What qemu may not send. Nothing more can be understood after it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// Over the bound.
    #[error("a line of qemu's monitor is longer than {QMP_LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// Not a JSON object, or not one that QMP has.
    #[error("qemu's monitor said something that is not QMP: {0}")]
    Malformed(&'static str),
}

impl Session {
    /// Queues a command.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> RequestId {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments, "id": id.0}));
        self.in_flight.insert(id);
        match self.state {
            State::Ready => self.transmit.push_back(line),
            State::Greeting | State::Negotiating => self.waiting.push_back(line),
        }
        id
    }

    /// Takes bytes from qemu, cut anywhere.
    ///
    /// # Errors
    /// When they are not QMP. The session is of no use after that.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.received.extend_from_slice(bytes);
        while let Some(end) = self.received[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=self.searched + end).collect();
            self.searched = 0;
            self.handle_line(&line)?;
        }
        self.searched = self.received.len();
        if self.received.len() > QMP_LINE_BYTES_MAX { Err(Violation::LineTooLong) } else { Ok(()) }
    }

    /// What is to be sent, a line at a time.
    pub fn poll_transmit(&mut self) -> Option<String> {
        self.transmit.pop_front()
    }

    /// What there is to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    fn handle_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let text = line.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(text).map_err(|_| Violation::Malformed("it is not JSON"))?;
        if let Some(event) = value.get("event") {
            let name = event.as_str().ok_or(Violation::Malformed("an event has no name"))?;
            self.output.push_back(Output::Event(Event::read(name, &value["data"])));
            return Ok(());
        }
        match self.state {
            State::Greeting if value.get("QMP").is_some() => {
                self.state = State::Negotiating;
                self.transmit.push_back("{\"execute\":\"qmp_capabilities\"}\n".to_owned());
                Ok(())
            }
            State::Greeting => Err(Violation::Malformed("there was no greeting")),
            State::Negotiating if value.get("return").is_some() => {
                self.state = State::Ready;
                self.transmit.append(&mut self.waiting);
                self.output.push_back(Output::Ready);
                Ok(())
            }
            State::Negotiating => Err(Violation::Malformed("it refused the capabilities")),
            State::Ready => self.handle_answer(&value),
        }
    }

    fn handle_answer(&mut self, value: &Value) -> Result<(), Violation> {
        let result = match (value.get("return"), value.get("error")) {
            (Some(value), None) => Ok(value.clone()),
            (None, Some(error)) => Err(QmpError::read(error)),
            _ => return Err(Violation::Malformed("it is neither an answer nor an event")),
        };
        let id = value.get("id").and_then(Value::as_u64).map(RequestId);
        match id.filter(|id| self.in_flight.remove(id)) {
            Some(id) => self.output.push_back(Output::Answer(id, result)),
            None => return Err(Violation::Malformed("it answers a command that was not given")),
        }
        Ok(())
    }
}

impl Event {
    fn read(name: &str, data: &Value) -> Self {
        match name {
            "SHUTDOWN" => Self::Shutdown {
                guest: data["guest"].as_bool().unwrap_or(false),
                reason: data["reason"].as_str().unwrap_or("unknown").to_owned(),
            },
            "GUEST_PANICKED" => Self::GuestPanicked,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl QmpError {
    fn read(error: &Value) -> Self {
        let text = |name: &str| error[name].as_str().unwrap_or("unknown").to_owned();
        Self { class: text("class"), description: text("desc") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}"#;

    fn ready() -> Session {
        let mut session = Session::default();
        session.handle_bytes(format!("{GREETING}\r\n").as_bytes()).unwrap();
        assert_eq!(session.poll_transmit().unwrap(), "{\"execute\":\"qmp_capabilities\"}\n");
        session.handle_bytes(b"{\"return\": {}}\r\n").unwrap();
        assert_eq!(session.poll_output(), Some(Output::Ready));
        session
    }

    #[test]
    fn commands_wait_for_the_handshake() {
        let mut session = Session::default();
        session.execute("query-status", &json!({}));
        assert_eq!(session.poll_transmit(), None);
        session.handle_bytes(format!("{GREETING}\n{{\"return\":{{}}}}\n").as_bytes()).unwrap();
        assert!(session.poll_transmit().unwrap().contains("qmp_capabilities"));
        assert!(session.poll_transmit().unwrap().contains("query-status"));
    }

    #[test]
    fn answers_find_their_commands_in_any_order_with_events_between() {
        let mut session = ready();
        let (a, b) = (session.execute("a", &json!({})), session.execute("b", &json!({"x": 1})));
        assert_eq!(session.poll_transmit().unwrap(), "{\"arguments\":{},\"execute\":\"a\",\"id\":1}\n");
        let text = r#"{"id":2,"error":{"class":"GenericError","desc":"Cannot grow NBD nodes"}}
{"timestamp":{},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}
{"event":"RESUME"}
{"event":"GUEST_PANICKED","data":{"action":"poweroff"}}
{"return":7,"id":1}
"#;
        session.handle_bytes(text.as_bytes()).unwrap();
        let error = QmpError { class: "GenericError".into(), description: "Cannot grow NBD nodes".into() };
        let shutdown = Event::Shutdown { guest: true, reason: "guest-shutdown".into() };
        let said: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
        assert_eq!(
            said,
            [
                Output::Answer(b, Err(error)),
                Output::Event(shutdown),
                Output::Event(Event::Other("RESUME".into())),
                Output::Event(Event::GuestPanicked),
                Output::Answer(a, Ok(json!(7))),
            ]
        );
    }

    #[test]
    fn nonsense_ends_the_session() {
        for (text, start) in [
            ("nonsense\n", "it is not JSON"),
            ("{\"return\":{}}\n", "it answers a command"),
            ("{}\n", "it is neither"),
            ("{\"event\":1}\n", "an event has no name"),
        ] {
            let error = ready().handle_bytes(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(start), "{text}: {error}");
        }
        assert!(Session::default().handle_bytes(b"{\"return\":{}}\n").is_err(), "no greeting");
        let long = vec![b'x'; QMP_LINE_BYTES_MAX + 1];
        assert_eq!(ready().handle_bytes(&long), Err(Violation::LineTooLong));
    }

    proptest! {
        #[test]
        fn bytes_may_be_cut_anywhere_and_nothing_panics(noise in proptest::collection::vec(any::<u8>(), 0..64), cut in 1usize..7) {
            let text = format!("{GREETING}\n{{\"return\":{{}}}}\n{{\"event\":\"STOP\"}}\n");
            let mut session = Session::default();
            for piece in text.as_bytes().chunks(cut) {
                session.handle_bytes(piece).unwrap();
            }
            prop_assert_eq!(session.poll_output(), Some(Output::Ready));
            prop_assert_eq!(session.poll_output(), Some(Output::Event(Event::Other("STOP".into()))));
            for piece in noise.chunks(cut) {
                if session.handle_bytes(piece).is_err() {
                    break;
                }
            }
        }
    }
}
