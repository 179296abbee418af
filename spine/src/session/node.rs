//! A head's or tail's end.

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

/// What the brain said, in order.
#[derive(Debug, PartialEq)]
pub enum BrainSaid {
    /// It let the node in: answer with [`NodeSession::handle_dump`].
    Welcomed(Welcome),
    /// An order: answer with [`NodeSession::handle_answer`].
    Command(Tag, Command),
    /// The connection is over; always the last event.
    Closed {
        /// For people.
        reason: String,
    },
}

/// One connection, seen from the node.
#[derive(Debug)]
pub struct NodeSession {
    state: State,
    hello: Hello,
    lines: LineBuffer,
    events: VecDeque<BrainSaid>,
    outgoing: Outgoing,
    in_flight: BTreeSet<Tag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitWelcome { deadline_ms: u64 },
    AwaitDump,
    Ready,
    Closed,
}

impl NodeSession {
    /// Starts by saying hello.
    pub fn new(hello: Hello, now_ms: u64) -> Self {
        let mut session = Self {
            state: State::AwaitWelcome { deadline_ms: now_ms.saturating_add(HELLO_DEADLINE_MS) },
            hello: hello.clone(),
            lines: LineBuffer::default(),
            events: VecDeque::new(),
            outgoing: Outgoing::default(),
            in_flight: BTreeSet::new(),
        };
        session.send(&NodeMessage::Notice(Notice::Hello(hello)));
        session
    }

    fn handle_message(&mut self, message: BrainMessage) -> Result<(), Violation> {
        match message {
            BrainMessage::Welcome(welcome) => self.handle_welcome(welcome),
            // The brain did not understand something of ours; its operator sees it in the brain's log.
            BrainMessage::Bad(_) => Ok(()),
            BrainMessage::Goodbye(Reason { reason }) => {
                self.close(format!("the brain said: {reason}"));
                Ok(())
            }
            BrainMessage::Command(tag, command) => self.handle_command(tag, command),
        }
    }

    fn handle_welcome(&mut self, welcome: Welcome) -> Result<(), Violation> {
        let State::AwaitWelcome { .. } = self.state else { return Err(Violation::Order("welcome came twice")) };
        let versions = self.hello.spine;
        if !(versions.oldest..=versions.newest).contains(&welcome.spine) {
            return Err(Violation::Order("the brain chose a version of the protocol that this node does not speak"));
        }
        if self.hello.cluster.is_some_and(|ours| ours != welcome.cluster) {
            return Err(Violation::Order("this node belongs to another cluster than the brain"));
        }
        if welcome.epoch < self.hello.epoch {
            return Err(Violation::Order(
                "the brain's epoch is lower than one this node has already seen: it is not the active brain",
            ));
        }
        self.state = State::AwaitDump;
        self.events.push_back(BrainSaid::Welcomed(welcome));
        Ok(())
    }

    fn handle_command(&mut self, tag: Tag, command: Command) -> Result<(), Violation> {
        if self.state != State::Ready {
            return Err(Violation::Order("a command came before ready"));
        }
        if self.in_flight.len() >= COMMANDS_IN_FLIGHT_MAX {
            return Err(Violation::Order("too many commands are in flight"));
        }
        if !self.in_flight.insert(tag) {
            return Err(Violation::Order("a command has the tag of one that is in flight"));
        }
        self.events.push_back(BrainSaid::Command(tag, command));
        Ok(())
    }

    /// Answers [`BrainSaid::Welcomed`]: all that the node has, sent as `created`, then `ready`.
    pub fn handle_dump(&mut self, resources: Vec<(ResourceName, Value)>) {
        if self.state != State::AwaitDump {
            return;
        }
        self.state = State::Ready;
        for (name, value) in resources {
            self.send(&NodeMessage::Notice(Notice::Created(name, value)));
        }
        self.send(&NodeMessage::Notice(Notice::Ready));
    }

    /// Says something untagged. Before ready it is dropped: the dump will say it.
    pub fn handle_notice(&mut self, notice: Notice) {
        if self.state == State::Ready {
            self.send(&NodeMessage::Notice(notice));
        }
    }

    /// Answers a command. A tag that is not in flight is ignored.
    pub fn handle_answer(&mut self, tag: Tag, answer: Answer) {
        if !self.in_flight.remove(&tag) || self.state == State::Closed {
            return;
        }
        let message = NodeMessage::Answer(tag, answer);
        if self.outgoing.push(&message) == Err(Full::Line) {
            let message = format!("the answer is longer than {LINE_BYTES_MAX} bytes");
            self.send(&NodeMessage::Answer(tag, Answer::No(Refusal { error: "too-long".to_owned(), message })));
        }
    }

    fn send(&mut self, message: &NodeMessage) {
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
            self.events.push_back(BrainSaid::Closed { reason });
        }
    }
}

impl Session for NodeSession {
    type Event = BrainSaid;

    fn handle_bytes(&mut self, bytes: &[u8]) {
        self.lines.handle_bytes(bytes);
        while self.state != State::Closed {
            let line = match self.lines.poll_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(violation) => return self.handle_close(&violation.to_string()),
            };
            match BrainMessage::parse(&line).and_then(|message| self.handle_message(message)) {
                Ok(()) => {}
                Err(Violation::Verb { tag: Some(tag), verb }) => {
                    let message = format!("unknown verb {verb:?}");
                    self.send(&NodeMessage::Answer(tag, Answer::Bad(Complaint { message })));
                }
                // An untagged verb that a later version may have: nothing to answer, nothing to do.
                Err(Violation::Verb { tag: None, .. }) => {}
                Err(violation) => self.handle_close(&violation.to_string()),
            }
        }
    }

    fn handle_timeout(&mut self, now_ms: u64) {
        if let State::AwaitWelcome { deadline_ms } = self.state
            && now_ms >= deadline_ms
        {
            self.handle_close("the brain did not answer hello in time");
        }
    }

    fn handle_close(&mut self, reason: &str) {
        if self.state != State::Closed {
            self.send(&NodeMessage::Notice(Notice::Goodbye(Reason { reason: reason.to_owned() })));
            self.close(reason.to_owned());
        }
    }

    fn handle_disconnect(&mut self, reason: &str) {
        self.outgoing.clear();
        self.close(reason.to_owned());
    }

    fn poll_event(&mut self) -> Option<BrainSaid> {
        self.events.pop_front()
    }

    fn poll_transmit(&mut self) -> Option<Bytes> {
        self.outgoing.pop()
    }

    fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::AwaitWelcome { deadline_ms } => Some(deadline_ms),
            _ => None,
        }
    }

    fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}
