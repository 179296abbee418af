//! Every bound of the brain, with its reason.

use std::time::Duration;

/// Database connections of the brain itself: the reconciler and the sessions of nodes. No load of the
/// API gets at them. PostgreSQL allows 100 in all by default, and a standby and an operator's `psql`
/// want some too.
pub const OWN_CONNECTIONS_MAX: usize = 14;

/// Database connections of the API's requests.
pub const API_CONNECTIONS_MAX: usize = 10;

/// How long anybody waits for a database connection before it fails with a sentence.
pub const DATABASE_WAIT_MAX: Duration = Duration::from_secs(10);

/// The schema versions this build can work with.
pub const SCHEMA_VERSIONS: std::ops::RangeInclusive<u32> = 5..=5;

/// Database connections that the reconciler uses at the same time: the rest of the brain's own is for
/// the sessions of nodes.
pub const RECONCILER_CONNECTIONS_MAX: usize = 12;

/// VMs that are worked on at the same time. Most of the time such work waits for the answer of a
/// node, so that one slow tail must not keep the VMs of all others waiting.
pub const VMS_AT_ONCE_MAX: usize = 512;

/// VMs loaded by one set of queries of a sweep: bounds memory, and the time a transaction is open.
pub const SWEEP_VMS_MAX: usize = 500;

/// Rounds of "compare, act" for one VM before it makes room for others. A start of a VM with eight
/// discs takes five rounds.
pub const ROUNDS_MAX: usize = 32;

/// Queued disc moves that are looked at in one sweep, the first to begin first: all the discs of a large tail, in a few
/// MiB. Those behind them are looked at when these have begun.
pub const QUEUED_MOVES_MAX: i64 = 10_000;

/// Between two sweeps over all VMs when nothing happens.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(4);

/// Least time between two sweeps, however many events ask for one.
pub const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(200);

/// How long a tail may take to make, change or remove a disc. A withdrawal waits for the writes in
/// flight, and a slow drive may need half a minute for one.
pub const DISC_COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// How long a head may take to start a VM: qemu under load, with eight discs to connect to.
pub const VM_START_DEADLINE: Duration = Duration::from_secs(120);

/// How long a head may take to stop a VM: `quit`, its deadline, SIGKILL.
pub const VM_STOP_DEADLINE: Duration = Duration::from_secs(90);

/// How long a head may take for any change to a running VM.
pub const VM_UPDATE_DEADLINE: Duration = Duration::from_secs(30);

/// How long a head may take to pass a signal on; a request of the API waits for it.
pub const SIGNAL_DEADLINE: Duration = Duration::from_secs(10);

/// A node that is away for less is about to come back: after a restart of the brain all are away.
pub const NODE_LOST_AFTER: Duration = Duration::from_secs(20);

/// The first wait after a start that failed, doubled up to the last.
pub const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// The last wait between starts that fail.
pub const BACK_OFF_LAST: Duration = Duration::from_secs(60);

/// A VM that ran for longer is not in a crash loop: its next start is the first again.
pub const RUN_IS_STABLE_AFTER: Duration = Duration::from_secs(60);

/// Nodes that may be connected at once, and as many more in the middle of their handshake. A
/// hundred times the largest cluster the 2012 paper dreams of would still fit.
pub const NODES_MAX: usize = 4096;

/// A pool with less free than this share (percent) of its size takes no new discs.
pub const POOL_FREE_PERCENT_MIN: i64 = 2;

/// Longest reason kept of what a node says, in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// Between two reports of the same short pool, and between two orders to relieve it: the moves of the first are done by
/// then, or show in what is proposed next.
pub const SHORT_REPORT_INTERVAL: Duration = Duration::from_secs(600);

/// Reports of the same stray resource are this far apart at least.
pub const STRAY_REPORT_INTERVAL: Duration = Duration::from_secs(600);

const _: () = assert!(RECONCILER_CONNECTIONS_MAX < OWN_CONNECTIONS_MAX);
