//! The numbers of the protocol, with their names from NBD's `proto.md`, and reading big-endian fields.

use serde::{Deserialize, Serialize};

/// `NBDMAGIC`, the first eight bytes of a server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the next eight, and the start of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of each option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Start of a request with an extended header.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a reply chunk with an extended header.
pub const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Length of an option header, in bytes.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Length of a request header, in bytes.
pub const REQUEST_BYTES: usize = 28;
/// Length of an extended request header, in bytes.
pub const EXTENDED_REQUEST_BYTES: usize = 32;

/// Handshake flags of the server.
pub mod handshake_flag {
    /// The server speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// The 124 zeroes may be left out. The client's flags have the same numbers.
    pub const NO_ZEROES: u16 = 2;
}

/// Transmission flags: what an export can do.
pub mod export_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Nothing may be changed.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag is understood; only with structured replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// A FLUSH covers what was answered on all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Options of the handshake.
pub mod option_type {
    /// Choose an export; no reply but the export itself.
    pub const EXPORT_NAME: u32 = 1;
    /// Give up.
    pub const ABORT: u32 = 2;
    /// Which exports are there?
    pub const LIST: u32 = 3;
    /// Go on through TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Choose an export.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which metadata contexts are there?
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use headers with 64-bit lengths, and chunks for every reply.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a LIST.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = 1 << 31 | 1;
    /// The server does not want to.
    pub const ERR_POLICY: u32 = 1 << 31 | 2;
    /// The data makes no sense.
    pub const ERR_INVALID: u32 = 1 << 31 | 3;
    /// Only through TLS.
    pub const ERR_TLS_REQD: u32 = 1 << 31 | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = 1 << 31 | 7;
    /// The data is too long.
    pub const ERR_TOO_BIG: u32 = 1 << 31 | 9;
    /// Extended headers are in force, and there is no way back from them.
    pub const ERR_EXT_HEADER_REQD: u32 = 1 << 31 | 10;
}

/// Pieces of information about an export.
pub mod info_type {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// The name.
    pub const NAME: u16 = 1;
    /// A text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Requests.
pub mod command_type {
    /// Read bytes.
    pub const READ: u16 = 0;
    /// Write bytes.
    pub const WRITE: u16 = 1;
    /// Disconnect.
    pub const DISC: u16 = 2;
    /// Make durable what was answered.
    pub const FLUSH: u16 = 3;
    /// These bytes are not needed.
    pub const TRIM: u16 = 4;
    /// These bytes will be read.
    pub const CACHE: u16 = 5;
    /// Make these bytes zero.
    pub const WRITE_ZEROES: u16 = 6;
    /// Which bytes are allocated?
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Zeroes must stay allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk only.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeroes fast or not at all.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload; only with extended headers.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of structured reply chunks.
pub mod chunk_type {
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// A hole at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of a metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of a metadata context with 64-bit lengths; with extended headers.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// An error.
    pub const ERROR: u16 = 1 << 15 | 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = 1 << 15 | 2;
}

/// The last chunk of a reply has this flag.
pub const CHUNK_DONE: u16 = 1;

/// The name of the one metadata context there is.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Its number on the wire.
pub const BASE_ALLOCATION_ID: u32 = 1;
/// An extent that is a hole.
pub const STATE_HOLE: u32 = 1;
/// An extent that reads as zeroes.
pub const STATE_ZERO: u32 = 2;

/// The errors that NBD knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Error {
    /// Not permitted.
    Eperm = 1,
    /// The disc failed.
    Eio = 5,
    /// No memory.
    Enomem = 12,
    /// The request makes no sense.
    Einval = 22,
    /// Beyond the end of the disc, or the pool is full.
    Enospc = 28,
    /// The reply would be too long.
    Eoverflow = 75,
    /// Not possible here.
    Enotsup = 95,
    /// The server is going away.
    Eshutdown = 108,
}

impl Error {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// A word for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Eperm => "not permitted",
            Self::Eio => "input/output error",
            Self::Enomem => "out of memory",
            Self::Einval => "invalid request",
            Self::Enospc => "no space left, or beyond the end of the disc",
            Self::Eoverflow => "too long",
            Self::Enotsup => "not supported",
            Self::Eshutdown => "the server is going away",
        }
    }
}

/// Takes fields from the front of a piece of bytes. `None` when there are too few.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text behind its 32-bit length.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()?;
        core::str::from_utf8(self.bytes(length as usize)?).ok()
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
