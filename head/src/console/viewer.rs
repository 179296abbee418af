//! One window onto the serial line: an SSH channel that is shown the output and may type.

use super::{limits::INPUT_PATIENCE, serial::Serial};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, server::Msg};
use std::sync::Arc;
use tokio::task::AbortHandle;

/// SSH's number for the standard error stream, on which everything that is not the guest's own
/// output is written.
pub const STDERR: u32 = 1;

/// A running viewer; dropped, it ends.
#[derive(Debug)]
pub struct Viewer(AbortHandle);

impl Viewer {
    /// Shows the output kept and all that follows, and types what is received, until the channel
    /// is closed.
    pub fn start(channel: Channel<Msg>, serial: Arc<Serial>, machine: &str) -> Self {
        let greeting = format!("Serial console of {machine}. Type Enter ~ . to leave.\r\n");
        let task = async move {
            let (reader, writer) = channel.split();
            // A channel that is closed ends the reading side; the writing side may then wait for
            // ever for a window that nobody opens.
            tokio::select! {
                () = show(&writer, &serial, greeting) => {}
                () = listen(reader, &serial) => {}
            }
        };
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends when nothing more can be sent.
async fn show(writer: &ChannelWriteHalf<Msg>, serial: &Serial, greeting: String) {
    let mut changed = serial.watch();
    let mut position = serial.replay_from();
    if writer.extended_data_bytes(STDERR, greeting).await.is_err() {
        return;
    }
    loop {
        changed.mark_unchanged();
        let excerpt = serial.read(position);
        position = excerpt.next;
        if excerpt.missed > 0 {
            let notice = format!("\r\n[{} bytes of output were missed]\r\n", excerpt.missed);
            if writer.extended_data_bytes(STDERR, notice).await.is_err() {
                return;
            }
        }
        let sent = match excerpt.bytes.is_empty() {
            true => changed.changed().await.is_ok(),
            false => writer.data_bytes(excerpt.bytes).await.is_ok(),
        };
        if !sent {
            return;
        }
    }
}

/// Ends when the channel is closed. The end of the client's input is not: a script may watch on.
async fn listen(mut reader: ChannelReadHalf, serial: &Serial) {
    let mut patience = INPUT_PATIENCE;
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => serial.type_in(data.to_vec(), &mut patience).await,
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}
