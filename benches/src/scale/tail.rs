//! The tail under test: its files, its process, and what the kernel says of it.

use super::net::{self, Net};
use crate::{peers::program::Program, processor};
use anyhow::{Context, Result, bail};
use spine::address::StoragePrefix;
use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// No start and no stop takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A socket that listens, in `/proc/net/tcp6`.
const LISTENING: &str = "0A";

/// A tail, with a folder of its own that is gone when this is dropped.
#[derive(Debug)]
pub struct Tail {
    // Declared before the folder: the process ends first.
    process: Option<Program>,
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Tail {
    /// Prepares its files in `scratch`; it is started later.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(scratch: &Path, program: PathBuf, shards_count: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("scale-").tempdir_in(scratch)?;
        let at = folder.path();
        for name in ["pool", "images"] {
            fs::create_dir(at.join(name))?;
        }
        let (name, brain, prefix) = (net::TAIL_NAME, net::BRAIN, net::PREFIX);
        let (own, interface, at) = (net::TAIL, net::INTERFACE, at.display());
        let config = format!(
            r#"name = "{name}"
brains = ["{brain}"]
storage_prefix = "{prefix}"
storage_interface = "{interface}"
storage_address = "{own}"
state_dir = "{at}/state"
images_dir = "{at}/images"
shards = {shards_count}
[[pool]]
name = "scale"
grade = "scale"
path = "{at}/pool"
"#
        );
        fs::write(folder.path().join("tail.toml"), config)?;
        Ok(Self { process: None, folder, program })
    }

    /// Starts it, and waits until it says that it is ready. Returns how long that took.
    ///
    /// # Errors
    /// When it does not start; what it printed is in the error.
    pub fn start(&mut self, net: &Net) -> Result<Duration> {
        let path = self.folder.path().join("notify.sock");
        // None is there at the first start.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let config = self.folder.path().join("tail.toml");
        let notify = format!("NOTIFY_SOCKET={}", path.display());
        let mut words: Vec<&str> = vec!["env", &notify];
        words.extend(net.exec_words());
        words.push(self.program.to_str().context("the tail's path is no text")?);
        words.extend(["run", "--config", config.to_str().context("the folder's path is no text")?]);
        let begun = Instant::now();
        let process = self.process.insert(Program::start(&words, &self.folder.path().join("tail.log"))?);
        let mut message = [0; 64];
        while socket.recv(&mut message).is_err() {
            if let Some(status) = process.ended()? {
                bail!("the tail ended with {status}: {}", process.log_tail());
            }
            if begun.elapsed() > DEADLINE {
                bail!("the tail is not ready after {DEADLINE:?}: {}", process.log_tail());
            }
        }
        Ok(begun.elapsed())
    }

    /// Ends it in an orderly way, and returns how long that took.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        if let Some(process) = self.process.take() {
            process.terminate(DEADLINE)?;
        }
        Ok(begun.elapsed())
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the tail does not run")?.pid())
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
        let path = self.folder.path().join(format!("pool/discs/{number}.data"));
        let mut file = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        std::io::copy(&mut file, &mut std::io::sink())?;
        Ok(())
    }

    /// Fills the data file of a disc with something other than zeroes, behind the tail's back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn fill(&self, number: u64, bytes: u64) -> Result<()> {
        let path = self.folder.path().join(format!("pool/discs/{number}.data"));
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
