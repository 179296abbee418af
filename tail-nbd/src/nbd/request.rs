//! The one place where a peer's request becomes a checked value. Behind it nobody checks again.

use super::negotiation::Agreement;
use super::offer::{Style, allowed_flags};
use super::wire::{EXTENDED_REQUEST_MAGIC, Error, REQUEST_MAGIC, Reader, command_flag, command_type};
use crate::error::Violation;
use crate::geometry::ByteRange;
use crate::limits::{DRAIN_BYTES_MAX, PAYLOAD_BYTES_MAX};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's handle, to be given back with the reply.
    pub cookie: u64,
    /// The offset as it came, which an extended reply repeats. What counts is the range of the command.
    pub offset: u64,
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
        /// Without writing them, or not at all.
        fast: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Flags of the command.
    pub flags: u16,
    /// Type of the command.
    pub command: u16,
    /// The client's handle.
    pub cookie: u64,
    /// Offset, in bytes.
    pub offset: u64,
    /// Length, in bytes; below 4 GiB unless headers are extended.
    pub length: u64,
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

impl Request {
    /// A header that asks for this: the other half of [`Header::check`].
    pub fn header(&self) -> Header {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let (command, range, flags) = match self.command {
            Command::Read { range, whole } => (command_type::READ, Some(range), flag(whole, command_flag::DF)),
            Command::Write { range, fua } => (command_type::WRITE, Some(range), flag(fua, command_flag::FUA)),
            Command::Flush => (command_type::FLUSH, None, 0),
            Command::Trim { range, fua } => (command_type::TRIM, Some(range), flag(fua, command_flag::FUA)),
            Command::WriteZeroes { range, no_hole, fast, fua } => {
                let flags = flag(no_hole, command_flag::NO_HOLE) | flag(fast, command_flag::FAST_ZERO);
                (command_type::WRITE_ZEROES, Some(range), flags | flag(fua, command_flag::FUA))
            }
            Command::BlockStatus { range, one } => {
                (command_type::BLOCK_STATUS, Some(range), flag(one, command_flag::REQ_ONE))
            }
            Command::Cache(range) => (command_type::CACHE, Some(range), 0),
        };
        let length = range.map_or(0, ByteRange::length);
        Header { flags, command, cookie: self.cookie, offset: self.offset, length }
    }
}

impl Header {
    /// Reads a header: all [`Style::request_bytes`] of it.
    ///
    /// # Errors
    /// When the magic number is wrong.
    pub fn parse(bytes: &[u8], style: Style) -> Result<Self, Violation> {
        let mut reader = Reader(bytes);
        let enough = "a header has enough bytes";
        let extended = style == Style::Extended;
        let magic = reader.u32().expect(enough);
        if magic != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
            return Err(Violation::RequestMagic(magic));
        }
        Ok(Self {
            flags: reader.u16().expect(enough),
            command: reader.u16().expect(enough),
            cookie: reader.u64().expect(enough),
            offset: reader.u64().expect(enough),
            length: if extended { reader.u64().expect(enough) } else { reader.u32().expect(enough).into() },
        })
    }

    /// Appends a header: the other half of [`Header::parse`].
    ///
    /// # Panics
    /// When the length does not fit into a compact header.
    pub fn write(self, out: &mut Vec<u8>, style: Style) {
        let extended = style == Style::Extended;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.length.to_be_bytes());
        } else {
            let length = u32::try_from(self.length).expect("a compact header has 32 bits for the length");
            out.extend_from_slice(&length.to_be_bytes());
        }
    }

    /// How much payload follows, in bytes, whatever else is wrong with the request.
    pub fn payload_bytes(self, style: Style) -> u64 {
        let announced = style == Style::Extended && self.flags & command_flag::PAYLOAD_LEN != 0;
        // A WRITE must announce its payload when headers are extended. qemu (10.0) does not, and sends it.
        if announced || self.command == command_type::WRITE { self.length } else { 0 }
    }

    /// Checks everything there is to check.
    ///
    /// # Errors
    /// When a payload is announced that is too long to be drained.
    pub fn check(self, agreement: &Agreement) -> Result<Checked, Violation> {
        let payload_bytes = self.payload_bytes(agreement.style);
        if payload_bytes > DRAIN_BYTES_MAX.into() {
            return Err(Violation::PayloadTooLong(payload_bytes));
        }
        let payload_bytes = u32::try_from(payload_bytes).expect("it is below the bound");
        if self.command == command_type::DISC {
            return Ok(Checked::Disconnect);
        }
        Ok(match self.command(agreement) {
            Ok(command) => Checked::Request(Request { cookie: self.cookie, offset: self.offset, command }),
            Err(error) => Checked::Rejected { error, payload_bytes },
        })
    }

    fn command(self, agreement: &Agreement) -> Result<Command, Error> {
        let allowed = allowed_flags(self.command, agreement.style).ok_or(Error::Einval)?;
        if self.flags & !allowed != 0 {
            return Err(Error::Einval);
        }
        if agreement.read_only && is_change(self.command) {
            return Err(Error::Eperm);
        }
        let has = |flag| self.flags & flag != 0;
        let fua = has(command_flag::FUA);
        let too_long = self.length > PAYLOAD_BYTES_MAX.into();
        let range = agreement.size.range(self.offset, self.length);
        match self.command {
            command_type::READ if too_long => Err(Error::Einval),
            command_type::READ => {
                Ok(Command::Read { range: range.ok_or(Error::Einval)?, whole: has(command_flag::DF) })
            }
            command_type::WRITE if too_long => Err(Error::Einval),
            command_type::WRITE => Ok(Command::Write { range: range.ok_or(Error::Enospc)?, fua }),
            command_type::FLUSH if self.offset == 0 && self.length == 0 => Ok(Command::Flush),
            command_type::TRIM => Ok(Command::Trim { range: range.ok_or(Error::Einval)?, fua }),
            command_type::WRITE_ZEROES => {
                let (no_hole, fast) = (has(command_flag::NO_HOLE), has(command_flag::FAST_ZERO));
                Ok(Command::WriteZeroes { range: range.ok_or(Error::Enospc)?, no_hole, fast, fua })
            }
            command_type::BLOCK_STATUS if agreement.allocation && self.length > 0 => {
                Ok(Command::BlockStatus { range: range.ok_or(Error::Einval)?, one: has(command_flag::REQ_ONE) })
            }
            command_type::CACHE => Ok(Command::Cache(range.ok_or(Error::Einval)?)),
            _ => Err(Error::Einval),
        }
    }
}

fn is_change(command: u16) -> bool {
    matches!(command, command_type::WRITE | command_type::TRIM | command_type::WRITE_ZEROES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;

    const SIZE: u64 = 1 << 30;
    const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

    fn agreement(style: Style) -> Agreement {
        Agreement { size: DiscSize::from_bytes(SIZE).unwrap(), style, allocation: style.has_chunks(), read_only: false }
    }

    fn check(command: u16, flags: u16, offset: u64, length: impl Into<u64>) -> Checked {
        Header { flags, command, cookie: 7, offset, length: length.into() }
            .check(&agreement(Style::Structured))
            .unwrap()
    }

    fn check_extended(command: u16, flags: u16, offset: u64, length: u64) -> Checked {
        Header { flags, command, cookie: 7, offset, length }.check(&agreement(Style::Extended)).unwrap()
    }

    fn error(checked: Checked) -> Option<Error> {
        match checked {
            Checked::Rejected { error, .. } => Some(error),
            _ => None,
        }
    }

    #[test]
    fn a_header_survives_writing_and_parsing() {
        for style in STYLES {
            let header = Header { flags: 1, command: 6, cookie: u64::MAX, offset: 1 << 40, length: 512 };
            let mut bytes = Vec::new();
            header.write(&mut bytes, style);
            assert_eq!(bytes.len(), style.request_bytes());
            assert_eq!(Header::parse(&bytes, style), Ok(header), "{style:?}");
            assert_eq!(Header::parse(&[0; 32], style), Err(Violation::RequestMagic(0)));
        }
        let mut compact = Vec::new();
        Header { flags: 0, command: 0, cookie: 0, offset: 0, length: 1 }.write(&mut compact, Style::Simple);
        compact.resize(32, 0);
        let refused = Header::parse(&compact, Style::Extended);
        assert_eq!(refused, Err(Violation::RequestMagic(0x2560_9513)), "the kinds of headers are not mixed");
    }

    #[test]
    fn a_request_is_the_same_after_it_was_a_header_again() {
        for (command, flags, length) in [
            (command_type::READ, command_flag::DF, 4096),
            (command_type::READ, 0, PAYLOAD_BYTES_MAX.into()),
            (command_type::WRITE, command_flag::FUA, 4096),
            (command_type::FLUSH, 0, 0),
            (command_type::TRIM, command_flag::FUA, 1 << 29),
            (command_type::WRITE_ZEROES, command_flag::NO_HOLE | command_flag::FUA, 1 << 29),
            (command_type::WRITE_ZEROES, command_flag::FAST_ZERO, 0),
            (command_type::BLOCK_STATUS, command_flag::REQ_ONE, 1 << 29),
            (command_type::CACHE, 0, 1 << 29),
        ] {
            let offset = if command == command_type::FLUSH { 0 } else { 512 };
            let header = Header { flags, command, cookie: 7, offset, length };
            let Ok(Checked::Request(request)) = header.check(&agreement(Style::Extended)) else { panic!("{header:?}") };
            assert_eq!(request.header(), header);
        }
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
            ("zeroes with FAST_ZERO", c::WRITE_ZEROES, command_flag::FAST_ZERO, 0, 1, None),
            ("a write with FAST_ZERO", c::WRITE, command_flag::FAST_ZERO, 0, 1, Some(Error::Einval)),
            ("PAYLOAD_LEN, which is not agreed on", c::WRITE, command_flag::PAYLOAD_LEN, 0, 1, Some(Error::Einval)),
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
        let plain = Agreement { size, style: Style::Simple, allocation: false, read_only: false };
        let header = |command, flags| Header { flags, command, cookie: 0, offset: 0, length: 1 };
        let df = header(command_type::READ, command_flag::DF).check(&plain).unwrap();
        assert_eq!(error(df), Some(Error::Einval));
        let status = header(command_type::BLOCK_STATUS, 0).check(&plain).unwrap();
        assert_eq!(error(status), Some(Error::Einval));
    }

    #[test]
    fn what_may_not_be_changed_is_only_read() {
        let agreement = Agreement { read_only: true, ..agreement(Style::Structured) };
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
        let refused = check(command_type::WRITE, 0, SIZE, 100u32);
        assert_eq!(refused, Checked::Rejected { error: Error::Enospc, payload_bytes: 100 });
        let unknown = check(99, 0, 0, 100u32);
        assert_eq!(unknown, Checked::Rejected { error: Error::Einval, payload_bytes: 0 });
        let length = u64::from(DRAIN_BYTES_MAX) + 1;
        let header = Header { flags: 0, command: command_type::WRITE, cookie: 0, offset: 0, length };
        assert_eq!(header.check(&agreement(Style::Structured)), Err(Violation::PayloadTooLong(length)));
    }

    #[test]
    fn with_extended_headers_a_flag_says_whether_there_is_a_payload() {
        use command_type as c;
        let rejected = |error, payload_bytes| Checked::Rejected { error, payload_bytes };
        let payload = command_flag::PAYLOAD_LEN;
        assert!(matches!(check_extended(c::WRITE, payload, 0, 100), Checked::Request(_)));
        let request = Header { flags: 0, command: c::WRITE, cookie: 7, offset: 0, length: 100 };
        assert!(matches!(request.check(&agreement(Style::Extended)), Ok(Checked::Request(_))), "as qemu writes");
        assert_eq!(request.payload_bytes(Style::Extended), 100);
        assert_eq!(check_extended(c::READ, payload, 0, 100), rejected(Error::Einval, 100), "a read with payload");
        assert_eq!(
            check_extended(c::BLOCK_STATUS, payload, 0, 12),
            rejected(Error::Einval, 12),
            "no filter is offered"
        );
        assert_eq!(check_extended(77, payload, 0, 9), rejected(Error::Einval, 9), "an unknown command with payload");
        for length in [u64::from(DRAIN_BYTES_MAX) + 1, 1 << 32, u64::MAX] {
            let header = Header { flags: payload, command: c::WRITE, cookie: 0, offset: 0, length };
            assert_eq!(header.check(&agreement(Style::Extended)), Err(Violation::PayloadTooLong(length)));
        }
    }

    #[test]
    fn with_extended_headers_an_effect_may_be_longer_than_4_gib() {
        let size = 1u64 << 44;
        let agreement = Agreement {
            size: DiscSize::from_bytes(size).unwrap(),
            style: Style::Extended,
            allocation: true,
            read_only: false,
        };
        let check = |command, length| Header { flags: 0, command, cookie: 0, offset: 0, length }.check(&agreement);
        for command in [command_type::TRIM, command_type::WRITE_ZEROES, command_type::BLOCK_STATUS, command_type::CACHE]
        {
            assert!(matches!(check(command, size), Ok(Checked::Request(_))), "command {command}");
            assert!(error(check(command, size + 1).unwrap()).is_some(), "command {command} past the end");
            assert!(error(check(command, u64::MAX).unwrap()).is_some(), "command {command} with a length of -1");
        }
        assert_eq!(error(check(command_type::READ, 1 << 32).unwrap()), Some(Error::Einval));
    }
}
