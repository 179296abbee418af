//! The one place where a peer's request becomes a checked value. Behind it nobody checks again.

use super::negotiation::Agreement;
use super::wire::{Error, REQUEST_BYTES, REQUEST_MAGIC, Reader, command_flag, command_type};
use crate::error::Violation;
use crate::geometry::ByteRange;
use crate::limits::{DRAIN_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's handle, to be given back with the reply.
    pub cookie: u64,
    /// What to do.
    pub command: Command,
}

/// What a client wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; with `whole` in one chunk.
    Read {
        /// Where.
        range: ByteRange,
        /// The DF flag.
        whole: bool,
    },
    /// Write the payload that follows.
    Write {
        /// Where.
        range: ByteRange,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make durable what was answered, on all connections.
    Flush,
    /// Make these bytes a hole, if possible.
    Trim {
        /// Where.
        range: ByteRange,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make these bytes zero.
    WriteZeroes {
        /// Where.
        range: ByteRange,
        /// They must stay allocated.
        no_hole: bool,
        /// Durable before the reply.
        fua: bool,
    },
    /// Say which bytes are allocated.
    BlockStatus {
        /// Where.
        range: ByteRange,
        /// One extent only.
        one: bool,
    },
    /// Read these bytes into the page cache.
    Cache(ByteRange),
}

/// A request header as it came, nothing checked but the magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Flags of the command.
    pub flags: u16,
    /// Type of the command.
    pub command: u16,
    /// The client's handle.
    pub cookie: u64,
    /// Offset, in bytes.
    pub offset: u64,
    /// Length, in bytes.
    pub length: u32,
}

/// What a header turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// A request that may be carried out.
    Request(Request),
    /// A request to be refused once its payload of so many bytes is drained.
    Rejected {
        /// The reply.
        error: Error,
        /// Bytes of payload that follow.
        payload_bytes: u32,
    },
    /// The client says good-bye.
    Disconnect,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// When the magic number is wrong.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Violation> {
        let mut reader = Reader(bytes);
        let enough = "a header has enough bytes";
        let magic = reader.u32().expect(enough);
        if magic != REQUEST_MAGIC {
            return Err(Violation::RequestMagic(magic));
        }
        Ok(Self {
            flags: reader.u16().expect(enough),
            command: reader.u16().expect(enough),
            cookie: reader.u64().expect(enough),
            offset: reader.u64().expect(enough),
            length: reader.u32().expect(enough),
        })
    }

    /// Writes a header: the other half of [`Header::parse`].
    pub fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Checks everything there is to check.
    ///
    /// # Errors
    /// When a payload is announced that is too long to be drained.
    pub fn check(self, agreement: &Agreement) -> Result<Checked, Violation> {
        let payload_bytes = if self.command == command_type::WRITE { self.length } else { 0 };
        if payload_bytes > DRAIN_BYTES_MAX {
            return Err(Violation::PayloadTooLong(payload_bytes));
        }
        if self.command == command_type::DISC {
            return Ok(Checked::Disconnect);
        }
        Ok(match self.command(agreement) {
            Ok(command) => Checked::Request(Request { cookie: self.cookie, command }),
            Err(error) => Checked::Rejected { error, payload_bytes },
        })
    }

    fn command(self, agreement: &Agreement) -> Result<Command, Error> {
        let allowed = allowed_flags(self.command, agreement).ok_or(Error::Einval)?;
        if self.flags & !allowed != 0 {
            return Err(Error::Einval);
        }
        if agreement.read_only && is_change(self.command) {
            return Err(Error::Eperm);
        }
        let fua = self.flags & command_flag::FUA != 0;
        let too_long = self.length > PAYLOAD_BYTES_MAX;
        let range = agreement.size.range(self.offset, self.length.into());
        match self.command {
            command_type::READ if too_long => Err(Error::Einval),
            command_type::READ => {
                let whole = self.flags & command_flag::DF != 0;
                Ok(Command::Read { range: range.ok_or(Error::Einval)?, whole })
            }
            command_type::WRITE if too_long => Err(Error::Einval),
            command_type::WRITE => Ok(Command::Write { range: range.ok_or(Error::Enospc)?, fua }),
            command_type::FLUSH if self.offset == 0 && self.length == 0 => Ok(Command::Flush),
            command_type::TRIM => Ok(Command::Trim { range: range.ok_or(Error::Einval)?, fua }),
            command_type::WRITE_ZEROES => {
                let no_hole = self.flags & command_flag::NO_HOLE != 0;
                Ok(Command::WriteZeroes { range: range.ok_or(Error::Enospc)?, no_hole, fua })
            }
            command_type::BLOCK_STATUS if agreement.allocation && self.length > 0 => {
                let one = self.flags & command_flag::REQ_ONE != 0;
                Ok(Command::BlockStatus { range: range.ok_or(Error::Einval)?, one })
            }
            command_type::CACHE => Ok(Command::Cache(range.ok_or(Error::Einval)?)),
            _ => Err(Error::Einval),
        }
    }
}

fn is_change(command: u16) -> bool {
    matches!(command, command_type::WRITE | command_type::TRIM | command_type::WRITE_ZEROES)
}

/// Which flags a command may have; `None` when there is no such command. FUA may come with each of them
/// (NBD protocol, "Command flags").
fn allowed_flags(command: u16, agreement: &Agreement) -> Option<u16> {
    let more = match command {
        command_type::READ if agreement.structured => command_flag::DF,
        command_type::READ | command_type::WRITE | command_type::FLUSH | command_type::TRIM | command_type::CACHE => 0,
        command_type::WRITE_ZEROES => command_flag::NO_HOLE,
        command_type::BLOCK_STATUS => command_flag::REQ_ONE,
        _ => return None,
    };
    Some(command_flag::FUA | more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    const SIZE: u64 = 1 << 30;

    fn agreement() -> Agreement {
        let size = DiscSize::from_bytes(SIZE).unwrap();
        Agreement { size, structured: true, allocation: true, read_only: false }
    }

    fn check(command: u16, flags: u16, offset: u64, length: u32) -> Checked {
        Header { flags, command, cookie: 7, offset, length }.check(&agreement()).unwrap()
    }

    fn error(checked: Checked) -> Option<Error> {
        match checked {
            Checked::Rejected { error, .. } => Some(error),
            _ => None,
        }
    }

    #[test]
    fn a_header_survives_writing_and_parsing() {
        let header = Header { flags: 1, command: 6, cookie: u64::MAX, offset: 1 << 40, length: 512 };
        assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        assert_eq!(Header::parse(&[0; REQUEST_BYTES]), Err(Violation::RequestMagic(0)));
    }

    #[test]
    fn each_refusal_has_its_error() {
        use command_type as c;
        let end = SIZE - 512;
        for (what, command, flags, offset, length, wanted) in [
            ("a read up to the end", c::READ, 0, end, 512, None),
            ("a read past the end", c::READ, 0, end, 513, Some(Error::Einval)),
            ("a write up to the end", c::WRITE, 0, end, 512, None),
            ("a write past the end", c::WRITE, 0, end, 513, Some(Error::Enospc)),
            ("zeroes past the end", c::WRITE_ZEROES, 0, end, 513, Some(Error::Enospc)),
            ("a trim past the end", c::TRIM, 0, end, 513, Some(Error::Einval)),
            ("a status past the end", c::BLOCK_STATUS, 0, end, 513, Some(Error::Einval)),
            ("a cache past the end", c::CACHE, 0, end, 513, Some(Error::Einval)),
            ("an offset that overflows", c::READ, 0, u64::MAX, 2, Some(Error::Einval)),
            ("the longest read", c::READ, 0, 0, PAYLOAD_BYTES_MAX, None),
            ("a read that is too long", c::READ, 0, 0, PAYLOAD_BYTES_MAX + 1, Some(Error::Einval)),
            ("a write that is too long", c::WRITE, 0, 0, PAYLOAD_BYTES_MAX + 1, Some(Error::Einval)),
            ("zeroes longer than a payload", c::WRITE_ZEROES, 0, 0, 1 << 30, None),
            ("a status of nothing", c::BLOCK_STATUS, 0, 0, 0, Some(Error::Einval)),
            ("a flush with a range", c::FLUSH, 0, 0, 1, Some(Error::Einval)),
            ("a read with DF", c::READ, command_flag::DF, 0, 1, None),
            ("a write with DF", c::WRITE, command_flag::DF, 0, 1, Some(Error::Einval)),
            ("a flush with FUA", c::FLUSH, command_flag::FUA, 0, 0, None),
            ("zeroes with NO_HOLE", c::WRITE_ZEROES, command_flag::NO_HOLE, 0, 1, None),
            ("a trim with NO_HOLE", c::TRIM, command_flag::NO_HOLE, 0, 1, Some(Error::Einval)),
            ("FAST_ZERO, which is not offered", c::WRITE_ZEROES, command_flag::FAST_ZERO, 0, 1, Some(Error::Einval)),
            ("an unknown flag", c::READ, 1 << 9, 0, 1, Some(Error::Einval)),
            ("an unknown command", 8, 0, 0, 1, Some(Error::Einval)),
            ("another unknown command", 0xffff, 0, 0, 1, Some(Error::Einval)),
        ] {
            assert_eq!(error(check(command, flags, offset, length)), wanted, "{what}");
        }
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        let size = DiscSize::from_bytes(SIZE).unwrap();
        let plain = Agreement { size, structured: false, allocation: false, read_only: false };
        let header = |command, flags| Header { flags, command, cookie: 0, offset: 0, length: 1 };
        let df = header(command_type::READ, command_flag::DF).check(&plain).unwrap();
        assert_eq!(error(df), Some(Error::Einval));
        let status = header(command_type::BLOCK_STATUS, 0).check(&plain).unwrap();
        assert_eq!(error(status), Some(Error::Einval));
    }

    #[test]
    fn what_may_not_be_changed_is_only_read() {
        let agreement = Agreement { read_only: true, ..agreement() };
        let ask = |command| {
            let header = Header { flags: 0, command, cookie: 0, offset: 0, length: 1 };
            error(header.check(&agreement).unwrap())
        };
        for command in [command_type::WRITE, command_type::TRIM, command_type::WRITE_ZEROES] {
            assert_eq!(ask(command), Some(Error::Eperm), "command {command}");
        }
        for command in [command_type::READ, command_type::CACHE, command_type::BLOCK_STATUS] {
            assert_eq!(ask(command), None, "command {command}");
        }
    }

    #[test]
    fn a_refused_write_names_its_payload_and_no_other_command_has_one() {
        let refused = check(command_type::WRITE, 0, SIZE, 100);
        assert_eq!(refused, Checked::Rejected { error: Error::Enospc, payload_bytes: 100 });
        let unknown = check(99, 0, 0, 100);
        assert_eq!(unknown, Checked::Rejected { error: Error::Einval, payload_bytes: 0 });
        let header =
            Header { flags: 0, command: command_type::WRITE, cookie: 0, offset: 0, length: DRAIN_BYTES_MAX + 1 };
        assert_eq!(header.check(&agreement()), Err(Violation::PayloadTooLong(DRAIN_BYTES_MAX + 1)));
    }
}
