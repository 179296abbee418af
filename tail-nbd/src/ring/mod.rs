//! The kernel, and only the kernel: operations go in, completions come out.
//!
//! ```text
//!   shard ── Op (owns its buffer) ──▶ uring::Ring ── table of flights ── kernel
//!   shard ◀── Completion (gives it back) ──┘
//! ```
//!
//! Invariants:
//! * what the kernel may write to or read from is in the table of flights, where no safe code can name it;
//! * a completion goes to a typed [`op::Owner`]; there is no pointer and no callback in the kernel's hands;
//! * an operation holds its descriptor, so a number is never reused under it;
//! * dropping the ring cancels and drains it; what cannot be drained is leaked, never freed.
//!
//! Deliberately absent: a trait over rings, and a second way to do I/O where io_uring is missing: that would
//! be a second, untested server.

#[forbid(unsafe_code)]
pub mod batch;
#[forbid(unsafe_code)]
pub mod op;
#[forbid(unsafe_code)]
pub mod pipe;
#[forbid(unsafe_code)]
pub mod probe;
#[forbid(unsafe_code)]
pub mod slots;
#[allow(unsafe_code)]
pub mod uring;
