//! Every bound of the protocol, with its reason.

/// Longest line in bytes, its LF included (R081): a VM resource with eight discs, eight interfaces
/// and a hundred console users is about 100 KiB; ten times that is room enough and still cheap to
/// hold for each of thousands of connections.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Commands that may be unanswered on one connection. The brain holds back beyond it; a node closes
/// a connection that goes over it.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 1024;

/// Resources one node may have: ten times the 10,000 that R066 asks for.
pub const RESOURCES_MAX: usize = 100_000;

/// Bytes queued for a peer that does not read, before the connection is given up. A dump of
/// [`RESOURCES_MAX`] discs is about 40 MiB.
pub const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// Milliseconds a new connection has to say hello (brain), or to be welcomed (node).
pub const HELLO_DEADLINE_MS: u64 = 10_000;

/// Longest name of anything, in bytes. A DNS label is 63 (RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// The brain's well-known spine port (R063).
pub const SPINE_PORT: u16 = 7770;

/// The port tails serve discs on: the one IANA gave to NBD.
pub const NBD_PORT: u16 = 10809;

/// Discs of one VM (R026).
pub const DISCS_PER_VM_MAX: usize = 8;

/// Network interfaces of one VM (B10).
pub const NICS_PER_VM_MAX: usize = 8;

/// Protocol versions this build speaks: the current one and, once there is one, its predecessor.
pub const VERSIONS: crate::message::VersionRange = crate::message::VersionRange { oldest: 1, newest: 1 };

const _: () = assert!(OUTGOING_BYTES_MAX > LINE_BYTES_MAX);
const _: () = assert!(VERSIONS.oldest <= VERSIONS.newest);
