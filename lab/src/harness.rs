//! A lab for a test: its own name, the programs that were built beside the test, gone when the test is.

use crate::{
    cluster::{Cluster, in_namespace},
    error::LabError,
    network,
    plan::{LabName, Node},
    process::{self, Record},
};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// A lab that is taken down when it is dropped.
#[derive(Debug)]
pub struct TestLab {
    name: LabName,
    /// `bigv`'s profiles: the test's own.
    home: PathBuf,
    programs: PathBuf,
    images: PathBuf,
}

/// Why no lab can be had on this machine, if so: a test that needs one is skipped with this reason.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let probe = format!("bigv-probe-{}", std::process::id());
    if let Err(error) = process::output("ip", &["netns", "add", &probe]) {
        return Some(format!("network namespaces cannot be made: {error}"));
    }
    let bridge = process::output("ip", &["-n", &probe, "link", "add", "name", "probe0", "type", "bridge"]);
    let _ = process::output("ip", &["netns", "del", &probe]);
    bridge.err().map(|error| format!("bridges cannot be made: {error}"))
}

impl TestLab {
    /// Prepares a lab of a name of its own; nothing is made yet.
    pub fn new() -> Result<Self, LabError> {
        let test = std::env::current_exe().map_err(LabError::io("find", "the test's own program"))?;
        // TARGET/PROFILE/deps/TEST
        let programs = test.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned();
        let images = programs.parent().unwrap_or(Path::new("/")).join("images");
        let name: LabName = format!("t{}", std::process::id()).parse()?;
        let home = std::env::temp_dir().join(format!("bigv-{name}"));
        fs::create_dir_all(&home).map_err(LabError::io("create", &home))?;
        Ok(Self { name, home, programs, images })
    }

    /// `bigv-lab up`, as a person would type it; returns what it said.
    pub fn up(&self) -> Result<String, LabError> {
        process::run(self.bigv_lab("up").arg("--no-link").arg("--images").arg(&self.images))
    }

    /// `bigv-lab down`.
    pub fn down(&self) -> Result<String, LabError> {
        process::run(&mut self.bigv_lab("down"))
    }

    /// A command of `bigv-lab`'s, for this lab.
    pub fn bigv_lab(&self, command: &str) -> Command {
        let mut line = Command::new(self.programs.join("bigv-lab"));
        line.args([command, "--name", self.name.as_str()]).env("BIGV_HOME", &self.home).env_remove("BIGV_PROFILE");
        line
    }

    /// A command of `bigv`'s with the lab's profile.
    pub fn bigv(&self, words: &[&str]) -> Command {
        let mut line = Command::new(self.programs.join("bigv"));
        line.args(words).env("BIGV_HOME", &self.home).stdin(Stdio::null());
        for name in [
            "BIGV_PROFILE",
            "BIGV_LOCATION",
            "BIGV_USERNAME",
            "BIGV_PASSWORD",
            "BIGV_ACCOUNT",
            "BIGV_GROUP",
            "BIGV_OUTPUT_FORMAT",
        ] {
            line.env_remove(name);
        }
        line
    }

    /// The lab as it is now.
    pub fn cluster(&self) -> Result<Cluster, LabError> {
        Cluster::open(&self.name)
    }

    /// A command in a node's namespace.
    pub fn on(&self, node: Node, program: &str, arguments: &[&str]) -> Command {
        let mut command = in_namespace(&format!("{}-{node}", self.name), program);
        command.args(arguments);
        command
    }

    /// Ends a node's daemon with SIGKILL.
    pub fn kill(&self, node: Node) -> Result<(), LabError> {
        process::run(self.bigv_lab("kill").arg(node.to_string())).map(drop)
    }

    /// Starts a node's daemon again.
    pub fn start(&self, node: Node) -> Result<(), LabError> {
        process::run(self.bigv_lab("start").arg(node.to_string())).map(drop)
    }

    /// The qemu processes on a head.
    pub fn guests(&self, head: u8) -> Result<Vec<Record>, LabError> {
        let pids = network::processes(&format!("{}-{}", self.name, Node::Head(head)))?;
        let is_qemu = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu-system"))
        };
        Ok(pids.into_iter().filter(is_qemu).filter_map(Record::of).collect())
    }

    /// What of this lab is still on the machine, in words; nothing after `down`.
    pub fn traces(&self) -> Vec<String> {
        let prefix = format!("{}-", self.name);
        let name = self.name.as_str();
        let named = |directory: &str, test: &dyn Fn(&str) -> bool| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter(|name| test(name)).map(|name| format!("{directory}/{name}")).collect::<Vec<_>>()
        };
        let mut traces = named("/run/netns", &|entry| entry.starts_with(&prefix));
        traces.extend(named("/run/bigv-lab", &|entry| entry == name || entry == format!("{name}.lock")));
        traces.extend(named("/var/lib/bigv-lab", &|entry| entry == name));
        traces.extend(named(&self.home.to_string_lossy(), &|_| true));
        traces
    }

    /// Shows the end of every log, for the report of a failed test.
    pub fn logs(&self) -> String {
        let Ok(cluster) = self.cluster() else { return String::new() };
        let log = |node| format!("--- {node}\n{}\n", process::log_end(&cluster.layout.log(node), 15));
        cluster.state.plan.daemons().into_iter().map(log).collect()
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        // A test that failed has already said why; this one's failure is found by the next `down`.
        let _ = self.down();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A program that is talked to: a console.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// What was said and not yet looked for.
    heard: Vec<u8>,
}

impl Conversation {
    /// Starts the program; its standard output and standard error are both heard.
    pub fn start(command: &mut Command) -> Result<Self, LabError> {
        let what = command.get_program().to_owned();
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(LabError::io("run", what))?;
        let (sender, output) = channel();
        let pipes: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        for mut pipe in pipes.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    if sender.send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
        let input = child.stdin.take();
        Ok(Self { child, input, output, heard: Vec::new() })
    }

    /// Whether the program has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Types something.
    pub fn send(&mut self, text: &str) -> Result<(), LabError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).map_err(LabError::io("type into", "the console"))
    }

    /// Waits until `wanted` is said; returns what was said up to its end.
    pub fn expect(&mut self, wanted: &str, patience: Duration) -> Result<String, LabError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(start) = find(&self.heard, wanted.as_bytes()) {
                let said: Vec<u8> = self.heard.drain(..start + wanted.len()).collect();
                return Ok(String::from_utf8_lossy(&said).into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match self.output.recv_timeout(left) {
                Ok(bytes) => {
                    self.heard.extend(bytes);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => format!("was not said within {} s", patience.as_secs()),
                Err(RecvTimeoutError::Disconnected) => "was not said before the end".to_owned(),
            };
            let heard = String::from_utf8_lossy(&self.heard);
            return Err(LabError::Refused(format!("{wanted:?} {why}; heard: {heard:?}")));
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_hears_what_is_said_and_what_is_not() {
        let mut cat = Conversation::start(&mut Command::new("cat")).unwrap();
        cat.send("one two\n").unwrap();
        assert_eq!(cat.expect("one", Duration::from_secs(5)).unwrap(), "one");
        assert_eq!(cat.expect("two", Duration::from_secs(5)).unwrap(), " two");
        let error = cat.expect("three", Duration::from_millis(1)).unwrap_err().to_string();
        assert!(error.contains("\"three\" was not said"), "{error}");
        cat.input = None;
        let error = cat.expect("three", Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("before the end"), "{error}");
    }
}
