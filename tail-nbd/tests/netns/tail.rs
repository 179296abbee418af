//! A real tail in a namespace, with a folder of its own.

use super::{Net, brain::DEADLINE};
use rustix::process::{Pid, WaitOptions};
use serde_json::Value;
use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tail-nbd");

/// A tail's files, and its process while there is one.
pub struct Tail {
    namespace: String,
    /// Pool, images, state and configuration are in here.
    pub folder: tempfile::TempDir,
    process: Option<Child>,
    /// The process that has taken over from it, if one has.
    heir: Option<Pid>,
    /// The service manager's socket.
    notified: Option<UnixDatagram>,
}

impl Tail {
    /// Prepares its files.
    pub fn new(net: &Net) -> Self {
        Self::numbered(&net.tail, 1)
    }

    /// Prepares the files of tail1, tail2 …, whose address ends in 21, 22 … and whose brain listens on port 7770, 7771 …
    pub fn numbered(namespace: &str, number: u16) -> Self {
        // The build's directory: a real file system, with holes.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["sata1", "images"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let tail = Self { namespace: namespace.to_owned(), folder, process: None, heir: None, notified: None };
        let at = tail.folder.path().display();
        let (port, address) = (7769 + number, format!("fd00:b16:0:2::{}", 20 + number));
        let config = format!(
            r#"name = "tail{number}"
brains = ["[fd00:b16:0:2::1]:{port}"]
storage_prefix = "fd00:b16:0:d::/64"
storage_interface = "storage0"
storage_address = "{address}"
migration_listen = "[{address}]:7771"
state_dir = "{at}/state"
images_dir = "{at}/images"
shards = 2
[[pool]]
name = "sata1"
grade = "sata"
path = "{at}/sata1"
note = "test"
"#
        );
        fs::write(tail.config(), config).unwrap();
        tail
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tail.toml")
    }

    /// A file of a disc.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("sata1/discs").join(name)
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let socket_path = self.folder.path().join("notify.sock");
        let _ = fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = self.command(&["run"]);
        command.env("NOTIFY_SOCKET", &socket_path).stdout(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let mut message = [0; 64];
        let length = socket.recv(&mut message).expect("the tail says that it is ready");
        assert_eq!(&message[..length], b"READY=1");
        self.notified = Some(socket);
    }

    /// Has a program take over from it. What was started here before has ended when this returns.
    pub fn upgrade(&mut self, arguments: &[&str]) -> Output {
        // An heir whose parent is gone is this process's child, so that it can be waited for.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let output = self.output(&[&["upgrade"], arguments].concat());
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let pid = text.split("by process ").nth(1).and_then(|rest| rest.split(',').next()).expect("it names it");
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            match (self.process.take(), self.heir.replace(pid)) {
                (Some(mut process), None) => assert!(process.wait().unwrap().success()),
                (None, Some(old)) => assert_eq!(wait_for(old), Some(0)),
                other => panic!("one process runs at a time: {other:?}"),
            }
            let mut message = [0; 64];
            let length = self.notified.as_ref().unwrap().recv(&mut message).expect("the service manager is told");
            assert_eq!(message[..length], *format!("MAINPID={}", pid.as_raw_nonzero()).as_bytes());
        }
        output
    }

    /// Ends it as a power cut of the process would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Ends it as an operator would, and waits for its end.
    pub fn terminate(&mut self) {
        if let Some(heir) = self.heir.take() {
            rustix::process::kill_process(heir, rustix::process::Signal::TERM).unwrap();
            return assert_eq!(wait_for(heir), Some(0));
        }
        let mut process = self.process.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            if Instant::now() > deadline {
                let _ = process.kill();
                let _ = process.wait();
                panic!("the tail does not stop");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs the program in the namespace to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.output_with(arguments, &self.config())
    }

    /// The same with another configuration.
    pub fn output_with(&self, arguments: &[&str], config: &Path) -> Output {
        self.command_with(arguments, config).output().unwrap()
    }

    /// What `tail-nbd status --json` says.
    pub fn status(&self) -> Value {
        let output = self.output(&["status", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_with(arguments, &self.config())
    }

    fn command_with(&self, arguments: &[&str], config: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, PROGRAM]).args(arguments).arg("--config").arg(config);
        command
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if let Some(heir) = self.heir.take() {
            let _ = rustix::process::kill_process(heir, rustix::process::Signal::KILL);
            wait_for(heir);
        }
    }
}

/// Waits for the end of a child: its exit status.
fn wait_for(child: Pid) -> Option<i32> {
    let (_, status) = rustix::process::waitpid(Some(child), WaitOptions::empty()).unwrap().expect("it has ended");
    status.exit_status()
}

/// Bytes that a file takes on its filesystem.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).unwrap().blocks() * 512
}
