//! `nbd-migrate` with the tail itself: discs move under guests that know every byte (R120, R130, R200), and nothing is left
//! of a run that is ended.
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// False, with a reason, where moves cannot be measured.
fn can_run() -> bool {
    if !Path::new(env!("CARGO_BIN_EXE_nbd-migrate")).with_file_name("tail-nbd").exists() {
        eprintln!("skipped: tail-nbd is not built");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return false;
    }
    true
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nbd-migrate"));
    command.args(arguments).arg("--scratch").arg(folder).arg("--out").arg(folder.join("records"));
    command
}

#[test]
fn r130_discs_move_under_load_and_every_byte_is_there() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let all: &[&str] = &["pauses", "limit", "sparse", "many", "compare", "verify", "filesystems"];
    for (io, only) in [("cached", all), ("direct", &["pauses", "verify"])] {
        let small = ["--moves", "3", "--data-mib", "16", "--many", "5", "--verify", "3", "--rounds", "1", "--io", io];
        let output =
            command(folder.path(), &small).args(only.iter().flat_map(|name| ["--only", name])).output().unwrap();
        let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        // A bar of speed that is not met on this machine now is no failure, and exit code 1 as any error.
        assert!(!said.contains("scripts/bench migrate: "), "io = {io}: {said}");
        let right = ["blocks that were wrong", "blocks checked", "allocated", "of them with errors", "could not be"];
        let about_bytes = |line: &&str| right.iter().any(|figure| line.contains(figure));
        let lines: Vec<_> = printed.lines().filter(about_bytes).collect();
        assert!(lines.len() >= 6, "{printed}");
        assert!(lines.iter().all(|line| !line.contains("not met")), "io = {io}: {printed}");
    }
    let reports = fs::read_dir(folder.path().join("records")).unwrap();
    let reports = reports.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "md"));
    assert_eq!(reports.count(), 2);
}

/// Names of things that processes of a run have made: those whose number is the child of `parent`.
fn made_by(parent: u32, folder: &Path) -> Vec<String> {
    let is_child = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let pid = |name: &str| Some(name.strip_prefix("nbdbench-")?.split_once('-')?.0.to_owned());
    names.filter(|name| pid(name).is_some_and(|pid| is_child(&pid))).collect()
}

/// Ends the run if the test fails before it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a long run, and waits until it has namespaces and two tails with a folder each.
fn long_run(folder: &Path) -> (Running, Vec<String>) {
    let mut command = command(folder, &["--moves", "1000", "--data-mib", "16"]);
    let run = Running(command.stdout(Stdio::null()).spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let namespaces = made_by(run.0.id(), Path::new("/run/netns"));
        let folders = made_by(run.0.id(), folder);
        if namespaces.len() == 3 && folders.len() == 2 {
            return (run, namespaces);
        }
        assert!(Instant::now() < until, "it has {namespaces:?} and {folders:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn namespaces_left(names: &[String]) -> Vec<&String> {
    names.iter().filter(|name| Path::new("/run/netns").join(name).exists()).collect()
}

/// Folders and files of runs in a scratch folder.
fn left_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("nbdbench-")).collect()
}

#[test]
fn nothing_is_left_of_a_run_that_is_ended() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (mut run, namespaces) = long_run(folder.path());
        kill_process(Pid::from_child(&run.0), signal).unwrap();
        let status = run.0.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{status}");
        assert_eq!((namespaces_left(&namespaces), left_in(folder.path())), (vec![], vec![]), "{signal:?}");
    }
    // Nobody can clean up after SIGKILL but the next run. A tail that was started in that moment would live on: so not before
    // there is a disc.
    let (mut run, namespaces) = long_run(folder.path());
    let has_disc =
        || left_in(folder.path()).iter().any(|name| folder.path().join(name).join("pool/discs/1.data").exists());
    let until = Instant::now() + Duration::from_secs(60);
    while !has_disc() {
        assert!(Instant::now() < until, "it makes no disc");
        thread::sleep(Duration::from_millis(5));
    }
    run.0.kill().unwrap();
    assert_eq!(run.0.wait().unwrap().signal(), Some(9));
    assert_eq!(namespaces_left(&namespaces).len(), 3);
    let until = Instant::now() + Duration::from_secs(30);
    while !namespaces_left(&namespaces).is_empty() || !left_in(folder.path()).is_empty() {
        assert!(Instant::now() < until, "{:?}", left_in(folder.path()));
        // The worker may not have been ended yet when the next run begins.
        let refused = command(folder.path(), &["--moves", "0"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
    }
}
