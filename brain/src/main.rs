//! `bigv-brain`: the control plane's daemon, and its commands for an operator's shell.
#![forbid(unsafe_code)]

mod daemon;

use anyhow::{Context as _, Result, bail};
use brain::{
    config::Config,
    embedded::Embedded,
    model::privilege::Level,
    service::users::{self, AddUser, NewUser},
    store::{Store, cluster},
};
use clap::{Args, Parser, Subcommand};
use spine::secret::Secret;
use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "Examples:
  bigv-brain migrate --config /etc/bigv/brain.toml
  bigv-brain run --config /etc/bigv/brain.toml
  bigv-brain run --config brain.toml --embedded /var/lib/bigv-brain/postgresql
  bigv-brain user add alice --account acme --password-stdin < password
  bigv-brain take-over --config /etc/bigv/brain.toml

RUST_LOG chooses what is logged: RUST_LOG=debug, or RUST_LOG=brain::reconcile=debug.";

/// The brain of a BigV cluster: keeps what should be in PostgreSQL, and makes heads and tails match it.
#[derive(Debug, Parser)]
#[command(name = "bigv-brain", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Place {
    /// The configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/bigv/brain.toml")]
    config: PathBuf,
    /// Use a private PostgreSQL kept in this directory; it is made and started when needed.
    #[arg(long, global = true, value_name = "DIR")]
    embedded: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the database's schema up to this version of the program.
    Migrate,
    /// Serve the API, heads and tails, until SIGTERM.
    Run,
    /// Users, for a cluster that nobody can log in to yet.
    #[command(subcommand)]
    User(UserCommand),
    /// Let this database's brain act again although nodes have obeyed a newer one.
    ///
    /// Only for an operator who is certain that no other brain of this cluster runs. Raises the epoch
    /// above the highest that a node has told of; then start the brain.
    TakeOver,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make a user.
    Add(UserAdd),
}

#[derive(Debug, Args)]
struct UserAdd {
    /// What they log in as.
    name: String,
    /// An account that they administer; it is made if it is not there.
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Where mail goes.
    #[arg(long)]
    email: Option<String>,
    /// A file with their public SSH keys, for consoles.
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// Read their password from standard input; without it they have none.
    #[arg(long)]
    password_stdin: bool,
    /// They administer the cluster.
    #[arg(long)]
    admin: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done when nobody reads what went wrong.
            let _ = writeln!(std::io::stderr(), "bigv-brain: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let config = Config::load(&arguments.place.config)?;
    let sockets = match arguments.command {
        Command::Run => daemon::passed_listeners()?,
        _ => vec![],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let embedded = arguments.place.embedded.as_deref();
    runtime.block_on(async {
        match arguments.command {
            Command::Run => daemon::run(config, embedded, sockets).await,
            Command::Migrate => with_database(&config, embedded, async |store| migrate(&store).await).await,
            Command::User(UserCommand::Add(user)) => {
                with_database(&config, embedded, async |store| add_user(&store, user).await).await
            }
            Command::TakeOver => with_database(&config, embedded, async |store| take_over(&config, &store).await).await,
        }
    })
}

/// Finds the database, starting a private one if need be, and lets go of it afterwards.
async fn with_database(
    config: &Config,
    embedded: Option<&Path>,
    work: impl AsyncFnOnce(Store) -> Result<()>,
) -> Result<()> {
    let (store, server) = database(config, embedded).await?;
    let result = work(store).await;
    if let Some(server) = server {
        server.stop().await?;
    }
    result
}

/// Where the database is.
async fn database(config: &Config, embedded: Option<&Path>) -> Result<(Store, Option<Embedded>)> {
    if let Some(dir) = embedded {
        let server = Embedded::start(dir).await?;
        return Ok((Store::new(server.config())?, Some(server)));
    }
    let Some(database) = &config.database else {
        bail!("the configuration names no database: set `database`, or use --embedded DIR");
    };
    let parsed = database.parse().context("`database` of the configuration is not a connection string")?;
    Ok((Store::new(parsed)?, None))
}

async fn migrate(store: &Store) -> Result<()> {
    let applied = store.migrate().await?;
    match applied.as_slice() {
        [] => tracing::info!("the schema is up to date"),
        applied => tracing::info!(?applied, "the schema was brought up to date"),
    }
    Ok(())
}

async fn add_user(store: &Store, user: UserAdd) -> Result<()> {
    store.check_schema().await?;
    let authorized_keys = match &user.authorized_keys {
        Some(path) => {
            let keys = std::fs::read_to_string(path);
            Some(keys.with_context(|| format!("cannot read {}", path.display()))?.trim_end().to_owned())
        }
        None => None,
    };
    let password = if user.password_stdin { Some(read_password()?) } else { None };
    let order = AddUser {
        user: NewUser {
            username: Some(user.name),
            email: user.email,
            password,
            authorized_keys,
            account_name: user.account,
        },
        cluster_level: user.admin.then_some(Level::ClusterAdmin),
    };
    let made = users::add(store, order).await?;
    tracing::info!(user = made.username, id = made.id, "the user was made");
    Ok(())
}

/// The first line of standard input, without its end.
fn read_password() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text).context("cannot read the password from standard input")?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => bail!("the password on standard input is empty"),
    }
}

async fn take_over(config: &Config, store: &Store) -> Result<()> {
    store.check_schema().await?;
    let (before, after) = cluster::take_over(store.config(), config.name.as_str()).await?;
    tracing::warn!(%before, %after, "the epoch was raised: the next start of this database's brain is obeyed");
    Ok(())
}
