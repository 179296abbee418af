//! A real PostgreSQL for tests: one private server a test binary, one database a test.
#![allow(dead_code)] // Each test binary uses a part of it.
#![allow(clippy::print_stderr)] // A test that cannot run says why.

pub mod api;

use brain::{embedded::Embedded, store::Store};
use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, sync::atomic::AtomicU32};

/// A private server in a directory of its own; both go when it is dropped.
pub struct Server {
    embedded: Option<Embedded>,
    dir: Option<tempfile::TempDir>,
    databases: AtomicU32,
}

impl Server {
    /// Starts one. None, and a line that says why, where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        let dir = scratch_dir();
        match Embedded::start(&dir.path().join("pg")).await {
            Ok(embedded) => Some(Self { embedded: Some(embedded), dir: Some(dir), databases: AtomicU32::new(0) }),
            Err(brain::embedded::EmbeddedError::NotInstalled) => {
                eprintln!("SKIPPED: no PostgreSQL server is installed");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A new database with the current schema.
    pub async fn store(&self) -> Store {
        let embedded = self.embedded.as_ref().expect("running");
        let number = self.databases.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("test_{number}");
        let (client, connection) = embedded.config().connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let mut config = embedded.config();
        config.dbname(&name);
        let store = Store::new(config).unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Stops it and removes its directory.
    pub async fn stop(mut self) {
        self.embedded.take().expect("running").stop().await.unwrap();
    }

    /// Where it lives.
    pub fn dir(&self) -> PathBuf {
        self.dir.as_ref().expect("running").path().to_owned()
    }
}

/// A test that fails must not leave its server behind.
impl Drop for Server {
    fn drop(&mut self) {
        if self.embedded.is_some()
            && let Some(dir) = &self.dir
        {
            stop_postgres(&dir.path().join("pg"));
        }
    }
}

/// Stops the PostgreSQL in `dir` by its pid file, and waits until it is gone.
pub fn stop_postgres(dir: &std::path::Path) {
    let pid_file = dir.join("data/postmaster.pid");
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
    let Some(pid) = pid else { return };
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while pid_file.exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A directory under /tmp that other users can get through.
pub fn scratch_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("bigv-brain-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    dir
}
