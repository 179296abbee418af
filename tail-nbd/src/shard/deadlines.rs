//! Until when a client must have done something, and what happens to it otherwise.

use super::owner::Shard;
use crate::ring::slots::Token;
use std::net::IpAddr;

impl Shard {
    /// Has the deadline of a connection, if it has one, looked at when it is due.
    pub(super) fn set_alarm(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token)
            && let Some(deadline) = connection.next_deadline()
        {
            self.alarms.set(token, &mut connection.alarm, deadline);
        }
    }

    /// Cuts the connection unless something happens within so many seconds.
    pub(super) fn set_deadline(&mut self, token: Token, seconds: u64) {
        let deadline = self.now.plus_seconds(seconds);
        if let Some(connection) = self.connections.get_mut(token) {
            connection.deadline = Some(deadline);
        }
        self.set_alarm(token);
    }

    /// Cuts the connection unless it takes some of its replies, or all of a whole one.
    pub(super) fn set_send_deadline(&mut self, token: Token, whole: bool) {
        let seconds = if whole { self.patience.whole_seconds } else { self.patience.send_seconds };
        let deadline = self.now.plus_seconds(seconds);
        if let Some(connection) = self.connections.get_mut(token) {
            connection.send_deadline = Some(deadline);
        }
        self.set_alarm(token);
    }

    /// Cuts off whoever has not kept one.
    pub(super) fn look_at_deadlines(&mut self) {
        while let Some(token) = self.alarms.take_due(self.now) {
            let Some(connection) = self.connections.get_mut(token) else { continue };
            connection.alarm = None;
            match connection.next_deadline() {
                // Its deadlines rest until the disc is thawed.
                _ if connection.held => {}
                Some(deadline) if deadline <= self.now => {
                    let (disc, peer) = (connection.disc, connection.peer);
                    let is_deaf = connection.send_deadline.is_some_and(|deadline| deadline <= self.now);
                    tracing::debug!(%peer, is_deaf, "a client is too slow and is cut off");
                    if is_deaf {
                        self.note_deaf(disc, peer);
                    }
                    self.cut(token);
                }
                Some(_) => self.set_alarm(token),
                None => {}
            }
        }
    }

    /// Counts a client that did not take its replies, and tells of one in a second: a client can cause it.
    fn note_deaf(&mut self, disc: Token, peer: IpAddr) {
        let Some(disc) = self.discs.get_mut(disc) else { return };
        disc.counters.deaf_count += 1;
        if self.deaf_told_at.is_none_or(|at| at.plus_seconds(1) <= self.now) {
            self.deaf_told_at = Some(self.now);
            tracing::warn!(disc = %disc.number, %peer, "a client that does not take its replies is cut off");
        }
    }
}
