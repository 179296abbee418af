//! The real binary with its private PostgreSQL, and fake heads and tails on real TCP.

#![allow(clippy::print_stderr)] // A test that cannot run says why.

mod common;
#[allow(dead_code)] // This binary uses a part of it.
#[path = "common/fakes.rs"]
mod fakes;

use fakes::{Fake, Fuse};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spine::{
    message::{Command, Role},
    secret::Secret,
};
use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(40);

/// A brain with its directory, and the cluster around it.
struct Lab {
    dir: tempfile::TempDir,
    config: PathBuf,
    http: SocketAddr,
    brain: Option<Child>,
    db: Client,
    /// Kept: the last user of the server stops it.
    _server: brain::embedded::Embedded,
    fuse: Arc<Fuse>,
    tail: Fake,
    heads: [Fake; 2],
}

/// A socket address that no other process is given: the brain is away from it for a while.
fn own_address() -> SocketAddr {
    let [a, b, c, d] = std::process::id().to_be_bytes();
    assert_eq!(a, 0, "the kernel's highest process number has 22 bits");
    std::net::TcpListener::bind(SocketAddr::from(([127, 64 | b, c, d], 0))).unwrap().local_addr().unwrap()
}

impl Lab {
    /// None where PostgreSQL is not installed.
    async fn start() -> Option<Self> {
        let dir = common::scratch_dir();
        let (spine, http) = (own_address(), own_address());
        let config = dir.path().join("brain.toml");
        let state_dir = dir.path().join("state");
        let text = common::api::CONFIG
            .replace("[fd00:b16:0:1::1]:7770", &spine.to_string())
            .replace("127.0.0.1:8600", &http.to_string())
            .replace("\"/var/lib/bigv-brain\"", &format!("{state_dir:?}"));
        std::fs::write(&config, text).unwrap();
        let embedded = match brain::embedded::Embedded::start(&dir.path().join("pg")).await {
            Err(brain::embedded::EmbeddedError::NotInstalled) => {
                eprintln!("SKIPPED: no PostgreSQL server is installed");
                return None;
            }
            started => started.unwrap(),
        };
        let migrated = command(&config, dir.path(), &["migrate"]).status().unwrap();
        assert!(migrated.success());
        let (db, connection) = embedded.config().connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        let fuse = Arc::new(Fuse::default());
        let fake = |name: &str, role, own: &str| Fake::new(name, role, own, spine, &fuse);
        let tail = fake("tail1", Role::Tail, "fd00:b16:0:2::21");
        let heads = [fake("head1", Role::Head, "fd00:b16:0:2::11"), fake("head2", Role::Head, "fd00:b16:0:2::12")];
        let mut lab = Self { dir, config, http, brain: None, db, _server: embedded, fuse, tail, heads };
        lab.start_brain();
        lab.tail.connect();
        lab.heads.iter_mut().for_each(Fake::connect);
        Some(lab)
    }

    fn start_brain(&mut self) {
        let child = command(&self.config, self.dir.path(), &["run"]).spawn().unwrap();
        self.brain = Some(child);
    }

    fn end_brain(&mut self, signal: Signal) {
        let Some(mut brain) = self.brain.take() else { return };
        kill(Pid::from_raw(brain.id() as i32), signal).unwrap();
        brain.wait().unwrap();
    }

    /// A VM with a disc that an image is to be written onto.
    async fn new_vm(&self, name: &str) -> i64 {
        let sql = "
            WITH a AS (INSERT INTO accounts (name) VALUES ($1) RETURNING id),
                 g AS (INSERT INTO groups (account_id, name) SELECT id, 'default' FROM a RETURNING id),
                 v AS (INSERT INTO virtual_machines (group_id, name, cores, memory_mib, power_on, autoreboot_on, management_ssh_keys)
                       SELECT id, $1, 1, 256, true, true, '{}' FROM g RETURNING id),
                 d AS (INSERT INTO discs (virtual_machine_id, position, label, size_mib, grade, image)
                       SELECT id, 0, 'vda', 1024, 'sata', 'tiny' FROM v)
            SELECT id FROM v";
        self.db.query_one(sql, &[&name]).await.unwrap().get(0)
    }

    async fn status(&self, vm: i64) -> (String, String) {
        let sql = "SELECT status_state, coalesce(status_reason, '') FROM virtual_machines WHERE id = $1";
        self.db.query_opt(sql, &[&vm]).await.unwrap().map_or_else(Default::default, |row| (row.get(0), row.get(1)))
    }

    async fn set(&self, vm: i64, what: &str) {
        self.db.execute(&format!("UPDATE virtual_machines SET {what} WHERE id = $1"), &[&vm]).await.unwrap();
    }

    async fn until_state(&self, vm: i64, state: &str) {
        let check = async || (self.status(vm).await.0 == state).then_some(());
        self.until(&format!("vm {vm} is {state}"), vm, check).await;
    }

    /// Polls until there is something.
    async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, vm: i64, mut check: impl FnMut() -> F) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = check().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}; it is {:?}", self.status(vm).await);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn heads_with(&self, vm: i64) -> Vec<usize> {
        (0..2).filter(|head| self.heads[*head].get(&format!("vm.{vm}")).is_some()).collect()
    }

    /// What must hold of a VM that runs: one open run, one instance, and its key alone opens its disc.
    async fn check_running(&self, vm: i64) -> usize {
        let sql = "SELECT n.name, r.attachment_key, d.number, d.attachments_version, d.image IS NULL
                   FROM runs r JOIN nodes n ON n.id = r.head_id JOIN discs d USING (virtual_machine_id)
                   WHERE r.virtual_machine_id = $1 AND r.state = 'running'";
        let row = self.db.query_one(sql, &[&vm]).await.unwrap();
        let heads = self.heads_with(vm);
        assert_eq!(heads.len(), 1, "exactly one instance");
        let head = &self.heads[heads[0]];
        assert_eq!(head.name().as_str(), row.get::<_, &str>(0));
        let hash = Secret::new(row.get::<_, &str>(1)).hash();
        let disc = self.tail.get(&format!("disc.sata.{}", row.get::<_, i64>(2))).unwrap();
        let attachments = disc["attachments"].as_array().unwrap();
        assert_eq!(attachments.len(), 1, "safety rule 7: one writer");
        assert_eq!(attachments[0]["key_hash"], hash.as_str());
        assert_eq!(disc["attachments_version"].as_i64(), Some(row.get::<_, i64>(3)));
        assert!(row.get::<_, bool>(4), "its image is on it");
        heads[0]
    }

    async fn stop(mut self) {
        self.end_brain(Signal::SIGTERM);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(brain) = &mut self.brain {
            let _ = brain.kill();
            let _ = brain.wait();
        }
        common::stop_postgres(&self.dir.path().join("pg"));
    }
}

fn command(config: &std::path::Path, dir: &std::path::Path, arguments: &[&str]) -> std::process::Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("brain.log")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bigv-brain"));
    command.args(arguments).arg("--config").arg(config).arg("--embedded").arg(dir.join("pg"));
    command.env("RUST_LOG", "debug").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn r055_r056_a_vm_starts_stops_crashes_and_comes_back() {
    let Some(lab) = Lab::start().await else { return };
    let vm = lab.new_vm("web1").await;
    lab.until_state(vm, "running").await;
    let head = lab.check_running(vm).await;
    let name = format!("vm.{vm}");
    let resource = lab.heads[head].get(&name).unwrap();
    assert_eq!(resource["display_name"], "web1.default.web1", "R097");
    assert_eq!(resource["discs"][0]["serial"], "vda");

    lab.heads[head].vm_ends(&name, "qemu exited with signal 11");
    let ended = async || {
        let sql = "SELECT end_reason FROM runs WHERE virtual_machine_id = $1 AND state = 'ended'";
        lab.db.query_opt(sql, &[&vm]).await.unwrap().map(|row| row.get::<_, String>(0))
    };
    let reason = lab.until("its run ends", vm, ended).await;
    assert_eq!(reason, "qemu exited with signal 11", "R166");
    lab.until_state(vm, "running").await;
    lab.check_running(vm).await;

    lab.set(vm, "power_on = false, autoreboot_on = false").await;
    lab.until_state(vm, "off").await;
    assert_eq!(lab.heads_with(vm), [] as [usize; 0]);
    let withdrawn = async || {
        let disc: i64 = lab.db.query_one("SELECT number FROM discs", &[]).await.unwrap().get(0);
        let disc = lab.tail.get(&format!("disc.sata.{disc}")).unwrap();
        disc["attachments"].as_array().unwrap().is_empty().then_some(())
    };
    lab.until("its attachment is withdrawn", vm, withdrawn).await;
    lab.stop().await;
}

/// The brain is killed after each command that the start and the end of a VM take, the command
/// carried out and its answer lost.
#[tokio::test(flavor = "multi_thread")]
async fn r054_a_brain_killed_at_any_step_goes_on_from_its_database() {
    let Some(mut lab) = Lab::start().await else { return };
    for step in 0..4u32 {
        lab.fuse.set(step);
        let vm = lab.new_vm(&format!("step{step}")).await;
        if step == 3 {
            // Three commands start it; the fourth stops it.
            lab.until_state(vm, "running").await;
            lab.set(vm, "power_on = false").await;
        }
        let blown = tokio::time::timeout(PATIENCE, lab.fuse.blown.notified()).await;
        assert!(blown.is_ok(), "step {step} was not reached: {:?}", lab.status(vm).await);
        lab.end_brain(Signal::SIGKILL);
        lab.start_brain();
        let again = async || {
            let started = lab.db.query_one("SELECT count(*) FROM runs WHERE virtual_machine_id = $1", &[&vm]).await;
            let enough = started.unwrap().get::<_, i64>(0) > i64::from(step == 3);
            (enough && lab.status(vm).await.0 == "running" && lab.heads_with(vm).len() == 1).then_some(())
        };
        lab.until(&format!("step {step}: it runs after all"), vm, again).await;
        let settled = async || {
            let sql = "SELECT 1 FROM runs WHERE virtual_machine_id = $1 AND state = 'running'";
            lab.db.query_opt(sql, &[&vm]).await.unwrap().map(drop)
        };
        lab.until("its run is running", vm, settled).await;
        lab.check_running(vm).await;
    }
    assert_eq!(lab.tail.state.lock().unwrap().resources.len(), 4, "one disc each, made once");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r034_r057_r058_nodes_leave_and_come_back() {
    let Some(mut lab) = Lab::start().await else { return };
    let vm = lab.new_vm("web1").await;
    lab.until_state(vm, "running").await;
    let head = lab.check_running(vm).await;

    // R036: without its tail it keeps running, and says so.
    lab.tail.disconnect();
    let said = async || lab.status(vm).await.1.contains("tail1 is not connected").then_some(());
    lab.until("the lost tail is named", vm, said).await;
    assert_eq!(lab.status(vm).await.0, "running");
    lab.tail.connect();

    // R175: without its head it waits, and is started nowhere else; R057: what comes back is adopted.
    lab.heads[head].disconnect();
    lab.until_state(vm, "waiting").await;
    let online = "SELECT online FROM nodes WHERE name = $1";
    let name = lab.heads[head].name().as_str().to_owned();
    let away = async || (!lab.db.query_one(online, &[&name]).await.unwrap().get::<_, bool>(0)).then_some(());
    lab.until("R034: it is seen as gone", vm, away).await;
    lab.heads[head].connect();
    lab.until_state(vm, "running").await;
    assert_eq!(lab.check_running(vm).await, head);
    assert_eq!(lab.heads[head].count(|command| matches!(command, Command::Create(..))), 1, "adopted, not made anew");

    // R058: an instance of an old run is stopped; a VM that nobody knows is left alone.
    let other = 1 - head;
    let mut rogue = lab.heads[head].get(&format!("vm.{vm}")).unwrap();
    rogue.insert("run".to_owned(), serde_json::json!(999));
    lab.heads[other].disconnect();
    {
        let mut state = lab.heads[other].state.lock().unwrap();
        state.resources.insert(format!("vm.{vm}").parse().unwrap(), rogue.clone());
        state.resources.insert("vm.4242".parse().unwrap(), rogue);
    }
    lab.heads[other].connect();
    let gone = async || lab.heads[other].get(&format!("vm.{vm}")).is_none().then_some(());
    lab.until("the rogue is stopped", vm, gone).await;
    assert_eq!(lab.check_running(vm).await, head);
    let reported = async || {
        let sql = "SELECT 1 FROM events WHERE kind = 'stray-seen' AND message LIKE '%vm.4242%'";
        lab.db.query_opt(sql, &[]).await.unwrap().map(drop)
    };
    lab.until("the stray is reported", vm, reported).await;
    assert!(lab.heads[other].get("vm.4242").is_some(), "R058: never removed");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r029_a_second_brain_is_refused_and_an_old_one_only_observes() {
    let Some(mut lab) = Lab::start().await else { return };
    let vm = lab.new_vm("web1").await;
    lab.until_state(vm, "running").await;

    let second = command(&lab.config, lab.dir.path(), &["run"]).stderr(Stdio::piped()).output().unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("state directory"), "{text}");
    let elsewhere = lab.dir.path().join("second.toml");
    let other_state = std::fs::read_to_string(&lab.config).unwrap().replace("/state\"", "/state2\"");
    std::fs::write(&elsewhere, other_state).unwrap();
    let second = command(&elsewhere, lab.dir.path(), &["run"]).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && text.contains("active brain is brain1 (pid"), "{text}");

    // A database that is an older copy: the nodes have obeyed a higher epoch, and are let be.
    lab.end_brain(Signal::SIGTERM);
    lab.db.execute("UPDATE cluster SET epoch = -1", &[]).await.unwrap();
    lab.start_brain();
    let seen = async || {
        let sql = "SELECT epoch_seen FROM cluster WHERE epoch_seen > 0";
        lab.db.query_opt(sql, &[]).await.unwrap().map(|row| row.get::<_, i64>(0))
    };
    assert_eq!(lab.until("rule 8: the higher epoch is written down", vm, seen).await, 1);
    assert_eq!(lab.heads_with(vm).len(), 1, "it runs on");
    lab.end_brain(Signal::SIGTERM);

    let taken = command(&lab.config, lab.dir.path(), &["take-over"]).status().unwrap();
    assert!(taken.success());
    lab.start_brain();
    let adopted = async || {
        let online = "SELECT count(*) FROM nodes WHERE online";
        (lab.db.query_one(online, &[]).await.unwrap().get::<_, i64>(0) == 3).then_some(())
    };
    lab.until("all nodes obey it", vm, adopted).await;
    lab.until_state(vm, "running").await;
    lab.check_running(vm).await;
    lab.stop().await;
}

/// Requests of clients wait for a locked table, on all of the connections that they can have.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_api_waits_for_nodes_and_vms_go_on() {
    let Some(mut lab) = Lab::start().await else { return };
    let vm = lab.new_vm("web1").await;
    lab.until_state(vm, "running").await;
    lab.db.batch_execute("BEGIN; LOCK TABLE sessions").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = TcpStream::connect(lab.http).await.unwrap();
        client.write_all(b"GET /accounts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'sessions'::regclass AND NOT granted";
    let stuck = async || {
        let count: i64 = lab.db.query_one(waiting, &[]).await.unwrap().get(0);
        (count == brain::limits::API_CONNECTIONS_MAX as i64).then_some(())
    };
    lab.until("the API has no connection left", vm, stuck).await;
    let head = lab.check_running(vm).await;
    lab.heads[head].vm_ends(&format!("vm.{vm}"), "qemu exited with signal 11");
    lab.heads[1 - head].disconnect();
    lab.heads[1 - head].connect();
    let again = async || {
        let sql = "SELECT 1 FROM runs WHERE virtual_machine_id = $1 AND state = 'running'
                   AND id > (SELECT min(id) FROM runs) AND (SELECT count(*) FROM nodes WHERE online) = 3";
        lab.db.query_opt(sql, &[&vm]).await.unwrap().map(drop)
    };
    lab.until("it runs again, and all nodes are there", vm, again).await;
    assert_eq!(
        lab.db.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0),
        brain::limits::API_CONNECTIONS_MAX as i64,
        "the clients still wait"
    );
    lab.db.batch_execute("ROLLBACK").await.unwrap();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r051_a_purged_vm_leaves_nothing_behind() {
    let Some(lab) = Lab::start().await else { return };
    let vm = lab.new_vm("web1").await;
    lab.until_state(vm, "running").await;
    lab.set(vm, "deleted_at = now() - interval '46 days', power_on = false").await;
    let gone = async || {
        let left = lab.db.query_one("SELECT count(*) FROM virtual_machines", &[]).await.unwrap();
        (left.get::<_, i64>(0) == 0).then_some(())
    };
    lab.until("its row goes", vm, gone).await;
    assert_eq!(lab.heads_with(vm), [] as [usize; 0]);
    assert!(lab.tail.state.lock().unwrap().resources.is_empty(), "its disc is destroyed");
    lab.stop().await;
}
