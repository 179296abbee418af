//! The world from a seed: the real shard, driven by a ring, disks, a network and clients that are made up.
//!
//! ```text
//!   client ⇄ network ⇄ ring ⇄ shard::Engine (the real one)       one thread, one source of chance, a clock
//!     │                 │                                        that is moved on by hand: the same seed
//!     ▼                 ▼                                        gives the same run
//!   history ◀──────── disk
//! ```
//!
//! * [`ring`]: operations take effect and complete in any order, in part, or not at all; EINTR, EAGAIN, EIO, ENOSPC,
//!   EDQUOT, ENOBUFS; now and then the ring is full;
//! * [`disk`]: what was not synced is lost or torn at 512 bytes when power is; a failing sync is told once;
//! * [`network`]: bytes arrive in arbitrary pieces; connections break anywhere, and now and then all at once;
//! * [`client`]: several discs with several clients each, which know by their [`history`] what every byte may be; some
//!   are rude, some stop in the middle;
//! * [`world`]: orders of the control side, among them that discs grow and shrink, are copied and have brakes, crashes of the process and of
//!   the machine, panics, new processes that take over or fail to; and what must hold.
//!
//! What is checked, besides what clients see (read-your-writes, errors without a reason, FLUSH and FUA over a loss of
//! power): nothing is sent to a client that lost its right, and a withdrawal is answered only when nothing of it is in
//! flight (safety rule 4); nobody is cut off without a reason, also when another disc panics (rule 27); one sync of
//! a file at a time, and none succeeds after one that failed (rule 17); a turn is taken only when there is a reason
//! to wake up, so that whoever waits without one is stuck for ever and found; nothing of a frozen disc is in flight, and
//! who uses it notices nothing but the wait; all that is written to a disc that is copied is noted; at the end no buffer, request or operation
//! is left.
//!
//! A seed that fails is printed. `SEED=17 cargo test -p tail-nbd seeds` repeats it, `SEEDS=100000` runs so many.
//!
//! Deliberately absent: the control side and its sidecars, and a trait over rings. What the shard asks of the kernel
//! without the ring (who a peer is, shutting a socket down, where the holes of a file are) is asked of the real
//! kernel: files are in memory, sockets on loopback carry no byte, and all of these answers depend on nothing but the
//! calls before them.

mod chance;
mod client;
mod disk;
mod history;
mod lan;
mod moves;
mod network;
mod ring;
pub(crate) mod stage;
#[cfg(test)]
mod tests;
mod world;
