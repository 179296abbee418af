//! Load generators and measurements for the tail and its peers.
//!
//! ```text
//!   loads ──▶ peers ──▶ record (JSON) ──▶ judge ──▶ report (tables, plots)
//!               │ ▲
//!               ▼ │ processor: whose CPU time, which core
//!         load, or fio
//! ```
//!
//! * [`load`]: an NBD client that costs as little as it can, so that it is the server that is measured.
//! * [`loads`]: which loads are compared, and what the tail must reach.
//! * [`peers`]: starts servers in turn, loads them, and writes a [`record`].
//! * [`scale`]: one tail with thousands of discs.
//! * [`upgrade`]: one tail that new processes take over, again and again.
//! * [`migrate`]: discs that move between two tails while guests write.
//! * [`brain`]: the brain of these, which only passes on what it is told to.
//! * [`judge`]: medians, ratios to the best peer, bars: arithmetic on records.
//! * [`namespace`]: their networks, [`tail`] the tails in them, and [`successor`] a process that has taken one over.
//! * [`command`]: what the programs have in common; [`leftovers`]: that nothing is left when they end.
//! * [`figures`]: what was measured against what is wanted.
//! * [`report`]: tables and plots of records.
#![forbid(unsafe_code)]

pub mod brain;
pub mod command;
pub mod figures;
pub mod judge;
pub mod leftovers;
pub mod load;
pub mod loads;
pub mod migrate;
pub mod namespace;
pub mod peers;
pub mod processor;
pub mod record;
pub mod report;
pub mod scale;
pub mod statistics;
pub mod successor;
pub mod tail;
pub mod upgrade;
