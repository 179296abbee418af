//! Who gets in, and who does not.

use crate::rig::{Rig, within};
use argon2::{Algorithm, Argon2, Params, Version, password_hash::PasswordHasher};
use head::console::{Console, ConsoleError, ConsoleUsers, limits};
use russh::{client, keys::PublicKeyOrCertificate};
use spine::{resource::vm::UserAuthentication, secret::Secret};
use std::{net::SocketAddr, sync::Arc};
use tokio::{io::AsyncReadExt, net::TcpStream};

#[tokio::test]
async fn r112_the_right_key_gets_in_and_r110_the_host_key_is_the_one_given() {
    let mut rig = Rig::start().await;
    // The client knows the given host key, and refuses any other.
    let mut ssh = rig.ssh("amy", "amy", &["-tt"], &[]);
    rig.print("tiny login: ").await;
    ssh.shown_until("tiny login: ").await;
    ssh.type_in("root\r").await;
    rig.expect_typed("root\r").await;
    rig.console.stop().await;
}

#[tokio::test]
async fn r112_a_wrong_key_and_r111_a_user_not_listed_are_refused() {
    let rig = Rig::start().await;
    for (user, key, why) in [
        ("amy", "river", "R112: another's key"),
        ("river", "river", "R111: has a key, is not listed"),
        ("rory", "amy", "R112: has a password and no key"),
        ("root", "amy", "R140: UNIX users mean nothing"),
    ] {
        let (status, errors) = rig.ssh(user, key, &[], &[]).end().await;
        assert_eq!(status.code(), Some(255), "{why}: {errors}");
        assert!(errors.contains("Permission denied"), "{why}: {errors}");
    }
    rig.console.stop().await;
}

#[tokio::test]
async fn r112_passwords_plain_and_hashed() {
    let rig = Rig::start().await;
    let listen = rig.console.listens_on();
    assert!(login(listen, "amy", "R0ry").await, "R112: a user may have a key and a password");
    assert!(login(listen, "rory", "R0ry").await);
    assert!(!login(listen, "rory", "rory").await);
    assert!(!login(listen, "rory", "").await);
    assert!(!login(listen, "river", "").await, "R111");

    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
    let hash = argon2.hash_password(b"Geronimo").unwrap().to_string();
    let of = UserAuthentication { password: Some(Secret::new(hash)), ..Default::default() };
    rig.console
        .set_users(ConsoleUsers { names: vec!["eleven".into()], authentication: [("eleven".into(), of)].into() });
    assert!(login(listen, "eleven", "Geronimo").await, "R112: hashed password");
    assert!(!login(listen, "eleven", "geronimo").await);
    assert!(!login(listen, "rory", "R0ry").await, "R111: not listed any more");
    rig.console.stop().await;
}

#[tokio::test]
async fn guesses_are_bounded() {
    let rig = Rig::start().await;
    let mut session = connect(rig.console.listens_on()).await;
    let mut refused = 0;
    let guessing = async {
        while let Ok(result) = session.authenticate_password("amy", "guess").await {
            assert!(!result.success());
            refused += 1;
        }
    };
    within(guessing).await;
    // The client takes the goodbye for one more answer.
    assert!((2..=limits::AUTH_ATTEMPTS_MAX + 1).contains(&refused), "{refused} guesses were answered");
    rig.console.stop().await;
}

#[tokio::test]
async fn strangers_are_bounded() {
    let rig = Rig::start().await;
    let mut strangers = Vec::new();
    for _ in 0..limits::STRANGERS_MAX {
        let mut stranger = TcpStream::connect(rig.console.listens_on()).await.unwrap();
        let mut greeting = [0; 8];
        within(stranger.read_exact(&mut greeting)).await.unwrap();
        assert_eq!(&greeting, b"SSH-2.0-");
        strangers.push(stranger);
    }
    let mut one_more = TcpStream::connect(rig.console.listens_on()).await.unwrap();
    assert_eq!(within(one_more.read(&mut [0; 8])).await.unwrap_or(0), 0, "one stranger too many");

    // Their places come free again.
    drop(strangers);
    let until_free = async {
        loop {
            let mut next = TcpStream::connect(rig.console.listens_on()).await.unwrap();
            if next.read_exact(&mut [0; 8]).await.is_ok() {
                return;
            }
        }
    };
    within(until_free).await;
    rig.console.stop().await;
}

#[tokio::test]
async fn rubbish_harms_nobody() {
    use tokio::io::AsyncWriteExt;
    let rig = Rig::start().await;
    for rubbish in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xff; 4096], b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff"] {
        let mut stream = TcpStream::connect(rig.console.listens_on()).await.unwrap();
        let _ = stream.write_all(rubbish).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
    }
    assert!(login(rig.console.listens_on(), "amy", "R0ry").await);
    rig.console.stop().await;
}

#[tokio::test]
async fn r110_without_a_host_key_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["host", "amy", "river"] {
        crate::rig::keygen(directory.path(), name);
    }
    let mut config = crate::rig::config(directory.path(), "127.0.0.1:0".parse().unwrap());
    config.host_keys.truncate(1);
    let error = Console::start(config).await.unwrap_err();
    assert!(matches!(error, ConsoleError::HostKeys { .. }), "{error}");
}

async fn login(listen: SocketAddr, user: &str, password: &str) -> bool {
    let mut session = connect(listen).await;
    within(session.authenticate_password(user, password)).await.unwrap().success()
}

async fn connect(listen: SocketAddr) -> client::Handle<AnyServer> {
    within(client::connect(Arc::new(client::Config::default()), listen, AnyServer)).await.unwrap()
}

struct AnyServer;

impl client::Handler for AnyServer {
    type Error = russh::Error;
    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}
