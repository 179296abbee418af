//! The private PostgreSQL, for real.

#![allow(clippy::print_stderr)] // A test that cannot run says why.

mod common;

use brain::{embedded::Embedded, store::Store};
use nix::{sys::signal::Signal, unistd::Pid};

fn postmaster(dir: &std::path::Path) -> Option<i32> {
    std::fs::read_to_string(dir.join("data/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_adopted_and_stopped_by_the_last_user() {
    let Some(server) = common::Server::start().await else { return };
    let dir = server.dir().join("pg");
    let pid = postmaster(&dir).unwrap();

    let store = server.store().await;
    store.check_schema().await.unwrap();
    assert!(store.migrate().await.unwrap().is_empty(), "C19: a second run changes nothing");

    // A second user adopts the running one, and does not stop it under the first.
    let second = Embedded::start(&dir).await.unwrap();
    assert_eq!(postmaster(&dir), Some(pid));
    second.stop().await.unwrap();
    assert_eq!(postmaster(&dir), Some(pid), "still in use");

    server.stop().await;
    assert_eq!(postmaster(&dir), None, "the last user stopped it");
}

/// What a power cut or the kernel's out-of-memory killer leaves behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_is_started_again_with_its_data() {
    let scratch = common::scratch_dir();
    let dir = scratch.path().join("pg");
    let first = match Embedded::start(&dir).await {
        Err(brain::embedded::EmbeddedError::NotInstalled) => return eprintln!("SKIPPED: no PostgreSQL is installed"),
        first => first.unwrap(),
    };
    Store::new(first.config()).unwrap().migrate().await.unwrap();
    drop(first);
    let pid = postmaster(&dir).unwrap();
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let again = Embedded::start(&dir).await.unwrap();
    assert_ne!(postmaster(&dir), Some(pid));
    Store::new(again.config()).unwrap().check_schema().await.unwrap();
    again.stop().await.unwrap();
    assert_eq!(postmaster(&dir), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn c19_an_unknown_schema_is_refused_with_what_to_do() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let client = store.client().await.unwrap();
    client.batch_execute("INSERT INTO refinery_schema_history (version) VALUES (99)").await.unwrap();
    let error = store.check_schema().await.unwrap_err().to_string();
    assert!(error.contains("99") && error.contains("newer bigv-brain"), "{error}");
    let mut empty = store.config().clone();
    empty.dbname("postgres");
    let error = Store::new(empty).unwrap().check_schema().await.unwrap_err().to_string();
    assert!(error.contains("bigv-brain migrate"), "{error}");
    drop(client);
    server.stop().await;
}
