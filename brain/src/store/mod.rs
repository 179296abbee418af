//! All the SQL there is. Functions take a transaction and return types of the model; whoever opens
//! the transaction decides what belongs together.
//!
//! ```text
//! let mut client = store.client().await?;
//! let tx = client.transaction().await?;
//! work::open_run(&tx, …).await?;
//! tx.commit().await?;
//! ```
//!
//! * [`cluster`]: identity, epoch, the one active brain (safety rule 8).
//! * [`nodes`], [`pools`]: heads, tails and their pools, as they reported themselves.
//! * [`places`]: what placement chooses from.
//! * [`work`]: the rows of a VM as the reconciler needs them, and how it changes them.
//! * [`migrations`]: disc moves: jobs, their discs, and how a move begins and ends.
//! * [`events`]: what happened, to what, by whom and why.
//! * [`purge`]: how a VM leaves for good.
//! * [`accounts`], [`groups`], [`users`], [`privileges`], [`sessions`], [`virtual_machines`], [`discs`], [`nics`],
//!   [`addresses`], [`capacity`], [`inventory`]: what the API reads and writes.
//!
//! The schema changes only by `bigv-brain migrate`, forward; a brain refuses to run on one that it
//! does not know (C19).

pub mod accounts;
pub mod addresses;
pub mod capacity;
pub mod cluster;
pub mod discs;
pub mod events;
pub mod forced;
pub mod groups;
pub mod inventory;
pub mod migrations;
pub mod nics;
pub mod nodes;
pub mod places;
pub mod pools;
pub mod privileges;
pub mod purge;
pub mod sessions;
pub mod users;
pub mod virtual_machines;
pub mod work;

mod error;
mod schema;
mod select;

pub use error::{StoreError, chain};

use crate::limits::{API_CONNECTIONS_MAX, DATABASE_WAIT_MAX, OWN_CONNECTIONS_MAX};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls};

/// A connection from the pool: `client.transaction().await?` starts a transaction.
pub type Client = deadpool_postgres::Client;

/// The database.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    config: Config,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("database", &self.config.get_dbname()).finish_non_exhaustive()
    }
}

impl Store {
    /// Prepares a pool of connections; none is made before it is needed.
    ///
    /// # Errors
    /// When the pool cannot be set up.
    pub fn new(config: Config) -> Result<Self, StoreError> {
        Self::with_connections(config, OWN_CONNECTIONS_MAX)
    }

    /// The same database for the API's requests, through a pool of their own: however many there are, this
    /// store's users do not wait for them.
    ///
    /// # Errors
    /// As [`Store::new`].
    pub fn for_api(&self) -> Result<Self, StoreError> {
        Self::with_connections(self.config.clone(), API_CONNECTIONS_MAX)
    }

    fn with_connections(mut config: Config, connections_max: usize) -> Result<Self, StoreError> {
        if config.get_application_name().is_none() {
            config.application_name("bigv-brain");
        }
        let manager =
            Manager::from_config(config.clone(), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(connections_max)
            .wait_timeout(Some(DATABASE_WAIT_MAX))
            .create_timeout(Some(DATABASE_WAIT_MAX))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Pool(error.to_string()))?;
        Ok(Self { pool, config })
    }

    /// A connection from the pool.
    ///
    /// # Errors
    /// When the database cannot be reached, or all connections are busy for too long.
    pub async fn client(&self) -> Result<Client, StoreError> {
        self.pool.get().await.map_err(|error| StoreError::Pool(error::chain(&error)))
    }

    /// Where the database is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings the schema up to this build's version; returns what was applied.
    ///
    /// # Errors
    /// When the database cannot be reached, or a migration fails: then nothing of it is kept.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        schema::migrate(&self.config).await
    }

    /// Checks that the schema is one this build can work with.
    ///
    /// # Errors
    /// [`StoreError::Schema`] says what to do.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let client = self.client().await?;
        schema::check(&client).await
    }
}
