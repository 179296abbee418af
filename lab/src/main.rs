//! `bigv-lab`: reads the command line, calls [`lab::cluster`], prints.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::{Parser, Subcommand};
use lab::{
    cluster::{self, Cluster, Wanted},
    enter, network, plan,
    plan::{LabName, Node},
    process, profile,
};
use rustix::process::Signal;
use std::{
    io::Write,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// A whole BigV cluster on this machine, in network namespaces: a brain, heads, tails, and a
/// customer's side from which consoles are reached.
///
/// It needs to be root. Nothing is made outside the namespaces, the lab's directory, your `bigv`
/// profile and a link in /usr/local/bin; `down` takes all of that away again.
#[derive(Parser)]
#[command(name = "bigv-lab", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  bigv-lab up                          a brain, two heads, two tails
  bigv-lab up --name other --heads 1   another one beside it
  bigv-lab status                      what runs
  bigv-lab logs head1                  what head1's daemon says
  bigv-lab shell tail1                 a shell in tail1's namespace: `ip addr`, `ss -t`…
  bigv-lab kill tail1; bigv-lab start tail1
  bigv-lab down                        all of it gone";

#[derive(Subcommand)]
enum Command {
    /// Bring the lab up, or what is missing of it. Harmless when it is up.
    Up(Up),
    /// Take away every trace of the lab: processes, namespaces, files, profile and link.
    Down {
        #[command(flatten)]
        lab: Named,
    },
    /// Show the lab's nodes and what runs on them.
    Status {
        #[command(flatten)]
        lab: Named,
    },
    /// Open a shell (or run a command) in a node's namespace.
    Shell {
        #[command(flatten)]
        lab: Named,
        /// brain, head1…, tail1…, customer or switch.
        node: String,
        /// The command; $SHELL if none.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Show a node's log.
    Logs {
        #[command(flatten)]
        lab: Named,
        /// brain, head1… or tail1….
        node: String,
        /// Go on showing what is added to it.
        #[arg(short, long)]
        follow: bool,
    },
    /// End a node's daemon at once, by SIGKILL. A head's guests go on running.
    Kill {
        #[command(flatten)]
        lab: Named,
        /// brain, head1… or tail1….
        node: String,
        /// Ask it to end, by SIGTERM, and wait until it has.
        #[arg(long)]
        gently: bool,
    },
    /// Start a node's daemon again.
    Start {
        #[command(flatten)]
        lab: Named,
        /// brain, head1… or tail1….
        node: String,
    },
    /// Carry standard input and output to an address in the lab, for ssh's ProxyCommand.
    Connect {
        #[command(flatten)]
        lab: Named,
        /// An IP address on the management or public LAN.
        host: IpAddr,
        /// The port.
        port: u16,
    },
    /// Become a daemon's program; what `up` runs inside a namespace.
    #[command(hide = true)]
    Exec {
        /// Hand over standard input as a listening socket.
        #[arg(long)]
        listener: bool,
        program: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Named {
    /// Which lab.
    #[arg(long, default_value = "lab")]
    name: LabName,
}

#[derive(clap::Args)]
struct Up {
    #[command(flatten)]
    lab: Named,
    /// The lab's directory: /var/lib/bigv-lab/NAME unless given. PostgreSQL's user must be able to reach it.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where bigv-brain, bigv-head, tail-nbd and bigv are: beside this program unless given.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where tiny.raw, the disc image, is.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/bigv/images")]
    images: PathBuf,
    /// How many heads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(plan::NODES_MAX)))]
    heads: u8,
    /// How many tails.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(plan::NODES_MAX)))]
    tails: u8,
    /// Do not link `bigv` into /usr/local/bin.
    #[arg(long)]
    no_link: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bigv-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(arguments) => up(arguments)?,
        Command::Down { lab } => down(&lab.name)?,
        Command::Status { lab } => return status(&lab.name),
        Command::Shell { lab, node, command } => shell(&lab.name, &node, command)?,
        Command::Logs { lab, node, follow } => logs(&lab.name, &node, follow)?,
        Command::Kill { lab, node, gently } => kill(&lab.name, &node, gently)?,
        Command::Start { lab, node } => {
            let mut cluster = Cluster::open(&lab.name)?;
            let node = cluster.state.plan.node(&node)?;
            cluster.start(node, &mut progress())?;
        }
        Command::Connect { lab, host, port } => {
            let cluster = Cluster::open(&lab.name)?;
            let namespace = cluster.state.plan.namespace(Node::Customer);
            enter::connect(&network::namespace_path(&namespace), host, port)?;
            // The thread that reads standard input is still there.
            std::process::exit(0);
        }
        Command::Exec { listener, program, arguments } => {
            return Err(enter::become_daemon(&program, &arguments, listener).into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(arguments: Up) -> anyhow::Result<()> {
    need_root()?;
    let programs = match arguments.bin_dir {
        Some(directory) => directory,
        None => std::env::current_exe()?.parent().context("this program has no directory")?.to_owned(),
    };
    let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| format!("{}", path.display()));
    let wanted = Wanted {
        name: arguments.lab.name,
        heads: arguments.heads,
        tails: arguments.tails,
        root: arguments.state.map(absolute).transpose()?,
        programs: absolute(programs)?,
        images: absolute(arguments.images)?,
        link: !arguments.no_link,
    };
    let before = Cluster::find(&wanted.name)?.is_some_and(|cluster| cluster.state.complete && cluster.all_run());
    let cluster = Cluster::up(&wanted, &mut progress()).with_context(|| {
        format!("lab {} is not up; `bigv-lab down --name {}` clears away what there is of it", wanted.name, wanted.name)
    })?;
    let bigv = profile::command_line(&cluster);
    let name = &cluster.state.plan.name;
    say(&format!(
        "\nLab {name} {}. Its API is at {}; its files are in {}.\n\nNow type:\n\n  \
         {bigv} vm new web1 --vm-distribution tiny --vm-discs sata:1GB,ssd:2GB\n  \
         {bigv} vm console web1          (log in as root; leave with Enter ~ .)\n\n\
         `bigv-lab status` shows its nodes, `bigv-lab down` takes it all away.",
        if before { "is up already" } else { "is up" },
        cluster.endpoint().unwrap_or_default(),
        cluster.layout.root.display(),
    ))
}

fn down(name: &LabName) -> anyhow::Result<()> {
    need_root()?;
    let was = Cluster::down(name, &mut progress())?;
    say(&format!("Lab {name} {}.", if was { "is gone" } else { "is not there: nothing to take away" }))
}

fn status(name: &LabName) -> anyhow::Result<ExitCode> {
    need_root()?;
    let Some(cluster) = Cluster::find(name)? else {
        say(&format!("Lab {name} is down. `bigv-lab up --name {name}` brings it up."))?;
        return Ok(ExitCode::FAILURE);
    };
    say(&format!(
        "Lab {name}: API {}, files {}\n",
        cluster.endpoint().unwrap_or_default(),
        cluster.layout.root.display()
    ))?;
    say(&format!("{:<10} {:<14} {:>8} {:>10}  {:<22} LOG", "NODE", "STATE", "PID", "PROCESSES", "NAMESPACE"))?;
    for node in cluster.status()? {
        let pid = node.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let log = node.node.program().map_or("-".to_owned(), |_| cluster.layout.log(node.node).display().to_string());
        let (name, namespace) = (node.node.to_string(), node.namespace);
        say(&format!("{name:<10} {:<14} {pid:>8} {:>10}  {namespace:<22} {log}", node.state, node.processes))?;
    }
    Ok(if cluster.all_run() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shell(name: &LabName, node: &str, command: Vec<String>) -> anyhow::Result<()> {
    need_root()?;
    let plan = Cluster::open(name)?.state.plan;
    let namespace = plan.namespace(plan.node(node)?);
    let words = if command.is_empty() {
        vec![std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())]
    } else {
        command
    };
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", &namespace]).args(words);
    Err(command.exec()).context("cannot run ip")
}

fn logs(name: &LabName, node: &str, follow: bool) -> anyhow::Result<()> {
    let cluster = Cluster::open(name)?;
    let log = cluster.layout.log(cluster.state.plan.node(node)?);
    let mut command = std::process::Command::new("tail");
    command.args(["-n", "+1"]).args(follow.then_some("-F")).arg(log);
    Err(command.exec()).context("cannot run tail")
}

fn kill(name: &LabName, node: &str, gently: bool) -> anyhow::Result<()> {
    let cluster = Cluster::open(name)?;
    let node = cluster.state.plan.node(node)?;
    let record = cluster.running(node).with_context(|| format!("{node} runs no daemon"))?;
    record.signal(if gently { Signal::TERM } else { Signal::KILL });
    anyhow::ensure!(
        process::wait(Duration::from_secs(60), || !record.alive()),
        "{node} (pid {}) still runs after a minute",
        record.pid
    );
    Ok(())
}

/// A line for each step, with the time since the command was given.
fn progress() -> impl FnMut(&str) {
    let start = Instant::now();
    move |step| {
        let _ = say(&format!("{}  {step}", cluster::elapsed(start)));
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn need_root() -> anyhow::Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "it makes network namespaces, so it must be run by root");
    Ok(())
}
