//! `tail-nbd serve`: the program itself, with the clients that people have.
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod common;

use common::{MIB, PATIENCE, has, pattern, run};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::time::Instant;
use tail_nbd::limits::NEGOTIATING_MAX;
use tail_nbd::nbd::client::{Client, Reply};
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{command_type, option_reply, option_type};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tail-nbd");

/// A folder on a real file system, with files of this many MiB in it.
fn folder(files: &[(&str, u64)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (name, mebibytes) in files {
        File::create(folder.path().join(name)).unwrap().set_len(mebibytes * MIB).unwrap();
    }
    folder
}

/// A server that is ready, and killed at the end if it still runs.
struct Server {
    process: Child,
    places: Vec<String>,
    log: BufReader<ChildStderr>,
    /// The log so far.
    past: String,
}

impl Server {
    fn start(places: &[&str], arguments: &[&OsStr]) -> Self {
        Self::start_by(Command::new(PROGRAM), places, arguments)
    }

    /// `command` runs the program, with what is added here.
    fn start_by(mut command: Command, places: &[&str], arguments: &[&OsStr]) -> Self {
        command.arg("serve");
        for place in places {
            command.args(["--listen", place]);
        }
        let mut process = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut told, mut past) = (vec![], String::new());
        while told.len() < places.len() {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {:?}", process.wait());
            if let Some((_, rest)) = line.split_once(" listening at=") {
                told.push(rest.split(' ').next().unwrap().to_owned());
            }
            past.push_str(&line);
        }
        Self { process, places: told, log, past }
    }

    /// The word that follows `what` in a line of the log.
    fn wait_for_log(&mut self, what: &str) -> String {
        let mut line = std::mem::take(&mut self.past);
        loop {
            if let Some((_, rest)) = line.split_once(what) {
                return rest.split_ascii_whitespace().next().unwrap().to_owned();
            }
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it ended: {:?}", self.process.wait());
        }
    }

    fn tcp(path: &Path) -> Self {
        Self::start(&["127.0.0.1:0"], &[path.as_os_str()])
    }

    fn address(&self) -> SocketAddr {
        self.places[0].parse().unwrap()
    }

    fn uri(&self, name: &str) -> String {
        format!("nbd://{}/{name}", self.places[0])
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// An ordered stop.
    fn stop(mut self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the program to an end that must be a bad one, and returns what it says.
fn refusal(arguments: &[&OsStr]) -> String {
    let Output { status, stderr, .. } =
        Command::new("timeout").args(["20", PROGRAM, "serve"]).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

#[test]
fn nbdinfo_starts_it_by_socket_activation() {
    if !has("nbdinfo") {
        return;
    }
    let folder = folder(&[("disc.img", 5)]);
    let file = folder.path().join("disc.img");
    let file = file.to_str().unwrap();
    let info = run("nbdinfo", &["--json", "--", "[", PROGRAM, "serve", file, "]"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["exports"][0]["export-size"], 5 * MIB);
    assert_eq!(info["exports"][0]["description"], "disc.img");
    let info = run("nbdinfo", &["--json", "--", "[", PROGRAM, "serve", "--read-only", file, "]"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["exports"][0]["is_read_only"], true);
    assert_eq!(info["exports"][0]["can_trim"], false);
}

#[test]
fn nbdsh_starts_it_by_socket_activation_and_the_data_stays() {
    let python = "/usr/bin/python3";
    if !Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: python3-libnbd is not installed");
    }
    let folder = folder(&[("disc.img", 5)]);
    let file = folder.path().join("disc.img");
    let script = r#"
import nbd, sys
h = nbd.NBD()
h.connect_systemd_socket_activation([sys.argv[1], "serve", sys.argv[2]])
h.pwrite(b"written" * 1000, 4097, nbd.CMD_FLAG_FUA)
assert h.pread(7, 4097) == b"written"
h.shutdown()
"#;
    run(python, &["-c", script, PROGRAM, file.to_str().unwrap()]);
    assert_eq!(&std::fs::read(file).unwrap()[4097..4104], b"written");
}

#[test]
fn a_directory_is_discs_by_name_over_tcp_and_unix_sockets() {
    if !has("nbdinfo") || !has("nbdcopy") || !has("qemu-img") {
        return;
    }
    let folder = folder(&[("one", 24), ("two", 24), (".hidden", 1)]);
    std::fs::create_dir(folder.path().join("subfolder")).unwrap();
    std::os::unix::fs::symlink("one", folder.path().join("link")).unwrap();
    let place = format!("unix:{}/.socket", folder.path().display());
    let (shards, path) = (OsStr::new("--shards"), folder.path());
    let server = Server::start(&["127.0.0.1:0", &place], &[shards, OsStr::new("2"), path.as_os_str()]);

    let list = run("nbdinfo", &["--list", "--json", &server.uri("")]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&str> =
        list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    for name in ["", "three", "one/", ".hidden", "../one"] {
        let refused = Command::new("nbdinfo").args(["--size", &server.uri(name)]).output().unwrap();
        assert!(!refused.status.success(), "{name:?} is no export");
    }

    let source = path.join(".source");
    let mut bytes = vec![0; 24 << 20];
    bytes[3 << 20..8 << 20].copy_from_slice(&pattern(1, 5 << 20));
    std::fs::write(&source, &bytes).unwrap();
    let unix = format!("nbd+unix:///two?socket={}/.socket", path.display());
    run("nbdcopy", &["--flush", source.to_str().unwrap(), &server.uri("one")]);
    run("nbdcopy", &["--flush", &server.uri("one"), &unix]);
    assert!(std::fs::read(path.join("two")).unwrap() == bytes);
    assert_eq!(std::fs::metadata(path.join("two")).unwrap().blocks() * 512, 5 * MIB, "holes stay holes");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &server.uri("one"), &unix]);
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");
    assert!(!path.join(".socket").exists(), "the socket goes with the server");
}

#[test]
fn who_is_read_only_changes_nothing_and_is_many() {
    if !has("qemu-io") {
        return;
    }
    let folder = folder(&[("disc.img", 1)]);
    let file = folder.path().join("disc.img");
    let read_only = || Server::start(&["127.0.0.1:0"], &[OsStr::new("--read-only"), file.as_os_str()]);
    let (one, two) = (read_only(), read_only());
    run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 0 1M", &two.uri("")]);
    let refused = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", &one.uri("")]).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    // A client that does not look at the flags.
    let mut socket = TcpStream::connect(one.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut client, mut out, mut replies) = (Client::new(), vec![], vec![]);
    client.write_flags(&mut out);
    client.write_go(&mut out, option_type::GO, "", &[]);
    for command in [command_type::WRITE, command_type::TRIM, command_type::WRITE_ZEROES] {
        client.write_request(&mut out, Header { flags: 0, command, cookie: command.into(), offset: 0, length: 4 });
        if command == command_type::WRITE {
            out.extend_from_slice(b"data");
        }
    }
    // All in one piece: what is behind the handshake is for the shard.
    socket.write_all(&out).unwrap();
    let mut bytes = [0; 4096];
    while replies.iter().filter(|reply| matches!(reply, Reply::Simple { error: 1, .. })).count() < 3 {
        let count = socket.read(&mut bytes).unwrap();
        assert!(count > 0, "{replies:?}");
        client.handle_bytes(&bytes[..count], &mut replies).unwrap();
    }
    assert!(refusal(&[file.as_os_str()]).contains("another program has locked it"));
}

#[test]
fn what_cannot_be_served_is_said() {
    let folder = folder(&[("disc.img", 1)]);
    let path = |name: &str| folder.path().join(name);
    let listen = |file: &Path| refusal(&[OsStr::new("--listen"), OsStr::new("127.0.0.1:0"), file.as_os_str()]);
    assert!(listen(&path("absent")).contains("absent"));
    assert!(listen(Path::new("/dev/null")).contains("neither a file nor a directory"));
    std::fs::create_dir(path("empty")).unwrap();
    assert!(listen(&path("empty")).contains("no file in it"));
    let server = Server::tcp(&path("disc.img"));
    assert!(listen(&path("disc.img")).contains("another program has locked it"));
    File::create(path("other")).unwrap();
    let taken = refusal(&[OsStr::new("--listen"), OsStr::new(&server.places[0]), path("other").as_os_str()]);
    assert!(taken.contains(&format!("cannot listen at {}", server.places[0])), "{taken}");
    let both = Command::new("sh")
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh", PROGRAM, "serve"])
        .args(["--listen".as_ref(), "127.0.0.1:0".as_ref(), path("other").as_os_str()])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&both.stderr).contains("exclude each other"), "{both:?}");
    let no_socket = Command::new("sh")
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3</dev/null", "sh", PROGRAM, "serve"])
        .arg(path("other"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&no_socket.stderr).contains("descriptor 3 of LISTEN_FDS"), "{no_socket:?}");
}

#[test]
fn a_limit_on_open_files_that_is_too_low_is_named_at_the_start() {
    let folder = folder(&[("disc.img", 1)]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", PROGRAM]);
    let mut server = Server::start_by(limited, &["127.0.0.1:0"], &[folder.path().join("disc.img").as_os_str()]);
    assert_eq!(server.wait_for_log("open files (RLIMIT_NOFILE) is"), "64,");
}

#[test]
fn an_ordered_stop_ends_clients_and_leaves_the_data() {
    let folder = folder(&[("disc.img", 4)]);
    let file: PathBuf = folder.path().join("disc.img");
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut server = Server::tcp(&file);
        let served = common::Served { number: spine::id::DiscNumber(0), address: server.address() };
        let mut peer = served.connect();
        peer.write(0, &pattern(7, 2 << 20));
        server.signal(signal);
        assert!(peer.is_closed(), "{signal:?}");
        assert!(server.process.wait().unwrap().success(), "{signal:?}");
        assert!(std::fs::read(&file).unwrap()[..2 << 20] == pattern(7, 2 << 20));
    }
}

/// A client in its handshake: asks for `option`, and gives the code of the reply.
fn ask(socket: &mut TcpStream, client: &mut Client, option: u32) -> std::io::Result<u32> {
    let (mut out, mut replies, mut byte) = (vec![], vec![], [0]);
    client.write_option(&mut out, option, &[]);
    socket.write_all(&out)?;
    loop {
        socket.read_exact(&mut byte)?;
        client.handle_bytes(&byte, &mut replies).unwrap();
        if let Some(Reply::Option { reply, .. }) = replies.pop() {
            return Ok(reply);
        }
    }
}

#[test]
fn an_ordered_stop_tells_who_is_in_the_middle_of_the_handshake() {
    let folder = folder(&[("one", 1)]);
    // A client that is kept from its processor for a second comes too late.
    let told = (0..20).any(|_| {
        let server = Server::tcp(&folder.path().join("one"));
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut client, mut flags) = (Client::new(), vec![]);
        client.write_flags(&mut flags);
        socket.write_all(&flags).unwrap();
        assert_eq!(ask(&mut socket, &mut client, option_type::STRUCTURED_REPLY).unwrap(), option_reply::ACK);
        server.signal(rustix::process::Signal::TERM);
        // The listener goes with the signal.
        while TcpStream::connect(server.address()).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let told =
            ask(&mut socket, &mut client, option_type::LIST).is_ok_and(|code| code == option_reply::ERR_SHUTDOWN);
        drop(socket);
        let (status, log) = server.stop();
        assert!(status.success(), "{log}");
        told
    });
    assert!(told);
}

/// Asks for a path by HTTP: the head and the body of the answer.
fn http(address: &str, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn prometheus_is_told_what_was_done() {
    let folder = folder(&[("disc.img", 4)]);
    let file = folder.path().join("disc.img");
    let arguments = ["--metrics".as_ref(), "127.0.0.1:0".as_ref(), file.as_os_str()];
    let mut server = Server::start(&["127.0.0.1:0"], &arguments);
    let told = server.wait_for_log(" at /metrics at=");
    let served = common::Served { number: spine::id::DiscNumber(0), address: server.address() };
    let mut peer = served.connect();
    peer.write(0, &pattern(1, 8192));
    (0..5).for_each(|_| drop(peer.read(4096, 4096)));
    assert_eq!(peer.ask(command_type::FLUSH, 0, 0, 0, &[]).0, 0);

    let (head, body) = http(&told, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    for line in [
        "tail_disc_requests_total{disc=\"disc.img\",command=\"read\"} 5",
        "tail_disc_requests_total{disc=\"disc.img\",command=\"write\"} 1",
        "tail_disc_requests_total{disc=\"disc.img\",command=\"flush\"} 1",
        "tail_disc_bytes_total{disc=\"disc.img\",direction=\"read\"} 20480",
        "tail_disc_bytes_total{disc=\"disc.img\",direction=\"written\"} 8192",
        "tail_disc_connections{disc=\"disc.img\"} 1",
        "tail_disc_request_duration_seconds_count{disc=\"disc.img\",command=\"read\"} 5",
        "tail_disc_request_duration_seconds_bucket{le=\"+Inf\",disc=\"disc.img\",command=\"read\"} 5",
        "tail_disc_failed{disc=\"disc.img\"} 0",
        "# EOF",
    ] {
        assert!(body.lines().any(|told| told == line), "{line} is not in\n{body}");
    }
    assert!(body.contains("tail_shard_completions_per_turn_bucket"), "{body}");

    assert!(http(&told, "GET / HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 404"));
    assert!(http(&told, "POST /metrics HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 405"));
    assert_eq!(http(&told, "HEAD /metrics HTTP/1.0\r\n\r\n").1, "");
    let mut endless = TcpStream::connect(&told).unwrap();
    endless.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed on before all of it is sent.
    let _ = endless.write_all(&[b'x'; 64 << 10]);
    assert!(matches!(endless.read(&mut [0; 16]), Ok(0) | Err(_)), "nobody reads that for ever");
}

#[test]
fn fault14_those_who_are_silent_at_the_door_are_limited_in_number_and_keep_nobody_out() {
    let folder = folder(&[("disc.img", 4)]);
    let place = format!("unix:{}/.socket", folder.path().display());
    let mut server = Server::start(&[&place], &[folder.path().join("disc.img").as_os_str()]);
    let connect = || {
        let socket = UnixStream::connect(folder.path().join(".socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let greeted = |socket: &mut UnixStream| socket.read(&mut [0; 64]).unwrap() > 0;
    let mut silent: Vec<UnixStream> = (0..NEGOTIATING_MAX).map(|_| connect()).collect();
    assert!(silent.iter_mut().all(greeted));
    // They are many times as many as there are places, and each one is let in.
    for nth in 0..3 * NEGOTIATING_MAX {
        let mut late = connect();
        assert!(greeted(&mut late), "number {nth}");
        silent.push(late);
    }
    let told = server.wait_for_log("who has been longest in it is closed at=unix:");
    assert_eq!(told, format!("{}/.socket", folder.path().display()));
    let is_open = |socket: &mut UnixStream| {
        socket.set_nonblocking(true).unwrap();
        matches!(socket.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    let start = Instant::now();
    while silent.iter_mut().filter_map(|socket| is_open(socket).then_some(())).count() > NEGOTIATING_MAX {
        assert!(start.elapsed() < PATIENCE, "no more than there are places stay");
    }
    assert!(silent.iter_mut().rev().take(NEGOTIATING_MAX).all(is_open), "those who came last");
    drop(server);
}
