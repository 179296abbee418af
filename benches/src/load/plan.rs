//! Which request comes next: pure, seeded, the same for every server.

use anyhow::{Result, bail};

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Reads a block.
    Read,
    /// Writes a block.
    Write,
}

/// The mix of requests.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of each request.
    pub block_bytes: u32,
    /// How many of a hundred requests are writes.
    pub writes_percent: u8,
    /// One after another instead of anywhere.
    pub sequential: bool,
    /// Use only this much of the export, from its start.
    pub span_bytes: Option<u64>,
    /// For the random numbers.
    pub seed: u64,
}

/// An endless sequence of requests.
#[derive(Debug)]
pub struct Plan {
    block_bytes: u32,
    writes_percent: u64,
    sequential: bool,
    blocks_count: u64,
    next_block: u64,
    random: u64,
}

impl Plan {
    /// A plan for the connection numbered `stream` on an export of this size.
    ///
    /// # Errors
    /// When not one block fits.
    pub fn new(config: &Config, size_bytes: u64, stream: u64) -> Result<Self> {
        let span = config.span_bytes.unwrap_or(size_bytes).min(size_bytes);
        let blocks_count = span.checked_div(u64::from(config.block_bytes)).unwrap_or(0);
        if blocks_count == 0 {
            bail!("a block of {} bytes does not fit into {span} bytes", config.block_bytes);
        }
        // Any odd multiplier spreads the streams; xorshift must not start at zero.
        let random = config.seed.wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        Ok(Self {
            block_bytes: config.block_bytes,
            writes_percent: u64::from(config.writes_percent),
            sequential: config.sequential,
            blocks_count,
            next_block: 0,
            random,
        })
    }

    /// The next request's kind and byte offset.
    pub fn next_request(&mut self) -> (Operation, u64) {
        let block = if self.sequential {
            let block = self.next_block;
            self.next_block = (block + 1) % self.blocks_count;
            block
        } else {
            self.next_random() % self.blocks_count
        };
        let write = match self.writes_percent {
            0 => false,
            100.. => true,
            percent => self.next_random() % 100 < percent,
        };
        (if write { Operation::Write } else { Operation::Read }, block * u64::from(self.block_bytes))
    }

    /// Bytes of each request.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Xorshift64*: enough to scatter blocks, and the same everywhere.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config =
        Config { block_bytes: 4096, writes_percent: 30, sequential: false, span_bytes: None, seed: 1 };

    #[test]
    fn requests_stay_inside_and_are_spread() {
        let mut plan = Plan::new(&CONFIG, 4096 * 100 + 17, 3).unwrap();
        let requests: Vec<_> = (0..10_000).map(|_| plan.next_request()).collect();
        assert!(requests.iter().all(|(_, offset)| offset + 4096 <= 4096 * 100 && offset % 4096 == 0));
        let writes = requests.iter().filter(|(operation, _)| *operation == Operation::Write).count();
        assert!((2700..3300).contains(&writes), "{writes}");
        let distinct: std::collections::BTreeSet<_> = requests.iter().map(|(_, offset)| offset).collect();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let first = |stream| Plan::new(&CONFIG, 1 << 30, stream).unwrap().next_request();
        assert_ne!(first(0), first(1));
        assert_eq!(first(1), first(1));
    }

    #[test]
    fn a_sequence_wraps_and_a_block_too_big_is_named() {
        let mut plan = Plan::new(&Config { sequential: true, ..CONFIG }, 8192, 0).unwrap();
        let offsets: Vec<_> = (0..3).map(|_| plan.next_request().1).collect();
        assert_eq!(offsets, [0, 4096, 0]);
        assert!(Plan::new(&CONFIG, 4095, 0).is_err());
    }
}
