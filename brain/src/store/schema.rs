//! The schema's version: raised by `migrate`, checked by `run` (C19).

use super::{StoreError, error::chain};
use crate::limits::SCHEMA_VERSIONS;
use tokio_postgres::{Client, Config, NoTls};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// One migrating brain at a time, whatever it is called.
const MIGRATION_LOCK: i64 = 0x6269_6776_6d69_6772;

pub(super) async fn migrate(config: &Config) -> Result<Vec<String>, StoreError> {
    let (mut client, connection) = config.connect(NoTls).await.map_err(|error| StoreError::Pool(chain(&error)))?;
    let connection = tokio::spawn(connection);
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let report = embedded::migrations::runner()
        .set_abort_divergent(true)
        .run_async(&mut client)
        .await
        .map_err(|error| StoreError::Migration(chain(&error)))?;
    client.execute("INSERT INTO cluster (id) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING", &[]).await?;
    drop(client);
    // The lock goes with the connection; an error while closing it changes nothing any more.
    let _ = connection.await;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    let table = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?;
    let version = match table.get(0) {
        true => {
            let row = client.query_one("SELECT max(version) FROM refinery_schema_history", &[]).await?;
            row.get::<_, Option<i32>>(0)
        }
        false => None,
    };
    let (oldest, newest) = (SCHEMA_VERSIONS.start(), SCHEMA_VERSIONS.end());
    match version.map(|version| u32::try_from(version).unwrap_or(0)) {
        None => Err(StoreError::Schema("the database is empty: run `bigv-brain migrate` first".to_owned())),
        Some(version) if version < *oldest => Err(StoreError::Schema(format!(
            "the database's schema is version {version}, and this brain needs {oldest} to {newest}: run `bigv-brain migrate` first"
        ))),
        Some(version) if version > *newest => Err(StoreError::Schema(format!(
            "the database's schema is version {version}, and this brain knows only up to {newest}: use a newer bigv-brain"
        ))),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c19_this_build_works_with_the_schema_that_it_makes() {
        let newest = embedded::migrations::runner()
            .get_migrations()
            .iter()
            .map(|one| u32::try_from(one.version()).unwrap())
            .max();
        assert_eq!(newest, Some(*SCHEMA_VERSIONS.end()));
    }
}
