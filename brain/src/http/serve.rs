//! Connections: how many, and for how long. A client that is slow, or does nothing, costs a bounded
//! number of descriptors for a bounded time, so that heads and tails always find one (R059).

use axum::{Router, body::Body, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tower::ServiceExt as _;

/// Connections of one listener at most. Beyond it the kernel's queue fills, and clients wait.
const CONNECTIONS_MAX: usize = 1024;
/// How long a request's header may take to arrive, and how long a connection may be idle.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Age at which a connection is closed after the request in progress: clients make another.
const AGE_MAX: Duration = Duration::from_secs(600);
/// How long that last request may take: the longest wait for a status is 60 s, its body's 30 s.
const LAST_REQUEST_MAX: Duration = Duration::from_secs(120);
/// Before the next try after an error of `accept`, which has no descriptors left or worse.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How many connections each of these listeners may have: half of the descriptors this process may open
/// are left to heads, tails and the database, whatever clients do.
pub fn connections_max(open_files_max: u64, listeners_count: usize) -> usize {
    let half = usize::try_from(open_files_max / 2).unwrap_or(usize::MAX);
    (half / listeners_count.max(1)).clamp(1, CONNECTIONS_MAX)
}

/// Serves a router until `stop`, and then until the requests in progress are answered.
pub async fn serve(listener: TcpListener, router: Router, connections_max: usize, stop: impl Future<Output = ()>) {
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener), if connections.len() < connections_max => accepted,
        };
        if let Some((stream, peer)) = accepted {
            connections.spawn(connection(stream, peer, router.clone(), closing.clone()));
        }
    }
    drop(listener);
    close.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // The pause bounds how often this is logged.
            if !is_of_peer(&error) {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// Whether a client went away before it was accepted: the listener has nothing wrong.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, mut closing: watch::Receiver<bool>) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = http1::Builder::new();
    let serving = builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        // A client that breaks HTTP or goes away is no concern of ours.
        _ = serving.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => {}
        () = tokio::time::sleep(AGE_MAX) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_REQUEST_MAX, serving).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::{mpsc, oneshot},
    };

    #[test]
    fn r059_clients_leave_half_of_the_descriptors() {
        assert_eq!(connections_max(1024, 1), 512);
        assert_eq!(connections_max(1024, 2), 256);
        assert_eq!(connections_max(1 << 20, 2), CONNECTIONS_MAX);
        assert_eq!(connections_max(4, 9), 1);
    }

    #[tokio::test]
    async fn requests_in_progress_are_answered_before_it_stops() {
        let (arrived, mut arrivals) = mpsc::channel(1);
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let may_go_on = std::sync::Arc::new(tokio::sync::Mutex::new(Some(may_go_on)));
        let slow = move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            arrived.send(()).await.unwrap();
            let go_on = may_go_on.lock().await.take().unwrap();
            go_on.await.unwrap();
            peer.ip().to_string()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { stopped.await.unwrap_or(()) };
        let server = tokio::spawn(serve(listener, Router::new().route("/", get(slow)), 8, stopped));

        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        arrivals.recv().await.unwrap();
        stop.send(()).unwrap();
        go_on.send(()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
        server.await.unwrap();
    }
}
