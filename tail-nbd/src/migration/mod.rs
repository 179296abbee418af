//! Moving a disc to another tail while its clients use it (nbd.md section 3, safety rules 18–23; R130).
//!
//! * [`wire`]: the frames; pure.
//! * [`converge`]: when to copy again and when to hand over; pure.
//! * [`handover`]: who owns the disc; pure, and explored exhaustively.

pub mod converge;
pub mod handover;
pub mod wire;
