//! The memory of the data path: what the process takes, and what each shard gets of it. Pure.
//!
//! ```text
//!   receive_mib ── divided over the shards: buffers that requests arrive in
//!   data_mib ──┬── 64 MiB for the process: the one reply at a time that must be whole and is longer than a piece
//!              └── divided over the shards: buffers for the data of requests, in four sizes
//! ```
//!
//! All of it is taken at the start, and the kernel gives it its pages when it is first used.

use crate::limits::{BLOCK_BYTES_MAX, PAYLOAD_BYTES_MAX, PIECE_BUFFER_BYTES, RECEIVE_BYTES};
use thiserror::Error;

/// How much the process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For receiving, in MiB.
    pub receive_mib: usize,
    /// For the data of requests, in MiB.
    pub data_mib: usize,
}

/// What one shard has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Receive buffers.
    pub receive_buffers_count: usize,
    /// Sizes of data buffers in bytes, and how many there are: the common small requests, the ranges that tools copy by,
    /// and the piece that longer requests are cut into.
    pub data_buffers: [(usize, usize); 4],
}

/// There is too little memory for so many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{name} = {value} is too little memory for {shards_count} shards: set it to {needed} at least, or fewer shards"
)]
pub struct TooLittle {
    name: &'static str,
    value: usize,
    shards_count: usize,
    needed: usize,
}

const MIB: usize = 1 << 20;

/// The longest reply that must be whole, with its ends filled up to blocks, in bytes.
pub const WHOLE_BYTES: usize = PAYLOAD_BYTES_MAX as usize + 4 * BLOCK_BYTES_MAX;

/// The same in MiB of `data_mib`; the few KiB above are not counted.
const WHOLE_MIB: usize = PAYLOAD_BYTES_MAX as usize / MIB;

/// The data buffers of a shard for each unit of its memory.
const UNIT: [(usize, usize); 4] = [(8 << 10, 248), (64 << 10, 16), (256 << 10, 8), (PIECE_BUFFER_BYTES, 2)];

/// What a unit takes at most, in MiB: about two, one, two and two.
const UNIT_MIB: usize = 7;

const _: () = {
    let (mut bytes, mut class) = (0, 0);
    while class < UNIT.len() {
        bytes += UNIT[class].0 * UNIT[class].1;
        class += 1;
    }
    assert!(bytes <= UNIT_MIB * MIB);
};

/// What a shard needs for receiving, in MiB: sixteen buffers, all of which may be offered to the kernel.
const RECEIVE_MIB_MIN: usize = 1;

impl Memory {
    /// 256 MiB for so many shards, or what they need at least if that is more.
    pub fn default_for(shards_count: usize) -> Self {
        Self {
            receive_mib: 16.max(RECEIVE_MIB_MIN * shards_count),
            data_mib: 240.max(WHOLE_MIB + UNIT_MIB * shards_count),
        }
    }

    /// What each of so many shards gets.
    ///
    /// # Errors
    /// When that is too little to serve.
    pub fn share(self, shards_count: usize) -> Result<Share, TooLittle> {
        let check = |name, value, needed| {
            if value >= needed { Ok(()) } else { Err(TooLittle { name, value, shards_count, needed }) }
        };
        check("receive_mib", self.receive_mib, RECEIVE_MIB_MIN * shards_count)?;
        check("data_mib", self.data_mib, WHOLE_MIB + UNIT_MIB * shards_count)?;
        let data_bytes = (self.data_mib - WHOLE_MIB) * MIB / shards_count;
        let count_of = |unit_count: usize| unit_count * data_bytes / (UNIT_MIB * MIB);
        Ok(Share {
            receive_buffers_count: self.receive_mib * MIB / shards_count / RECEIVE_BYTES,
            data_buffers: UNIT.map(|(bytes, unit_count)| (bytes, count_of(unit_count))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_256_mib_for_the_process_and_enough_for_any_number_of_shards() {
        let default = Memory::default_for(2);
        assert_eq!(default.receive_mib + default.data_mib, 256);
        for shards_count in [1, 2, 3, 16, 25, 26, 256] {
            let memory = Memory::default_for(shards_count);
            let share = memory.share(shards_count).unwrap();
            let data_bytes: usize = share.data_buffers.iter().map(|(bytes, count)| bytes * count).sum();
            assert!(data_bytes * shards_count + WHOLE_MIB * MIB <= memory.data_mib * MIB, "{shards_count}: {share:?}");
            assert!(share.receive_buffers_count * RECEIVE_BYTES * shards_count <= memory.receive_mib * MIB);
            assert!(share.receive_buffers_count >= 16 && share.data_buffers.iter().all(|(_, count)| *count >= 2));
        }
        assert_eq!(Memory::default_for(2).share(2).unwrap().receive_buffers_count, 128);
    }

    #[test]
    fn too_little_is_said_with_what_is_enough() {
        let refusal = |receive_mib, data_mib| Memory { receive_mib, data_mib }.share(4).unwrap_err().to_string();
        assert_eq!(
            refusal(16, 91),
            "data_mib = 91 is too little memory for 4 shards: set it to 92 at least, or fewer shards"
        );
        assert!(refusal(3, 240).starts_with("receive_mib = 3 is too little"));
        assert!(Memory { receive_mib: 4, data_mib: 92 }.share(4).is_ok());
    }
}
