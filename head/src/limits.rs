//! Every bound of the head, with its reason.

use std::time::Duration;

/// MiB that a qemu needs beside its guest's memory: measured 45–110 for machines of up to eight
/// discs and cards; the mean, because few machines are that large.
pub const OVERHEAD_PER_VM_MIB: u64 = 64;

/// Smallest memory of a machine in MiB: the firmware alone needs a few.
pub const MEMORY_MIN_MIB: u32 = 16;

/// Most virtual processors of a machine: what the pinned machine type takes.
pub const CORES_MAX: u16 = 255;

/// Longest disc serial number in bytes: virtio-blk has 20 (virtio 1.1, section 5.2.6), and what is
/// longer is cut by the guest without a word.
pub const SERIAL_BYTES_MAX: usize = 20;

/// Longest URL of a CD in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// Longest display name in bytes: three labels and their dots.
pub const DISPLAY_NAME_BYTES_MAX: usize = 255;

/// Orders waiting for one machine. The brain sends one at a time; more is refused as `busy`.
pub const ORDERS_MAX: usize = 64;

/// Longest line from qemu's monitor in bytes: the answers used here are under 100 KiB.
pub const QMP_LINE_BYTES_MAX: usize = 4 << 20;

/// Bytes of qemu's stderr kept for the operator; a guest can make qemu complain for ever.
pub const LOG_BYTES_MAX: u64 = 256 << 10;

/// How much of its end is read to find the last complaint.
pub const LOG_TAIL_BYTES: u64 = 4 << 10;

/// Longest path of a unix socket (sockaddr_un, without its final NUL).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How long a monitor command may take that touches no disc (safety rule 14).
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// How long qemu tries to connect to a disc before the start of the machine fails.
pub const DISC_OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A start as a whole: eight discs at their timeout, and then some.
pub const START_DEADLINE: Duration = Duration::from_secs(100);

/// A CD's server that does not answer holds up the guest for so long.
pub const CDROM_TIMEOUT: Duration = Duration::from_secs(5);

/// After `quit`, or the guest's own shutdown, until SIGKILL (safety rule 14). qemu flushes its discs last,
/// which takes seconds when their tail is busy; what was acknowledged is safe at the tail either way.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// After SIGKILL, until the machine counts as stuck in the kernel and the operator is told.
pub const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// A grown disc must be seen in its new size by then: qemu's reconnect timer is at 16 s at most.
pub const RESIZE_DEADLINE: Duration = Duration::from_secs(40);

/// Between two tries of `block_resize` (safety rule 15).
pub const RESIZE_PAUSE: Duration = Duration::from_millis(250);

/// A disc's server must answer a connection by then to count as there.
pub const DISC_PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// The guest that proves KVM needs milliseconds; a KVM that hangs needs for ever.
pub const KVM_PROOF_DEADLINE: Duration = Duration::from_secs(8);

/// Between two looks at the load average.
pub const LOAD_PERIOD: Duration = Duration::from_secs(10);

/// Between two looks at whether the fence around machines still stands.
pub const FENCE_PERIOD: Duration = Duration::from_secs(15);

/// Between two looks at the size of a machine's log.
pub const LOG_PERIOD: Duration = Duration::from_secs(60);

/// qemu's longest wait for a disc that is away, in seconds (a u32): 136 years, for ever (R119, R174).
pub const RECONNECT_DELAY_S: u32 = u32::MAX;

const _: () = assert!(START_DEADLINE.as_secs() > DISC_OPEN_TIMEOUT.as_secs() * spine::limits::DISCS_PER_VM_MAX as u64);
const _: () = assert!(KILL_DEADLINE.as_secs() > STOP_DEADLINE.as_secs());
