//! What the tests share: a serial line, keys, a console on loopback, and `ssh` processes.

use head::console::{Console, ConsoleConfig, ConsoleUsers};
use spine::{resource::vm::UserAuthentication, secret::Secret};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

/// Generous: the machine may be busy. Nothing waits this long when all is well.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A console on loopback with its serial line.
pub struct Rig {
    pub directory: TempDir,
    pub console: Console,
    pub qemu: UnixListener,
    /// The guest's end of the serial line.
    pub guest: UnixStream,
}

impl Rig {
    /// Listed: amy (key `amy`, password R0ry) and rory (password alone). Not listed, but with a
    /// key: river.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["host", "amy", "river"] {
            keygen(directory.path(), name);
        }
        let qemu = UnixListener::bind(directory.path().join("serial")).unwrap();
        let config = config(directory.path(), "127.0.0.1:0".parse().unwrap());
        let console = Console::start(config).await.unwrap();
        let (guest, _) = within(qemu.accept()).await.unwrap();
        Self { directory, console, qemu, guest }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts `ssh`, with more arguments before the destination and after it.
    pub fn ssh(&self, user: &str, key: &str, options: &[&str], command: &[&str]) -> Ssh {
        let known = self.path("known_hosts");
        let public = std::fs::read_to_string(self.path("host.pub")).unwrap();
        let listen = self.console.listens_on();
        std::fs::write(&known, format!("[{}]:{} {public}", listen.ip(), listen.port())).unwrap();
        let mut child = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .arg("-i")
            .arg(self.path(key))
            .args(["-p", &listen.port().to_string()])
            .args(options)
            .arg(format!("{user}@{}", listen.ip()))
            .args(command)
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ssh { child, stdin: stdin.unwrap(), stdout: stdout.unwrap(), stderr: stderr.unwrap() }
    }

    /// A viewer that sees what is shown from now on.
    pub async fn viewer(&self) -> Ssh {
        let mut ssh = self.ssh("amy", "amy", &["-tt"], &[]);
        ssh.errors_until("to leave.").await;
        ssh
    }

    /// The guest writes to its serial line.
    pub async fn print(&mut self, text: &str) {
        within(self.guest.write_all(text.as_bytes())).await.unwrap();
    }

    /// The guest reads as many bytes as `text` has.
    pub async fn expect_typed(&mut self, text: &str) {
        let mut typed = vec![0; text.len()];
        within(self.guest.read_exact(&mut typed)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&typed), text);
    }
}

/// An `ssh` process; killed when dropped.
pub struct Ssh {
    child: Child,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

impl Ssh {
    /// Reads what is shown until `needle` is, and returns all of it.
    pub async fn shown_until(&mut self, needle: &str) -> String {
        read_until(&mut self.stdout, needle).await
    }

    /// The same of its standard error.
    pub async fn errors_until(&mut self, needle: &str) -> String {
        read_until(&mut self.stderr, needle).await
    }

    pub async fn type_in(&mut self, text: &str) {
        within(self.stdin.write_all(text.as_bytes())).await.unwrap();
    }

    /// Waits for its end: the status, and all that is left on its standard error.
    pub async fn end(mut self) -> (ExitStatus, String) {
        let mut errors = String::new();
        within(self.stderr.read_to_string(&mut errors)).await.unwrap();
        (within(self.child.wait()).await.unwrap(), errors)
    }
}

/// The configuration of the rig's console, with keys and serial line in `directory`.
pub fn config(directory: &Path, listen: SocketAddr) -> ConsoleConfig {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    ConsoleConfig {
        listen,
        interface: None,
        host_keys: vec![Secret::new("unreadable"), Secret::new(read("host"))],
        users: users(&read("amy.pub"), &read("river.pub")),
        serial: directory.join("serial"),
        name: "tardis.doctor.vortex".into(),
    }
}

fn users(amy: &str, river: &str) -> ConsoleUsers {
    let password = Some(Secret::new("R0ry"));
    let entry = |keys: Option<&str>, password| UserAuthentication {
        authorized_keys: keys.map(|key| format!("# laptop\n{key}")),
        password,
        ..Default::default()
    };
    ConsoleUsers {
        names: vec!["amy".into(), "rory".into()],
        authentication: [
            ("amy".into(), entry(Some(amy), password.clone())),
            ("rory".into(), entry(None, password)),
            ("river".into(), entry(Some(river), None)),
        ]
        .into(),
    }
}

/// Makes an ed25519 key pair `name` and `name.pub`.
pub fn keygen(directory: &Path, name: &str) {
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(directory.join(name));
    assert!(keygen.status().unwrap().success());
}

/// Fails the test when `work` takes longer than the deadline.
#[track_caller]
pub fn within<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move { tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("too slow at {caller}")) }
}

async fn read_until(from: &mut (impl AsyncRead + Unpin), needle: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let mut searched = 0;
    let reading = async {
        loop {
            let count = from.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended before {needle:?}; it said: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..count]);
            if seen[searched..].windows(needle.len()).any(|window| window == needle.as_bytes()) {
                return;
            }
            searched = seen.len().saturating_sub(needle.len());
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("waited too long for {needle:?}"));
    String::from_utf8_lossy(&seen).into_owned()
}
