//! A tail under test: its files, its process, and whether it is ready.

use crate::{
    leftovers,
    peers::program::{Program, log_tail},
    successor::Successor,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    net::Ipv6Addr,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// No start and no stop takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How a tail is set up.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// Its program.
    pub program: &'a Path,
    /// The words that start a program in its network namespace, before its own.
    pub exec_words: Vec<String>,
    /// What it calls itself.
    pub name: &'a str,
    /// Where the brain listens.
    pub brain: &'a str,
    /// The discs' addresses are in it.
    pub prefix: &'a str,
    /// Where they are put.
    pub interface: &'a str,
    /// Its own address.
    pub address: Ipv6Addr,
    /// Threads that serve.
    pub shards_count: usize,
    /// Name and grade of its pool.
    pub pool: &'a str,
    /// The pool's folder; one in the tail's own folder if not given.
    pub pool_folder: Option<&'a Path>,
    /// How the pool's files are read and written.
    pub io: &'a str,
    /// True when discs may come from other tails.
    pub takes_moves: bool,
}

/// A tail, with a folder of its own that is gone when this is dropped.
#[derive(Debug)]
pub struct Tail {
    // Declared before the folder: the process ends first.
    process: Option<Process>,
    folder: tempfile::TempDir,
    pool: PathBuf,
    words: Vec<String>,
    program: PathBuf,
    config: PathBuf,
}

#[derive(Debug)]
enum Process {
    Started(Program),
    /// Has taken over from the one before.
    Succeeded(Successor),
}

/// How a new process took over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Upgraded {
    /// The new process.
    pub pid: u32,
    /// How long clients waited, as the old one says, in ms.
    pub pause_ms: f64,
}

impl Tail {
    /// Prepares its files in `scratch`; it is started later.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(scratch: &Path, setup: &Setup<'_>) -> Result<Self> {
        let folder = leftovers::folder(scratch)?;
        let pool = setup.pool_folder.map_or_else(|| folder.path().join("pool"), Path::to_owned);
        for made in [&pool, &folder.path().join("images")] {
            fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let config = folder.path().join("tail.toml");
        fs::write(&config, setup.config(folder.path(), &pool))?;
        // Where it says that it is ready.
        let notify = format!("NOTIFY_SOCKET={}", folder.path().join("notify.sock").display());
        let mut words = vec!["env".to_owned(), notify];
        words.extend(setup.exec_words.iter().cloned());
        words.push(setup.program.to_str().context("the tail's path is no text")?.to_owned());
        words.extend(["run", "--config", config.to_str().context("the folder's path is no text")?].map(str::to_owned));
        Ok(Self { process: None, folder, pool, words, program: setup.program.to_owned(), config })
    }

    /// Starts it, and waits until it says that it is ready. Returns how long that took.
    ///
    /// # Errors
    /// When it does not start; what it printed is in the error.
    pub fn start(&mut self) -> Result<Duration> {
        let path = self.folder.path().join("notify.sock");
        // None is there at the first start.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let begun = Instant::now();
        let mut process = Program::start(&self.words, &self.folder.path().join("tail.log"))?;
        let mut message = [0; 64];
        while socket.recv(&mut message).is_err() {
            if let Some(status) = process.ended()? {
                bail!("the tail ended with {status}: {}", process.log_tail());
            }
            if begun.elapsed() > DEADLINE {
                bail!("the tail is not ready after {DEADLINE:?}: {}", process.log_tail());
            }
        }
        self.process = Some(Process::Started(process));
        Ok(begun.elapsed())
    }

    /// Has a new process of the same program take over, and waits for the end of the old one.
    ///
    /// # Errors
    /// When it does not take over, or the old one does not end.
    pub fn upgrade(&mut self) -> Result<Upgraded> {
        let mut command = Command::new(&self.program);
        let output = command.arg("upgrade").arg("--config").arg(&self.config).output().context("cannot upgrade")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Some(upgraded) = Upgraded::parse(&said).filter(|_| output.status.success()) else {
            bail!("the upgrade says: {said}{}", String::from_utf8_lossy(&output.stderr));
        };
        let successor = Process::Succeeded(Successor::find(upgraded.pid)?);
        match self.process.replace(successor) {
            Some(Process::Started(program)) => drop(program.output(DEADLINE)?),
            Some(Process::Succeeded(old)) => anyhow::ensure!(old.wait(DEADLINE)?, "process {} did not end", old.pid()),
            None => bail!("the tail did not run"),
        }
        Ok(upgraded)
    }

    /// Ends it in an orderly way, and returns how long that took.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        match self.process.take() {
            Some(Process::Started(program)) => program.terminate(DEADLINE)?,
            Some(Process::Succeeded(successor)) => successor.terminate(DEADLINE)?,
            None => {}
        }
        Ok(begun.elapsed())
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        match self.process.as_ref().context("the tail does not run")? {
            Process::Started(program) => Ok(program.pid()),
            Process::Succeeded(successor) => Ok(successor.pid()),
        }
    }

    /// The file of a disc's bytes.
    pub fn data_file(&self, number: u64) -> PathBuf {
        self.pool.join(format!("discs/{number}.data"))
    }

    /// The end of what it printed, for errors.
    pub fn log_tail(&self) -> String {
        log_tail(&self.folder.path().join("tail.log"))
    }
}

impl Upgraded {
    /// From `12 discs, 12 connections taken over by process 77, pause 5.0 ms`.
    fn parse(said: &str) -> Option<Self> {
        let behind = |what| said.split_once(what)?.1.split([',', ' ']).next();
        Some(Self { pid: behind(" by process ")?.parse().ok()?, pause_ms: behind(", pause ")?.parse().ok()? })
    }
}

impl Setup<'_> {
    fn config(&self, folder: &Path, pool_folder: &Path) -> String {
        let Self { name, brain, prefix, interface, address, shards_count, pool, io, .. } = self;
        let listen =
            if self.takes_moves { format!("migration_listen = \"[{address}]:7771\"\n") } else { String::new() };
        format!(
            r#"name = "{name}"
brains = ["{brain}"]
storage_prefix = "{prefix}"
storage_interface = "{interface}"
storage_address = "{address}"
state_dir = "{at}/state"
images_dir = "{at}/images"
shards = {shards_count}
{listen}[[pool]]
name = "{pool}"
grade = "{pool}"
path = "{pool_folder}"
io = "{io}"
"#,
            at = folder.display(),
            pool_folder = pool_folder.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_says_who_serves_now() {
        let said = "12 discs, 11 connections taken over by process 77, pause 5.1 ms\n";
        assert_eq!(Upgraded::parse(said), Some(Upgraded { pid: 77, pause_ms: 5.1 }));
        assert_eq!(Upgraded::parse("nothing was handed over"), None);
    }
}
