//! The smallest HTTP server that Prometheus and curl are content with: one GET, one answer, and good-bye.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// Who may ask at a time; the others wait.
const CLIENTS_MAX: usize = 8;

/// How long one may take to ask and to read its answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// What Prometheus wants to hear of the text (OpenMetrics 1.0).
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers `GET /metrics` with what `text` makes, until it is aborted.
pub async fn serve<F: Future<Output = String> + Send>(
    listener: TcpListener,
    text: impl Fn() -> F + Clone + Send + Sync + 'static,
) {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut answering = JoinSet::new();
    loop {
        while answering.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let text = text.clone();
                answering.spawn(async move {
                    if let Ok(Err(error)) = timeout(DEADLINE, answer(stream, text)).await {
                        tracing::debug!(%error, "metrics could not be told");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the socket for metrics");
                // Out of descriptors, most likely: not at once again.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer<F: Future<Output = String>>(mut stream: TcpStream, text: impl Fn() -> F) -> io::Result<()> {
    let request = read_request(&mut stream).await?;
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", CONTENT_TYPE, text().await),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "only /metrics is here\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET is understood\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// The first line of a request, once all of its head has come: who is closed on while still talking gets a reset
/// in place of the answer.
async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP request"));
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}
