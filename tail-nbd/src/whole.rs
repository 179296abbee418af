//! The one buffer of the process for a reply that must be whole and is longer than a piece. Such replies are rare, and
//! each shard would need 64 MiB for them; so whoever finds it lent waits.

use crate::memory::WHOLE_BYTES;
use std::sync::{Arc, Mutex, PoisonError};

/// A share in the buffer.
#[derive(Clone, Debug)]
pub struct Whole(Arc<Mutex<Option<&'static mut [u8]>>>);

impl Whole {
    /// Takes the memory; it stays with the process.
    pub fn new() -> Self {
        let memory = crate::buffer::aligned(WHOLE_BYTES);
        Self(Arc::new(Mutex::new(Some(memory))))
    }

    /// The buffer, unless somebody has it.
    pub(crate) fn take(&self) -> Option<&'static mut [u8]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// It comes back.
    pub(crate) fn give_back(&self, memory: &'static mut [u8]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    }

    /// True when somebody has it.
    pub fn is_taken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Default for Whole {
    fn default() -> Self {
        Self::new()
    }
}
