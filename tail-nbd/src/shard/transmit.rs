//! Answers of a connection, and their way to its socket: one send at a time, with all that is ready.

use super::owner::Shard;
use crate::connection::State;
use crate::limits::SPARE_BATCHES_MAX;
use crate::nbd::reply::Answer;
use crate::nbd::request::Request;
use crate::ring::batch::Batch;
use crate::ring::op::{Completion, Op, Owner};
use crate::ring::slots::Token;
use std::rc::Rc;

impl Shard {
    /// Has `write` append its answer to the replies of a connection, unless it is cut.
    pub(super) fn reply(&mut self, token: Token, request: &Request, write: impl FnOnce(&mut Batch, Answer)) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.state == State::Cut {
            return;
        }
        let answer = Answer::new(connection.style(), request);
        let mut batch = match connection.filling.take() {
            Some(batch) => batch,
            None => self.spare_batch(),
        };
        write(&mut batch, answer);
        if let Some(connection) = self.connections.get_mut(token) {
            connection.filling = Some(batch);
        }
        self.touch(token);
    }

    /// Sends what is ready, unless a send is under way.
    pub(super) fn transmit(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.sending {
            return;
        }
        let Some(mut batch) = connection.unsent.take().or_else(|| connection.filling.take()) else { return };
        if batch.is_empty() || connection.state == State::Cut {
            return self.recycle(batch);
        }
        batch.seal();
        connection.sending = true;
        connection.taken_bytes = batch.sent_bytes();
        self.sends_count += 1;
        let socket = Rc::clone(&connection.socket);
        self.set_send_deadline(token, batch.has_whole_reply());
        self.outbox.push_back((Owner::Transmit(token), Op::Transmit { socket, batch }));
    }

    /// A send is over.
    pub(super) fn handle_transmitted(&mut self, token: Token, completion: Completion) {
        let Op::Transmit { socket, mut batch } = completion.op else { unreachable!("a send") };
        let Some(connection) = self.connections.get_mut(token) else { return self.recycle(batch) };
        self.current = Some(connection.disc);
        let sent = match completion.result {
            Ok(sent) if sent > 0 => sent,
            Err(errno) if matches!(errno.0, libc::EINTR | libc::EAGAIN | libc::ECANCELED) => 0,
            Ok(_) | Err(_) => {
                connection.sending = false;
                self.recycle(batch);
                return self.cut(token);
            }
        };
        if connection.state == State::Cut || batch.advance(sent as usize) {
            connection.sending = false;
            connection.send_deadline = None;
            self.recycle(batch);
            self.touch(token);
        } else if connection.held {
            connection.sending = false;
            connection.send_deadline = None;
            connection.unsent = Some(batch);
        } else {
            let has_taken = batch.sent_bytes() > connection.taken_bytes;
            connection.taken_bytes = batch.sent_bytes();
            // A long reply has one deadline for all of it.
            if has_taken && !batch.has_whole_reply() {
                self.set_send_deadline(token, false);
            }
            self.outbox.push_back((Owner::Transmit(token), Op::Transmit { socket, batch }));
        }
    }

    /// A batch to fill.
    pub(super) fn spare_batch(&mut self) -> Box<Batch> {
        self.batches.pop().unwrap_or_default()
    }

    /// A batch that is sent, or will never be.
    pub(super) fn recycle(&mut self, mut batch: Box<Batch>) {
        batch.clear();
        // After thousands of clients came at once, most would never be needed again.
        if self.batches.len() < SPARE_BATCHES_MAX {
            self.batches.push(batch);
        }
    }
}
