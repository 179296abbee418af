//! Bytes into lines, with a bound.

use crate::{limits::LINE_BYTES_MAX, message::Violation};
use std::collections::VecDeque;

/// Collects received bytes and gives out whole lines.
///
/// Feed it with [`handle_bytes`](Self::handle_bytes), then call [`poll_line`](Self::poll_line) until
/// it gives none: what stays behind is less than one line, hence bounded. After an error it gives
/// nothing but errors.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: VecDeque<u8>,
    /// Bytes at the front known to hold no LF, so that none is looked at twice.
    searched: usize,
}

impl LineBuffer {
    /// Takes received bytes.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next whole line, without its LF and without a CR before it.
    ///
    /// # Errors
    /// [`Violation::LineTooLong`] and [`Violation::Utf8`]; both mean that the peer is to be dropped.
    pub fn poll_line(&mut self) -> Result<Option<String>, Violation> {
        let found = self.bytes.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let Some(found) = found else {
            self.searched = self.bytes.len();
            return if self.searched >= LINE_BYTES_MAX { Err(Violation::LineTooLong) } else { Ok(None) };
        };
        let length = self.searched + found;
        if length >= LINE_BYTES_MAX {
            return Err(Violation::LineTooLong);
        }
        let mut line: Vec<u8> = self.bytes.drain(..=length).collect();
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map(Some).map_err(|_| Violation::Utf8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_at_the_bound_passes_and_one_byte_more_does_not() {
        let mut buffer = LineBuffer::default();
        buffer.handle_bytes(&vec![b'a'; LINE_BYTES_MAX - 1]);
        assert!(buffer.poll_line().unwrap().is_none());
        buffer.handle_bytes(b"\n");
        assert_eq!(buffer.poll_line().unwrap().unwrap().len(), LINE_BYTES_MAX - 1);

        let mut buffer = LineBuffer::default();
        buffer.handle_bytes(&vec![b'a'; LINE_BYTES_MAX]);
        assert!(matches!(buffer.poll_line(), Err(Violation::LineTooLong)));
        buffer.handle_bytes(b"\n");
        assert!(matches!(buffer.poll_line(), Err(Violation::LineTooLong)));
    }

    #[test]
    fn what_is_not_utf8_is_a_violation() {
        let mut buffer = LineBuffer::default();
        buffer.handle_bytes(b"* ready \xff\n");
        assert!(matches!(buffer.poll_line(), Err(Violation::Utf8)));
    }

    proptest! {
        #[test]
        fn cuts_between_bytes_do_not_matter(lines in prop::collection::vec("[^\n\r]{0,20}", 0..8), cut in 1usize..7) {
            let bytes: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let mut buffer = LineBuffer::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(cut) {
                buffer.handle_bytes(chunk);
                while let Some(line) = buffer.poll_line().unwrap() {
                    seen.push(line);
                }
            }
            prop_assert_eq!(seen, lines);
        }
    }
}
