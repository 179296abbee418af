//! A real `bigv-head`, real qemus under TCG, real NBD servers, and a brain that does as the test says; each
//! test in a network namespace of its own.
//!
//! These tests need root, /dev/net/tun, qemu-system-x86_64, qemu-nbd and iproute2.

mod bench;
mod fence;
mod guest;
mod lives;
mod restarts;
mod storage;
