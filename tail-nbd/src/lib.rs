//! The storage server: each disc is an NBD export on its own IPv6 address, backed by a sparse file.
//!
//! ```text
//!   control (tokio): spine, addresses, sidecars, pools ──┐ shard::Shards
//!                                                        ▼
//!   shard threads, one a core:  ring ⇄ connection ⇄ nbd        (no locks, no async; memory is taken at the start)
//!                                         ⇅
//!                                       disc
//! ```
//!
//! Reading order of the data plane: [`nbd`] (the protocol, pure), [`connection`], [`disc`], [`shard`] (the owner of
//! all of them), [`ring`] (the kernel; the only `unsafe`). What bounds it is in [`limits`].
//!
//! Reading order of the control side: [`server`] (start and stop), [`store`] (the set of discs), [`sidecar`] and
//! [`pool`] (what survives a crash), [`control`] (the spine session), [`address`] (who answers for a disc's address),
//! [`upgrade`] (a restart without a disconnect), [`jobs`] (image import), [`tls`] (certificates), [`capacity`] (what the machine must allow), [`cleanup`] (after the
//! end of the process).

extern crate alloc;

#[forbid(unsafe_code)]
pub mod address;
#[forbid(unsafe_code)]
pub mod buffer;
#[forbid(unsafe_code)]
pub mod capacity;
#[forbid(unsafe_code)]
pub mod cleanup;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod connection;
#[forbid(unsafe_code)]
pub mod control;
#[forbid(unsafe_code)]
pub mod describe;
#[forbid(unsafe_code)]
pub mod descriptors;
#[forbid(unsafe_code)]
pub mod disc;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod geometry;
#[forbid(unsafe_code)]
pub mod jobs;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
pub mod mailbox;
#[forbid(unsafe_code)]
pub mod memory;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
pub mod migration;
#[forbid(unsafe_code)]
pub mod nbd;
#[forbid(unsafe_code)]
mod offload;
#[forbid(unsafe_code)]
pub mod pool;
pub mod ring;
#[forbid(unsafe_code)]
pub mod serve;
#[forbid(unsafe_code)]
pub mod server;
#[forbid(unsafe_code)]
pub mod shard;
#[forbid(unsafe_code)]
pub mod sidecar;
#[cfg(test)]
#[forbid(unsafe_code)]
mod sim;
#[forbid(unsafe_code)]
mod sole;
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod time;
#[forbid(unsafe_code)]
pub mod tls;
#[forbid(unsafe_code)]
pub mod upgrade;
#[forbid(unsafe_code)]
pub mod whole;
