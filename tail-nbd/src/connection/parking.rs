//! Input that has to wait, out of the buffer it was received in.
//!
//! There are few receive buffers, and all connections of a shard share them. A client that sends requests and takes no
//! replies would keep one for as long as it is let: so what cannot be worked on at the end of a turn is copied into memory
//! of its own size. That is not taken at the start, and is bounded: beyond the bound input stays in its buffer.

use crate::limits::PARKED_BYTES_MAX;
use std::cell::Cell;
use std::rc::Rc;

/// Counts the parked bytes of a shard.
#[derive(Clone, Debug, Default)]
pub struct Parking(Rc<Cell<usize>>);

/// A copy of some input.
#[derive(Debug)]
pub struct Parked {
    bytes: Box<[u8]>,
    parking: Parking,
}

impl Parking {
    /// A copy; `None` when too much is parked already.
    pub fn park(&self, bytes: &[u8]) -> Option<Parked> {
        let parked_bytes = self.0.get() + bytes.len();
        if parked_bytes > PARKED_BYTES_MAX {
            return None;
        }
        self.0.set(parked_bytes);
        Some(Parked { bytes: bytes.into(), parking: self.clone() })
    }
}

impl Parked {
    /// What was parked.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.parking.0.set(self.parking.0.get() - self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_is_parked_and_no_more_until_some_of_it_is_gone() {
        let parking = Parking::default();
        let half = vec![1; PARKED_BYTES_MAX / 2];
        let (one, two) = (parking.park(&half).unwrap(), parking.park(&half).unwrap());
        assert!(parking.park(&[1]).is_none());
        drop(one);
        assert_eq!(parking.park(b"some").unwrap().bytes(), b"some");
        drop(two);
        assert_eq!(parking.0.get(), 0);
    }
}
