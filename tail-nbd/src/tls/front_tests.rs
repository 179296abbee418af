use super::*;
use crate::tls::certificates::make;
use std::time::Instant;

#[test]
fn who_comes_beyond_the_limit_is_closed_on_and_a_place_that_is_left_is_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    if !make(folder.path()) || spine::daemon::raise_open_files() < 5 * TLS_CONNECTIONS_MAX as u64 {
        return tracing::warn!("skipped: openssl is not installed, or too few files may be open");
    }
    let files = Files {
        certificate: folder.path().join("server-cert.pem"),
        key: folder.path().join("server-key.pem"),
        authorities: None,
    };
    let credentials = Credentials::Certificates(files);
    let front = Front::start(FrontConfig { offered: Tls::Offered, credentials }).unwrap();
    let connect = || {
        let (client, socket) = PlainStream::pair().unwrap();
        front.secure(socket.into()).map(|plain| (client, plain))
    };
    let mut silent: Vec<_> = (0..TLS_CONNECTIONS_MAX).map(|_| connect().unwrap()).collect();
    assert!(connect().unwrap_err().to_string().contains("2048 already"));
    assert_eq!(front.status().refused_count, 1);
    assert_eq!(front.status().connections_count, TLS_CONNECTIONS_MAX as u64);
    silent.pop();
    let start = Instant::now();
    while connect().is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", front.status());
        std::thread::sleep(Duration::from_millis(2));
    }
}
