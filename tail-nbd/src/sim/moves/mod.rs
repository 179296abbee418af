//! Two tails, a brain and the clients of one disc, from a seed: while the disc moves to and fro, everything fails.
//!
//! ```text
//!             ┌─ orders, reports ── brain ── orders, reports ─┐
//!             ▼                                               ▼
//!   Store ⇄ Engine ⇄ disk, sidecar    ⇄ lan ⇄    Store ⇄ Engine ⇄ disk, sidecar
//!             ▲                                               ▲
//!             └── clients, at whoever has the disc's address ─┘
//! ```
//!
//! The tails are real from the shard to the store: orders, records, copying, frames, convergence, hand-over and what a
//! start makes of what it finds. Made up are the ring, the disks, the network and the clock (tokio's, which is moved on by
//! hand); see [`stage`](super::stage). Each tail is one thread's work, which others go between at every step of it.
//!
//! What happens: clients write, make zeroes, trim and flush; the tails are killed or lose power, in any order, together or
//! one after the other; sidecars are torn; connections between the tails break or fall silent for seconds; the copy
//! cannot be read, written or synced; the brain cancels, relays, or is away; a tail's jobs are asked to stop.
//!
//! What must hold: at no time two tails answer for the disc; what clients read is what was acknowledged, wherever the disc is
//! (read-your-writes); after a loss of power at the owner, what was flushed is there; an order of the brain in the end
//! leaves one owner, one copy, and everything on it.
//!
//! A seed that fails is printed. `SEED=17 cargo test -p tail-nbd moving_seeds` repeats it, `SEEDS=100000` runs so many.

mod brain;
mod tail;
#[cfg(test)]
mod tests;
mod world;
