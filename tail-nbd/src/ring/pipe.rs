//! Pages by reference: the kernel moves them through a pipe, and nobody copies them.
//!
//! * From a file to a socket: the pipe is filled and its count is checked before the reply's header is sent; after that
//!   nothing of the file can go wrong any more (safety rule 24).
//! * From a socket to a file: the pipe takes what has arrived of a payload, without waiting, and when the piece is whole the
//!   ring has it written. The file system copies it then, which is one copy less than through a buffer.

use super::batch::Batch;
use super::op::Handle;
use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::{PIPE_BYTES, PIPES_MAX};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::ioctl_fionread;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Pipes that are made when they are first needed, and used again.
#[derive(Clone, Debug, Default)]
pub struct Pipes(Rc<RefCell<Spare>>);

#[derive(Debug, Default)]
struct Spare {
    empty: Vec<Ends>,
    /// Those in `empty`, and those in use.
    count: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe with pages in it. An empty one goes back to its pool when it is dropped; another is closed, which
/// gives its pages up.
#[derive(Debug)]
pub struct Pipe {
    // Only `drop` takes them out.
    ends: Option<Ends>,
    left: usize,
    pipes: Pipes,
}

/// How far a send has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of the batch is sent.
    All,
    /// The socket takes no more now.
    Part,
    /// The connection is broken.
    Failed(Errno),
}

/// Pieces of one sendmsg between two runs of pages.
const SLICES_MAX: usize = 64;

impl Pipes {
    /// A pipe with all of `range` in it; `None` when there is no pipe, or the range is not there in one go. Reads from the
    /// disk what is not in the page cache, so that is to be asked first.
    pub fn fill(&self, file: &Handle, range: ByteRange) -> Option<Pipe> {
        let length = range.length() as usize;
        let mut pipe = self.take()?;
        let ends = pipe.ends.as_ref().expect("only drop takes them out");
        let mut offset = range.offset();
        while pipe.left < length {
            match splice(file, Some(&mut offset), &ends.write, None, length - pipe.left, SpliceFlags::NONBLOCK) {
                Ok(count) if count > 0 => pipe.left += count,
                // The copying way meets the same error, and reports it.
                Ok(_) | Err(_) => return None,
            }
        }
        Some(pipe)
    }

    /// True when all that there may be are in use.
    pub fn are_taken(&self) -> bool {
        let spare = self.0.borrow();
        spare.empty.is_empty() && spare.count == PIPES_MAX
    }

    /// An empty pipe; `None` when there is none.
    pub fn take(&self) -> Option<Pipe> {
        let mut spare = self.0.borrow_mut();
        let ends = match spare.empty.pop() {
            Some(ends) => ends,
            None if spare.count == PIPES_MAX => return None,
            None => {
                let ends = Ends::new().ok()?;
                spare.count += 1;
                ends
            }
        };
        Some(Pipe { ends: Some(ends), left: 0, pipes: self.clone() })
    }
}

impl Ends {
    fn new() -> rustix::io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused, it is short, and what does not fit is copied.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }
}

impl Pipe {
    /// Bytes that are in it.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The end that its bytes come out of.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.ends.as_ref().expect("only drop takes them out").read.as_fd()
    }

    /// So many bytes were taken out at [`Pipe::read_end`].
    ///
    /// # Panics
    /// When there were not so many, which is a bug of the caller.
    pub fn handle_taken(&mut self, count: usize) {
        assert!(count <= self.left);
        self.left -= count;
    }

    /// Puts a copy of these bytes behind what is there. Returns how many it took.
    ///
    /// # Errors
    /// EAGAIN when it is full.
    pub fn put(&mut self, bytes: &[u8]) -> rustix::io::Result<usize> {
        let ends = self.ends.as_ref().expect("only drop takes them out");
        let count = rustix::io::write(&ends.write, bytes)?;
        self.left += count;
        Ok(count)
    }

    /// Moves what has arrived at a socket behind what is there, `bytes_max` bytes at most, and never waits. Returns how many
    /// these were.
    ///
    /// # Errors
    /// EAGAIN when nothing has arrived, as far as can be seen from here, or the pipe is full; what the socket says.
    pub fn pull(&mut self, socket: impl AsFd, bytes_max: usize) -> rustix::io::Result<usize> {
        let ends = self.ends.as_ref().expect("only drop takes them out");
        // Only what is there may be asked for: SPLICE_F_NONBLOCK does not stop TCP from waiting when there is nothing.
        let arrived = usize::try_from(ioctl_fionread(&socket)?).unwrap_or(usize::MAX);
        if arrived == 0 {
            return Err(rustix::io::Errno::AGAIN);
        }
        let count = splice(socket, None, &ends.write, None, bytes_max.min(arrived), SpliceFlags::NONBLOCK)?;
        self.left += count;
        Ok(count)
    }

    /// Takes its bytes out, behind what is in `out`.
    ///
    /// # Errors
    /// What the kernel says; the bytes that came before are in `out`.
    pub fn read_out(&mut self, out: &mut Vec<u8>) -> rustix::io::Result<()> {
        let ends = self.ends.as_ref().expect("only drop takes them out");
        while self.left > 0 {
            let start = out.len();
            out.resize(start + self.left, 0);
            let read = rustix::io::read(&ends.read, &mut out[start..]);
            let count = *read.as_ref().unwrap_or(&0);
            out.truncate(start + count);
            self.left -= count;
            match read {
                Ok(0) => return Err(rustix::io::Errno::PIPE),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Moves what the socket takes; it must not block.
    fn drain(&mut self, socket: impl AsFd, more: bool) -> rustix::io::Result<usize> {
        let ends = self.ends.as_ref().expect("only drop takes them out");
        let flags = if more { SpliceFlags::MORE } else { SpliceFlags::empty() };
        let count = splice(&ends.read, None, socket, None, self.left, flags | SpliceFlags::NONBLOCK)?;
        self.left -= count;
        Ok(count)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut spare = self.pipes.0.borrow_mut();
        match self.ends.take() {
            Some(ends) if self.left == 0 => spare.empty.push(ends),
            _ => spare.count -= 1,
        }
    }
}

/// Sends of a batch what the socket takes now.
pub fn transmit(socket: &Handle, batch: &mut Batch) -> Sent {
    // Splicing asks the socket itself whether it may wait. Nobody else uses it meanwhile, and the ring does not care.
    let Ok(flags) = fcntl_getfl(socket) else { return Sent::Failed(Errno(libc::EBADF)) };
    if let Err(errno) = fcntl_setfl(socket, flags | OFlags::NONBLOCK) {
        return Sent::Failed(Errno(errno.raw_os_error()));
    }
    let sent = transmit_unblocked(socket, batch);
    match fcntl_setfl(socket, flags) {
        Ok(()) => sent,
        Err(errno) => Sent::Failed(Errno(errno.raw_os_error())),
    }
}

fn transmit_unblocked(socket: &Handle, batch: &mut Batch) -> Sent {
    loop {
        let more = batch.has_parts_behind();
        let result = match batch.next_pages() {
            Some(pipe) => pipe.drain(socket, more),
            None => {
                let slices: Vec<IoSlice<'_>> = batch.unsent().take(SLICES_MAX).map(IoSlice::new).collect();
                let more = if batch.has_pages() { SendFlags::MORE } else { SendFlags::empty() };
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | more;
                sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags)
            }
        };
        match result {
            Ok(0) => return Sent::Failed(Errno(libc::EPIPE)),
            Ok(count) if batch.advance(count) => return Sent::All,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Sent::Part,
            Err(errno) => return Sent::Failed(Errno(errno.raw_os_error())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn file(bytes: &[u8]) -> Handle {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Rc::new(file.into())
    }

    fn range(offset: u64, length: u64) -> ByteRange {
        DiscSize::from_bytes(1 << 30).unwrap().range(offset, length).unwrap()
    }

    #[test]
    fn headers_and_pages_arrive_in_order_though_the_socket_is_full_in_between() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|number| (number * 7 / 5) as u8).collect();
        let (file, pipes) = (file(&bytes), Pipes::default());
        let mut batch = Batch::default();
        let mut wanted = vec![];
        for (nth, (offset, length)) in [(0, 300_000), (4095, 70_001), (900_000, 100_000)].into_iter().enumerate() {
            let header = [nth as u8; 16];
            batch.headers().extend_from_slice(&header);
            batch.push_pages(pipes.fill(&file, range(offset, length)).unwrap());
            wanted.extend_from_slice(&header);
            wanted.extend_from_slice(&bytes[offset as usize..(offset + length) as usize]);
        }
        batch.headers().extend_from_slice(b"the end");
        wanted.extend_from_slice(b"the end");
        batch.seal();

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours: Handle = Rc::new(ours.into());
        let (mut arrived, mut parts_count) = (vec![], 0);
        while arrived.len() < wanted.len() {
            match transmit(&ours, &mut batch) {
                Sent::Part => parts_count += 1,
                Sent::All => {}
                Sent::Failed(errno) => panic!("{errno}"),
            }
            let mut chunk = vec![0; 64 << 10];
            let count = theirs.read(&mut chunk).unwrap();
            arrived.extend_from_slice(&chunk[..count]);
            if batch.advance(0) {
                let rest = wanted.len() - arrived.len();
                let mut chunk = vec![0; rest];
                theirs.read_exact(&mut chunk).unwrap();
                arrived.extend_from_slice(&chunk);
            }
        }
        assert!(arrived == wanted && parts_count > 0, "{parts_count}");
        assert!(!fcntl_getfl(&ours).unwrap().contains(OFlags::NONBLOCK), "as it was before");
        batch.clear();
        assert_eq!(pipes.0.borrow().empty.len(), 3, "an empty pipe is used again");
    }

    #[test]
    fn a_batch_that_is_partly_sent_is_flattened_to_the_bytes_that_are_left() {
        let bytes: Vec<u8> = (0..900_000u32).map(|number| (number * 7 / 5) as u8).collect();
        let (file, pipes) = (file(&bytes), Pipes::default());
        for takes_some in [false, true] {
            let mut batch = Batch::default();
            batch.headers().extend_from_slice(b"head");
            batch.push_pages(pipes.fill(&file, range(0, 900_000)).unwrap());
            batch.headers().extend_from_slice(b"the end");
            batch.seal();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            if takes_some {
                assert_eq!(transmit(&Rc::new(ours.into()), &mut batch), Sent::Part);
            } else {
                drop(ours);
            }
            batch.flatten().unwrap();
            assert!(!batch.has_pages());
            let mut all = vec![];
            theirs.read_to_end(&mut all).unwrap();
            assert_eq!(all.is_empty(), !takes_some);
            batch.unsent().for_each(|part| all.extend_from_slice(part));
            assert!(all == [b"head", bytes.as_slice(), b"the end"].concat(), "{takes_some}");
        }
        assert_eq!(pipes.0.borrow().empty.len(), 1, "the pipe is empty, and used again");
    }

    #[test]
    fn what_is_not_in_the_file_is_no_reply_and_a_pipe_with_pages_is_not_used_again() {
        let (file, pipes) = (file(&[1; 10_000]), Pipes::default());
        assert!(pipes.fill(&file, range(0, 10_001)).is_none());
        assert_eq!(pipes.0.borrow().count, 0);
        drop(pipes.fill(&file, range(0, 10_000)).unwrap());
        assert_eq!((pipes.0.borrow().count, pipes.0.borrow().empty.len()), (0, 0));
        let all: Vec<Pipe> = (0..PIPES_MAX).map(|_| pipes.fill(&file, range(0, 1)).unwrap()).collect();
        assert!(pipes.fill(&file, range(0, 1)).is_none(), "there are no more than the limit");
        drop(all);
        assert!(pipes.fill(&file, range(0, 1)).is_some());
    }
}
