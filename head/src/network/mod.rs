//! What machines are connected to on this head: one tap a card, on the bridge that carries its network,
//! and a fence between each machine's qemu and the discs of others.
//!
//! ```text
//!   qemu (own uid) ── tap bvUID-N ── bridge ── the rest of the LAN
//!        └── NBD, HTTP ── fence (nftables, by uid) ── its own discs' addresses on the storage LAN,
//!                                                     and the Internet, for CDs
//! ```
//!
//! * [`plan`]: desired × observed → changes, pure.
//! * [`apply`]: observes and changes the kernel's state.
//! * [`fence`]: the same for the fence, pure. [`firewall`]: keeps it in the kernel. [`range`]: networks.
//!
//! Invariants: a tap is named after the uid of its machine, so that whose it is can be told without any
//! memory; only that uid can open it; it has no address of the head's, not even a link-local one. Taps
//! are made before their qemu and removed after it; whatever is left over after a crash is found by name.
//! A uid of a machine reaches no address under the storage prefix but those of its machine's discs
//! (safety rule 6), be it with a stolen key or through a CD's URL, and nothing that is private or of the head's
//! networks but what the operator allows CDs to come from.
//!
//! Deliberately absent: bridges themselves (the operator's, for now), filters of guests' own
//! traffic, and DHCP.

pub mod apply;
pub mod fence;
pub mod firewall;
pub mod plan;
pub mod range;
