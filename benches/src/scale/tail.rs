//! The tail under test, and what the kernel says of it.

use super::net::{self, Net};
use crate::{
    processor,
    tail::{self, Setup, Upgraded},
};
use anyhow::{Context, Result, bail};
use spine::address::StoragePrefix;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// No change takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A socket that listens, in `/proc/net/tcp6`.
const LISTENING: &str = "0A";

/// The tail.
#[derive(Debug)]
pub struct Tail(tail::Tail);

impl Tail {
    /// Prepares its files in `scratch`; it is started later.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(net: &Net, scratch: &Path, program: &Path, shards_count: usize) -> Result<Self> {
        let setup = Setup {
            program,
            exec_words: net.exec_words().map(str::to_owned).to_vec(),
            name: net::TAIL_NAME,
            brain: net::BRAIN,
            prefix: net::PREFIX,
            interface: net::INTERFACE,
            address: net::TAIL.parse()?,
            shards_count,
            pool: "scale",
            pool_folder: None,
            io: "cached",
            takes_moves: false,
        };
        tail::Tail::new(scratch, &setup).map(Self)
    }

    /// Starts it, and waits until it says that it is ready. Returns how long that took.
    ///
    /// # Errors
    /// When it does not start; what it printed is in the error.
    pub fn start(&mut self) -> Result<Duration> {
        self.0.start()
    }

    /// Ends it in an orderly way, and returns how long that took.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<Duration> {
        self.0.stop()
    }

    /// Has a new process take over from it.
    ///
    /// # Errors
    /// As [`tail::Tail::upgrade`].
    pub fn upgrade(&mut self) -> Result<Upgraded> {
        self.0.upgrade()
    }

    /// The end of what it printed, for errors.
    pub fn log_tail(&self) -> String {
        self.0.log_tail()
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.0.pid()
    }

    /// Memory that is the process's own, in KiB: without the pages of its program file.
    ///
    /// # Errors
    /// When it does not run.
    pub fn own_memory_kib(&self) -> Result<u64> {
        processor::anonymous_kib(self.pid()?)
    }

    /// How many discs listen in its network namespace.
    ///
    /// # Errors
    /// When it does not run.
    pub fn listening_count(&self) -> Result<usize> {
        let port = format!(":{:04X}", spine::limits::NBD_PORT);
        let listens = |line: &&str| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(LISTENING)
        };
        Ok(self.proc_net("tcp6")?.lines().filter(listens).count())
    }

    /// How many discs' addresses are on its interfaces.
    ///
    /// # Errors
    /// When it does not run.
    pub fn addresses_count(&self) -> Result<usize> {
        let prefix: StoragePrefix = net::PREFIX.parse()?;
        let digits: String = prefix.network().octets()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(self.proc_net("if_inet6")?.lines().filter(|line| line.starts_with(&digits)).count())
    }

    /// Waits until `enough` is true of it.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&Self) -> Result<bool>) -> Result<Instant> {
        let until = Instant::now() + DEADLINE;
        while !enough(self)? {
            if Instant::now() >= until {
                bail!("after {DEADLINE:?} there is still no sign that {what}");
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(Instant::now())
    }

    /// Reads the data file of a disc, so that it is in the page cache.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn warm(&self, number: u64) -> Result<()> {
        let path = self.0.data_file(number);
        let mut file = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        std::io::copy(&mut file, &mut std::io::sink())?;
        Ok(())
    }

    /// Fills the data file of a disc with something other than zeroes, behind the tail's back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn fill(&self, number: u64, bytes: u64) -> Result<()> {
        let path = self.0.data_file(number);
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        let written = std::io::copy(&mut std::io::Read::take(std::io::repeat(0x5a), bytes), &mut file)?;
        anyhow::ensure!(written == bytes, "{} took {written} bytes", path.display());
        Ok(())
    }

    fn proc_net(&self, table: &str) -> Result<String> {
        let path = format!("/proc/{}/net/{table}", self.pid()?);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}
