//! Which cluster this is, and which brain is the active one (R029, safety rule 8).
//!
//! The active brain holds an advisory lock on a connection of its own. When that connection goes,
//! another brain may have the lock already: the caller ends its sessions and itself.

use super::{StoreError, chain};
use spine::id::Epoch;
use std::time::Duration;
use thiserror::Error;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, error::SqlState};
use uuid::Uuid;

const ACTIVE_LOCK_HIGH: u32 = 0x6269_6776;
const ACTIVE_LOCK_LOW: u32 = 0x6163_7476;
const ACTIVE_LOCK: i64 = ((ACTIVE_LOCK_HIGH as i64) << 32) | ACTIVE_LOCK_LOW as i64;

/// How often the lock's connection is tried, and how long an answer may take.
const HEARTBEAT: Duration = Duration::from_secs(2);
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(8);

/// How long the next brain waits for the lock of one that has just ended, before it takes it for alive.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why this brain is not the active one.
#[derive(Debug, Error)]
pub enum ActiveError {
    /// Another one is.
    #[error("this cluster's active brain is {0}: two must not act at the same time")]
    Taken(String),
    /// The database does not say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The right to act. It ends with [`Active::lost`].
#[derive(Debug)]
pub struct Active {
    /// The cluster's identity.
    pub cluster: Uuid,
    /// Higher than that of every brain before.
    pub epoch: Epoch,
    client: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Active {
    /// Takes the lock and raises the epoch. `brain` is what a second one will be told.
    ///
    /// PostgreSQL notices the end of a process a moment after it ended: the next brain waits for that.
    ///
    /// # Errors
    /// [`ActiveError::Taken`] names the brain that is active.
    pub async fn acquire(config: &Config, brain: &str) -> Result<Self, ActiveError> {
        let mut config = config.clone();
        // PostgreSQL cuts names to 63 bytes.
        config.application_name(format!("{brain} (pid {})", std::process::id()));
        config.keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(Duration::from_secs(15));
        let (client, connection) = config.connect(NoTls).await.map_err(|error| StoreError::Pool(chain(&error)))?;
        let connection = tokio::spawn(connection);
        let lock = format!("SET lock_timeout = {}; SELECT pg_advisory_lock({ACTIVE_LOCK})", LOCK_WAIT.as_millis());
        match client.batch_execute(&lock).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Err(ActiveError::Taken(holder(&client).await?));
            }
            locked => locked.map_err(StoreError::from)?,
        }
        let row = client
            .query_one("UPDATE cluster SET epoch = epoch + 1 RETURNING id, epoch", &[])
            .await
            .map_err(StoreError::from)?;
        Ok(Self { cluster: row.get(0), epoch: epoch_of(row.get(1)), client, connection })
    }

    /// Returns when the lock may be gone, with the reason.
    pub async fn lost(&mut self) -> String {
        loop {
            tokio::select! {
                ended = &mut self.connection => return match ended {
                    Ok(Err(error)) => format!("the connection that holds the lock broke: {}", chain(&error)),
                    _ => "the connection that holds the lock was closed".to_owned(),
                },
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            match timeout(HEARTBEAT_DEADLINE, self.client.simple_query("SELECT 1")).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return format!("the connection that holds the lock broke: {}", chain(&error)),
                Err(_) => return format!("the database did not answer for {} s", HEARTBEAT_DEADLINE.as_secs()),
            }
        }
    }
}

fn epoch_of(number: i64) -> Epoch {
    Epoch(u64::try_from(number).unwrap_or(0))
}

async fn holder(client: &Client) -> Result<String, StoreError> {
    let row = client
        .query_opt(
            "SELECT a.application_name || coalesce(' at ' || host(a.client_addr), '') || ', since ' ||
                    to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
             FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
               AND l.classid = $1 AND l.objid = $2
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[&ACTIVE_LOCK_HIGH, &ACTIVE_LOCK_LOW],
        )
        .await?;
    Ok(row.map_or_else(|| "one that has just gone".to_owned(), |row| row.get(0)))
}

/// Remembers an epoch that a node has told of, so that `take-over` can go above it.
///
/// # Errors
/// When the database fails.
pub async fn saw_epoch(client: &Client, epoch: Epoch) -> Result<(), StoreError> {
    let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX - 1);
    client.execute("UPDATE cluster SET epoch_seen = $1 WHERE epoch_seen < $1", &[&epoch]).await?;
    Ok(())
}

/// Raises the epoch to the highest that any node has told of, for the next brain to go above.
/// Returns the epoch before and after.
///
/// # Errors
/// [`ActiveError::Taken`] while a brain is active: it must be stopped first.
pub async fn take_over(config: &Config, brain: &str) -> Result<(Epoch, Epoch), ActiveError> {
    let active = Active::acquire(config, brain).await?;
    let row = active
        .client
        .query_one("UPDATE cluster SET epoch = greatest(epoch, epoch_seen) RETURNING epoch", &[])
        .await
        .map_err(StoreError::from)?;
    Ok((active.epoch, epoch_of(row.get(0))))
}
