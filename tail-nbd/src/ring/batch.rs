//! Replies on their way to one socket, gathered so that one system call sends them all.
//!
//! ```text
//!   headers: [ h1 h2 h3 | h4 | h5 ]           protocol code appends here
//!   parts:   headers[0..3] payload(Buffer) headers[3..4] payload(Buffer) headers[4..5] pages(Pipe)
//! ```
//!
//! A batch with pages takes a system call more for each run of them (see [`pipe`](super::pipe)).

use super::pipe::Pipe;
use crate::buffer::Buffer;
use crate::error::Errno;
use crate::limits::{BATCH_PARTS_MAX, PIECE_BUFFER_BYTES};

/// Headers and payloads, in the order of the wire.
#[derive(Debug, Default)]
pub struct Batch {
    headers: Vec<u8>,
    /// Bytes of `headers` that are in `parts` already.
    headers_listed: usize,
    parts: Vec<Part>,
    /// Parts that are sent.
    parts_sent: usize,
    /// Bytes of the next part that are sent.
    bytes_sent: usize,
    /// Bytes that are sent in all.
    sent_bytes: u64,
    /// There is the buffer for whole replies in it.
    whole: bool,
}

#[derive(Debug)]
enum Part {
    Headers { start: usize, end: usize },
    Payload { buffer: Buffer, length: usize },
    Pages { pipe: Pipe, length: usize },
}

/// Headers above this many bytes close a batch for new requests.
const HEADERS_BYTES_MAX: usize = 64 << 10;

impl Batch {
    /// Where the protocol appends what it says.
    pub fn headers(&mut self) -> &mut Vec<u8> {
        &mut self.headers
    }

    /// Puts the first `length` bytes of a buffer behind everything that is there.
    pub fn push_payload(&mut self, buffer: Buffer, length: usize) {
        assert!(length <= buffer.capacity());
        self.whole |= buffer.capacity() > PIECE_BUFFER_BYTES;
        self.seal();
        self.parts.push(Part::Payload { buffer, length });
    }

    /// Puts the pages in a pipe behind everything that is there.
    pub fn push_pages(&mut self, pipe: Pipe) {
        self.seal();
        let length = pipe.left();
        self.parts.push(Part::Pages { pipe, length });
    }

    /// Lists the headers that are not listed yet. To be called before sending.
    pub fn seal(&mut self) {
        let (start, end) = (self.headers_listed, self.headers.len());
        if end > start {
            self.parts.push(Part::Headers { start, end });
            self.headers_listed = end;
        }
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.parts.is_empty()
    }

    /// True when no new request should be started before it is sent. What is in flight already fits in: it
    /// has two parts a request at most.
    pub fn is_full(&self) -> bool {
        self.parts.len() >= BATCH_PARTS_MAX || self.headers.len() >= HEADERS_BYTES_MAX
    }

    /// The bytes that are not sent yet, up to the next pages.
    pub fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        self.parts[self.parts_sent..].iter().enumerate().map_while(|(index, part)| {
            let bytes = self.bytes_of(part)?;
            Some(if index == 0 { &bytes[self.bytes_sent..] } else { bytes })
        })
    }

    /// The pages that are to be sent next, if it is pages.
    pub fn next_pages(&mut self) -> Option<&mut Pipe> {
        match self.parts.get_mut(self.parts_sent)? {
            Part::Pages { pipe, .. } => Some(pipe),
            Part::Headers { .. } | Part::Payload { .. } => None,
        }
    }

    /// True when there are pages among what is not sent yet.
    pub fn has_pages(&self) -> bool {
        self.parts[self.parts_sent..].iter().any(|part| matches!(part, Part::Pages { .. }))
    }

    /// True when something follows the part that is to be sent next.
    pub fn has_parts_behind(&self) -> bool {
        self.parts.len() > self.parts_sent + 1
    }

    /// So many more bytes are sent. True when that was all.
    pub fn advance(&mut self, mut sent: usize) -> bool {
        self.sent_bytes += sent as u64;
        while let Some(part) = self.parts.get(self.parts_sent) {
            let left = self.length_of(part) - self.bytes_sent;
            if sent < left {
                self.bytes_sent += sent;
                return false;
            }
            sent -= left;
            self.bytes_sent = 0;
            self.parts_sent += 1;
        }
        assert!(sent == 0, "the kernel sent more than there was");
        true
    }

    /// Makes what is unsent bytes of its own, which can be copied: pages are read out of their pipes.
    ///
    /// # Errors
    /// What the kernel says of a pipe: the batch is broken then.
    pub fn flatten(&mut self) -> Result<(), Errno> {
        self.seal();
        let mut bytes = Vec::new();
        loop {
            self.unsent().for_each(|part| bytes.extend_from_slice(part));
            let before = self.unsent().map(<[u8]>::len).sum();
            self.advance(before);
            let Some(pipe) = self.next_pages() else { break };
            let count = pipe.left();
            pipe.read_out(&mut bytes).map_err(|errno| Errno(errno.raw_os_error()))?;
            self.advance(count);
        }
        self.clear();
        self.headers = bytes;
        self.seal();
        Ok(())
    }

    /// How much of it is sent.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// True when it has a buffer that others may wait for.
    pub fn has_whole_reply(&self) -> bool {
        self.whole
    }

    /// Empties it for the next use; the buffers go back to their pool.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.headers.shrink_to(HEADERS_BYTES_MAX);
        self.parts.clear();
        (self.headers_listed, self.parts_sent, self.bytes_sent) = (0, 0, 0);
        (self.sent_bytes, self.whole) = (0, false);
    }

    fn length_of(&self, part: &Part) -> usize {
        match part {
            Part::Headers { start, end } => end - start,
            Part::Payload { length, .. } | Part::Pages { length, .. } => *length,
        }
    }

    fn bytes_of<'a>(&'a self, part: &'a Part) -> Option<&'a [u8]> {
        match part {
            Part::Headers { start, end } => Some(&self.headers[*start..*end]),
            Part::Payload { buffer, length } => Some(&buffer.bytes()[..*length]),
            Part::Pages { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Pool;

    fn sample(pool: &Pool) -> Batch {
        let mut batch = Batch::default();
        batch.headers().extend_from_slice(b"one two ");
        let mut buffer = pool.take_free(1).unwrap();
        buffer.bytes_mut()[..6].copy_from_slice(b"three ");
        batch.push_payload(buffer, 6);
        batch.headers().extend_from_slice(b"four");
        batch.seal();
        batch
    }

    #[test]
    fn a_send_cut_anywhere_goes_on_where_it_stopped() {
        let pool = Pool::new(&[(4096, 1)]);
        let whole = b"one two three four";
        for cut in 0..whole.len() {
            let mut batch = sample(&pool);
            assert!(!batch.advance(cut));
            let rest: Vec<u8> = batch.unsent().flatten().copied().collect();
            assert_eq!(rest, whole[cut..], "cut at {cut}");
            assert!(batch.advance(whole.len() - cut));
            batch.clear();
            assert_eq!(pool.taken_count(), 0);
        }
    }
}
