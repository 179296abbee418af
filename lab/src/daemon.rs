//! Starting a daemon in its namespace, and knowing when it is ready: `sd_notify`'s way, on a socket of ours.

use crate::{
    cluster::{Cluster, in_namespace},
    config::Layout,
    error::LabError,
    plan::Node,
    process::{self, Record},
};
use std::{
    fs::{self, File, OpenOptions},
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How many lines of its log are shown of a daemon that did not come up.
const LOG_LINES_MAX: usize = 20;

/// A daemon that was started and has not said yet that it is ready.
#[derive(Debug)]
pub struct Starting {
    /// Whose it is.
    pub node: Node,
    /// Its process.
    pub record: Record,
    child: Child,
    notify: Notify,
    log: PathBuf,
}

/// The socket at which the daemon says `READY=1`.
#[derive(Debug)]
struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Starting {
    /// Waits until it is ready.
    pub fn wait(mut self, patience: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + patience;
        loop {
            if self.notify.ready() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failure(format!("ended before it was ready ({status})")));
            }
            if Instant::now() >= deadline {
                return Err(self.failure(format!("did not say within {} s that it is ready", patience.as_secs())));
            }
        }
    }

    fn failure(&self, what: String) -> LabError {
        not_ready(self.node, what, &self.log)
    }
}

/// Starts a node's daemon. A listening socket given becomes its first one, systemd's way.
pub fn launch(cluster: &Cluster, node: Node, listener: Option<TcpListener>) -> Result<Starting, LabError> {
    let Some(program) = node.program() else {
        return Err(LabError::Refused(format!("{node} has no daemon")));
    };
    let programs = &cluster.state.programs;
    let log = cluster.layout.log(node);
    let notify = Notify::bind(cluster.layout.node(node).join("notify"))?;
    let mut command = in_namespace(&cluster.state.plan.namespace(node), programs.join("bigv-lab"));
    command
        .arg("exec")
        .args(listener.is_some().then_some("--listener"))
        .arg("--")
        .arg(programs.join(program))
        .arg("run");
    configured(&mut command, cluster, node);
    command.env("NOTIFY_SOCKET", &notify.path);
    if let Some(listener) = listener {
        command.stdin(Stdio::from(OwnedFd::from(listener)));
    }
    let child = logged(&mut command, &log)?.spawn().map_err(LabError::io("run", programs.join(program)))?;
    let record = Record::of(child.id());
    let starting =
        Starting { node, record: record.unwrap_or(Record { pid: child.id(), started: 0 }), child, notify, log };
    if record.is_none() {
        return Err(starting.failure("ended at once".to_owned()));
    }
    Ok(starting)
}

/// Brings the brain's database to the schema of the program.
pub fn migrate(cluster: &Cluster) -> Result<(), LabError> {
    run_brain(cluster, &["migrate"], None)
}

/// Runs a command of the brain's to its end, with `input` as its standard input; it logs where the brain does.
pub fn run_brain(cluster: &Cluster, arguments: &[&str], input: Option<File>) -> Result<(), LabError> {
    let log = cluster.layout.log(Node::Brain);
    let program = cluster.state.programs.join("bigv-brain");
    let mut command = in_namespace(&cluster.state.plan.namespace(Node::Brain), &program);
    command.args(arguments);
    configured(&mut command, cluster, Node::Brain);
    if let Some(input) = input {
        command.stdin(Stdio::from(input));
    }
    let status = logged(&mut command, &log)?.status().map_err(LabError::io("run", &program))?;
    if status.success() {
        return Ok(());
    }
    let what = format!("could not {} ({status})", arguments.join(" "));
    Err(not_ready(Node::Brain, what, &log))
}

/// That a node is not as it should be, with the end of its log.
pub fn failure(layout: &Layout, node: Node, what: String) -> LabError {
    not_ready(node, what, &layout.log(node))
}

fn not_ready(node: Node, what: String, log: &Path) -> LabError {
    let log_end = process::log_end(log, LOG_LINES_MAX);
    LabError::NotReady { node: node.to_string(), what, log: log.to_owned(), log_end }
}

fn configured(command: &mut Command, cluster: &Cluster, node: Node) {
    command.arg("--config").arg(cluster.layout.config(node));
    if node == Node::Brain {
        command.arg("--embedded").arg(cluster.layout.database());
    }
}

fn logged<'a>(command: &'a mut Command, log: &Path) -> Result<&'a mut Command, LabError> {
    let open = || OpenOptions::new().create(true).append(true).open(log).map_err(LabError::io("open", log));
    Ok(command.stdout(open()?).stderr(open()?))
}

impl Notify {
    fn bind(path: PathBuf) -> Result<Self, LabError> {
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).map_err(LabError::io("bind", &path))?;
        socket.set_read_timeout(Some(process::POLL)).map_err(LabError::io("set up", &path))?;
        Ok(Self { socket, path })
    }

    /// Whether `READY=1` was said; waits a moment for it.
    fn ready(&self) -> bool {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).unwrap_or(0);
        String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1")
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_is_ready() {
        let directory = tempfile::tempdir().unwrap();
        let notify = Notify::bind(directory.path().join("notify")).unwrap();
        let daemon = UnixDatagram::unbound().unwrap();
        assert!(!notify.ready(), "nothing was said");
        daemon.send_to(b"STATUS=READY=1 soon", &notify.path).unwrap();
        assert!(!notify.ready());
        daemon.send_to(b"STATUS=serving\nREADY=1\n", &notify.path).unwrap();
        assert!(notify.ready());
        let path = notify.path.clone();
        drop(notify);
        assert!(!path.exists());
    }
}
