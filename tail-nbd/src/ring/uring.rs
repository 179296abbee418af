//! io_uring. The only file of the project with `unsafe`.
//!
//! Why it is sound:
//!
//! 1. **Memory the kernel works on belongs to the table of flights**, or to `offered`, from before the submission
//!    until the completion is reaped. Both are private, nothing here reads or writes those bytes meanwhile, and
//!    no safe code outside can name them, because [`Buffer`] and [`Batch`](super::batch::Batch) were moved in.
//! 2. **It does not move.** A buffer's memory is leaked by its pool. The bytes of a batch's headers are on the heap
//!    and nobody appends to them in flight. The message header and its list are in a box (`Wire`). Moving the owner,
//!    which the table may do, moves none of these.
//! 3. **An entry leaves the table only through its own completion.** Its token has the place and how often the
//!    place was used; every operation here completes exactly once.
//! 4. **Descriptors stay open**: an operation has a share of its descriptor.
//! 5. **A window is never looked through**: it is mapped without any right of access, and only its address is given to
//!    mincore, with a length inside it and room for an answer for each page.
//! 6. **A map of extents** is a value of ours with room for as many as it says, which the kernel fills before the call returns.
//! 7. **The end**: `drop` cancels everything and reaps until the table is empty. If that does not come about in
//!    time, the table, the boxes and the offered buffers are leaked: the kernel may go on with them.

use super::op::{Allocate, Completion, Handle, Op, Owner, decode};
use super::pipe::{self, Sent};
use super::probe::{Mask, ProbeError, probe};
use super::slots::{Slots, Token};
use crate::buffer::{ALIGNMENT, Buffer, Pool, aligned};
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::{
    BATCH_PARTS_MAX, COMPLETIONS_MAX, PIPE_BYTES, RECEIVE_BYTES, RECEIVE_OFFERED_MAX, SEND_BYTES_MAX, SLOTS_MAX,
    SPARE_BATCHES_MAX, SUBMISSIONS_MAX, WINDOW_BYTES, WORKERS_MAX,
};
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How many zeroes one [`Op::WriteZeroBytes`] writes at most, in bytes.
pub const ZEROES_BYTES: usize = 1 << 20;

/// The group of the receive buffers; there is one.
const RECEIVE_GROUP: u16 = 0;

/// Pieces that one sendmsg takes (UIO_MAXIOV).
const IOVECS_MAX: usize = 1024;

/// The result of a send by reference: there is no count, since the batch knows how far it has come.
const SEE_BATCH: Errno = Errno(libc::EAGAIN);

/// What a cancellation is called, which has no place in the table of flights.
const NO_FLIGHT: u64 = u64::MAX;

/// How long a ring that is dropped waits for what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// A ring of one thread. It is neither `Send` nor `Sync`: the kernel takes submissions from the thread that
/// made it only.
pub struct Ring {
    uring: IoUring,
    flights: ManuallyDrop<Slots<Flight>>,
    /// Boxes that no operation uses now.
    #[expect(clippy::vec_box, reason = "the kernel has a pointer to what is in the box")]
    wires: Vec<Box<Wire>>,
    zeroes: &'static [u8],
    receive: ReceiveBuffers,
    /// What was carried out without the ring, with the kernel's result.
    done: Vec<(Token, i32)>,
    features: String,
}

struct Flight {
    owner: Owner,
    op: Op,
    wire: Option<Box<Wire>>,
}

/// What sendmsg looks at besides the bytes.
struct Wire {
    header: libc::msghdr,
    list: Vec<libc::iovec>,
}

/// Buffers that the kernel picks from when something arrives.
struct ReceiveBuffers {
    pool: Pool,
    /// The ring of entries shared with the kernel: `RECEIVE_OFFERED_MAX` of them, leaked, aligned to a page.
    entries: *mut BufRingEntry,
    tail: u16,
    /// By number: what the kernel may write into.
    offered: ManuallyDrop<Vec<Option<Buffer>>>,
    free_numbers: Vec<u16>,
}

impl Ring {
    /// Sets a ring up for this thread, with so many receive buffers, and checks that the kernel has what is needed.
    ///
    /// # Errors
    /// With the first thing that is missing.
    pub fn new(mask: Mask, receive_buffers_count: usize) -> Result<Self, ProbeError> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS_MAX)
            .build(SUBMISSIONS_MAX)
            .map_err(ProbeError::Setup)?;
        let features = probe(&uring, mask)?;
        // The first number is for files, and none for sockets leaves theirs as it is.
        uring.submitter().register_iowq_max_workers(&mut [WORKERS_MAX, 0]).map_err(ProbeError::Workers)?;
        let receive = ReceiveBuffers::register(&uring, receive_buffers_count).map_err(ProbeError::Buffers)?;
        Ok(Self {
            uring,
            flights: ManuallyDrop::new(Slots::new(SLOTS_MAX)),
            wires: Vec::new(),
            zeroes: aligned(ZEROES_BYTES),
            receive,
            done: Vec::new(),
            features,
        })
    }

    /// What the probe found, for the log.
    pub fn features(&self) -> &str {
        &self.features
    }

    /// Queues an operation; [`Ring::wait`] hands it to the kernel.
    ///
    /// # Errors
    /// With the operation, when there is no room for it before completions are reaped.
    pub fn submit(&mut self, owner: Owner, op: Op) -> Result<(), (Owner, Op)> {
        if self.uring.submission().is_full() {
            // Hand over what is queued. An error leaves it full, and shows again at the next wait.
            let _ = self.uring.submit();
            if self.uring.submission().is_full() {
                return Err((owner, op));
            }
        }
        let by_reference = matches!(&op, Op::Transmit { batch, .. } if batch.has_pages());
        let gathered = matches!(op, Op::Transmit { .. }) && !by_reference;
        let wire = gathered.then(|| self.wires.pop().unwrap_or_default());
        let token = match self.flights.insert(Flight { owner, op, wire }) {
            Ok(token) => token,
            Err(Flight { owner, op, .. }) => return Err((owner, op)),
        };
        let flight = self.flights.get_mut(token).expect("it was just put in");
        if by_reference && let Op::Transmit { socket, batch } = &mut flight.op {
            // `reap` has the owner look how far the batch has come.
            let result = match pipe::transmit(socket, batch) {
                Sent::All => Some(0),
                Sent::Failed(errno) => Some(-errno.0),
                Sent::Part => None,
            };
            if let Some(result) = result {
                self.done.push((token, result));
                return Ok(());
            }
        }
        let entry = build(flight, self.zeroes).user_data(token.to_u64());
        // SAFETY: what the entry points to is in `flight`, which stays in the table until the completion with
        // this token is reaped (points 1 to 3 above).
        let pushed = unsafe { self.uring.submission().push(&entry) };
        pushed.expect("there is room");
        Ok(())
    }

    /// Ends the operations in flight whose owner `is_unwanted`: each completes as ever, with what it has done so far, or
    /// with ECANCELED. Those that do not wait for others, such as reads of a file, may come to their end all the same.
    pub fn cancel(&mut self, is_unwanted: impl Fn(Owner) -> bool) {
        let unwanted = self.flights.iter().filter(|(_, flight)| is_unwanted(flight.owner)).map(|(token, _)| token);
        for token in unwanted {
            let entry = opcode::AsyncCancel::new(token.to_u64()).build();
            let entry = entry.user_data(NO_FLIGHT).flags(squeue::Flags::SKIP_SUCCESS);
            if self.uring.submission().is_full() {
                // An error shows again at the next wait, and what is not cancelled ends by itself, or by its deadline.
                let _ = self.uring.submit();
            }
            // SAFETY: the entry has a number in it and no pointer.
            let _ = unsafe { self.uring.submission().push(&entry) };
        }
    }

    /// Hands everything queued to the kernel.
    ///
    /// # Errors
    /// When the ring does not work any more.
    pub fn flush(&mut self) -> io::Result<()> {
        self.receive.offer();
        match self.uring.submit() {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// True when [`Ring::wait`] would not wait. To ask is no system call.
    pub fn has_news(&mut self) -> bool {
        // The kernel has deferred work for this thread, which makes completions.
        !self.done.is_empty() || self.uring.submission().taskrun() || !self.uring.completion().is_empty()
    }

    /// Hands everything queued to the kernel and waits for a completion, at most for `timeout`.
    ///
    /// # Errors
    /// When the ring does not work any more.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.done.is_empty() {
            return Ok(());
        }
        self.receive.offer();
        let submitted = match timeout {
            None => self.uring.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        match submitted {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Appends what is over.
    pub fn reap(&mut self, completions: &mut Vec<Completion>) {
        for (token, result) in self.done.drain(..) {
            let Some(Flight { owner, op, .. }) = self.flights.remove(token) else { continue };
            let result = decode(result).and(Err(SEE_BATCH));
            completions.push(Completion { owner, op, result, socket: None, received: None });
        }
        for entry in self.uring.completion() {
            let token = Token::from_u64(entry.user_data());
            // Cancellations have no entry in the table.
            let Some(flight) = self.flights.remove(token) else { continue };
            let received = cqueue::buffer_select(entry.flags()).and_then(|number| self.receive.take_back(number));
            let polled = matches!(flight.op, Op::Transmit { .. }) && flight.wire.is_none();
            let result = if polled { decode(entry.result()).and(Err(SEE_BATCH)) } else { decode(entry.result()) };
            let socket = match (&flight.op, result) {
                // SAFETY: accept gave this descriptor to this completion and to nobody else.
                (Op::Accept { .. }, Ok(fd)) => Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
                _ => None,
            };
            if let Some(wire) = flight.wire
                && self.wires.len() < SPARE_BATCHES_MAX
            {
                self.wires.push(wire);
            }
            completions.push(Completion { owner: flight.owner, op: flight.op, result, socket, received });
        }
    }

    /// True when receive buffers are left for connections that found none.
    pub fn has_receive_buffers(&mut self) -> bool {
        self.receive.offer();
        self.receive.free_numbers.len() < usize::from(RECEIVE_OFFERED_MAX)
    }

    fn drain(&mut self) -> bool {
        let deadline = Instant::now() + DRAIN_MAX;
        let mut completions = Vec::new();
        while !self.flights.is_empty() && Instant::now() < deadline {
            // An error means that there is nothing to cancel, or that the waiting below will tell.
            let _ = self.uring.submitter().register_sync_cancel(None, CancelBuilder::any());
            if self.wait(Some(Duration::from_millis(50))).is_err() {
                break;
            }
            self.reap(&mut completions);
            completions.clear();
        }
        self.flights.is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.drain() {
            // SAFETY: neither is used after this, and nothing is in flight, so the kernel has no pointer into
            // the table; with every receive over, it writes into no offered buffer either.
            unsafe {
                ManuallyDrop::drop(&mut self.flights);
                ManuallyDrop::drop(&mut self.receive.offered);
            }
        } else {
            tracing::error!(in_flight_count = self.flights.len(), "operations did not end; their memory is leaked");
        }
    }
}

impl Default for Wire {
    fn default() -> Self {
        // SAFETY: msghdr is plain data for which all zeroes is a valid value.
        let header = unsafe { std::mem::zeroed() };
        Self { header, list: Vec::with_capacity(BATCH_PARTS_MAX) }
    }
}

/// What FS_IOC_FIEMAP takes and gives (linux/fiemap.h), with room for some extents.
#[repr(C)]
#[derive(Default)]
struct ExtentMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_count: u32,
    extents_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS_MAX],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// Extents that are asked about at once.
const EXTENTS_MAX: usize = 32;

/// `_IOWR('f', 11, struct fiemap)`, whose head has 32 bytes; and the extent's flag for space that nothing was written to.
const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660bu32 as libc::Ioctl;
const EXTENT_UNWRITTEN: u32 = 0x800;

/// The next run of bytes from `at` and below `end` that takes space and that nothing was ever written to, as far as the
/// disk knows: what waits in the page cache to be written there is not seen. So it says nothing of what is data.
///
/// # Errors
/// What the system says; some file systems cannot tell.
pub fn next_unwritten(file: impl AsFd, mut at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    while at < end {
        let mut map =
            ExtentMap { start: at, length: end - at, extents_count: EXTENTS_MAX as u32, ..Default::default() };
        // SAFETY: the map is valid for writes, and has room for the extents that it says.
        if unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let extents = &map.extents[..(map.mapped_count as usize).min(EXTENTS_MAX)];
        let found = extents.iter().find(|extent| extent.flags & EXTENT_UNWRITTEN != 0);
        if let Some(extent) = found {
            let (start, stop) = (extent.logical.max(at), extent.logical.saturating_add(extent.length).min(end));
            return Ok((start < stop).then_some((start, stop)));
        }
        let behind = extents.last().map(|last| last.logical.saturating_add(last.length)).filter(|behind| *behind > at);
        let (Some(behind), EXTENTS_MAX) = (behind, extents.len()) else { return Ok(None) };
        at = behind;
    }
    Ok(None)
}

/// A part of a file, through which the kernel can be asked what of it is in the page cache. Nobody can look through it.
#[derive(Debug)]
pub struct Window {
    start: *mut libc::c_void,
    offset: u64,
}

/// A request that begins in the last page of a window lies in it too.
const WINDOW_MAPPED_BYTES: usize = WINDOW_BYTES as usize + PIPE_BYTES;

impl Window {
    /// The window of a file that has `offset` in it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(file: impl AsFd, offset: u64) -> io::Result<Self> {
        let offset = offset - offset % WINDOW_BYTES;
        let (protection, flags) = (rustix::mm::ProtFlags::empty(), rustix::mm::MapFlags::SHARED);
        // SAFETY: the kernel chooses addresses that nobody has.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), WINDOW_MAPPED_BYTES, protection, flags, file, offset)? };
        Ok(Self { start, offset })
    }

    /// True when a range that begins at `offset` and fits into a pipe is inside.
    pub fn covers(&self, offset: u64) -> bool {
        offset >= self.offset && offset - self.offset < WINDOW_BYTES
    }

    /// True when each page of the range is in the page cache, read to its end (that a page is there is not enough).
    ///
    /// # Panics
    /// When the range is not inside, which is a bug of the caller.
    pub fn is_resident(&self, range: ByteRange) -> bool {
        assert!(self.covers(range.offset()) && range.length() <= PIPE_BYTES as u64);
        let skipped = range.offset() % ALIGNMENT as u64;
        let length = (range.length() + skipped) as usize;
        let pages_count = length.div_ceil(ALIGNMENT);
        let mut pages = [0u8; PIPE_BYTES / ALIGNMENT + 1];
        let before = (range.offset() - skipped - self.offset) as usize;
        // SAFETY: the first page of the range and `length` bytes from there are inside the mapping, as asserted, and
        // `pages` has a byte for each page.
        let result = unsafe { libc::mincore(self.start.byte_add(before), length, pages.as_mut_ptr()) };
        result == 0 && pages[..pages_count].iter().all(|page| page & 1 == 1)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and nobody has a reference into it. It cannot fail with these arguments.
        let _ = unsafe { rustix::mm::munmap(self.start, WINDOW_MAPPED_BYTES) };
    }
}

impl ReceiveBuffers {
    fn register(uring: &IoUring, buffers_count: usize) -> io::Result<Self> {
        let bytes = usize::from(RECEIVE_OFFERED_MAX) * size_of::<BufRingEntry>();
        let memory = vec![0u8; bytes + ALIGNMENT].leak();
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let entries = memory[start..].as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the memory is leaked, so it is valid for as long as the ring; it is zeroed, aligned to a page
        // and long enough for this many entries.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(entries as u64, RECEIVE_OFFERED_MAX, RECEIVE_GROUP, 0)?;
        }
        Ok(Self {
            pool: Pool::new(&[(RECEIVE_BYTES, buffers_count)]),
            entries,
            tail: 0,
            offered: ManuallyDrop::new((0..RECEIVE_OFFERED_MAX).map(|_| None).collect()),
            free_numbers: (0..RECEIVE_OFFERED_MAX).collect(),
        })
    }

    /// Offers as many buffers as there are, up to the size of the ring.
    fn offer(&mut self) {
        let before = self.tail;
        while !self.free_numbers.is_empty() {
            let Some(mut buffer) = self.pool.take_free(RECEIVE_BYTES) else { break };
            let number = self.free_numbers.pop().expect("it is not empty");
            let place = usize::from(self.tail % RECEIVE_OFFERED_MAX);
            // SAFETY: `place` is below the number of entries. The kernel does not look at this entry before the
            // tail is moved below, and has given it back, since there are no more buffers offered than entries.
            let entry = unsafe { &mut *self.entries.add(place) };
            entry.set_addr(buffer.bytes_mut().as_mut_ptr() as u64);
            entry.set_len(RECEIVE_BYTES as u32);
            entry.set_bid(number);
            self.offered[usize::from(number)] = Some(buffer);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: the tail is inside the memory of the entries, aligned, and written by this thread only; the
            // kernel reads it as an atomic. The entries before it are complete, which Release publishes.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The kernel is done with a buffer.
    fn take_back(&mut self, number: u16) -> Option<Buffer> {
        let buffer = self.offered.get_mut(usize::from(number))?.take()?;
        self.free_numbers.push(number);
        Some(buffer)
    }
}

/// Out of time, a signal, or completions to be reaped first: all of them are a turn without news.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

fn fd(handle: &Handle) -> Fd {
    Fd(handle.as_raw_fd())
}

/// The submission of a flight that is in the table already. All pointers go to leaked memory or to the heap.
fn build(flight: &mut Flight, zeroes: &'static [u8]) -> squeue::Entry {
    match &mut flight.op {
        Op::Accept { listener } => opcode::Accept::new(fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        Op::Poll { file } => opcode::PollAdd::new(fd(file), libc::POLLIN as u32).build(),
        Op::Receive { socket, bytes_max } => opcode::Recv::new(fd(socket), std::ptr::null_mut(), *bytes_max)
            .buf_group(RECEIVE_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT),
        Op::ReceiveInto { socket, buffer, filled, wanted } => {
            let space = &mut buffer.bytes_mut()[*filled..*wanted];
            opcode::Recv::new(fd(socket), space.as_mut_ptr(), space.len() as u32).flags(libc::MSG_WAITALL).build()
        }
        Op::Transmit { socket, batch } => {
            let Some(wire) = flight.wire.as_mut() else {
                return opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build();
            };
            wire.list.clear();
            let mut room = SEND_BYTES_MAX;
            wire.list.extend(batch.unsent().take(IOVECS_MAX).map_while(|bytes| {
                let iov_len = bytes.len().min(room);
                room -= iov_len;
                (iov_len > 0).then_some(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len })
            }));
            wire.header.msg_iov = wire.list.as_mut_ptr();
            wire.header.msg_iovlen = wire.list.len();
            let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
            opcode::SendMsg::new(fd(socket), &wire.header).flags(flags).build()
        }
        Op::Read { file, buffer, start, range, cold } => {
            let space = &mut buffer.bytes_mut()[*start..*start + range.length() as usize];
            let entry =
                opcode::Read::new(fd(file), space.as_mut_ptr(), space.len() as u32).offset(range.offset()).build();
            if *cold { entry.flags(squeue::Flags::ASYNC) } else { entry }
        }
        Op::Write { file, buffer, start, range } => {
            let bytes = &buffer.bytes()[*start..*start + range.length() as usize];
            opcode::Write::new(fd(file), bytes.as_ptr(), bytes.len() as u32).offset(range.offset()).build()
        }
        Op::WritePages { file, pipe, range } => {
            let (pipe, offset) = (Fd(pipe.read_end().as_raw_fd()), range.offset() as i64);
            // In a pipe there is no offset.
            opcode::Splice::new(pipe, -1, fd(file), offset, range.length() as u32).build()
        }
        Op::WriteZeroBytes { file, range } => {
            let bytes = &zeroes[..range.length() as usize];
            opcode::Write::new(fd(file), bytes.as_ptr(), bytes.len() as u32).offset(range.offset()).build()
        }
        Op::Sync { file } => opcode::Fsync::new(fd(file)).flags(FsyncFlags::DATASYNC).build(),
        Op::Allocate { file, mode, range } => {
            let mode = match mode {
                Allocate::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                Allocate::Zero => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            };
            opcode::Fallocate::new(fd(file), range.length()).offset(range.offset()).mode(mode).build()
        }
        Op::Prefetch { file, range } => {
            opcode::Fadvise::new(fd(file), range.length() as libc::off_t, libc::POSIX_FADV_WILLNEED)
                .offset(range.offset())
                .build()
        }
    }
}
