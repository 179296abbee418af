//! The two helpers that run inside a namespace: one becomes a daemon's program, one carries an ssh session.

use crate::error::LabError;
use rustix::{
    fd::{AsFd, AsRawFd, IntoRawFd},
    io::FdFlags,
    thread::LinkNameSpaceType,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

/// The descriptor at which systemd, and so the lab, hands over the first listening socket.
const LISTEN_FD: i32 = 3;

/// Becomes `program`, in a session of its own, as if systemd had started it with the listening socket
/// that is this process's standard input (when `listener` is set). Returns only if it cannot.
pub fn become_daemon(program: &str, arguments: &[String], listener: bool) -> LabError {
    // A leader of a group cannot begin a session; the lab starts this helper in the lab's own group.
    let _ = rustix::process::setsid();
    let mut command = Command::new(program);
    command.args(arguments).env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
    if listener {
        if let Err(error) = hand_over_listener() {
            return LabError::io("hand over the listening socket to", program)(error);
        }
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    }
    LabError::io("run", program)(command.exec())
}

/// Moves standard input to descriptor 3, open for the program to come, and puts /dev/null in its place.
fn hand_over_listener() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    if socket.as_raw_fd() != LISTEN_FD {
        return Err(io::Error::other(format!("descriptor {LISTEN_FD} is taken, got {}", socket.as_raw_fd())));
    }
    rustix::io::fcntl_setfd(&socket, FdFlags::empty())?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    // It must stay open over the exec.
    let _ = socket.into_raw_fd();
    Ok(())
}

/// Connects to `address` from inside a namespace and carries bytes between it and standard input and
/// output, until the far end has closed. For ssh's `ProxyCommand`.
pub fn connect(namespace: &Path, address: IpAddr, port: u16) -> Result<(), LabError> {
    let file = File::open(namespace).map_err(LabError::io("open", namespace))?;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| LabError::io("enter", namespace)(error.into()))?;
    let far = SocketAddr::new(address, port);
    let failed = || LabError::io("connect to", far.to_string());
    let socket = TcpStream::connect_timeout(&far, Duration::from_secs(10)).map_err(failed())?;
    let mut towards = socket.try_clone().map_err(failed())?;
    // This thread is left behind, reading, when the far end closes first.
    thread::spawn(move || {
        let _ = carry(io::stdin(), &mut towards);
        let _ = towards.shutdown(Shutdown::Write);
    });
    carry(socket, io::stdout()).map_err(failed())
}

/// Like `io::copy`, but what has arrived is passed on at once: standard output is line-buffered.
fn carry(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..length])?;
        to.flush()?;
    }
}
