//! Does this kernel have what the data plane needs? Asked once, at the start, with a sentence for the operator
//! when it does not.

use io_uring::{IoUring, Probe, opcode};
use std::io;
use std::str::FromStr;
use thiserror::Error;

/// Why the data plane cannot run here.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No ring at all.
    #[error(
        "io_uring cannot be set up (Linux 6.1 or newer is needed, kernel.io_uring_disabled must be 0, and a \
         container must allow io_uring_setup)"
    )]
    Setup(#[source] io::Error),
    /// The kernel does not say what it can do.
    #[error("io_uring does not say which operations it has")]
    Ask(#[source] io::Error),
    /// An operation is missing.
    #[error("io_uring lacks the operation {0}; Linux 6.1 or newer is needed")]
    Missing(&'static str),
    /// The number of workers cannot be set.
    #[error("io_uring does not let its worker threads be limited; Linux 6.1 or newer is needed")]
    Workers(#[source] io::Error),
    /// Rings of provided buffers are missing.
    #[error("io_uring takes no ring of receive buffers; Linux 6.1 or newer is needed")]
    Buffers(#[source] io::Error),
}

const REQUIRED: [(&str, u8); 12] = [
    ("accept", opcode::Accept::CODE),
    ("poll", opcode::PollAdd::CODE),
    ("recv", opcode::Recv::CODE),
    ("sendmsg", opcode::SendMsg::CODE),
    ("read", opcode::Read::CODE),
    ("write", opcode::Write::CODE),
    ("splice", opcode::Splice::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("fallocate", opcode::Fallocate::CODE),
    ("fadvise", opcode::Fadvise::CODE),
    ("async_cancel", opcode::AsyncCancel::CODE),
    ("nop", opcode::Nop::CODE),
];

/// How much of what the kernel has may be used. To be run with less than there is shows that an older kernel is
/// enough (safety rule 28).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    /// Everything that is found.
    #[default]
    Nothing,
    /// What Linux 6.1 has: no reports of zero-copy sends, no receive bundles, no minimum wait.
    Linux6_1,
}

impl Mask {
    /// What [`Mask::from_str`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "all",
            Self::Linux6_1 => "6.1",
        }
    }
}

impl FromStr for Mask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::Nothing),
            "6.1" => Ok(Self::Linux6_1),
            _ => Err("it is 6.1 or all".to_owned()),
        }
    }
}

/// Checks a ring that was just set up; the answer is a line for the log.
///
/// # Errors
/// With the first thing that is missing.
pub fn probe(ring: &IoUring, mask: Mask) -> Result<String, ProbeError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(ProbeError::Ask)?;
    if let Some((name, _)) = REQUIRED.iter().find(|(_, code)| !probe.is_supported(*code)) {
        return Err(ProbeError::Missing(name));
    }
    let optional = [
        ("send_zc", probe.is_supported(opcode::SendZc::CODE)),
        ("receive bundles", ring.params().is_feature_recvsend_bundle()),
        ("minimum wait", ring.params().is_feature_min_timeout()),
    ];
    let newer = mask == Mask::Nothing;
    let found: Vec<&str> = optional.iter().filter(|(_, there)| *there && newer).map(|(name, _)| *name).collect();
    if found.is_empty() {
        return Ok(format!("io_uring with all {} required operations, and no newer ones", REQUIRED.len()));
    }
    Ok(format!(
        "io_uring with all {} required operations; also found, not used yet: {}",
        REQUIRED.len(),
        found.join(", ")
    ))
}
