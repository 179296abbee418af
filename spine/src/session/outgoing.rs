//! Lines waiting to be sent, counted in bytes.

use crate::limits::{LINE_BYTES_MAX, OUTGOING_BYTES_MAX};
use bytes::{Bytes, BytesMut};
use std::{collections::VecDeque, fmt::Display};
use thiserror::Error;

/// A chunk given to the transport holds whole lines, up to about this many bytes.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    chunks: VecDeque<BytesMut>,
    queued_bytes: usize,
}

/// Why a line was not queued.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Full {
    /// The peer does not read.
    #[error("the peer does not read what it is sent")]
    Queue,
    /// The line itself is over the protocol's bound.
    #[error("a message is longer than the protocol allows")]
    Line,
}

impl Outgoing {
    pub(super) fn push(&mut self, message: &impl Display) -> Result<(), Full> {
        let line = format!("{message}\n");
        if line.len() > LINE_BYTES_MAX {
            return Err(Full::Line);
        }
        if self.queued_bytes + line.len() > OUTGOING_BYTES_MAX {
            return Err(Full::Queue);
        }
        self.queued_bytes += line.len();
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() + line.len() <= CHUNK_BYTES => chunk.extend_from_slice(line.as_bytes()),
            _ => self.chunks.push_back(BytesMut::from(line.as_bytes())),
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front()?;
        self.queued_bytes -= chunk.len();
        Some(chunk.freeze())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
