//! A monitor connection on tokio: moves the bytes of [`qmp`](super::qmp), and gives every command a
//! deadline (safety rule 14). A command that is late is given up; its answer is dropped when it comes.

use super::qmp::{Event, Output, QmpError, RequestId, Session, Violation};
use serde_json::Value;
use std::{collections::HashMap, io, path::Path, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

/// A handle to one machine's monitor. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Monitor {
    requests: mpsc::Sender<Request>,
    ending: watch::Receiver<Ending>,
}

/// What qemu said of its own end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The last SHUTDOWN: whether the guest asked for it, and qemu's word for why.
    pub shutdown: Option<(bool, String)>,
    /// The guest's system crashed.
    pub panicked: bool,
}

/// Why a command came to nothing.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The socket cannot be reached.
    #[error("cannot connect to qemu's monitor")]
    Connect(#[source] io::Error),
    /// qemu ended, or closed the connection.
    #[error("qemu closed its monitor")]
    Closed,
    /// No answer in time.
    #[error("qemu did not answer {command} within {seconds} s")]
    Late {
        /// What was asked.
        command: String,
        /// The deadline.
        seconds: u64,
    },
    /// qemu refused it.
    #[error("qemu refused {command}: {source}")]
    Refused {
        /// What was asked.
        command: String,
        /// What qemu said.
        source: QmpError,
    },
}

struct Request {
    command: String,
    arguments: Value,
    answer: oneshot::Sender<Result<Value, QmpError>>,
}

/// Commands that may wait for the connection; each waits for its answer before the next is given.
const REQUESTS_MAX: usize = 16;

impl Monitor {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When that is not done by the deadline.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Self, MonitorError> {
        Self::over(UnixStream::connect(socket).await.map_err(MonitorError::Connect)?, deadline).await
    }

    /// Shakes hands over a connection.
    ///
    /// # Errors
    /// When that is not done by the deadline.
    pub async fn over(stream: UnixStream, deadline: Duration) -> Result<Self, MonitorError> {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let (reporter, ending) = watch::channel(Ending::default());
        let connection = Connection { stream, session: Session::default(), asked: HashMap::new(), reporter };
        tokio::spawn(connection.run(receiver));
        let monitor = Self { requests, ending };
        // The answer to a command proves the handshake.
        monitor.execute("query-status", Value::Object(serde_json::Map::new()), deadline).await?;
        Ok(monitor)
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Errors
    /// When qemu refuses it, is late, or is gone.
    pub async fn execute(&self, command: &str, arguments: Value, deadline: Duration) -> Result<Value, MonitorError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { command: command.to_owned(), arguments, answer };
        let exchange = async {
            self.requests.send(request).await.map_err(|_| MonitorError::Closed)?;
            answered.await.map_err(|_| MonitorError::Closed)
        };
        match timeout(deadline, exchange).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(source))) => Err(MonitorError::Refused { command: command.to_owned(), source }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(MonitorError::Late { command: command.to_owned(), seconds: deadline.as_secs() }),
        }
    }

    /// What qemu has said of its end so far.
    pub fn ending(&self) -> Ending {
        self.ending.borrow().clone()
    }

    /// Returns when qemu has announced its end, or the connection is closed.
    pub async fn announced(&self) -> Announcement {
        let mut ending = self.ending.clone();
        match ending.wait_for(|ending| ending.shutdown.is_some()).await {
            Ok(_) => Announcement::Shutdown,
            Err(_) => Announcement::Closed,
        }
    }

    /// Returns when the connection is closed and everything that came over it has been read.
    pub async fn closed(&self) {
        let mut ending = self.ending.clone();
        while ending.changed().await.is_ok() {}
    }
}

/// How a machine's end shows in its monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// qemu said that it is about to exit.
    Shutdown,
    /// The connection is gone.
    Closed,
}

struct Connection {
    stream: UnixStream,
    session: Session,
    asked: HashMap<RequestId, oneshot::Sender<Result<Value, QmpError>>>,
    reporter: watch::Sender<Ending>,
}

impl Connection {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        if let Err(error) = self.turns(&mut requests).await {
            tracing::warn!(%error, "a monitor connection failed");
        }
    }

    async fn turns(&mut self, requests: &mut mpsc::Receiver<Request>) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            tokio::select! {
                count = self.stream.read(&mut buffer) => match count? {
                    0 => return Ok(()),
                    count => self.session.handle_bytes(&buffer[..count]).map_err(violation)?,
                },
                request = requests.recv() => match request {
                    Some(request) => {
                        let id = self.session.execute(&request.command, &request.arguments);
                        self.asked.insert(id, request.answer);
                    }
                    None => return Ok(()),
                },
            }
            while let Some(output) = self.session.poll_output() {
                self.handle_output(output);
            }
            while let Some(line) = self.session.poll_transmit() {
                self.stream.write_all(line.as_bytes()).await?;
            }
        }
    }

    fn handle_output(&mut self, output: Output) {
        match output {
            Output::Ready => {}
            Output::Answer(id, result) => {
                if let Some(answer) = self.asked.remove(&id) {
                    // The asker may have given up.
                    let _ = answer.send(result);
                }
            }
            Output::Event(Event::Shutdown { guest, reason }) => {
                self.reporter.send_modify(|ending| ending.shutdown = Some((guest, reason)));
            }
            Output::Event(Event::GuestPanicked) => self.reporter.send_modify(|ending| ending.panicked = true),
            Output::Event(Event::Other(name)) => tracing::trace!(name, "monitor event"),
        }
    }
}

fn violation(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::{
        io::{AsyncBufReadExt, BufReader},
        net::UnixListener,
    };

    /// A qemu that answers each command with the next of `answers`, and then says nothing more.
    async fn fake(answers: Vec<&'static str>) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"{\"QMP\":{}}\n").await.unwrap();
            for answer in [r#"{"return":{}}"#, r#"{"return":{},"id":1}"#].iter().chain(&answers) {
                lines.next_line().await.unwrap().unwrap();
                write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
            while lines.next_line().await.unwrap_or(None).is_some() {}
        });
        (directory, path)
    }

    #[tokio::test]
    async fn rule_14_a_command_without_an_answer_is_given_up() {
        let (_directory, path) = fake(vec![]).await;
        let monitor = Monitor::connect(&path, Duration::from_secs(5)).await.unwrap();
        let error = monitor.execute("system_reset", json!({}), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, MonitorError::Late { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_qemu_says_of_its_end_is_kept() {
        let end = r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#;
        let (_directory, path) = fake(vec![r#"{"return":{},"id":2}"#, end]).await;
        let monitor = Monitor::connect(&path, Duration::from_secs(5)).await.unwrap();
        monitor.execute("system_powerdown", json!({}), Duration::from_secs(5)).await.unwrap();
        let late = monitor.execute("never-answered", json!({}), Duration::from_secs(1));
        let (announcement, _) = tokio::join!(monitor.announced(), late);
        assert_eq!(announcement, Announcement::Shutdown);
        assert_eq!(monitor.ending().shutdown, Some((true, "guest-shutdown".into())));
    }

    #[tokio::test]
    async fn a_refusal_carries_qemus_words() {
        let (_directory, path) = fake(vec![r#"{"error":{"class":"GenericError","desc":"no"},"id":2}"#]).await;
        let monitor = Monitor::connect(&path, Duration::from_secs(5)).await.unwrap();
        let error = monitor.execute("cont", json!({}), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "qemu refused cont: no");
    }
}
