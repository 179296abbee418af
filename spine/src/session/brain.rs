//! The brain's end.

use super::{
    Session,
    outgoing::{Full, Outgoing},
};
use crate::{
    frame::LineBuffer,
    id::ResourceName,
    limits::{COMMANDS_IN_FLIGHT_MAX, HELLO_DEADLINE_MS, LINE_BYTES_MAX},
    message::{
        Answer, BrainMessage, Command, Complaint, Hello, NodeMessage, Notice, Reason, Refusal, Tag, Violation, Welcome,
    },
};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};

/// What a node said, in order.
#[derive(Debug, PartialEq)]
pub enum NodeSaid {
    /// Who it is: answer with [`BrainSession::handle_welcome`] or [`BrainSession::handle_close`];
    /// nothing else the node says is looked at before.
    Hello(Hello),
    /// It has this resource; one it had under that name is replaced.
    Created(ResourceName, Value),
    /// These attributes changed, or the whole value where it is no object.
    Updated(ResourceName, Value),
    /// It no longer has the resource; the value says why.
    Destroyed(ResourceName, Value),
    /// All it has was said: from here its resources count (R067).
    Ready,
    /// A command was carried out or not. One whose line would be too long is refused `too-long` here,
    /// and never leaves: it must not cost the node its connection, and with it every other resource.
    Answered {
        /// The command's.
        tag: Tag,
        /// Its result.
        answer: Answer,
    },
    /// The connection is over, and with it all the node had (R062); always the last event.
    Closed {
        /// For people.
        reason: String,
    },
}

/// One connection, seen from the brain.
#[derive(Debug)]
pub struct BrainSession {
    state: State,
    lines: LineBuffer,
    events: VecDeque<NodeSaid>,
    outgoing: Outgoing,
    in_flight: BTreeSet<Tag>,
    /// Commands held back until the node is ready and has room.
    waiting: VecDeque<(Tag, Command)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitHello { deadline_ms: u64 },
    Deciding,
    Dumping,
    Ready,
    Closed,
}

impl BrainSession {
    /// Waits for hello.
    pub fn new(now_ms: u64) -> Self {
        Self {
            state: State::AwaitHello { deadline_ms: now_ms.saturating_add(HELLO_DEADLINE_MS) },
            lines: LineBuffer::default(),
            events: VecDeque::new(),
            outgoing: Outgoing::default(),
            in_flight: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    fn parse_lines(&mut self) {
        while !matches!(self.state, State::Deciding | State::Closed) {
            let line = match self.lines.poll_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(violation) => return self.handle_close(&violation.to_string()),
            };
            match NodeMessage::parse(&line).and_then(|message| self.handle_message(message)) {
                Ok(()) => {}
                Err(Violation::Verb { verb, .. }) => {
                    let message = format!("unknown verb {verb:?}");
                    self.send(&BrainMessage::Bad(Complaint { message }));
                }
                Err(violation) => self.handle_close(&violation.to_string()),
            }
        }
    }

    fn handle_message(&mut self, message: NodeMessage) -> Result<(), Violation> {
        let greeted = matches!(self.state, State::Dumping | State::Ready);
        match message {
            NodeMessage::Notice(Notice::Hello(_)) if greeted => return Err(Violation::Order("hello came twice")),
            NodeMessage::Notice(Notice::Hello(hello)) => {
                self.state = State::Deciding;
                self.events.push_back(NodeSaid::Hello(hello));
            }
            NodeMessage::Notice(Notice::Goodbye(Reason { reason })) => self.close(format!("the node said: {reason}")),
            _ if !greeted => return Err(Violation::Order("the first message must be hello")),
            NodeMessage::Notice(Notice::Created(name, value)) => self.events.push_back(NodeSaid::Created(name, value)),
            NodeMessage::Notice(Notice::Updated(name, value)) => self.events.push_back(NodeSaid::Updated(name, value)),
            NodeMessage::Notice(Notice::Destroyed(name, why)) => self.events.push_back(NodeSaid::Destroyed(name, why)),
            NodeMessage::Notice(Notice::Ready) if self.state == State::Ready => {
                return Err(Violation::Order("ready came twice"));
            }
            NodeMessage::Notice(Notice::Ready) => {
                self.state = State::Ready;
                self.events.push_back(NodeSaid::Ready);
                self.send_waiting();
            }
            NodeMessage::Answer(tag, answer) => {
                if !self.in_flight.remove(&tag) {
                    return Err(Violation::Order("an answer has a tag that no command in flight has"));
                }
                self.events.push_back(NodeSaid::Answered { tag, answer });
                self.send_waiting();
            }
        }
        Ok(())
    }

    /// Lets the node in, after [`NodeSaid::Hello`].
    pub fn handle_welcome(&mut self, welcome: Welcome) {
        if self.state == State::Deciding {
            self.state = State::Dumping;
            self.send(&BrainMessage::Welcome(welcome));
            self.parse_lines();
        }
    }

    /// Orders something; sent once the node is ready and has room for it. `tag` must be new.
    pub fn handle_command(&mut self, tag: Tag, command: Command) {
        if self.state != State::Closed {
            self.waiting.push_back((tag, command));
            self.send_waiting();
        }
    }

    fn send_waiting(&mut self) {
        while self.state == State::Ready && self.in_flight.len() < COMMANDS_IN_FLIGHT_MAX {
            let Some((tag, command)) = self.waiting.pop_front() else { break };
            assert!(!self.in_flight.contains(&tag), "tag {tag} is in flight already");
            let message = BrainMessage::Command(tag, command);
            match self.outgoing.push(&message) {
                Ok(()) => {
                    self.in_flight.insert(tag);
                }
                Err(Full::Line) => {
                    let message = format!("the order is longer than {LINE_BYTES_MAX} bytes");
                    let answer = Answer::No(Refusal { error: "too-long".to_owned(), message });
                    self.events.push_back(NodeSaid::Answered { tag, answer });
                }
                Err(full @ Full::Queue) => self.handle_disconnect(&full.to_string()),
            }
        }
    }

    fn send(&mut self, message: &BrainMessage) {
        if self.state != State::Closed
            && let Err(full) = self.outgoing.push(message)
        {
            self.handle_disconnect(&full.to_string());
        }
    }

    fn close(&mut self, reason: String) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.in_flight.clear();
            self.waiting.clear();
            self.events.push_back(NodeSaid::Closed { reason });
        }
    }
}

impl Session for BrainSession {
    type Event = NodeSaid;

    fn handle_bytes(&mut self, bytes: &[u8]) {
        self.lines.handle_bytes(bytes);
        self.parse_lines();
    }

    fn handle_timeout(&mut self, now_ms: u64) {
        if let State::AwaitHello { deadline_ms } = self.state
            && now_ms >= deadline_ms
        {
            self.handle_close("hello did not come in time");
        }
    }

    fn handle_close(&mut self, reason: &str) {
        if self.state != State::Closed {
            self.send(&BrainMessage::Goodbye(Reason { reason: reason.to_owned() }));
            self.close(reason.to_owned());
        }
    }

    fn handle_disconnect(&mut self, reason: &str) {
        self.outgoing.clear();
        self.close(reason.to_owned());
    }

    fn poll_event(&mut self) -> Option<NodeSaid> {
        self.events.pop_front()
    }

    fn poll_transmit(&mut self) -> Option<Bytes> {
        self.outgoing.pop()
    }

    fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::AwaitHello { deadline_ms } => Some(deadline_ms),
            _ => None,
        }
    }

    fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}
