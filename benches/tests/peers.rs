//! `nbd-bench` as people run it, on servers that are there.
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use benches::{
    loads::Client,
    peers,
    record::{self, Outcome, Run},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A server that says its process id. The quotes are for those who split the command.
fn server(folder: &Path) -> String {
    let pid = folder.join("server.pid");
    format!("nbdkit=nbdkit --foreground --pidfile '{}' --ipaddr 127.0.0.1 --port {{port}} file {{file}}", pid.display())
}

/// `peers` with nbdkit alone, and what the test gives.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nbd-bench"));
    command.args(["peers", "--without", "tail-nbd", "--without", "qemu-nbd", "--file-mib", "4"]);
    command.arg("--server").arg(server(folder));
    command.arg("--scratch").arg(folder).arg("--out").arg(folder.join("records"));
    command.args(arguments);
    command
}

/// A folder under the build's own, which a build wants on a real filesystem; none if nothing can be measured here.
fn prepare(fio: bool) -> Option<tempfile::TempDir> {
    let needed = ["nbdkit", "fio"];
    for program in &needed[..=usize::from(fio)] {
        if peers::find(program).is_none() {
            eprintln!("skipped: {program} is not installed");
            return None;
        }
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: a measurement needs two processors");
        return None;
    }
    Some(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// False, with a reason, when the build's folder is on a filesystem on which nothing is measured.
fn measured(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("give a folder on ext4 or XFS") {
        eprintln!("skipped: {said}");
        return false;
    }
    assert!(output.status.success(), "{said}");
    true
}

fn only_record(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

fn server_pid(folder: &Path) -> Option<u32> {
    fs::read_to_string(folder.join("server.pid")).ok()?.trim().parse().ok()
}

/// True when there is no such process, or it is dead and only waits for its parent.
fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_small_run_makes_a_record_and_a_report() {
    let Some(folder) = prepare(true) else { return };
    let loads = ["--load", "read-4k-4x32", "--load", "write-128k-1x8"];
    let output =
        command(folder.path(), &[&["--rounds", "2", "--seconds", "0.2"], &loads[..]].concat()).output().unwrap();
    if !measured(&output) {
        return;
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("| read-4k-4x32 ") && printed.contains("no bar is judged"), "{printed}");
    let run: Run = record::read(&only_record(&folder.path().join("records"))).unwrap();
    assert_eq!((run.samples.len(), run.idle.len()), (8, 2), "2 loads × 2 clients × 2 rounds");
    // What a disc without a file costs is measured where the tail was built too.
    let tail = Path::new(env!("CARGO_BIN_EXE_nbd-bench")).with_file_name("tail-nbd");
    assert_eq!(run.limits.len(), if tail.exists() { 4 } else { 2 });
    for sample in &run.samples {
        let Outcome::Figures(figures) = &sample.outcome else { panic!("{sample:?}") };
        // A run this short may cost the server less than the ticks that are left of an ended thread.
        let sane = figures.iops > 10.0 && figures.p50_us <= figures.p99_us && figures.server_cpu_us >= 0.0;
        assert!(sane && figures.client_cpu_us > 0.1 && figures.rss_peak_kib > 500, "{sample:?}");
    }
    assert!(run.samples.iter().any(|sample| sample.client == Client::Fio));
    let pid = server_pid(folder.path()).expect("the server has run");
    assert!(is_gone(pid), "a server is left");

    let page = folder.path().join("report.md");
    let report = Command::new(env!("CARGO_BIN_EXE_nbd-bench"))
        .arg("report")
        .arg(folder.path().join("records"))
        .arg("--out")
        .arg(&page)
        .output()
        .unwrap();
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    assert!(fs::read_to_string(page).unwrap().contains("nbdkit"));
}

/// Ends the run if the test fails before it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_run_leaves_no_server_behind() {
    let Some(folder) = prepare(false) else { return };
    let arguments = ["--seconds", "50", "--load", "read-4k-1x1", "--client", "own"];
    let mut started = command(folder.path(), &arguments);
    let mut run = Running(started.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(30);
    let pid = loop {
        if let Some(pid) = server_pid(folder.path()) {
            break pid;
        }
        if run.0.try_wait().unwrap().is_some() {
            let mut said = String::new();
            std::io::Read::read_to_string(run.0.stderr.as_mut().unwrap(), &mut said).unwrap();
            assert!(said.contains("give a folder on ext4 or XFS"), "{said}");
            eprintln!("skipped: {said}");
            return;
        }
        assert!(Instant::now() < until, "no server has started");
        thread::sleep(Duration::from_millis(5));
    };
    assert!(!is_gone(pid));
    run.0.kill().unwrap();
    run.0.wait().unwrap();
    while !is_gone(pid) {
        assert!(Instant::now() < until, "the server {pid} lives on");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--load", "read-5k"], "read-4k-4x32"),
        (&["--server", "x=y"], "{port}"),
        (&["--server", "x=no-such-server {port}"], "no-such-server"),
        (&["--rounds", "0"], "between 1 and 100"),
        (&["--seconds", "NaN"], "between 0.05 and 60"),
        (&["--nice", "-21"], "between -20 and 19"),
        (&["--server-cpu", "999"], "999"),
    ];
    for (arguments, reason) in cases {
        let output = command(folder.path(), arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{arguments:?}: {said}");
    }
}
