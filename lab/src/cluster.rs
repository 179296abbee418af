//! Up, down and what is between: the order in which a lab is made and taken away.
//!
//! `up` is a list of steps each of which looks first whether it is done, so that it may be run twice,
//! or again after it was killed. `down` needs nothing but the state file, and less if there is none:
//! what runs in the lab's namespaces is the lab's.

use crate::{
    api,
    config::{self, Layout},
    daemon,
    error::LabError,
    network,
    plan::{API_PORT_FIRST, LabName, Node, Plan},
    process::{self, Record},
    profile,
    state::{State, registry},
};
use std::{
    fs,
    io::ErrorKind,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Where labs live unless told otherwise.
pub const ROOT: &str = "/var/lib/bigv-lab";
/// How long a daemon may take to say that it is ready. The head proves KVM before it does.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a daemon may take to end when asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The lab's name.
    pub name: LabName,
    /// Heads, 1 to 9.
    pub heads: u8,
    /// Tails, 1 to 9.
    pub tails: u8,
    /// The lab's directory; `/var/lib/bigv-lab/NAME` if not given.
    pub root: Option<PathBuf>,
    /// Where the daemons' programs are.
    pub programs: PathBuf,
    /// Where the disc images are: `tiny.raw`.
    pub images: PathBuf,
    /// Whether to put `bigv` into /usr/local/bin.
    pub link: bool,
}

/// A lab that is up, or was meant to be.
#[derive(Debug)]
pub struct Cluster {
    /// Where its files are.
    pub layout: Layout,
    /// What was made.
    pub state: State,
}

/// What one node of a lab does.
#[derive(Debug)]
pub struct NodeStatus {
    /// Which.
    pub node: Node,
    /// Its namespace.
    pub namespace: String,
    /// Its daemon, if one runs.
    pub pid: Option<u32>,
    /// All processes in its namespace.
    pub processes: usize,
    /// In words.
    pub state: &'static str,
}

impl Cluster {
    /// The lab called `name`, if there is one.
    pub fn find(name: &LabName) -> Result<Option<Self>, LabError> {
        let Some(root) = registry::find(name)? else { return Ok(None) };
        let layout = Layout { root };
        Ok(State::load(&layout)?.map(|state| Self { layout, state }))
    }

    /// The lab called `name`, or why there is none.
    pub fn open(name: &LabName) -> Result<Self, LabError> {
        Self::find(name)?.ok_or_else(|| LabError::Refused(format!("there is no lab {name}; `bigv-lab up` makes one")))
    }

    /// Brings the lab up, or what is missing of it; `say` hears of each step.
    pub fn up(wanted: &Wanted, say: &mut dyn FnMut(&str)) -> Result<Self, LabError> {
        let _lock = registry::lock(&wanted.name)?;
        let mut cluster = Self::find_or_begin(wanted)?;
        cluster.check_programs()?;
        cluster.make_network(say)?;
        cluster.write_files()?;
        cluster.start_brain(say)?;
        cluster.start_nodes(say)?;
        cluster.wait_for_nodes(say)?;
        profile::write(&mut cluster, wanted.link)?;
        cluster.state.complete = true;
        cluster.save()?;
        Ok(cluster)
    }

    /// Takes away every trace of the lab called `name`; false when there is none.
    pub fn down(name: &LabName, say: &mut dyn FnMut(&str)) -> Result<bool, LabError> {
        let lock = registry::lock(name)?;
        let Some(root) = registry::find(name)? else {
            registry::forget(name)?;
            registry::unlock_for_good(name, lock);
            return Ok(false);
        };
        let layout = Layout { root };
        if let Some(state) = State::load(&layout)? {
            let cluster = Self { layout: layout.clone(), state };
            cluster.stop_processes(say)?;
            network::remove(&cluster.state.plan)?;
            say("namespaces removed");
            profile::remove(&cluster)?;
        }
        remove_root(&layout)?;
        registry::forget(name)?;
        registry::unlock_for_good(name, lock);
        say("files removed");
        Ok(true)
    }

    /// What each node does.
    pub fn status(&self) -> Result<Vec<NodeStatus>, LabError> {
        self.state.plan.nodes().into_iter().map(|node| self.node_status(node)).collect()
    }

    /// Whether every daemon runs.
    pub fn all_run(&self) -> bool {
        self.state.plan.daemons().into_iter().all(|node| self.running(node).is_some())
    }

    /// The record of a node's daemon, if it runs.
    pub fn running(&self, node: Node) -> Option<Record> {
        self.state.processes.get(&node).copied().filter(|record| record.alive())
    }

    /// Starts a node's daemon, unless it runs, and waits until it is ready.
    pub fn start(&mut self, node: Node, say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        let _lock = registry::lock(&self.state.plan.name)?;
        match node {
            Node::Brain => self.start_brain(say),
            node if self.running(node).is_some() => Ok(()),
            node => self.launch(node, None)?.wait(READY_PATIENCE),
        }?;
        self.wait_for_nodes(say)
    }

    /// The API's address.
    pub fn endpoint(&self) -> Option<String> {
        self.state.api_port.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// Writes the state file.
    pub(crate) fn save(&self) -> Result<(), LabError> {
        self.state.save(&self.layout)
    }

    fn find_or_begin(wanted: &Wanted) -> Result<Self, LabError> {
        if let Some(cluster) = Self::find(&wanted.name)? {
            let plan = &cluster.state.plan;
            if (plan.heads, plan.tails) != (wanted.heads, wanted.tails) {
                return Err(LabError::Refused(format!(
                    "lab {} has {} heads and {} tails already; `bigv-lab down` it first",
                    plan.name, plan.heads, plan.tails
                )));
            }
            return Ok(cluster);
        }
        let root = wanted.root.clone().unwrap_or_else(|| Path::new(ROOT).join(wanted.name.as_str()));
        let layout = Layout { root };
        if fs::read_dir(&layout.root).is_ok_and(|mut entries| entries.next().is_some()) {
            let reason = "is not empty, and is not that of a lab that is up: empty or remove it".to_owned();
            return Err(LabError::State { path: layout.root, reason });
        }
        registry::add(&wanted.name, &layout.root)?;
        let slot = registry::take_slot(&wanted.name)?;
        make_public_directory(&layout.root)?;
        let plan = Plan { name: wanted.name.clone(), heads: wanted.heads, tails: wanted.tails, slot };
        let cluster = Self { state: State::new(plan, wanted.programs.clone(), wanted.images.clone()), layout };
        cluster.save()?;
        Ok(cluster)
    }

    fn check_programs(&self) -> Result<(), LabError> {
        for program in ["bigv-lab", "bigv-brain", "bigv-head", "tail-nbd", "bigv"] {
            let path = self.state.programs.join(program);
            if !path.is_file() {
                return Err(LabError::Missing {
                    path,
                    hint: "build it first (`scripts/lab up` does), or give --bin-dir",
                });
            }
        }
        let image = self.state.images.join("tiny.raw");
        if !image.is_file() {
            let hint = "make it with scripts/make-tiny-image (`scripts/lab up` does), or give --images";
            return Err(LabError::Missing { path: image, hint });
        }
        Ok(())
    }

    fn make_network(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        if network::complete(&self.state.plan) {
            return Ok(());
        }
        // Remains of an `up` or a `down` that was killed.
        self.stop_processes(say)?;
        network::remove(&self.state.plan)?;
        network::make(&self.state.plan)?;
        say("network: one namespace a node, four bridges between them");
        Ok(())
    }

    fn write_files(&self) -> Result<(), LabError> {
        let logs = self.layout.root.join("logs");
        fs::create_dir_all(&logs).map_err(LabError::io("create", &logs))?;
        for node in self.state.plan.daemons() {
            for directory in self.layout.directories(node) {
                make_public_directory(&directory)?;
            }
            if let Some(text) = config::text(&self.state.plan, &self.layout, &self.state.images, node) {
                let path = self.layout.config(node);
                fs::write(&path, text).map_err(LabError::io("write", &path))?;
            }
        }
        Ok(())
    }

    fn start_brain(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        if self.running(Node::Brain).is_none() {
            let listener = self.listen()?;
            daemon::migrate(self)?;
            profile::add_user(self)?;
            say("brain: database made");
            self.launch(Node::Brain, Some(listener))?.wait(READY_PATIENCE)?;
            say("brain: ready");
        }
        Ok(())
    }

    /// All at once, since each of them waits for nothing but the brain.
    fn start_nodes(&mut self, say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        let nodes = self.state.plan.daemons().into_iter().filter(|node| *node != Node::Brain);
        let missing: Vec<Node> = nodes.filter(|node| self.running(*node).is_none()).collect();
        let launched: Result<Vec<_>, _> = missing.into_iter().map(|node| self.launch(node, None)).collect();
        for daemon in launched? {
            let node = daemon.node;
            daemon.wait(READY_PATIENCE)?;
            say(&format!("{node}: ready"));
        }
        Ok(())
    }

    /// A machine that is asked for before the brain knows the nodes would have no place to go.
    fn wait_for_nodes(&self, say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        let (Some(port), Some(login)) = (self.state.api_port, &self.state.login) else { return Ok(()) };
        if self.running(Node::Brain).is_none() {
            return Ok(());
        }
        let mut missing = Ok(vec![]);
        let all = process::wait(READY_PATIENCE, || {
            missing = api::nodes_missing(&self.state.plan, port, login);
            if let Ok(missing) = &mut missing {
                missing.retain(|node| self.running(*node).is_some());
            }
            missing.as_ref().is_ok_and(Vec::is_empty)
        });
        if all {
            say("brain: has all nodes");
            return Ok(());
        }
        let names: Vec<String> = missing?.iter().map(Node::to_string).collect();
        let what = format!("has no connection with {} after {} s", names.join(", "), READY_PATIENCE.as_secs());
        Err(daemon::failure(&self.layout, Node::Brain, what))
    }

    fn launch(&mut self, node: Node, listener: Option<TcpListener>) -> Result<daemon::Starting, LabError> {
        let starting = daemon::launch(self, node, listener)?;
        self.state.processes.insert(node, starting.record);
        self.save()?;
        Ok(starting)
    }

    /// The API's listening socket, in the root namespace: the port of last time, or the first that is free.
    fn listen(&mut self) -> Result<TcpListener, LabError> {
        let ports = API_PORT_FIRST..API_PORT_FIRST + 100;
        for port in self.state.api_port.into_iter().chain(ports) {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => {
                    self.state.api_port = Some(port);
                    self.save()?;
                    return Ok(listener);
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(LabError::io("listen on", format!("127.0.0.1:{port}"))(error)),
            }
        }
        Err(LabError::Refused(format!("no port from {API_PORT_FIRST} on is free on 127.0.0.1")))
    }

    fn node_status(&self, node: Node) -> Result<NodeStatus, LabError> {
        let namespace = self.state.plan.namespace(node);
        let processes = network::processes(&namespace)?.len();
        let running = self.running(node);
        let state = match (network::namespace_path(&namespace).exists(), node.program(), running) {
            (false, _, _) => "no namespace",
            (true, None, _) => "up",
            (true, Some(_), Some(_)) => "running",
            (true, Some(_), None) => "not running",
        };
        Ok(NodeStatus { node, namespace, pid: running.map(|record| record.pid), processes, state })
    }

    /// Heads first, then what they left running, so that no guest loses its discs while it could notice.
    fn stop_processes(&self, say: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        let plan = &self.state.plan;
        let mut nodes = plan.daemons();
        nodes.reverse();
        for node in nodes {
            let daemon: Vec<Record> = self.running(node).into_iter().collect();
            process::end(&daemon, STOP_PATIENCE);
            let left = process_records(&plan.namespace(node))?;
            process::end(&left, Duration::from_secs(3));
            if !daemon.is_empty() || !left.is_empty() {
                say(&format!("{node}: stopped"));
            }
        }
        for node in [Node::Customer, Node::Switch] {
            process::end(&process_records(&plan.namespace(node))?, Duration::from_secs(1));
        }
        Ok(())
    }
}

/// A command that runs `program` in a node's namespace.
pub fn in_namespace(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program).stdin(Stdio::null());
    command
}

/// Seconds since `start`, for progress lines.
pub fn elapsed(start: Instant) -> String {
    format!("{:5.1} s", start.elapsed().as_secs_f64())
}

fn process_records(namespace: &str) -> Result<Vec<Record>, LabError> {
    // A process that entered the namespace to look at it is no part of the lab: this one, above all.
    let own = std::process::id();
    Ok(network::processes(namespace)?.into_iter().filter(|pid| *pid != own).filter_map(Record::of).collect())
}

/// PostgreSQL's user must get through to its data, whatever root's umask.
fn make_public_directory(path: &Path) -> Result<(), LabError> {
    let public = || fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    fs::create_dir_all(path).and_then(|()| public()).map_err(LabError::io("create", path))
}

/// Removes the lab's directory, its state file last, so that a `down` that is killed can be run again.
fn remove_root(layout: &Layout) -> Result<(), LabError> {
    let root = &layout.root;
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LabError::io("read", root)(error)),
    };
    if !layout.state_file().exists() {
        // Not ours to empty. An empty one goes.
        let _ = fs::remove_dir(root);
        return Ok(());
    }
    refuse_mounts(root)?;
    for entry in entries {
        let path = entry.map_err(LabError::io("read", root))?.path();
        if path == layout.state_file() {
            continue;
        }
        let is_directory = path.is_dir() && !path.is_symlink();
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(LabError::io("remove", &path))?;
    }
    fs::remove_file(layout.state_file()).map_err(LabError::io("remove", layout.state_file()))?;
    fs::remove_dir(root).map_err(LabError::io("remove", root))?;
    if root.parent() == Some(Path::new(ROOT)) {
        // Fails while there are other labs.
        let _ = fs::remove_dir(ROOT);
    }
    Ok(())
}

/// The lab mounts nothing: what is mounted under its directory is somebody's, and must not be emptied.
fn refuse_mounts(root: &Path) -> Result<(), LabError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(LabError::io("read", "/proc/self/mounts"))?;
    let under = |line: &&str| line.split(' ').nth(1).is_some_and(|target| Path::new(target).starts_with(root));
    match mounts.lines().find(under) {
        None => Ok(()),
        Some(line) => Err(LabError::State {
            path: root.to_owned(),
            reason: format!("has a mount under it: {line}; unmount it first"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_state_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("precious");
        fs::write(&precious, "x").unwrap();
        let layout = Layout { root: directory.path().to_owned() };
        remove_root(&layout).unwrap();
        assert!(precious.exists());
        fs::write(layout.state_file(), "{}").unwrap();
        remove_root(&layout).unwrap();
        assert!(!layout.root.exists());
        remove_root(&layout).unwrap();
    }
}
