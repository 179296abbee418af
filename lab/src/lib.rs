//! A whole cluster on one machine, in network namespaces; also the harness of the tests that need one.
//!
//! ```text
//!                      ┌──────────── namespace NAME-switch ────────────┐
//!                      │  spine      storage      mgmt       public    │   four bridges, one a LAN
//!                      └──┬──┬──┬──────┬──┬─────────┬──┬────────┬──┬───┘
//!   NAME-brain  ──────────┘  │  │      │  │         │  │        │  │
//!   NAME-head1, head2 … ─────┘──│──────┘──│─────────┘──│────────┘  │
//!   NAME-tail1, tail2 … ────────┘─────────┘            │           │
//!   NAME-customer  (where ssh goes out from; router of the public LAN) ┘
//!
//!   root namespace: 127.0.0.1:8600, a listening socket that is handed to the brain. Nothing else.
//! ```
//!
//! * [`plan`]: who is where, pure: names, addresses, interfaces, configuration files ([`config`]).
//! * [`network`]: the plan as `ip` commands, and their undoing.
//! * [`process`]: daemons in their own session, found again by pid and start time.
//! * [`state`]: what was made, on disc *before* it is made, so that a killed `up` can be undone.
//! * [`daemon`]: starting one and knowing when it is ready.
//! * [`cluster`]: up, down, status, kill and start, made of the above.
//! * [`api`]: asking the brain whether it has its nodes.
//! * [`profile`]: the `bigv` profile and the symbolic link that make the commands after `up` work.
//! * [`enter`]: the two helpers that run inside a namespace.
//! * [`harness`]: a lab for a test, gone when the test is. [`readme`]: the README's commands, which that test types.
//!
//! Invariants: nothing is made in the root namespace but the listening socket; everything in a
//! namespace of the lab belongs to the lab, so `down` may end every process found there; `down`
//! removes a directory only when it holds the lab's own state file.
//!
//! Deliberately absent: any knowledge of the daemons beyond their command lines and configuration files.
#![forbid(unsafe_code)]

pub mod api;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod enter;
pub mod error;
pub mod harness;
pub mod network;
pub mod plan;
pub mod process;
pub mod profile;
pub mod readme;
pub mod state;
