//! Errors sorted by who must act.
//!
//! * The peer broke the protocol: [`Violation`]; the connection is closed.
//! * The peer asked for what we refuse: [`Error`](crate::nbd::wire::Error) on the wire; the connection lives.
//! * The operating system failed: [`Errno`], turned into an answer by the table in `nbd/reply.rs`.
//! * We are wrong: assertions.

use thiserror::Error;

/// How a peer broke the protocol. There is no way on with it, so the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// It set client flags that we did not offer.
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    /// An option does not start with the magic number.
    #[error("an option starts with {0:#x}")]
    OptionMagic(u64),
    /// A request does not start with the magic number.
    #[error("a request starts with {0:#x}")]
    RequestMagic(u32),
    /// Without TLS there is nothing for it here, and no reply that says so.
    #[error("it goes on without TLS")]
    TlsRequired,
    /// It said something in the clear behind STARTTLS: whoever sits in between may have.
    #[error("bytes in the clear behind STARTTLS")]
    BehindStartTls,
    /// More options than a handshake may have.
    #[error("more options than a handshake may have")]
    TooManyOptions,
    /// An option announces more data than we drain.
    #[error("an option of {0} bytes")]
    OptionTooLong(u32),
    /// A WRITE announces more payload than we drain.
    #[error("a write of {0} bytes")]
    PayloadTooLong(u64),
    /// NBD_OPT_EXPORT_NAME has no reply for a refusal.
    #[error("EXPORT_NAME for an export that it may not have")]
    ExportRefused,
}

/// An error number of the kernel, always positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}
