//! A server under test: how it is started, on which processor, and what it used.

use super::program::{self, Program};
use crate::{load::handshake, processor, record::Served};
use anyhow::{Context, Result, bail};
use std::{
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long a server may take until it gives its export.
const START_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const VERSION_DEADLINE: Duration = Duration::from_secs(5);

/// A server that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name in tables: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its command line, split as a shell would. `{port}`, `{file}` and `{mib}` stand for the port on 127.0.0.1 to
    /// listen on, the file to serve under the empty export name, and that file's size.
    pub command: String,
}

impl Spec {
    /// From `NAME=COMMAND`.
    ///
    /// # Errors
    /// When the name is unfit, the quotes are not closed, or `{port}` is missing: in words for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("it must be NAME=COMMAND")?;
        let fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 40 || !name.chars().all(fit) {
            return Err(format!("{name:?} is no name: 1 to 40 letters, digits, '-', '_' and '.'"));
        }
        let words = shlex::split(command).filter(|words| !words.is_empty());
        if words.ok_or("the command is empty, or a quote is not closed")?.iter().all(|word| !word.contains("{port}")) {
            return Err("the command must have {port} in it".to_owned());
        }
        Ok(Self { name: name.to_owned(), command: command.to_owned() })
    }

    fn words(&self, port: u16, file: &Path, mib: u64) -> Result<Vec<String>> {
        let words = shlex::split(&self.command).context("the command's quotes are not closed")?;
        let file = file.to_str().context("the measured file's path is no text")?;
        let fill = |word: String| {
            word.replace("{port}", &port.to_string()).replace("{mib}", &mib.to_string()).replace("{file}", file)
        };
        Ok(words.into_iter().map(fill).collect())
    }

    /// The program that the command runs; none if it is not there.
    pub fn program(&self) -> Option<std::path::PathBuf> {
        program::find(shlex::split(&self.command)?.first()?)
    }

    /// For the record: the command, and what the program says of its version.
    pub fn served(&self, scratch: &Path) -> Served {
        let version = || -> Result<String> {
            let program = self.program().context("not there")?;
            let words = [program.as_os_str(), "--version".as_ref()];
            let printed = Program::start(&words, &scratch.join("version.log"))?.output(VERSION_DEADLINE)?;
            Ok(printed.lines().next().unwrap_or_default().to_owned())
        };
        // A server of somebody's own need not know --version.
        let version = version().unwrap_or_else(|_| "unknown".to_owned());
        Served { name: self.name.clone(), command: self.command.clone(), version }
    }
}

/// A server that serves; stopped when dropped.
#[derive(Debug)]
pub struct Server {
    program: Program,
    port: u16,
    cpu: usize,
}

impl Server {
    /// Starts it on processor `pair.server`, and waits until it gives its export.
    ///
    /// # Errors
    /// When it does not start, ends, or does not answer in time; what it printed is in the error.
    pub fn start(spec: &Spec, file: &Path, mib: u64, pair: processor::Pair, scratch: &Path) -> Result<Self> {
        let port = free_port()?;
        let words = spec.words(port, file, mib)?;
        // A process starts on the processors of the thread that made it.
        processor::pin(pair.server)?;
        let started = Program::start(&words, &scratch.join(format!("{}.log", spec.name)));
        processor::pin(pair.client)?;
        let mut server = Self { program: started?, port, cpu: pair.server };
        server.wait().with_context(|| format!("{} does not serve", spec.name))?;
        Ok(server)
    }

    fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.program.ended()? {
                bail!("it ended with {status}: {}", self.program.log_tail());
            }
            match handshake::connect(&self.target(), "") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => {
                    bail!("after {START_DEADLINE:?}: {error:#}; {}", self.program.log_tail())
                }
                Err(_) => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// `HOST:PORT` for the own client.
    pub fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// For fio.
    pub fn uri(&self) -> String {
        format!("nbd://127.0.0.1:{}/", self.port)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// The most memory it had resident, in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn rss_peak_kib(&self) -> Result<u64> {
        processor::rss_peak_kib(self.pid())
    }

    /// How many of its threads may leave its processor.
    ///
    /// # Errors
    /// When it has ended.
    pub fn threads_unpinned_count(&self) -> Result<usize> {
        processor::threads_unpinned_count(self.pid(), self.cpu)
    }
}

/// A port that nobody listens on now. Somebody else may take it before the server does, which then says so.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_and_filled() {
        let spec = Spec::parse("mine=srv --bind 127.0.0.1:{port} -s {mib}M 'a b/{file}'").unwrap();
        assert_eq!(spec.name, "mine");
        let words = spec.words(7, Path::new("/x y"), 512).unwrap();
        assert_eq!(words, ["srv", "--bind", "127.0.0.1:7", "-s", "512M", "a b//x y"]);
    }

    #[test]
    fn unfit_commands_are_refused() {
        for text in ["x", "=a {port}", "a/b=c {port}", "a=c", "a=", "a='{port}"] {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_that_ends_is_told_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec::parse("bad=sh -c 'echo no such luck {port}; exit 1'").unwrap();
        let pair = processor::Pair::choose(None, None);
        let Ok(pair) = pair else { return };
        let error = Server::start(&spec, Path::new("/dev/null"), 1, pair, dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("no such luck"), "{error:#}");
    }
}
