//! `bigv-head`: the supervisor of virtual machines on one server.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use head::{
    adopt::Files,
    config::{Accel, Config},
    control::{adoption::survey, preflight, supervisor::Supervisor},
    host::Host,
    hypervisor::{command_line::Accelerator, exec, kvm, process::this_program},
    network::firewall::Firewall,
};
use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};

/// Runs virtual machines on one server, as the brain orders.
#[derive(Parser)]
#[command(name = "bigv-head", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bigv-head run --config /etc/bigv/head.toml
  RUST_LOG=head=debug bigv-head run --config head.toml

Machines outlive this program: SIGTERM ends the supervisor alone, and the next one takes the machines
over (restart_policy = \"adopt\", the default).";

#[derive(Subcommand)]
enum Command {
    /// Connect to the brain and run machines until SIGTERM or SIGINT.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Give up all rights and become qemu.
    #[command(hide = true)]
    ExecQemu {
        #[arg(long)]
        uid: u32,
        #[arg(long)]
        kvm_group: Option<u32>,
        #[arg(long)]
        network: bool,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::ExecQemu { uid, kvm_group, network, command } => {
            let (program, arguments) = command.split_first().expect("clap requires one");
            Err(exec::exec(exec::Identity { uid, kvm_group, network }, Path::new(program), arguments).into())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = writeln!(io::stderr(), "bigv-head: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let config = Config::read(file)?;
    let _lock = preflight::take_directories(&config)?;
    spine::daemon::raise_open_files();
    preflight::check_disc_tls(&config)?;
    let qemu_version = preflight::qemu_version(&config.qemu)?;
    preflight::check_surroundings(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(supervise(config, &qemu_version))
}

/// The supervisor waits more than it works; the processors are the guests'.
const WORKERS: usize = 2;

async fn supervise(config: Config, qemu_version: &str) -> Result<()> {
    let boot_id = preflight::boot_id().context("cannot learn the kernel's boot id")?;
    let firewall =
        Firewall::new(&config).await.context("machines cannot be fenced in (firewall = \"warn\" would do without)")?;
    let accelerator = choose(&config, &boot_id, qemu_version).await;
    tracing::info!(name = %config.name, qemu_version, accelerator = accelerator.as_str(), "starting");
    let files = Files::new(&config.runtime_dir);
    let host = Host { config, accelerator, files, boot_id, firewall, helper: this_program() };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let adopted = survey(&host).await.context("cannot look for machines of an earlier supervisor")?;
    let permitted = adopted.iter().map(|machine| (machine.job.uid, machine.job.spec.discs.as_slice()));
    host.firewall.keep(permitted).await.context("machines cannot be fenced in")?;
    let supervisor = Supervisor::new(host, adopted);
    if let Err(error) = spine::daemon::notify("READY=1") {
        tracing::warn!(%error, "cannot tell the service manager that this daemon is ready");
    }
    tracing::info!("ready");
    supervisor
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    tracing::info!("stopped");
    Ok(())
}

async fn choose(config: &Config, boot_id: &str, qemu_version: &str) -> Accelerator {
    let bench = kvm::Bench {
        helper: &this_program(),
        qemu: &config.qemu,
        // The last one to be given to a machine.
        uid: *config.uid_range.end(),
        runtime_dir: &config.runtime_dir,
        state_dir: &config.state_dir,
    };
    match config.accel {
        Accel::Kvm => Accelerator::Kvm,
        Accel::Tcg => Accelerator::Tcg,
        Accel::Auto if kvm::works(&bench, boot_id, qemu_version).await => Accelerator::Kvm,
        Accel::Auto => Accelerator::Tcg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = include_str!("../bigv-head.service");

    #[test]
    fn r176_the_service_starts_a_supervisor_and_ends_no_machine() {
        let line = SERVICE.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        assert!(matches!(arguments.command, Command::Run { .. }), "{line}");
        assert!(SERVICE.lines().any(|line| line == "KillMode=process"), "systemd would end every qemu with it");
        assert!(SERVICE.lines().any(|line| line == "RuntimeDirectoryPreserve=yes"), "the machines' records are there");
    }
}
