//! Every bound of the console, with its reason.

use std::time::Duration;

/// Output kept, in bytes: how far a viewer may fall behind before it misses something.
pub const HISTORY_MAX: usize = 256 * 1024;

/// Output shown to a viewer that connects, in bytes: several screens, and a boot's last words.
pub const REPLAY_MAX: usize = 64 * 1024;

/// The most bytes read from, or sent to, one end at a time.
pub const CHUNK_MAX: usize = 16 * 1024;

/// Pieces of input that wait for the guest to read them; a paste beyond it waits in the client.
pub const INPUT_QUEUE_MAX: usize = 32;

/// How long a piece of input waits for a guest that reads nothing, before it is dropped as a UART
/// would drop it.
pub const INPUT_PATIENCE: Duration = Duration::from_secs(5);

/// Connections of one console that have proved who they are.
pub const VIEWERS_MAX: usize = 16;

/// Channels of one connection: a client that shares its connection opens one a window.
pub const CHANNELS_MAX: usize = 4;

/// Connections of one console that have not proved who they are yet.
pub const STRANGERS_MAX: usize = 8;

/// Failed proofs on one connection: a client with several keys offers them one by one, and
/// offers alone do not count.
pub const AUTH_ATTEMPTS_MAX: usize = 6;

/// The whole of the key exchange and the proof.
pub const AUTH_DEADLINE: Duration = Duration::from_secs(60);

/// Every refusal takes this long, whatever its reason was: longer than a password's check.
pub const AUTH_REFUSAL: Duration = Duration::from_millis(700);

/// Passwords checked at once, over all consoles of this head: each takes a core and memory.
pub const PASSWORD_CHECKS_MAX: usize = 2;

/// A password that a client sends, in bytes.
pub const PASSWORD_MAX: usize = 1024;

/// Memory that a stored password's hash may ask for, in KiB: four times what is usual.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;

/// Passes and lanes that a stored password's hash may ask for.
pub const ARGON2_COST_MAX: u32 = 16;

/// One user's `authorized_keys`, in bytes; what is beyond it is not looked at.
pub const AUTHORIZED_KEYS_MAX: usize = 64 * 1024;

/// A host key's text, in bytes: an RSA key of 16384 bits takes 13 KiB.
pub const HOST_KEY_MAX: usize = 32 * 1024;

/// A peer that says nothing is asked this often whether it is there; three silences end it.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Characters of the machine's name that are shown: `vm.group.account` takes up to 194.
pub const NAME_CHARS_MAX: usize = 200;

/// How long sent bytes may stay unread by a client's machine before the connection is cut.
pub const UNREAD_MAX: Duration = Duration::from_secs(300);

/// How long a goodbye may take before the socket is shut.
pub const GOODBYE: Duration = Duration::from_secs(1);

/// First and longest wait between two tries to reach the serial socket.
pub const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// See [`RECONNECT_MIN`].
pub const RECONNECT_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(REPLAY_MAX <= HISTORY_MAX);
const _: () = assert!(CHUNK_MAX <= REPLAY_MAX);
