//! Guests' network cards on this head: one tap a card, on the bridge that carries its network.
//!
//! ```text
//!   qemu (own uid) ── tap bvUID-N ── bridge ── the rest of the LAN
//! ```
//!
//! * [`plan`]: desired × observed → changes, pure.
//! * [`apply`]: observes and changes the kernel's state.
//!
//! Invariants: a tap is named after the uid of its machine, so that whose it is can be told without any
//! memory; only that uid can open it; it has no address of the head's, not even a link-local one. Taps
//! are made before their qemu and removed after it; whatever is left over after a crash is found by name.
//!
//! Deliberately absent: bridges themselves (the operator's, for now), filters and DHCP.

pub mod apply;
pub mod plan;
