//! From a checked machine to a running guest, and back to nothing.
//!
//! What has been made so far is always in [`Parts`] or findable by the machine's id and uid, so that a
//! start may fail, or be dropped, at any step: [`clean_up`] removes whatever there is.

use super::{cdrom, spec::Spec};
use crate::{
    adopt::Record,
    console::{Console, ConsoleConfig, ConsoleUsers},
    control::refusal,
    disc::{self, DiscError, tls::DiscTls},
    host::Host,
    hypervisor::{
        command_line::arguments,
        monitor::{Monitor, MonitorError},
        process::{Launch, Mark, Qemu, last_line},
    },
    limits::{COMMAND_DEADLINE, KILL_DEADLINE, SOCKET_PATH_BYTES_MAX},
    network::{
        apply::{NetworkError, ensure},
        firewall::FirewallError,
    },
};
use serde_json::{Value, json};
use spine::{id::VmId, message::Refusal, resource::Attributes, resource::vm::VmResource};
use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::Path,
    time::Duration,
};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

/// A machine that this head is to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which.
    pub id: VmId,
    /// Its own uid, for as long as it is here.
    pub uid: u32,
    /// All of it.
    pub resource: VmResource,
    /// All of it, checked.
    pub spec: Spec,
}

/// What a machine consists of, as far as it has been made.
#[derive(Debug, Default)]
pub struct Parts {
    /// Its process.
    pub qemu: Option<Qemu>,
    /// The way to talk to it.
    pub monitor: Option<Monitor>,
    /// Its serial console.
    pub console: Option<Console>,
    /// What did not work and did not stop it, to be shown with it.
    pub notes: Attributes,
}

/// Why a machine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The operating system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Its cards have no taps.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It cannot be kept off the discs of others, or let to its own.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A disc is not there, or not for this machine.
    #[error(transparent)]
    Disc(#[from] DiscError),
    /// qemu did not do as it was told.
    #[error("{source}{ending}")]
    Qemu {
        /// What it did.
        source: MonitorError,
        /// How it ended, if it did.
        ending: String,
    },
    /// The name is too long for the sockets' paths.
    #[error("vm: {0:?} is too long for a name on this head: its runtime_dir would have to be shorter")]
    Name(VmId),
    /// It took too long as a whole.
    #[error("the start took more than {} s", crate::limits::START_DEADLINE.as_secs())]
    Late,
    /// It was removed before it had started.
    #[error("it was removed while it was being started")]
    Removed,
}

impl StartError {
    /// As it is answered to the brain.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Io { .. } => "io-error",
            Self::Network(_) | Self::Firewall(_) => "network-error",
            Self::Disc(_) => "disc-unreachable",
            Self::Qemu { .. } | Self::Late => "qemu-error",
            Self::Name(_) => "bad-value",
            Self::Removed => "removed",
        };
        refusal(code, self.to_string())
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// Starts a machine. On any error, or when the future is dropped, call [`clean_up`].
///
/// # Errors
/// Why it does not run.
pub async fn start(host: &Host, job: &Job, parts: &mut Parts) -> Result<(), StartError> {
    if host.place(&job.id, &job.spec, job.uid).vnc_socket().as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(StartError::Name(job.id.clone()));
    }
    // From here on a supervisor that starts anew finds what is left over by this record.
    write_record(host, job, None, false)?;
    ensure(&host.taps(&job.spec, job.uid), &(job.uid..=job.uid)).await?;
    host.firewall.admit(job.uid, &job.spec.discs).await?;
    let connection = spawn(host, job, parts)?;
    write_record(host, job, parts.qemu.as_ref().map(Qemu::mark), false)?;
    match boot(host, job, parts, connection).await {
        Err(StartError::Qemu { source, .. }) => {
            let ending = how_it_ended(parts, &host.files.log(&job.id)).await;
            return Err(StartError::Qemu { source, ending });
        }
        result => result?,
    }
    write_record(host, job, parts.qemu.as_ref().map(Qemu::mark), true)
}

/// Keeps what a new supervisor must know.
///
/// # Errors
/// When it cannot be written.
pub fn write_record(host: &Host, job: &Job, mark: Option<Mark>, running: bool) -> Result<(), StartError> {
    let record = Record {
        id: job.id.clone(),
        boot_id: host.boot_id.clone(),
        uid: job.uid,
        mark,
        running,
        accelerator: host.accelerator,
        resource: job.resource.clone(),
    };
    host.files.write(&record).map_err(io_error("keep the machine's record"))
}

/// The connection to its monitor.
fn spawn(host: &Host, job: &Job, parts: &mut Parts) -> Result<UnixStream, StartError> {
    let directory = host.files.directory(&job.id);
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(io_error("make the machine's directory"))?;
    chown(&directory, Some(job.uid), Some(job.uid)).map_err(io_error("give the machine its directory"))?;
    let log = host.files.log(&job.id);
    let mut options = fs::OpenOptions::new();
    let log = options.create(true).append(true).mode(0o600).open(log).map_err(io_error("open the machine's log"))?;
    let arguments = arguments(&job.spec, &host.place(&job.id, &job.spec, job.uid));
    let connect = || {
        let (ours, qemus) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        io::Result::Ok((UnixStream::from_std(ours)?, qemus))
    };
    let (connection, qemus) = connect().map_err(io_error("make the connection to the monitor"))?;
    let qemu = Qemu::spawn(Launch {
        helper: &host.helper,
        identity: host.identity(&job.spec, job.uid),
        qemu: &host.config.qemu,
        arguments: &arguments,
        stdin: Some(listen(&host.files.monitor(&job.id)).map_err(io_error("listen for the monitor"))?),
        stdout: Some(listen(&host.files.serial(&job.id)).map_err(io_error("listen for the serial port"))?),
        connection: Some(qemus.into()),
        log,
    });
    parts.qemu = Some(qemu.map_err(io_error("start qemu"))?);
    Ok(connection)
}

/// A unix socket that only root can connect to.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

/// Making the devices of a machine takes longer the more memory it has.
const DEVICES_DEADLINE: Duration = Duration::from_secs(30);

/// Over the monitor: discs, devices, CD, console, and only then the guest.
async fn boot(host: &Host, job: &Job, parts: &mut Parts, connection: UnixStream) -> Result<(), StartError> {
    let failed = |source| StartError::Qemu { source, ending: String::new() };
    let monitor = Monitor::over(connection, DEVICES_DEADLINE).await.map_err(failed)?;
    parts.monitor = Some(monitor.clone());
    open_discs(host, job, &monitor).await?;
    monitor.execute("x-exit-preconfig", json!({}), DEVICES_DEADLINE).await.map_err(failed)?;
    if let Some(cd) = &job.spec.cdrom {
        // A machine runs without its CD rather than not at all: CDs come from servers of others.
        if let Err(error) = cdrom::change(&monitor, Some(cd)).await {
            note(parts, job, CDROM_ERROR, cdrom::complaint(&error));
        }
    }
    open_console(host, job, parts).await;
    // It takes hold of the discs, whose tails may be busy.
    monitor.execute("cont", json!({}), DEVICES_DEADLINE).await.map_err(failed)?;
    Ok(())
}

async fn open_discs(host: &Host, job: &Job, monitor: &Monitor) -> Result<(), StartError> {
    let tls = host.config.disc_tls.as_ref();
    let lend = |tls: &DiscTls| tls.lend(&host.files.directory(&job.id), job.uid);
    let loan = tls.map(lend).transpose().map_err(io_error("give the machine its certificate"))?;
    if let Some(loan) = &loan {
        let made = monitor.execute("object-add", loan.credentials(), COMMAND_DEADLINE).await;
        made.map_err(|source| StartError::Qemu { source, ending: String::new() })?;
    }
    for (n, disc) in job.spec.discs.iter().enumerate() {
        disc::open(monitor, n, disc, tls).await?;
    }
    Ok(())
}

/// Beside `cdrom_url`: why the drive is empty nevertheless.
pub const CDROM_ERROR: &str = "cdrom_error";
/// Beside `management_address`: why there is no console nevertheless.
pub const CONSOLE_ERROR: &str = "console_error";

fn note(parts: &mut Parts, job: &Job, name: &str, text: String) {
    tracing::warn!(vm = %job.id, text, "a machine runs, but not all of it");
    parts.notes.insert(name.to_owned(), Value::String(text));
}

/// Opens the serial console, if the machine has an address for it. The guest matters more: a console that
/// cannot be had is noted.
pub async fn open_console(host: &Host, job: &Job, parts: &mut Parts) {
    let Some(address) = job.resource.management_address else { return };
    let config = ConsoleConfig {
        listen: SocketAddr::new(address, host.config.console_port),
        interface: host.config.management_interface.clone(),
        host_keys: job.resource.management_ssh_keys.clone(),
        users: users(&job.resource),
        serial: host.files.serial(&job.id),
        name: job.resource.display_name.clone(),
    };
    match Console::start(config).await {
        Ok(console) => parts.console = Some(console),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            note(parts, job, CONSOLE_ERROR, format!("{error}{cause}"));
        }
    }
}

/// Who may use the console (R111, R112).
pub fn users(resource: &VmResource) -> ConsoleUsers {
    ConsoleUsers { names: resource.console_users.clone(), authentication: resource.user_authentication.clone() }
}

/// A qemu that closed its monitor is ending: its last words explain more than the closed monitor.
async fn how_it_ended(parts: &mut Parts, log: &Path) -> String {
    let Some(qemu) = &mut parts.qemu else { return String::new() };
    let complaint = last_line(log).map(|line| format!(": {line}")).unwrap_or_default();
    match timeout(Duration::from_secs(2), qemu.wait()).await {
        Ok(exit) => {
            let complaint = last_line(log).map(|line| format!(": {line}")).unwrap_or_default();
            format!("; qemu exited with {exit}{complaint}")
        }
        Err(_) => complaint,
    }
}

/// Removes all that there is of a machine. Its uid is free again when this returns.
pub async fn clean_up(host: &Host, id: &VmId, uid: u32, parts: &mut Parts) {
    parts.monitor = None;
    if let Some(mut qemu) = parts.qemu.take() {
        qemu.kill();
        while timeout(KILL_DEADLINE, qemu.wait()).await.is_err() {
            tracing::error!(vm = %id, pid = qemu.mark().pid, "qemu does not die of SIGKILL: it hangs in the kernel");
            qemu.kill();
        }
    }
    stop_console(id, parts).await;
    if let Err(error) = ensure(&[], &(uid..=uid)).await {
        tracing::error!(vm = %id, %error, "cannot remove a machine's taps");
    }
    if let Err(error) = host.firewall.withdraw(uid).await {
        tracing::error!(vm = %id, %error, "cannot take back a machine's way to its discs");
    }
    if let Err(error) = host.files.remove(id) {
        tracing::error!(vm = %id, %error, "cannot remove a machine's files");
    }
}

/// Closes the console. Its viewers are told, but must not hold up what comes after.
pub async fn stop_console(id: &VmId, parts: &mut Parts) {
    let Some(console) = parts.console.take() else { return };
    if timeout(CONSOLE_DEADLINE, console.stop()).await.is_err() {
        tracing::warn!(vm = %id, "the console's viewers do not leave in time");
    }
}

/// For goodbyes, and for taking the address down.
const CONSOLE_DEADLINE: Duration = Duration::from_secs(5);
