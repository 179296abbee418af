//! A private PostgreSQL in a directory, for a lab or a single machine (`--embedded DIR`).
//!
//! ```text
//! DIR/data        the database cluster, made by initdb (as data.new, then renamed)
//! DIR/.s.PGSQL.5432   its only socket: no TCP; peer authentication
//! DIR/log/        what it has to say, a file for each day of the week
//! DIR/start.log   what it said at its last start
//! DIR/use.lock    held shared by every process that uses it: the last to leave stops it
//! DIR/start.lock  held while someone starts it
//! ```
//!
//! PostgreSQL refuses to run as root, so root runs it as the user `postgres`. It is a process of
//! its own and outlives a brain that is killed; the next one finds it and goes on with it. Its
//! settings are PostgreSQL's own defaults where durability is concerned.

use crate::store::chain;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User},
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio_postgres::{Config, NoTls};

const VERSIONS_DIR: &str = "/usr/lib/postgresql";
const SERVER_USER: &str = "postgres";
const DATABASE: &str = "bigv";
const SOCKET_FILE: &str = ".s.PGSQL.5432";
/// `sun_path` has 108 bytes, one of them the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Recovery after a power cut reads its log again: up to a gigabyte by default.
const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Why the private PostgreSQL is not to be had.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// It is not installed.
    #[error(
        "no PostgreSQL server was found under {VERSIONS_DIR}/*/bin: install it (on Debian: apt-get install postgresql)"
    )]
    NotInstalled,
    /// The user it runs as does not exist.
    #[error("there is no user {SERVER_USER:?} to run PostgreSQL as: Debian's postgresql-common package makes one")]
    NoUser,
    /// The directory does not do.
    #[error("{} cannot hold a database: {reason}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused something.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// It did not do what it was asked in time.
    #[error("PostgreSQL in {} {what} within {seconds} s", path.display())]
    Deadline {
        /// Its directory.
        path: PathBuf,
        /// What it did not do.
        what: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// It runs and cannot be used.
    #[error("the private PostgreSQL cannot be used: {0}")]
    Connect(String),
}

/// A running private PostgreSQL. Dropping it leaves it running; [`Embedded::stop`] stops it when no
/// other process uses it.
#[derive(Debug)]
pub struct Embedded {
    dir: PathBuf,
    use_lock: File,
    /// Ours to wait for when this process started it.
    server: Option<tokio::process::Child>,
}

impl Embedded {
    /// Makes the cluster if there is none, starts it if it is not running, and waits until it can
    /// be used.
    ///
    /// # Errors
    /// What is missing, wrong or too slow.
    pub async fn start(dir: &Path) -> Result<Self, EmbeddedError> {
        let dir = std::path::absolute(dir).map_err(io_error("find", dir))?;
        let owner = Owner::find()?;
        make_directory(&dir, &owner)?;
        check_directory(&dir, &owner)?;
        let use_lock = open_lock(&dir.join("use.lock"))?;
        let start_lock = open_lock(&dir.join("start.lock"))?;
        let start_lock = tokio::task::spawn_blocking(move || start_lock.lock().map(|()| start_lock))
            .await
            .map_err(|error| EmbeddedError::Connect(error.to_string()))?
            .map_err(io_error("lock", &dir))?;
        use_lock.lock_shared().map_err(io_error("lock", &dir))?;
        let mut embedded = Self { dir, use_lock, server: None };
        if embedded.connect("postgres").await.is_err() {
            embedded.launch(&owner).await?;
        }
        embedded.make_database().await?;
        drop(start_lock);
        Ok(embedded)
    }

    /// How to connect to it.
    pub fn config(&self) -> Config {
        self.config_of(DATABASE)
    }

    fn config_of(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).user(DATABASE).dbname(database).connect_timeout(Duration::from_secs(5));
        config
    }

    /// Stops it, unless another process uses it too.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        self.use_lock.unlock().map_err(io_error("unlock", &self.dir))?;
        if self.use_lock.try_lock().is_err() {
            return Ok(());
        }
        let Some(pid) = self.running_pid() else { return Ok(()) };
        // "Fast": sessions are ended, what is committed stays.
        kill(pid, Signal::SIGINT).map_err(|errno| io_error("stop", &self.dir)(errno.into()))?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.pid_file().exists() {
            if Instant::now() > deadline {
                return Err(self.too_slow("did not stop", STOP_DEADLINE));
            }
            tokio::time::sleep(POLL).await;
        }
        if let Some(server) = &mut self.server {
            let _ = server.wait().await;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    fn running_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 1)?);
        // The number may belong to another process by now; a dead one has no command line.
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        command.split('\0').next()?.ends_with("postgres").then_some(pid)
    }

    fn too_slow(&self, what: &'static str, deadline: Duration) -> EmbeddedError {
        EmbeddedError::Deadline { path: self.dir.clone(), what, seconds: deadline.as_secs() }
    }

    async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = self.config_of(database).connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn launch(&mut self, owner: &Owner) -> Result<(), EmbeddedError> {
        if !self.data().join("PG_VERSION").exists() {
            self.initialise(owner)?;
        }
        // One that is starting, stopping or recovering has its pid file and is waited for.
        if self.running_pid().is_none() {
            self.server = Some(self.spawn(owner)?);
        }
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if self.connect("postgres").await.is_ok() {
                return Ok(());
            }
            let exited = self.server.as_mut().and_then(|server| server.try_wait().ok().flatten());
            if exited.is_some() {
                let output = last_lines(&self.dir.join("start.log"));
                // The children of a server that was killed notice it within a moment.
                if output.contains("still in use") && Instant::now() < deadline {
                    tokio::time::sleep(4 * POLL).await;
                    self.server = Some(self.spawn(owner)?);
                    continue;
                }
                return Err(EmbeddedError::Program { program: "postgres", output });
            }
            if Instant::now() > deadline {
                return Err(self.too_slow("did not start", START_DEADLINE));
            }
            if self.server.is_none() && self.running_pid().is_none() {
                self.server = Some(self.spawn(owner)?);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn initialise(&self, owner: &Owner) -> Result<(), EmbeddedError> {
        let unfinished = self.dir.join("data.new");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(io_error("remove", &unfinished))?;
        }
        let output = owner
            .command("initdb", &self.dir)
            .args(["--username", DATABASE, "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--auth-local=peer", "--auth-host=reject", "--no-instructions", "--pgdata"])
            .arg(&unfinished)
            .output()
            .map_err(io_error("run", &owner.bin.join("initdb")))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(EmbeddedError::Program { program: "initdb", output: tail_of(&text) });
        }
        let map = owner.names.iter().map(|name| format!("{DATABASE} {name} {DATABASE}\n")).collect::<String>();
        write_durably(&unfinished.join("pg_hba.conf"), &format!("local all all peer map={DATABASE}\n"))?;
        write_durably(&unfinished.join("pg_ident.conf"), &map)?;
        fs::rename(&unfinished, self.data()).map_err(io_error("rename", &unfinished))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error("write", &self.dir))
    }

    fn spawn(&self, owner: &Owner) -> Result<tokio::process::Child, EmbeddedError> {
        let log_path = self.dir.join("start.log");
        let log = File::create(&log_path).map_err(io_error("write", &log_path))?;
        let log_too = log.try_clone().map_err(io_error("write", &log_path))?;
        let mut command = owner.command("postgres", &self.dir);
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.dir);
        let settings = [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "logging_collector=on",
            "log_filename=postgresql-%a.log",
            "log_truncate_on_rotation=on",
            "log_rotation_age=1440",
            "log_rotation_size=0",
        ];
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("log_directory={}", self.dir.join("log").display()));
        // Its own process group: Ctrl-C at the brain's terminal is not meant for it.
        command.stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
        tokio::process::Command::from(command).spawn().map_err(io_error("run", &owner.bin.join("postgres")))
    }

    async fn make_database(&self) -> Result<(), EmbeddedError> {
        let failed = |error: tokio_postgres::Error| EmbeddedError::Connect(chain(&error));
        let client = self.connect("postgres").await.map_err(failed)?;
        let found = client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&DATABASE]).await.map_err(failed)?;
        if found.is_empty() {
            client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Who runs the server, and where its programs are.
struct Owner {
    bin: PathBuf,
    uid: Uid,
    gid: Gid,
    /// The system users that may connect.
    names: Vec<String>,
}

impl Owner {
    fn find() -> Result<Self, EmbeddedError> {
        let bin = newest_bin().ok_or(EmbeddedError::NotInstalled)?;
        let me = User::from_uid(Uid::effective()).ok().flatten().ok_or(EmbeddedError::NoUser)?;
        if !Uid::effective().is_root() {
            return Ok(Self { bin, uid: me.uid, gid: me.gid, names: vec![me.name] });
        }
        let user = User::from_name(SERVER_USER).ok().flatten().ok_or(EmbeddedError::NoUser)?;
        Ok(Self { bin, uid: user.uid, gid: user.gid, names: vec![me.name, user.name] })
    }

    fn command(&self, program: &str, dir: &Path) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        if Uid::effective().is_root() {
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
        command
    }
}

/// The programs of the newest PostgreSQL that has a server.
fn newest_bin() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS_DIR).ok()?.flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn make_directory(dir: &Path, owner: &Owner) -> Result<(), EmbeddedError> {
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io_error("make private", dir))?;
    std::os::unix::fs::chown(dir, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
        .map_err(io_error("give away", dir))
}

fn check_directory(dir: &Path, owner: &Owner) -> Result<(), EmbeddedError> {
    let refuse = |path: &Path, reason: String| Err(EmbeddedError::Directory { path: path.to_owned(), reason });
    let socket_bytes = dir.join(SOCKET_FILE).as_os_str().len();
    if socket_bytes > SOCKET_PATH_BYTES_MAX {
        let reason = format!("its socket's path would have {socket_bytes} bytes, {SOCKET_PATH_BYTES_MAX} at most");
        return refuse(dir, reason);
    }
    // Someone who is neither the owner nor in the group needs the last x bit of every parent.
    for parent in dir.ancestors().skip(1) {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(parent).map_err(io_error("look at", parent))?;
        let needed = match metadata.uid() == owner.uid.as_raw() {
            true => 0o100,
            false => 0o001,
        };
        if metadata.mode() & needed == 0 {
            let reason = format!("the user {SERVER_USER} cannot get through it (chmod o+x would allow it)");
            return refuse(parent, reason);
        }
    }
    Ok(())
}

fn open_lock(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io_error("open", path))
}

fn write_durably(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    // The file exists and belongs to the server's user: its content is replaced, not its owner.
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).map_err(io_error("open", path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error("write", path))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::Io { what, path, source }
}

fn last_lines(path: &Path) -> String {
    fs::read_to_string(path).map(|text| tail_of(&text)).unwrap_or_default()
}

fn tail_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_do_is_refused_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let owner = Owner { bin: PathBuf::new(), uid: Uid::from_raw(12_345), gid: Gid::from_raw(1), names: vec![] };
        fs::set_permissions(root.path(), Permissions::from_mode(0o700)).unwrap();
        let error = check_directory(&root.path().join("pg"), &owner).unwrap_err().to_string();
        assert!(error.contains(root.path().to_str().unwrap()) && error.contains("o+x"), "{error}");
        let long = root.path().join("x".repeat(100));
        let error = check_directory(&long, &owner).unwrap_err().to_string();
        assert!(error.contains("107 at most"), "{error}");
    }

    #[test]
    fn the_end_of_an_output_is_one_line() {
        assert_eq!(tail_of("a\n\n b\nc\nd\ne\nf\n"), "b; c; d; e; f");
        assert_eq!(tail_of(""), "");
    }
}
