//! A process that another one has started in its own place.

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::time::Duration;

/// How long it may take to end after SIGTERM when nobody waits for it.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(5);

/// The process; stopped when dropped.
#[derive(Debug)]
pub struct Successor {
    pid: u32,
    process: OwnedFd,
}

impl Successor {
    /// The process with this id, which is known to run.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(pid: u32) -> Result<Self> {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).context("this is no process id")?;
        let process = pidfd_open(id, PidfdFlags::empty()).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, process })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end. False when it still runs after `deadline`.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn wait(&self, deadline: Duration) -> Result<bool> {
        let timeout = Timespec::try_from(deadline)?;
        Ok(poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&timeout))? > 0)
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it is not done after `deadline`.
    pub fn terminate(self, deadline: Duration) -> Result<()> {
        self.signal(Signal::TERM);
        if !self.wait(deadline)? {
            bail!("process {} was not done after {} s", self.pid, deadline.as_secs());
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // One that has ended needs none.
        let _ = pidfd_send_signal(&self.process, signal);
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        if !self.wait(TERMINATE_DEADLINE).unwrap_or(false) {
            self.signal(Signal::KILL);
        }
    }
}
