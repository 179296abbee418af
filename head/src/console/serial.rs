//! The one client of qemu's serial socket: keeps the output, passes the input on, and comes back
//! when qemu listens again.

use super::{
    history::{Excerpt, History},
    limits::{CHUNK_MAX, HISTORY_MAX, INPUT_PATIENCE, INPUT_QUEUE_MAX, RECONNECT_MAX, RECONNECT_MIN, REPLAY_MAX},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::AbortHandle,
};

/// What the viewers share: the output so far, and the way in.
#[derive(Debug)]
pub struct Serial {
    history: Mutex<History>,
    /// The offset of the end: it changes with each piece of output.
    end: watch::Sender<u64>,
    input: mpsc::Sender<Vec<u8>>,
}

impl Serial {
    /// Starts to hold the socket at `path`. When qemu listens already, it is connected on return,
    /// so that not a byte of the guest's output is lost from here on.
    pub async fn start(path: PathBuf, machine: String) -> (Arc<Self>, AbortHandle) {
        let (input, typed) = mpsc::channel(INPUT_QUEUE_MAX);
        let history = Mutex::new(History::new(HISTORY_MAX));
        let serial = Arc::new(Self { history, end: watch::Sender::new(0), input });
        let first = UnixStream::connect(&path).await;
        let task = tokio::spawn(hold(Arc::clone(&serial), typed, first, path, machine));
        (serial, task.abort_handle())
    }

    /// The position from which a new viewer is shown the output.
    pub fn replay_from(&self) -> u64 {
        self.history().replay_from(REPLAY_MAX)
    }

    /// What lies at `position`, at most [`CHUNK_MAX`] bytes.
    pub fn read(&self, position: u64) -> Excerpt {
        self.history().read(position, CHUNK_MAX)
    }

    /// Tells of new output. Mark what it holds as seen *before* reading, or output is missed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Types `bytes`, after those typed before. `patience` is the writer's own: a guest that does
    /// not read is waited for once, then its input is dropped until it reads again.
    pub async fn type_in(&self, bytes: Vec<u8>, patience: &mut Duration) {
        match tokio::time::timeout(*patience, self.input.send(bytes)).await {
            Ok(_) => *patience = INPUT_PATIENCE,
            Err(_) => *patience = Duration::ZERO,
        }
    }

    fn push(&self, output: &[u8]) {
        let mut history = self.history();
        history.push(output);
        let end = history.read(u64::MAX, 0).next;
        drop(history);
        self.end.send_replace(end);
    }

    /// A panic elsewhere leaves the ring whole: it is changed by calls that do not panic.
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For ever: reach the socket, carry both ways, start again.
async fn hold(
    serial: Arc<Serial>,
    mut typed: mpsc::Receiver<Vec<u8>>,
    first: io::Result<UnixStream>,
    path: PathBuf,
    machine: String,
) {
    let mut next = first;
    loop {
        let stream = match next {
            Ok(stream) => stream,
            Err(_) => reach(&path, &machine, &mut typed).await,
        };
        tracing::debug!(machine, "console: holds the serial line at {}", path.display());
        let (reader, writer) = stream.into_split();
        let ended = tokio::select! {
            ended = carry_output(reader, &serial) => ended,
            ended = carry_input(writer, &mut typed) => ended,
        };
        match ended {
            Ok(()) => tracing::debug!(machine, "console: the serial line was closed"),
            Err(error) => tracing::debug!(machine, "console: the serial line was lost: {error}"),
        }
        next = UnixStream::connect(&path).await;
    }
}

/// Tries until qemu listens. What is typed meanwhile goes nowhere: no machine is there to read it.
async fn reach(path: &Path, machine: &str, typed: &mut mpsc::Receiver<Vec<u8>>) -> UnixStream {
    let mut pause = RECONNECT_MIN;
    let mut told = false;
    loop {
        tokio::time::sleep(pause).await;
        while typed.try_recv().is_ok() {}
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(error) if pause >= RECONNECT_MAX && !told => {
                told = true;
                tracing::warn!(machine, "console: nothing listens on {}: {error}; trying on", path.display());
            }
            Err(_) => {}
        }
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

async fn carry_output(mut reader: OwnedReadHalf, serial: &Serial) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_MAX];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            count => serial.push(&buffer[..count]),
        }
    }
}

async fn carry_input(mut writer: OwnedWriteHalf, typed: &mut mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = typed.recv().await {
        writer.write_all(&bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn wait_for(serial: &Serial, output: &[u8]) {
        let mut changed = serial.watch();
        let seen = async {
            while serial.read(0).bytes != output {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, seen).await.expect("the output arrives");
    }

    #[tokio::test]
    async fn r137_output_is_kept_with_no_viewer_and_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        let (serial, task) = Serial::start(path.clone(), "m".into()).await;

        let (mut qemu, _) = listener.accept().await.unwrap();
        qemu.write_all(b"one ").await.unwrap();
        wait_for(&serial, b"one ").await;

        drop((qemu, listener));
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (mut qemu, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.expect("it comes back").unwrap();
        qemu.write_all(b"two").await.unwrap();
        wait_for(&serial, b"one two").await;

        serial.type_in(b"root\n".to_vec(), &mut DEADLINE.clone()).await;
        let mut typed = [0; 5];
        tokio::time::timeout(DEADLINE, qemu.read_exact(&mut typed)).await.expect("input arrives").unwrap();
        assert_eq!(&typed, b"root\n");
        task.abort();
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        let (serial, task) = Serial::start(path, "m".into()).await;
        let (mut qemu, _) = listener.accept().await.unwrap();

        // More than the socket's buffers and the queue hold: some of it must be given up.
        let mut patience = Duration::from_millis(20);
        let paste = async {
            for _ in 0..2000 {
                serial.type_in(vec![b'x'; CHUNK_MAX], &mut patience).await;
                if patience.is_zero() {
                    break;
                }
                patience = Duration::from_millis(20);
            }
        };
        tokio::time::timeout(DEADLINE, paste).await.expect("typing ends");
        assert!(patience.is_zero(), "input was dropped");

        qemu.write_all(b"still here").await.unwrap();
        wait_for(&serial, b"still here").await;
        task.abort();
    }
}
