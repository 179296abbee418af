//! TLS: the clients that people have, and those that nobody wants, against the program and against shards.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use common::{LOOPBACK, MIB, PATIENCE, Served, Tail, has, pattern, run};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};
use tail_nbd::nbd::client::{Client, Reply};
use tail_nbd::nbd::offer::Tls;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::{command_type, option_reply, option_type};
use tail_nbd::shard::{Access, Patience};
use tail_nbd::tls::{Credentials, Files, Front, FrontConfig, Identity};

/// A folder with the certificates that the README tells how to make; none without `openssl`.
fn certificates() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = certificates::make(folder.path());
    if !made {
        has("openssl");
    }
    made.then_some(folder)
}

fn files(folder: &Path, who: &str, authorities: bool) -> Files {
    Files {
        certificate: folder.join(format!("{who}-cert.pem")),
        key: folder.join(format!("{who}-key.pem")),
        authorities: authorities.then(|| folder.join("ca-cert.pem")),
    }
}

/// A front that offers TLS with the server's certificate of a folder.
fn front(folder: &Path, offered: Tls, verify_clients: bool) -> Front {
    let credentials = Credentials::Certificates(files(folder, "server", verify_clients));
    Front::start(FrontConfig { offered, credentials }).unwrap()
}

/// A tail with one disc of 24 MiB, and its front.
fn tail(folder: &Path, offered: Tls, verify_clients: bool, patience: Patience) -> (Tail, Front, Served) {
    let front = front(folder, offered, verify_clients);
    let tail = Tail::start_secured(1, patience, Some(front.clone()));
    let disc = tail.serve(1, 24 * MIB);
    (tail, front, disc)
}

/// The address of a disc as libnbd takes it, with the certificates of a folder.
fn uri(disc: &Served, folder: &Path) -> String {
    format!("nbds://localhost:{}/?tls-certificates={}", disc.address.port(), folder.display())
}

fn fails(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.status.code() != Some(124), "{program} {arguments:?}: {said}");
    said
}

/// Waits until something is so.
fn wait_for(what: &str, mut wanted: impl FnMut() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A client of our own, which has sent STARTTLS in the clear and has read its ACK.
struct Asking {
    socket: TcpStream,
    client: Client,
}

impl Asking {
    /// The error is the reply to STARTTLS.
    fn start(disc: &Served) -> Result<Self, u32> {
        let (mut socket, mut client, mut out) = (disc.socket(), Client::new(), vec![]);
        client.write_flags(&mut out);
        client.write_option(&mut out, option_type::STARTTLS, &[]);
        socket.write_all(&out).unwrap();
        match replies(&mut socket, &mut client, 2).unwrap().pop() {
            Some(Reply::Option { reply: option_reply::ACK, .. }) => Ok(Self { socket, client }),
            Some(Reply::Option { reply, .. }) => Err(reply),
            other => panic!("{other:?}"),
        }
    }

    fn handshake(self, folder: &Path, who: &str) -> Secured {
        let config = Identity::load(files(folder, who, true)).unwrap().client_config().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), self.socket);
        Secured { stream, client: self.client }
    }
}

/// A client of our own, behind its handshake of TLS.
struct Secured {
    stream: StreamOwned<ClientConnection, TcpStream>,
    client: Client,
}

impl Secured {
    fn send(&mut self, write: impl FnOnce(&mut Client, &mut Vec<u8>)) {
        let mut out = vec![];
        write(&mut self.client, &mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn replies(&mut self, count: usize) -> std::io::Result<Vec<Reply>> {
        replies(&mut self.stream, &mut self.client, count)
    }

    /// Gets the export without a name.
    fn go(mut self) -> Self {
        self.send(|client, out| client.write_go(out, option_type::GO, "", &[]));
        let replies = self.replies(2).unwrap();
        assert!(matches!(replies[1], Reply::Option { reply: option_reply::ACK, .. }), "{replies:?}");
        self
    }

    fn request(&mut self, command: u16, offset: u64, length: u64, payload: &[u8]) {
        let header = Header { flags: 0, command, cookie: offset, offset, length };
        self.send(|client, out| {
            client.write_request(out, header);
            out.extend_from_slice(payload);
        });
    }
}

/// So many replies of a server; an error when it ends before.
fn replies(stream: &mut impl Read, client: &mut Client, count: usize) -> std::io::Result<Vec<Reply>> {
    let (mut replies, mut bytes) = (vec![], vec![0; 1 << 16]);
    while replies.len() < count {
        match stream.read(&mut bytes)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => client.handle_bytes(&bytes[..count], &mut replies).unwrap(),
        }
    }
    Ok(replies)
}

/// True when a server closes a socket, whatever it says before.
fn is_closed(socket: &mut TcpStream) -> bool {
    match socket.read_to_end(&mut vec![]) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn libnbd_copies_through_tls_both_ways() {
    let Some(folder) = certificates().filter(|_| has("nbdcopy") && has("nbdinfo")) else { return };
    let (tail, front, disc) = tail(folder.path(), Tls::Required, true, Patience::default());
    let uri = uri(&disc, folder.path());
    let info: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])).unwrap();
    assert_eq!((&info["TLS"], &info["structured"]), (&true.into(), &true.into()), "{info}");
    let (source, target) = (tail.path(90), tail.path(91));
    let mut bytes = vec![0; 24 << 20];
    bytes[5 << 20..9 << 20].copy_from_slice(&pattern(1, 4 << 20));
    fs::write(&source, &bytes).unwrap();
    run("nbdcopy", &["--flush", source.to_str().unwrap(), &uri]);
    assert!(fs::read(tail.path(1)).unwrap() == bytes, "file to disc");
    run("nbdcopy", &[&uri, target.to_str().unwrap()]);
    assert!(fs::read(&target).unwrap() == bytes, "disc to file");
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    wait_for("so are their connections", || front.status().connections_count == 0);
    assert_eq!((front.status().failures_count, front.status().refused_count), (0, 0));
}

#[test]
fn qemu_reads_and_writes_through_tls() {
    let Some(folder) = certificates().filter(|_| has("qemu-img") && has("qemu-io")) else { return };
    let (tail, _front, disc) = tail(folder.path(), Tls::Required, true, Patience::default());
    let credentials = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", folder.path().display());
    let (port, host) = (disc.address.port(), "server.type=inet,server.host=localhost");
    let options = format!("driver=nbd,{host},server.port={port},tls-creds=tls0");
    let info = run("qemu-img", &["info", "--output=json", "--object", &credentials, "--image-opts", &options]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 24 * MIB);
    let commands = ["write -P 0xa5 0 2M", "read -P 0xa5 0 2M", "write -z 64k 64k", "read -P 0 64k 64k", "flush"];
    let mut arguments = vec!["--object", &credentials, "--image-opts", &options];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(fs::read(tail.path(1)).unwrap()[..64 << 10], vec![0xa5; 64 << 10]);
}

#[test]
fn who_is_required_to_use_tls_gets_nothing_without() {
    let Some(folder) = certificates().filter(|_| has("nbdinfo")) else { return };
    let (_tail, _front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    fails("nbdinfo", &[&disc.uri()]);
    fails("nbdinfo", &["--list", &disc.uri()]);
    assert_eq!(disc.connect_as("", Default::default()).err(), Some(option_reply::ERR_TLS_REQD));
    run("nbdinfo", &[&uri(&disc, folder.path())]);
}

#[test]
fn who_is_offered_tls_may_do_without() {
    let Some(folder) = certificates().filter(|_| has("nbdinfo")) else { return };
    let (_tail, front, disc) = tail(folder.path(), Tls::Offered, false, Patience::default());
    run("nbdinfo", &[&disc.uri()]);
    assert_eq!(front.status().handshakes_count, 0);
    run("nbdinfo", &[&uri(&disc, folder.path())]);
    assert!(front.status().handshakes_count > 0);
}

#[test]
fn certificates_of_others_are_refused_on_both_sides() {
    let (Some(ours), Some(others)) = (certificates(), certificates()) else { return };
    if !has("nbdinfo") {
        return;
    }
    let (tail, front, disc) = tail(ours.path(), Tls::Required, true, Patience::default());
    let said = fails("nbdinfo", &[&uri(&disc, others.path())]);
    assert!(said.contains("certificate"), "a server of another authority: {said}");
    // The authority is ours, and the certificate is not of it.
    fs::copy(ours.path().join("ca-cert.pem"), others.path().join("ca-cert.pem")).unwrap();
    fails("nbdinfo", &[&uri(&disc, others.path())]);
    let none = tempfile::tempdir().unwrap();
    fs::copy(ours.path().join("ca-cert.pem"), none.path().join("ca-cert.pem")).unwrap();
    fails("nbdinfo", &[&uri(&disc, none.path())]);
    assert_eq!(front.status().handshakes_count, 0, "{:?}", front.status());
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    run("nbdinfo", &[&uri(&disc, ours.path())]);
}

#[test]
fn strangers_get_no_tls() {
    let Some(folder) = certificates() else { return };
    let front = front(folder.path(), Tls::Required, false);
    let tail = Tail::start_secured(1, Patience::default(), Some(front.clone()));
    let file = tail.file(1);
    file.set_len(MIB).unwrap();
    let disc = tail.serve_file(1, file, MIB, Access::Nobody);
    assert_eq!(Asking::start(&disc).err(), Some(option_reply::ERR_POLICY));
    tail.runtime.block_on(tail.shards().set_access(disc.number, Access::List(vec![LOOPBACK]))).unwrap();
    Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
}

#[test]
fn r131_a_withdrawal_ends_a_connection_through_tls() {
    let Some(folder) = certificates() else { return };
    let (tail, front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    let mut client = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    client.request(command_type::WRITE, 4096, 5, b"hello");
    assert_eq!(client.replies(1).unwrap()[0].error(), 0);
    tail.runtime.block_on(tail.shards().set_access(disc.number, Access::Nobody)).unwrap();
    // It ends as TLS says that an end is to be said: rustls tells any other by an error.
    assert_eq!(client.stream.read(&mut [0; 16]).unwrap(), 0);
    wait_for("the front is left", || front.status().connections_count == 0);
}

#[test]
fn a_client_that_leaves_leaves_nothing_behind() {
    let Some(folder) = certificates() else { return };
    let (tail, front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    let connect = || Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    let mut polite = connect();
    polite.request(command_type::DISC, 0, 0, &[]);
    assert_eq!(polite.stream.read(&mut [0; 16]).unwrap(), 0, "close_notify is answered");
    let mut half = connect();
    half.stream.conn.send_close_notify();
    half.stream.flush().unwrap();
    assert_eq!(half.stream.read(&mut [0; 16]).unwrap(), 0, "an end in one direction is one in both");
    // In the middle of a write, and without a word.
    let mut rude = connect();
    rude.request(command_type::WRITE, 0, 1 << 20, &[7; 1000]);
    drop(rude);
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    wait_for("the front is left", || front.status().connections_count == 0);
}

#[test]
fn what_is_sent_before_an_orderly_stop_arrives_through_tls() {
    let Some(folder) = certificates() else { return };
    let (mut tail, front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    let mut client = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    client.request(command_type::READ, 0, 4 << 20, &[]);
    tail.wait_for(disc.number, "it is worked on", |status| status.counters.reads_count > 0);
    let stop = tail.begin_stop();
    let replies = client.replies(1).unwrap();
    assert!(matches!(&replies[..], [Reply::Simple { error: 0, data, .. }] if data.len() == 4 << 20));
    assert_eq!(client.stream.read(&mut [0; 16]).unwrap(), 0);
    tail.runtime.block_on(stop).unwrap();
    tail.runtime.block_on(front.drain());
    assert_eq!(front.status().connections_count, 0);
}

#[test]
fn rule26_a_client_that_no_other_process_can_take_over_is_closed_when_it_is_answered() {
    let Some(folder) = certificates() else { return };
    let (tail, front, disc) = tail(folder.path(), Tls::Offered, false, Patience::default());
    let mut secured = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    let mut clear = disc.connect();
    secured.request(command_type::READ, 0, 4 << 20, &[]);
    tail.wait_for(disc.number, "it is worked on", |status| status.counters.reads_count > 0);
    let left_count = || tail.runtime.block_on(tail.shards().drain_uncarried());
    assert!(left_count() <= 1);
    let replies = secured.replies(1).unwrap();
    assert!(matches!(&replies[..], [Reply::Simple { error: 0, data, .. }] if data.len() == 4 << 20));
    assert_eq!(secured.stream.read(&mut [0; 16]).unwrap(), 0);
    wait_for("nobody is left", || left_count() == 0);
    assert_eq!(clear.read(0, 512), [0; 512], "who can be taken over stays");
    wait_for("the front is left", || front.status().connections_count == 0);
}

#[test]
fn bytes_in_the_clear_behind_starttls_are_no_commands() {
    let Some(folder) = certificates() else { return };
    let (tail, front, disc) = tail(folder.path(), Tls::Offered, false, Patience::default());
    // With the option, in one piece: closed without an ACK.
    let (mut socket, mut client, mut out) = (disc.socket(), Client::new(), vec![]);
    client.write_flags(&mut out);
    client.write_option(&mut out, option_type::STARTTLS, &[]);
    client.write_go(&mut out, option_type::GO, "", &[]);
    socket.write_all(&out).unwrap();
    let mut said = vec![];
    let _ = socket.read_to_end(&mut said);
    assert_eq!(said.len(), 18, "the greeting is all that it gets");
    // Behind the ACK: it is no TLS.
    let mut late = Asking::start(&disc).unwrap();
    let mut out = vec![];
    late.client.write_go(&mut out, option_type::GO, "", &[]);
    late.socket.write_all(&out).unwrap();
    assert!(is_closed(&mut late.socket));
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    assert_eq!((front.status().handshakes_count, front.status().failures_count), (0, 1));
    assert_eq!(tail.status(disc.number).counters.refused_count, 0, "nobody even asked for an export");
}

#[test]
fn fault14_a_handshake_of_tls_that_stands_still_is_cut_off() {
    let Some(folder) = certificates() else { return };
    let patience = Patience { handshake_seconds: 1, ..Patience::default() };
    let (tail, front, disc) = tail(folder.path(), Tls::Required, false, patience);
    let mut silent = Asking::start(&disc).unwrap();
    assert!(is_closed(&mut silent.socket), "nothing at all");
    let mut slow = Asking::start(&disc).unwrap();
    slow.socket.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    assert!(is_closed(&mut slow.socket), "the start of a ClientHello");
    let mut idle = Asking::start(&disc).unwrap().handshake(folder.path(), "client");
    idle.send(|client, out| client.write_option(out, option_type::LIST, &[]));
    idle.replies(1).unwrap();
    assert_eq!(idle.stream.read(&mut [0; 16]).unwrap(), 0, "no export after the handshake of TLS");
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    wait_for("the front is left", || front.status().connections_count == 0);
    assert_eq!((front.status().handshakes_count, front.status().failures_count), (1, 2));
}

#[test]
fn noise_in_place_of_tls_ends_only_its_own_connection() {
    let Some(folder) = certificates() else { return };
    let (_tail, front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    let mut good = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    for seed in 1..20 {
        let mut noise = Asking::start(&disc).unwrap();
        // It may be closed on before all of it is sent.
        let _ = noise.socket.write_all(&pattern(seed, 4096));
        assert!(is_closed(&mut noise.socket));
    }
    // In the middle of a good connection too.
    let mut broken = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    broken.stream.sock.write_all(&pattern(99, 4096)).unwrap();
    assert!(is_closed(&mut broken.stream.sock));
    good.request(command_type::READ, 0, 512, &[]);
    assert_eq!(good.replies(1).unwrap()[0].error(), 0);
    assert_eq!((front.status().handshakes_count, front.status().failures_count), (2, 19));
}

#[test]
fn a_client_that_reads_nothing_stops_only_itself() {
    let Some(folder) = certificates() else { return };
    let (tail, _front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    let mut lazy = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    for cookie in 0..100 {
        lazy.request(command_type::READ, cookie, 1 << 20, &[]);
    }
    // Another disc: those of one share its buffers.
    let mut other = Asking::start(&tail.serve(2, 24 * MIB)).unwrap().handshake(folder.path(), "client").go();
    for _ in 0..20 {
        other.request(command_type::READ, 0, 1 << 20, &[]);
        assert_eq!(other.replies(1).unwrap()[0].error(), 0);
    }
    let replies = lazy.replies(100).unwrap();
    assert!(replies.iter().all(|reply| reply.error() == 0), "all of it comes in the end");
}

#[test]
fn a_new_certificate_counts_from_the_next_handshake_on() {
    let (Some(folder), Some(new)) = (certificates(), certificates()) else { return };
    let (_tail, front, disc) = tail(folder.path(), Tls::Required, false, Patience::default());
    let mut old = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    for name in ["server-cert.pem", "server-key.pem"] {
        fs::copy(new.path().join(name), folder.path().join(name)).unwrap();
    }
    front.reload().unwrap();
    Asking::start(&disc).unwrap().handshake(new.path(), "client").go();
    fs::write(folder.path().join("server-key.pem"), "no key").unwrap();
    let error = front.reload().unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("server-key.pem"), "{error}");
    Asking::start(&disc).unwrap().handshake(new.path(), "client").go();
    old.request(command_type::FLUSH, 0, 0, &[]);
    assert_eq!(old.replies(1).unwrap()[0].error(), 0, "what is connected stays");
}

/// A file of keys for two names, in a folder as qemu expects it: one as the README tells, and one that is known.
fn keys() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if !has("openssl") {
        return None;
    }
    certificates::run("# A key", folder.path());
    let mut file = fs::OpenOptions::new().append(true).open(folder.path().join("keys.psk")).unwrap();
    writeln!(file, "head2:{HEAD2_KEY}").unwrap();
    Some(folder)
}

const HEAD2_KEY: &str = "c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3";

/// The address of a disc as libnbd takes it, with a name and a file of keys.
fn psk_uri(disc: &Served, name: &str, file: &Path) -> String {
    format!("nbds://{name}@localhost:{}/?tls-psk-file={}", disc.address.port(), file.display())
}

fn psk_tail(folder: &Path) -> (Tail, Front, Served) {
    let credentials = Credentials::Keys(folder.join("keys.psk"));
    let front = Front::start(FrontConfig { offered: Tls::Required, credentials }).unwrap();
    let tail = Tail::start_secured(1, Patience::default(), Some(front.clone()));
    let disc = tail.serve(1, 24 * MIB);
    (tail, front, disc)
}

#[test]
fn libnbd_and_qemu_come_in_with_a_shared_key() {
    let tools = || has("nbdcopy") && has("nbdinfo") && has("qemu-io");
    let Some(folder) = keys().filter(|_| tools()) else { return };
    let (tail, front, disc) = psk_tail(folder.path());
    let uri = psk_uri(&disc, "head1", &folder.path().join("keys.psk"));
    let info: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])).unwrap();
    assert_eq!(info["TLS"], true, "{info}");
    let (source, target) = (tail.path(90), tail.path(91));
    fs::write(&source, pattern(1, 24 << 20)).unwrap();
    run("nbdcopy", &["--flush", source.to_str().unwrap(), &uri]);
    run("nbdcopy", &[&psk_uri(&disc, "head2", &folder.path().join("keys.psk")), target.to_str().unwrap()]);
    assert!(fs::read(&target).unwrap() == pattern(1, 24 << 20));
    let credentials = format!("tls-creds-psk,id=tls0,endpoint=client,username=head2,dir={}", folder.path().display());
    let port = disc.address.port();
    let options = format!("driver=nbd,server.type=inet,server.host=localhost,server.port={port},tls-creds=tls0");
    let commands = ["-c", "write -P 7 1M 2M", "-c", "read -P 7 1M 2M", "-c", "flush"];
    let said = run("qemu-io", &[&["--object", &credentials, "--image-opts", &options], &commands[..]].concat());
    assert!(!said.contains("failed"), "{said}");
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    wait_for("so are their connections", || front.status().connections_count == 0);
    assert_eq!(front.status().failures_count, 0);
}

#[test]
fn wrong_keys_and_names_and_certificates_are_no_shared_key() {
    let Some(folder) = keys().filter(|_| has("nbdinfo")) else { return };
    let (tail, front, disc) = psk_tail(folder.path());
    let other = folder.path().join("other.psk");
    fs::write(&other, format!("head1:{}\nhead3:{}\n", "77".repeat(32), HEAD2_KEY)).unwrap();
    fails("nbdinfo", &[&psk_uri(&disc, "head1", &other)]);
    fails("nbdinfo", &[&psk_uri(&disc, "head3", &other)]);
    fails("nbdinfo", &[&disc.uri()]);
    if let Some(certificates) = certificates() {
        fails("nbdinfo", &[&uri(&disc, certificates.path())]);
    }
    let mut noise = Asking::start(&disc).unwrap();
    let _ = noise.socket.write_all(&pattern(1, 4096));
    assert!(is_closed(&mut noise.socket));
    assert_eq!(front.status().handshakes_count, 0, "{:?}", front.status());
    tail.wait_for(disc.number, "they are gone", |status| status.clients.is_empty());
    // A key that is taken away counts from the next handshake on.
    let file = folder.path().join("keys.psk");
    run("nbdinfo", &[&psk_uri(&disc, "head1", &file)]);
    let kept = folder.path().join("kept.psk");
    fs::copy(&file, &kept).unwrap();
    fs::write(&file, format!("head2:{HEAD2_KEY}\n")).unwrap();
    front.reload().unwrap();
    fails("nbdinfo", &[&psk_uri(&disc, "head1", &kept)]);
}

/// The stand-alone server, killed at the end.
struct Program {
    process: Child,
    log: BufReader<ChildStderr>,
}

impl Program {
    const PATH: &str = env!("CARGO_BIN_EXE_tail-nbd");

    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(Self::PATH);
        let mut process = command.arg("serve").args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        Self { process, log }
    }

    /// The word that follows `what` in the log.
    fn wait_for_log(&mut self, what: &str) -> String {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it ended: {:?}", self.process.wait());
        }
        line.split_once(what).unwrap().1.split_ascii_whitespace().next().unwrap_or_default().to_owned()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error says that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn files_are_served_through_tls_and_certificates_read_again() {
    let (Some(folder), Some(new)) = (certificates(), certificates()) else { return };
    if !has("nbdinfo") || !has("nbdcopy") {
        return;
    }
    let discs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(discs.path().join("a"), pattern(1, 3 << 20)).unwrap();
    fs::write(discs.path().join("b"), pattern(2, 1 << 20)).unwrap();
    let (tls, path) = (folder.path().to_str().unwrap(), discs.path().to_str().unwrap());
    let mut program =
        Program::start(&["--listen", "127.0.0.1:0", "--tls-certificates", tls, "--tls-verify-peer", path]);
    let place = program.wait_for_log(" listening at=");
    let port = place.rsplit(':').next().unwrap();
    let uri = |name: &str, tls: &str| format!("nbds://localhost:{port}/{name}?tls-certificates={tls}");
    fails("nbdinfo", &[&format!("nbd://localhost:{port}/a")]);
    let list = run("nbdinfo", &["--list", &uri("", tls)]);
    assert!(list.contains("export=\"a\"") && list.contains("export=\"b\""), "{list}");
    let target = discs.path().join("copy");
    run("nbdcopy", &[&uri("a", tls), target.to_str().unwrap()]);
    assert!(fs::read(&target).unwrap() == pattern(1, 3 << 20));
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        fs::copy(new.path().join(name), folder.path().join(name)).unwrap();
    }
    program.signal(rustix::process::Signal::HUP);
    program.wait_for_log("SIGHUP: the certificates were read again");
    run("nbdinfo", &[&uri("b", new.path().to_str().unwrap())]);
    program.signal(rustix::process::Signal::TERM);
    assert!(program.process.wait().unwrap().success());
}

#[test]
fn what_is_wrong_with_the_files_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let disc = folder.path().join("disc");
    fs::write(&disc, [0; 512]).unwrap();
    let keys = folder.path().join("keys.psk");
    fs::write(&keys, "head1:beef\n").unwrap();
    let (disc, keys) = (disc.to_str().unwrap(), keys.to_str().unwrap());
    let serve = |arguments: &[&str]| {
        let output = Command::new(Program::PATH).arg("serve").args(arguments).arg(disc).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = serve(&["--tls-certificates", path]);
    assert!(code == Some(1) && said.contains("server-cert.pem: No such file"), "{said}");
    let (code, said) = serve(&["--tls-psk", keys]);
    assert!(code == Some(1) && said.contains("keys.psk:1: a key has 32") && !said.contains("beef"), "{said}");
    for wrong in [
        &["--tls", "required"][..],
        &["--tls-verify-peer"],
        &["--tls", "on", "--tls-psk", keys],
        &["--tls-psk", keys, "--tls-certificates", path],
    ] {
        assert_eq!(serve(wrong).0, Some(2), "{wrong:?}: {}", serve(wrong).1);
    }
}

#[test]
fn rule26_a_client_through_tls_is_not_carried_to_another_process_and_goes_on_in_this_one() {
    let Some(folder) = certificates() else { return };
    let (tail, _front, disc) = tail(folder.path(), Tls::Offered, false, Patience::default());
    let mut clear = disc.connect();
    let mut secured = Asking::start(&disc).unwrap().handshake(folder.path(), "client").go();
    secured.request(command_type::WRITE, 4096, 5, b"hello");
    assert_eq!(secured.replies(1).unwrap()[0].error(), 0);
    let shards = tail.shards();
    tail.runtime.block_on(shards.freeze_all()).unwrap();
    let carried = tail.runtime.block_on(shards.carry_all()).unwrap();
    assert_eq!(carried[0].clients.len(), 1, "only the one in the clear");
    let carried_to = TcpStream::from(carried[0].clients[0].socket.try_clone().unwrap()).peer_addr().unwrap();
    assert_eq!(carried_to, clear.socket.local_addr().unwrap());
    drop(carried);
    secured.request(command_type::READ, 4096, 5, &[]);
    tail.runtime.block_on(shards.thaw_all());
    assert!(matches!(&secured.replies(1).unwrap()[0], Reply::Simple { error: 0, data, .. } if data == b"hello"));
    assert_eq!(clear.read(4096, 5), b"hello");
}
