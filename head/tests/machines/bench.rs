//! A namespace, a head in it, a brain for it, and discs.

use crate::guest;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use spine::{
    id::{Epoch, ResourceName},
    message::{Answer, Command, Refusal, Tag, Welcome},
    resource::Attributes,
    session::NodeSaid,
    transport::{BrainLink, accept_node},
};
use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command as Program, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    time::{sleep, timeout},
};
use uuid::Uuid;

/// Everything here is done within seconds on an idle machine; this is for one that builds as well.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const FIRST_UID: u32 = 70_100;

/// Runs a test in a network namespace that ends with it.
pub fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    ip("link set dev lo up");
    ip("link add name br-public type bridge");
    ip("link set dev br-public up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test());
}

pub fn ip(arguments: &str) -> String {
    let output = Program::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Polls until `probe` gives something.
pub async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A head and all that it needs. What runs is ended when it is dropped, by process number.
pub struct Bench {
    pub directory: TempDir,
    head: Option<Child>,
    listener: TcpListener,
    link: Option<BrainLink>,
    /// What the head has said since it was last asked for, in order.
    said: Vec<NodeSaid>,
    policy: &'static str,
    /// Tables at the end of the configuration.
    pub tables: String,
}

impl Bench {
    /// With a head that is connected and has nothing.
    pub async fn new() -> Self {
        Self::with_policy("adopt").await
    }

    pub async fn with_policy(policy: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Machines' uids pass through it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut bench =
            Self { directory, head: None, listener, link: None, said: Vec::new(), policy, tables: String::new() };
        let dump = bench.start_head().await;
        assert!(dump.keys().all(|name| !name.starts_with("vm.")), "{dump:?}");
        bench
    }

    pub fn config(&self) -> PathBuf {
        let path = self.directory.path().join("head.toml");
        let text = format!(
            r#"name = "head1"
brains = ["{brain}"]
storage_address = "127.0.0.1"
storage_prefix = "fd00:b16:0:d::/64"
cdrom_allow = ["127.0.0.1", "fd00:b16:0:2::a"]
state_dir = "{directory}/state"
runtime_dir = "{directory}/run"
accel = "tcg"
memory_mib = 512
cores = 2
uid_range = [{FIRST_UID}, {last}]
console_port = 2222
restart_policy = "{policy}"
# The namespace is the test's own.
manage_sysctls = true
[[network]]
vlan = 1
bridge = "br-public"
[[network]]
vlan = 10000
bridge = "br-missing"
{tables}
"#,
            brain = self.listener.local_addr().unwrap(),
            directory = self.directory.path().display(),
            last = FIRST_UID + 9,
            policy = self.policy,
            tables = self.tables,
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts the daemon, and returns what it says it has.
    pub async fn start_head(&mut self) -> BTreeMap<String, Value> {
        let mut program = Program::new(env!("CARGO_BIN_EXE_bigv-head"));
        program.args(["run", "--config"]).arg(self.config()).stdin(Stdio::null());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("head.log")).unwrap();
        self.head = Some(program.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.welcome().await
    }

    /// Closes the connection, if there is one, and waits for the next and its dump.
    pub async fn welcome(&mut self) -> BTreeMap<String, Value> {
        self.link = None;
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        let (stream, _) = accepted.unwrap_or_else(|_| panic!("the head did not connect:\n{}", self.log())).unwrap();
        self.link = Some(accept_node(stream));
        self.said.clear();
        let NodeSaid::Hello(hello) = self.next().await else { panic!("no hello") };
        assert_eq!((hello.node.as_str(), &hello.extra["memory_total"]), ("head1", &json!(448)));
        self.link.as_ref().unwrap().welcome(Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(1) });
        let mut dump = BTreeMap::new();
        loop {
            match self.next().await {
                NodeSaid::Created(name, value) => drop(dump.insert(name.to_string(), value)),
                NodeSaid::Ready => return dump,
                other => panic!("in the dump: {other:?}"),
            }
        }
    }

    /// Ends the daemon, and waits for it.
    pub async fn end_head(&mut self, signal: Signal) {
        let mut head = self.head.take().unwrap();
        kill(pid(head.id()), signal).unwrap();
        let log = self.path("head.log");
        eventually("the head ends", || head.try_wait().unwrap()).await;
        self.link = None;
        assert!(log.exists());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn run_path(&self, name: &str) -> PathBuf {
        self.path("run").join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("head.log")).unwrap_or_default()
    }

    async fn next(&mut self) -> NodeSaid {
        let next = timeout(PATIENCE, self.link.as_mut().unwrap().next()).await;
        next.unwrap_or_else(|_| panic!("the head says nothing:\n{}", self.log()))
    }

    /// Gives a command.
    pub fn order(&self, command: Command) -> Tag {
        self.link.as_ref().unwrap().command(command)
    }

    /// Waits for the answer to a command.
    pub async fn answer(&mut self, wanted: Tag) -> Result<(), Refusal> {
        let answer = self.notice(|said| match said {
            NodeSaid::Answered { tag, answer } if *tag == wanted => Some(answer.clone()),
            _ => None,
        });
        outcome(answer.await)
    }

    async fn ask(&mut self, command: Command) -> Result<(), Refusal> {
        let tag = self.order(command);
        self.answer(tag).await
    }

    pub async fn create(&mut self, vm: &str, value: &Value) -> Result<(), Refusal> {
        self.ask(Command::Create(name(vm), object(value))).await
    }

    pub async fn update(&mut self, vm: &str, value: Value) -> Result<(), Refusal> {
        self.ask(Command::Update(name(vm), object(&value))).await
    }

    pub async fn remove(&mut self, vm: &str, reason: &str) -> Result<(), Refusal> {
        self.ask(Command::Remove(name(vm), object(&json!({"reason": reason})))).await
    }

    /// The value of the next `created`.
    pub async fn created(&mut self, vm: &str) -> Value {
        self.notice(|said| match said {
            NodeSaid::Created(of, value) if *of == name(vm) => Some(value.clone()),
            _ => None,
        })
        .await
    }

    /// The value of the next `updated`.
    pub async fn updated(&mut self, resource: &str) -> Value {
        let wanted: ResourceName = resource.parse().unwrap();
        self.notice(|said| match said {
            NodeSaid::Updated(of, value) if *of == wanted => Some(value.clone()),
            _ => None,
        })
        .await
    }

    /// The reason of the next `destroyed`.
    pub async fn destroyed(&mut self, vm: &str) -> String {
        self.notice(|said| match said {
            NodeSaid::Destroyed(of, value) if *of == name(vm) => Some(value["reason"].as_str().unwrap().to_owned()),
            _ => None,
        })
        .await
    }

    async fn notice<T>(&mut self, wanted: impl Fn(&NodeSaid) -> Option<T>) -> T {
        let mut seen = 0;
        loop {
            if let Some(found) = self.said.get(seen).map(&wanted) {
                match found {
                    Some(found) => {
                        self.said.remove(seen);
                        return found;
                    }
                    None => seen += 1,
                }
            } else {
                let next = self.next().await;
                assert!(!matches!(next, NodeSaid::Closed { .. }), "{next:?}\n{}", self.log());
                self.said.push(next);
            }
        }
    }

    /// The process of a machine, from its record.
    pub fn pid_of(&self, vm: &str) -> i32 {
        let record = fs::read(self.run_path(&format!("vm-{vm}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        i32::try_from(record["mark"]["pid"].as_i64().unwrap()).unwrap()
    }

    /// The guest's serial port. One client at a time.
    pub async fn serial(&self, vm: &str) -> UnixStream {
        UnixStream::connect(self.run_path(&format!("vm-{vm}.tty"))).await.unwrap()
    }

    /// True when qemu's listening monitor, which talks to one at a time, talks to whoever connects.
    pub async fn monitor_greets(&self, vm: &str) -> bool {
        let mut monitor = UnixStream::connect(self.run_path(&format!("vm-{vm}.qmp"))).await.unwrap();
        let mut greeting = [0; 7];
        timeout(PATIENCE, monitor.read_exact(&mut greeting))
            .await
            .is_ok_and(|read| read.is_ok() && greeting == *b"{\"QMP\":")
    }

    /// Nothing is left of a machine: no process, tap, file.
    pub async fn assert_nothing_left(&self, vm: &str, pid: Option<i32>) {
        let files: Vec<_> = fs::read_dir(self.path("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let prefix = format!("vm-{vm}");
        assert!(!files.iter().any(|file| file.to_string_lossy().starts_with(&prefix)), "{files:?}");
        assert!(!ip("link show").contains("bv70"), "{}", ip("link show"));
        let qemus = processes_with(self.directory.path());
        assert!(qemus.is_empty(), "{qemus:?}");
        if let Some(pid) = pid {
            // An adopted one may wait for init to take note of its end.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z "), "process {pid} is left: {stat}");
        }
    }
}

impl Drop for Bench {
    #[expect(clippy::print_stderr, reason = "a failed test shows the daemon's log")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the head's log:\n{}", self.log());
        }
        if let Some(mut head) = self.head.take() {
            let _ = head.kill();
            let _ = head.wait();
        }
        for pid in processes_with(self.directory.path()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Machines' processes, which have a path of the bench in their arguments.
fn processes_with(directory: &Path) -> Vec<i32> {
    let needle = format!("{}/run/vm-", directory.display());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&needle)
    })
    .collect()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

pub fn name(vm: &str) -> ResourceName {
    format!("vm.{vm}").parse().unwrap()
}

pub fn object(value: &Value) -> Attributes {
    value.as_object().unwrap().clone()
}

fn outcome(answer: Answer) -> Result<(), Refusal> {
    match answer {
        Answer::Ok(_) => Ok(()),
        Answer::No(refusal) => Err(refusal),
        Answer::Bad(complaint) => panic!("{complaint:?}"),
    }
}

/// Waits until the guest has started from its disc. What it said before somebody listened is lost, so it
/// is asked until it answers.
pub async fn guest_runs(serial: &mut UnixStream) {
    let deadline = Instant::now() + PATIENCE;
    let mut said = [0; 64];
    let mut answered = false;
    loop {
        if !answered {
            type_to_guest(serial, guest::READ).await;
        }
        // Once it has answered, until it has no more answers to earlier questions.
        match timeout(Duration::from_millis(300), serial.read(&mut said)).await {
            Ok(count) => answered |= said[..count.unwrap()].contains(&b'B'),
            Err(_) if answered => return,
            Err(_) => assert!(Instant::now() < deadline, "the guest does not say that it runs"),
        }
    }
}

/// Waits until the guest has done a read.
pub async fn hear_from_guest(serial: &mut UnixStream) {
    let heard = timeout(PATIENCE, async {
        let mut byte = [0];
        while byte != *b"B" {
            serial.read_exact(&mut byte).await.unwrap();
        }
    });
    heard.await.expect("the guest does not say that it has read");
}

pub async fn type_to_guest(serial: &mut UnixStream, text: &[u8]) {
    serial.write_all(text).await.unwrap();
}

/// A disc: a qemu-nbd with one export.
pub struct Disc {
    pub port: u16,
    pub file: PathBuf,
    pub host: String,
    key: String,
    /// The folder of the server's certificate: it is reached through TLS only.
    tls: Option<PathBuf>,
    server: Option<Child>,
}

impl Disc {
    /// A disc that a guest starts from.
    pub async fn new(bench: &Bench, key: &str) -> Self {
        Self::at(bench, "127.0.0.1", key).await
    }

    /// One at an address of its own.
    pub async fn at(bench: &Bench, host: &str, key: &str) -> Self {
        let free = std::net::TcpListener::bind((host, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let file = bench.path(&format!("disc-{port}.raw"));
        fs::write(&file, guest::boot_sector()).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_len(16 << 20).unwrap();
        let mut disc = Self { port, file, host: host.to_owned(), key: key.to_owned(), tls: None, server: None };
        disc.serve().await;
        disc
    }

    /// Has it served through TLS only, with the certificate of a folder, to clients with one of the same authority.
    pub async fn secure(&mut self, folder: &Path) {
        self.take_away();
        self.tls = Some(folder.to_owned());
        self.serve().await;
    }

    pub async fn serve(&mut self) {
        let mut program = Program::new("qemu-nbd");
        program.args(["-f", "raw", "-t", "-e", "8", "-b", &self.host, "-p", &self.port.to_string(), "-x", &self.key]);
        if let Some(folder) = &self.tls {
            let credentials = format!("tls-creds-x509,id=tls0,endpoint=server,verify-peer=on,dir={}", folder.display());
            program.args(["--object", &credentials, "--tls-creds", "tls0"]);
        }
        self.server = Some(program.arg(&self.file).stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((self.host.as_str(), self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "qemu-nbd does not listen");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn take_away(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    pub fn resource(&self) -> Value {
        json!({
            "address": format!("nbd:{}", self.address()), "model": "virtio", "serial": "root", "key": self.key,
        })
    }

    /// As in a URL.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Drop for Disc {
    fn drop(&mut self) {
        self.take_away();
    }
}

/// The smallest machine with a disc.
pub fn machine(disc: &Disc) -> Value {
    json!({"memory": 32, "cores": 1, "display_name": "web1.default.acme", "discs": [disc.resource()]})
}
