//! Every bound of the data plane, with its reason. Memory is per shard unless said otherwise, and is
//! touched only when used.

/// Longest READ and WRITE that is carried out, in bytes, and what we announce: twice what clients may assume without
/// negotiation (NBD protocol, "Size constraints"), so that nobody's copy is cut into smaller pieces than elsewhere.
pub const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// A WRITE with a longer payload than this is not even drained: the connection is closed. In bytes.
pub const DRAIN_BYTES_MAX: u32 = 256 << 20;

/// Longest option data that is looked at, in bytes. The longest legal one names an export (4,096 bytes)
/// and a few contexts.
pub const OPTION_BYTES_MAX: u32 = 16 << 10;

/// Options with more data than [`OPTION_BYTES_MAX`] are drained up to this and answered with an error;
/// beyond it the connection is closed. In bytes.
pub const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;

/// Options in one handshake. libnbd needs fewer than ten.
pub const OPTIONS_MAX: u32 = 64;

/// Longest export name, in bytes (NBD protocol, "Values": strings).
pub const NAME_BYTES_MAX: u32 = 4096;

/// A connection that has not finished its handshake after this many seconds is closed (CVE-2024-7409).
pub const HANDSHAKE_SECONDS_MAX: u64 = 10;

/// A request whose bytes stop arriving for this many seconds, while we read, closes the connection.
pub const STALL_SECONDS_MAX: u64 = 30;

/// A connection that is closed at a request boundary gets this many seconds for its last replies.
pub const DRAIN_SECONDS_MAX: u64 = 5;

/// A client in the middle of its handshake gets this many seconds at an orderly stop to ask once more, and be told that
/// the server is going away. The stop takes as long, when somebody just sits there.
pub const GOODBYE_SECONDS_MAX: u64 = 1;

/// A client whose replies wait is cut off when it takes less than [`SEND_BYTES_MAX`] of them, or all, in so many seconds.
pub const SEND_SECONDS_MAX: u64 = 30;

/// Bytes of one send. When it is over, the client has taken something. A client must keep up 35 KiB/s with this.
pub const SEND_BYTES_MAX: usize = 1 << 20;

/// A client must take all of a reply that has the one buffer for whole replies within so many seconds: others may wait
/// for it. At the longest reply that is 1.1 MiB/s.
pub const WHOLE_SECONDS_MAX: u64 = 60;

/// Input that waits outside of receive buffers, in bytes of a shard: 256 clients that fill theirs and take no replies.
pub const PARKED_BYTES_MAX: usize = 16 << 20;

/// Milliseconds after which TCP gives up on a peer that acknowledges nothing, or reads nothing.
pub const TCP_USER_TIMEOUT_MS: u32 = 60_000;

/// Seconds of silence before TCP asks whether the peer is still there, seconds between its questions, and
/// how many it asks.
pub const KEEPALIVE: (u64, u64, u32) = (30, 10, 3);

/// For how many microseconds a shard that expects news looks for it before it sleeps: what being woken costs here.
pub const LINGER_US_MAX: u64 = 50;

/// How the names of congestion controls begin that pace what they send, as suits the Internet. On a storage LAN the
/// timers cost more than the sending: 1 MiB reads were five times slower (docs/data-plane.md).
pub const PACED_CONGESTION_CONTROL: &str = "bbr";

/// Connections of one disc that have been let in. qemu uses one, nbdcopy four, fio one a job.
pub const CONNECTIONS_PER_DISC_MAX: usize = 64;

/// Connections of one disc that are still negotiating, counted apart for addresses that the disc's access
/// knows and for strangers, so that strangers cannot keep the owner out.
pub const NEGOTIATING_PER_DISC_MAX: usize = 16;

/// Requests of one connection being worked on. nbdcopy has 64 in flight, qemu 16.
pub const REQUESTS_IN_FLIGHT_MAX: u32 = 128;

/// Requests that a turn starts for a client that is alone, and bytes of reads; what is behind them has the next one. Fewer would
/// make smaller sends: with 16 instead of all, 4 KiB reads with 32 in flight were half as fast again.
pub const LONE_REQUESTS_PER_TURN: usize = 16;

/// See [`LONE_REQUESTS_PER_TURN`].
pub const LONE_READ_BYTES_PER_TURN: u64 = 128 << 10;

/// Handshakes under way at the door of a stand-alone server; beyond that the one that has taken longest is closed.
pub const NEGOTIATING_MAX: usize = 64;

/// Connections that go through TLS, of which each has 128 KiB of buffers and as much again in the TLS library; who
/// comes beyond that is closed on.
pub const TLS_CONNECTIONS_MAX: usize = 2048;

/// What is copied at once between TLS and its plain text, in bytes: four records of TLS.
pub const TLS_COPY_BYTES: usize = 64 << 10;

/// A client that takes nothing of its replies for this many seconds while they go through TLS is closed on, as TCP does
/// ([`TCP_USER_TIMEOUT_MS`]) where there is no TLS.
pub const TLS_STALL_SECONDS_MAX: u64 = 60;

/// Threads that serve discs; beyond the cores of any machine.
pub const SHARDS_MAX: usize = 256;

/// Discs of one shard. A disc's shard follows from its number, so one may have them all.
pub const DISCS_MAX: usize = 65_536;

/// Connections of one shard, negotiated or not: a client for each disc, and twice that while VMs move.
pub const CONNECTIONS_MAX: usize = 131_072;

/// Requests being worked on in one shard.
pub const TRANSFERS_MAX: usize = 4096;

/// Open files for which there is room from the start, at 8 bytes each in the kernel: a file (twice), a listener and a client for
/// each of some 9,000 discs, and all but one of them again while a new process takes them over.
pub const OPEN_FILES_RESERVED: u64 = 1 << 16;

/// Operations in the kernel: an accept for each disc, a receive and a send for each connection, one for
/// each request, one sync for each disc, and the mailbox.
pub const SLOTS_MAX: usize = 1 << 19;

const _: () = assert!(SLOTS_MAX > 2 * DISCS_MAX + 2 * CONNECTIONS_MAX + TRANSFERS_MAX);

/// Entries of the submission queue. A turn with more operations submits more than once.
pub const SUBMISSIONS_MAX: u32 = 1024;

/// Entries of the completion queue; the kernel keeps what exceeds it and loses nothing.
pub const COMPLETIONS_MAX: u32 = 4096;

/// Bytes of one receive buffer: 15 writes of 4 KiB, or two thousand reads, in one system call.
pub const RECEIVE_BYTES: usize = 64 << 10;

/// Receive buffers offered to the kernel at once, if there are so many (`memory.rs`). It uses them in turn, so few stay in the cache.
pub const RECEIVE_OFFERED_MAX: u16 = 16;

const _: () = assert!(RECEIVE_OFFERED_MAX.is_power_of_two());

/// After a large write this many bytes are received in search of the next request, in bytes: what comes
/// behind its header is copied once more, so it should be little.
pub const RECEIVE_AFTER_LARGE_BYTES: u32 = 512;

/// A write from this length on counts as large, in bytes.
pub const LARGE_WRITE_BYTES: u64 = 32 << 10;

/// Requests that may be cut are worked on in pieces of this many bytes (safety rule 25).
pub const PIECE_BYTES: usize = 1 << 20;

/// Bytes of the buffer for a piece: a piece that does not begin and end with a block is widened by up to a block at each
/// end, and has room for what these blocks held before.
pub const PIECE_BUFFER_BYTES: usize = PIECE_BYTES + 4 * BLOCK_BYTES_MAX;

/// Largest block that a file is read and written in without the page cache, in bytes: a page. Buffers begin at one.
pub const BLOCK_BYTES_MAX: usize = 4096;

/// Changes of a disc without the page cache that are compared with each other; what comes beyond waits in a queue.
pub const LOCKS_MAX: usize = 256;

/// Writes of a shard without the page cache. Each has a buffer, so this is never reached.
pub const CHANGES_MAX: usize = 1 << 16;

/// A disc whose connections have this many bytes of data buffers gets no more, so that clients that do not
/// read their replies starve no other disc. A disc that has none always gets one.
pub const HELD_BYTES_MAX: usize = 8 << 20;

/// … nor has one disc more than this part of its shard's memory.
pub const HELD_PART_MAX: usize = 8;

/// A payload that is taken from the network by reference is written in pieces of this many bytes. A pipe of
/// [`PIPE_BYTES`] has 256 places, each for a few bytes or up to a page and more: with Ethernet's 1,448 bytes it is enough.
pub const PAGES_PIECE_BYTES: usize = 256 << 10;

/// A READ of at least this many bytes is answered with the pages of the file themselves, if they are in the page cache:
/// below it the copy is cheaper than the calls. In bytes.
pub const PAGES_BYTES_MIN: u64 = 16 << 10;

/// After a small read that was not in the page cache so many must be in it before a disc's reads are trusted to be: a
/// look costs 0.3 µs.
pub const WARM_READS_MIN: u32 = 64;

/// Threads of the kernel for the file operations of a shard that may have to wait: cold reads, writes where the file
/// system cannot take them at once, syncs. They come when they are needed. The kernel's own bound, four for each core, is
/// less than what one disc that hangs can keep waiting, and then everybody's writes would wait too.
pub const WORKERS_MAX: u32 = 1024;

/// How much a pipe between file and socket holds, in bytes: what Linux lets anybody have (fs.pipe-max-size). A READ that
/// needs more is copied.
pub const PIPE_BYTES: usize = 1 << 20;

/// Pipes of one shard. Each is two descriptors, and 10 KiB of the kernel's memory; with none left, READs are copied.
pub const PIPES_MAX: usize = 64;

/// The part of a data file whose page cache can be asked about at once, in bytes. It costs addresses, no memory: a
/// gigabyte for each disc leaves room for a hundred thousand discs.
pub const WINDOW_BYTES: u64 = 1 << 30;

/// Pieces of one gathered send: a header and a payload for each request in flight. Linux takes 1,024.
pub const BATCH_PARTS_MAX: usize = 2 * REQUESTS_IN_FLIGHT_MAX as usize;

const _: () = assert!(BATCH_PARTS_MAX <= 1024);

/// Extents in one BLOCK_STATUS reply. Each costs two lseek calls on the shard's thread, which is why
/// it is far below the protocol's 2^20.
pub const EXTENTS_MAX: usize = 128;

/// Extents looked up for BLOCK_STATUS in one turn of a shard, give or take one reply: a millisecond or two, so that who
/// asks for nothing else does not keep the other discs waiting.
pub const EXTENTS_PER_TURN_MAX: usize = 8 * EXTENTS_MAX;

/// A read that is shorter than this is not looked at for holes, and shorter holes in a longer one are read, in bytes:
/// two `lseek`s cost about a microsecond, a tenth of reading and sending as much.
pub const SPARSE_BYTES_MIN: u64 = 32 << 10;

/// How often one piece of a read is looked at for holes; what is left is read.
pub const SPARSE_LOOKS_MAX: u32 = 4;

/// Batches without a use that are kept for the next sends, and as many of what the kernel looks at beside them. A
/// turn with more sends makes new ones.
pub const SPARE_BATCHES_MAX: usize = 512;

/// Granules in a map of what was written to a disc that is being moved, or sent and not acknowledged: at most 36 MiB for each of
/// three maps a disc, and a terabyte in granules of 64 KiB. Larger discs have larger granules.
pub const GRANULES_MAX: usize = 1 << 24;

/// A write that is held back because it outruns a move goes on after so many seconds at the latest: a guest gives up on a
/// disc after thirty.
pub const BRAKE_SECONDS_MAX: u64 = 4;

/// Of the memory that one disc may have, the part that writes which are held back may take: reads go on beside them.
pub const BRAKE_HELD_PART_MAX: usize = 2;

/// … and of a shard's memory the part that such writes of all its discs may take.
pub const BRAKE_SHARD_PART_MAX: usize = 4;

/// Threads for calls that block: opening thousands of discs at a start must not take a thread each.
pub const BLOCKING_THREADS_MAX: usize = 64;

/// Orders waiting for a shard; the control thread waits when it is full.
pub const MAILBOX_LETTERS_MAX: usize = 64;

/// Events waiting for the control thread. What exceeds it waits in its shard, two for a disc at most.
pub const SHARD_EVENTS_MAX: usize = 1024;
