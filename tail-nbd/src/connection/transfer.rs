//! One request being carried out: which operation comes next.

use crate::error::Errno;
use crate::geometry::ByteRange;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::nbd::offer::Style;
use crate::nbd::request::{Command, Request};
use crate::nbd::wire::Error;
use crate::ring::op::{Allocate, Handle, Op};
use crate::ring::slots::Token;
use crate::ring::uring::ZEROES_BYTES;
use crate::time::Instant;
use std::rc::Rc;

/// A request being carried out.
#[derive(Debug)]
pub struct Transfer {
    /// Whose request it is.
    pub connection: Token,
    /// The disc it is for.
    pub disc: Token,
    /// The request.
    pub request: Request,
    /// When the request had arrived.
    pub since: Instant,
    /// Bytes that are read, or made zero.
    pub done: u64,
    /// Writes in the kernel.
    pub writes_count: u32,
    /// Payload of the write is still to come.
    pub landing: bool,
    /// It gets no answer: the client is gone, or the rest of a write's payload will not come.
    pub abandoned: bool,
    /// What went wrong first.
    pub error: Option<Error>,
    /// What the read in the kernel is for, when it reads whole blocks.
    pub reading: Option<ByteRange>,
    /// It has a lock of its blocks, or waits for one.
    pub locked: bool,
    /// A share of the file while it waits for that, so that nobody thinks the disc is still.
    pub waiting: Option<Handle>,
    /// What it has paid for and not dirtied yet, in bytes, while its disc has a brake.
    pub paid_bytes: u64,
    /// It has waited for the brake, and its next step goes on.
    pub unbraked: bool,
    method: Method,
}

/// How bytes become zero. A method that the file system lacks is followed by the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Punch,
    Zero,
    Write,
}

impl Transfer {
    /// A request that is about to start.
    pub fn new(connection: Token, disc: Token, request: Request, since: Instant) -> Self {
        let method = match request.command {
            Command::WriteZeroes { no_hole: true, .. } => Method::Zero,
            _ => Method::Punch,
        };
        let landing = matches!(request.command, Command::Write { .. });
        Self {
            connection,
            disc,
            request,
            since,
            done: 0,
            writes_count: 0,
            landing,
            abandoned: false,
            error: None,
            reading: None,
            locked: false,
            waiting: None,
            paid_bytes: 0,
            unbraked: false,
            method,
        }
    }

    /// The bytes of the disc that it is about.
    pub fn range(&self) -> Option<ByteRange> {
        match self.request.command {
            Command::Read { range, .. }
            | Command::Write { range, .. }
            | Command::Trim { range, .. }
            | Command::WriteZeroes { range, .. }
            | Command::BlockStatus { range, .. }
            | Command::Cache(range) => Some(range),
            Command::Flush => None,
        }
    }

    /// What is left of a READ.
    pub fn read_rest(&self) -> ByteRange {
        let Command::Read { range, .. } = self.request.command else { panic!("not a read") };
        range.piece(self.done, range.length())
    }

    /// True when the reply to a READ may be cut into pieces, and leave out holes: not a simple reply, and not one
    /// that the client wants whole.
    pub fn may_be_cut(&self, style: Style) -> bool {
        style.has_chunks() && !matches!(self.request.command, Command::Read { whole: true, .. })
    }

    /// The operation that TRIM, WRITE_ZEROES and CACHE need next. `None` when there is nothing left to do.
    pub fn next_op(&self, data: &Handle) -> Option<Op> {
        let file = Rc::clone(data);
        let range = self.range()?;
        if self.done >= range.length() {
            return None;
        }
        let allocate = |mode| Some(Op::Allocate { file: Rc::clone(data), mode, range });
        match (self.request.command, self.method) {
            // It is a hint: as much of it as one read may have.
            (Command::Cache(_), _) => Some(Op::Prefetch { file, range: range.piece(0, PAYLOAD_BYTES_MAX.into()) }),
            (_, Method::Punch) => allocate(Allocate::Punch),
            (_, Method::Zero) => allocate(Allocate::Zero),
            (_, Method::Write) => Some(Op::WriteZeroBytes { file, range: range.piece(self.done, ZEROES_BYTES as u64) }),
        }
    }

    /// The operation of [`Transfer::next_op`] is over. Ask for the next one.
    ///
    /// # Errors
    /// When the request has failed.
    pub fn handle_result(&mut self, op: &Op, result: Result<u32, Errno>) -> Result<(), Errno> {
        let length = self.range().map_or(0, ByteRange::length);
        match (op, result) {
            (_, Err(Errno(libc::EINTR | libc::EAGAIN))) => {}
            (Op::Allocate { .. }, Err(Errno(libc::EOPNOTSUPP | libc::ENOSYS))) => {
                match (self.request.command, self.method) {
                    // A trim is a hint.
                    (Command::Trim { .. }, _) => self.done = length,
                    (_, Method::Punch) => self.method = Method::Zero,
                    // To write zeroes is not fast. The calls that failed have left no trace.
                    (Command::WriteZeroes { fast: true, .. }, _) => return Err(Errno(libc::EOPNOTSUPP)),
                    _ => self.method = Method::Write,
                }
            }
            (Op::WriteZeroBytes { .. }, Ok(0)) => return Err(Errno(libc::EIO)),
            (Op::WriteZeroBytes { .. }, Ok(written)) => self.done += u64::from(written),
            (_, Ok(_)) => self.done = length,
            (_, Err(errno)) => return Err(errno),
        }
        Ok(())
    }

    /// True when the reply must wait for a sync.
    pub fn wants_sync(&self) -> bool {
        match self.request.command {
            Command::Write { fua, .. } | Command::Trim { fua, .. } | Command::WriteZeroes { fua, .. } => fua,
            Command::Flush => true,
            Command::Read { .. } | Command::BlockStatus { .. } | Command::Cache(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use crate::ring::slots::Slots;

    fn transfer(command: impl FnOnce(ByteRange) -> Command, length: u64) -> Transfer {
        let range = DiscSize::from_bytes(1 << 40).unwrap().range(0, length).unwrap();
        let token = Slots::new(1).insert(()).unwrap();
        Transfer::new(token, token, Request { cookie: 0, offset: 0, command: command(range) }, Instant::default())
    }

    fn file() -> Handle {
        Rc::new(tempfile::tempfile().unwrap().into())
    }

    /// What the operations of a transfer are when the file system supports only `supported`.
    fn ops(mut transfer: Transfer, supported: &[Allocate]) -> Vec<String> {
        let file = file();
        let mut names = vec![];
        while let Some(op) = transfer.next_op(&file) {
            let result = match &op {
                Op::Allocate { mode, .. } if supported.contains(mode) => Ok(0),
                Op::Allocate { .. } => Err(Errno(libc::EOPNOTSUPP)),
                Op::WriteZeroBytes { range, .. } => Ok(range.length() as u32),
                _ => Ok(0),
            };
            names.push(match &op {
                Op::Allocate { mode, .. } => format!("{mode:?}"),
                Op::WriteZeroBytes { range, .. } => format!("write {}", range.length()),
                other => format!("{other:?}"),
            });
            transfer.handle_result(&op, result).unwrap();
        }
        names
    }

    #[test]
    fn zeroes_fall_back_step_by_step() {
        let hole = |range| Command::WriteZeroes { range, no_hole: false, fast: false, fua: false };
        let solid = |range| Command::WriteZeroes { range, no_hole: true, fast: false, fua: false };
        let both = [Allocate::Punch, Allocate::Zero];
        assert_eq!(ops(transfer(hole, 100), &both), ["Punch"]);
        assert_eq!(ops(transfer(solid, 100), &both), ["Zero"], "NO_HOLE must not punch");
        assert_eq!(ops(transfer(hole, 100), &[]), ["Punch", "Zero", "write 100"]);
        let bytes = ZEROES_BYTES as u64 + 5;
        assert_eq!(ops(transfer(solid, bytes), &[Allocate::Punch]), ["Zero", "write 1048576", "write 5"]);
    }

    #[test]
    fn fast_zeroes_are_never_written() {
        let fast = |no_hole| transfer(|range| Command::WriteZeroes { range, no_hole, fast: true, fua: false }, 100);
        let both = [Allocate::Punch, Allocate::Zero];
        assert_eq!(ops(fast(false), &both), ["Punch"]);
        assert_eq!(ops(fast(true), &both), ["Zero"], "NO_HOLE must not punch");
        assert_eq!(ops(fast(false), &[Allocate::Zero]), ["Punch", "Zero"]);
        for no_hole in [false, true] {
            let (mut fast, mut last) = (fast(no_hole), Ok(()));
            for _ in 0..3 {
                let op = fast.next_op(&file()).unwrap();
                assert!(matches!(op, Op::Allocate { .. }), "{op:?}");
                last = fast.handle_result(&op, Err(Errno(libc::EOPNOTSUPP)));
                if last.is_err() {
                    break;
                }
            }
            assert_eq!(last, Err(Errno(libc::EOPNOTSUPP)), "it is refused when the file system cannot");
        }
    }

    #[test]
    fn a_trim_is_a_hint() {
        assert_eq!(ops(transfer(|range| Command::Trim { range, fua: false }, 100), &[]), ["Punch"]);
    }

    #[test]
    fn a_full_pool_is_an_error_and_a_short_write_is_not() {
        let mut zeroes = transfer(|range| Command::WriteZeroes { range, no_hole: true, fast: false, fua: false }, 100);
        let op = zeroes.next_op(&file()).unwrap();
        assert_eq!(zeroes.handle_result(&op, Err(Errno(libc::ENOSPC))), Err(Errno(libc::ENOSPC)));
        zeroes.handle_result(&op, Err(Errno(libc::EOPNOTSUPP))).unwrap();
        let op = zeroes.next_op(&file()).unwrap();
        zeroes.handle_result(&op, Ok(40)).unwrap();
        let Some(Op::WriteZeroBytes { range, .. }) = zeroes.next_op(&file()) else { panic!("a rest") };
        assert_eq!((range.offset(), range.length()), (40, 60));
        assert_eq!(zeroes.handle_result(&op, Ok(0)), Err(Errno(libc::EIO)), "no progress is no success");
    }
}
