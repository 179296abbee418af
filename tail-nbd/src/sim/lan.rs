//! Connections between tails: bytes arrive late, in pieces, in order or not at all.

use super::chance::Chance;
use super::network::take;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes that a connection takes before somebody reads them.
const WINDOW_BYTES: usize = 64 << 10;

/// After so long without a sign of the other end, TCP gives it up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Where a tail takes connections.
pub(super) type Door = mpsc::UnboundedSender<(End, IpAddr)>;

/// All connections between tails.
#[derive(Default)]
pub(super) struct Lan {
    wires: Vec<Arc<Mutex<Wire>>>,
    doors: BTreeMap<SocketAddr, Door>,
    /// Nothing arrives.
    pub(super) is_silent: bool,
}

struct Wire {
    /// To whom was called, and to who called.
    ways: [Way; 2],
    is_cut: bool,
    /// Nothing has arrived since, though something was sent.
    silent_since: Option<Instant>,
}

#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    arrived_count: usize,
    /// Nothing more is sent.
    is_finished: bool,
    wakers: Vec<Waker>,
}

/// One end of a connection.
pub(crate) struct End {
    wire: Arc<Mutex<Wire>>,
    caller: bool,
}

impl Lan {
    /// Takes connections at `address`; an earlier door there is closed.
    pub(super) fn open_door(&mut self, address: SocketAddr, door: Door) {
        self.doors.insert(address, door);
    }

    /// Nobody takes connections at `address` any more.
    pub(super) fn close_door(&mut self, address: SocketAddr) {
        self.doors.remove(&address);
    }

    /// A tail calls another one. `None`: nobody answers.
    pub(super) fn dial(&mut self, from: Ipv6Addr, to: SocketAddr) -> Option<io::Result<End>> {
        if self.is_silent {
            return None;
        }
        let Some(door) = self.doors.get(&to) else { return Some(Err(io::ErrorKind::ConnectionRefused.into())) };
        let wire = Arc::new(Mutex::new(Wire { ways: Default::default(), is_cut: false, silent_since: None }));
        self.wires.push(wire.clone());
        let called = End { wire: wire.clone(), caller: false };
        if door.send((called, from.into())).is_err() {
            return Some(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        Some(Ok(End { wire, caller: true }))
    }

    /// All connections break, and both ends hear of it.
    pub(super) fn cut_all(&mut self) {
        self.wires.drain(..).for_each(|wire| lock(&wire).cut());
    }

    /// Bytes arrive.
    pub(super) fn deliver(&mut self, chance: &mut Chance) {
        let is_silent = self.is_silent;
        self.wires.retain(|wire| {
            let mut wire = lock(wire);
            wire.deliver(is_silent, chance);
            !wire.is_cut
        });
    }
}

impl Wire {
    fn cut(&mut self) {
        self.is_cut = true;
        self.ways.iter_mut().for_each(Way::wake);
    }

    fn deliver(&mut self, is_silent: bool, chance: &mut Chance) {
        let waits = |way: &Way| way.bytes.len() > way.arrived_count || (way.is_finished && !way.bytes.is_empty());
        if is_silent && self.ways.iter().any(waits) {
            let since = *self.silent_since.get_or_insert_with(Instant::now);
            if since.elapsed() > SILENCE_MAX {
                self.cut();
            }
            return;
        }
        self.silent_since = None;
        for way in &mut self.ways {
            let left_count = way.bytes.len() - way.arrived_count;
            if left_count > 0 && !chance.one_in(4) {
                way.arrived_count += chance.portion(left_count);
                way.wake();
            }
        }
    }
}

impl Way {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl End {
    fn read_way(&self) -> usize {
        usize::from(self.caller)
    }

    fn write_way(&self) -> usize {
        usize::from(!self.caller)
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.wire);
        if wire.is_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let way = &mut wire.ways[self.read_way()];
        let count = way.arrived_count.min(into.remaining());
        if count == 0 && !(way.is_finished && way.bytes.is_empty()) {
            way.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        take(&mut way.bytes, into.initialize_unfilled_to(count));
        into.advance(count);
        way.arrived_count -= count;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = lock(&self.wire);
        if wire.is_cut || wire.ways[self.read_way()].is_finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let way = &mut wire.ways[self.write_way()];
        let count = bytes.len().min(WINDOW_BYTES - way.bytes.len());
        if count == 0 {
            way.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        way.bytes.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut wire = lock(&self.wire);
        let way = self.write_way();
        wire.ways[way].is_finished = true;
        wire.ways.iter_mut().for_each(Way::wake);
    }
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}
