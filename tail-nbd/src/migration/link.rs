//! The connection between two tails: frames over TCP, with TLS where it is configured.
//!
//! [`Link::receive`] and [`Link::flush`] may be dropped at any time, and go on where they were when they are called again:
//! whoever waits for an answer with a deadline goes on with the same connection.

use super::Ended;
use super::budgets::Budgets;
use super::wire::{self, Control, Digest, HEADER_BYTES, Header, Message, OFFSET_BYTES, WireError};
use crate::describe::describe;
use crate::shard::never_pace;
use crate::tls::Identity;
use rustix::net::sockopt;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use spine::id::NodeName;
use spine::resource::migration::{MigrationErrorKind, MigrationOrder};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long a connection and its handshake may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Seconds of silence before TCP asks whether the peer is still there, between its questions, and how many it asks; and
/// milliseconds after which it gives up on one that acknowledges nothing.
const KEEPALIVE: (u64, u64, u32) = (5, 2, 3);
const USER_TIMEOUT_MS: u32 = 10_000;

/// How tails reach each other.
#[derive(Clone)]
pub struct Network {
    /// Where this tail waits for others.
    pub listen: SocketAddr,
    /// Where it connects from: never a disc's address, which may move while it is connected (safety rule 12).
    pub own_address: Ipv6Addr,
    /// Who it is and whom it trusts; `None`: whoever has the right address is believed.
    pub identity: Option<Arc<Identity>>,
    /// How much moves to one tail may send together.
    pub budgets: Arc<Budgets>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("listen", &self.listen).field("tls", &self.identity.is_some()).finish()
    }
}

/// Why a connection is of no use any more.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The network, or the peer.
    #[error("the connection between the tails broke")]
    Io(#[from] io::Error),
    /// The peer closed it.
    #[error("the other tail closed the connection")]
    Closed,
    /// What came is not what tails say.
    #[error("what the other tail said is not understood")]
    Wire(#[from] WireError),
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection.
pub struct Link {
    stream: Box<dyn Stream>,
    certificate: Option<CertificateDer<'static>>,
    /// What has come: short frames, and the beginning of a longer one.
    input: Vec<u8>,
    /// Bytes of `input` that are done with.
    taken: usize,
    /// The longer one.
    incoming: Option<Incoming>,
    output: Vec<u8>,
    /// What follows `output`: bytes of a disc, which are not copied.
    payload: Vec<u8>,
    /// Bytes of both that are sent.
    sent: usize,
    /// The stream may keep some of what was sent.
    is_unflushed: bool,
    /// Room for what comes next.
    spare: Vec<u8>,
}

/// A frame of which the beginning has come.
struct Incoming {
    header: Header,
    /// Of data, what comes before the disc's bytes.
    front: [u8; OFFSET_BYTES],
    bytes: Vec<u8>,
    lacking_bytes: usize,
}

impl Network {
    /// Connects to the target of a move, and makes sure that it is the one.
    ///
    /// # Errors
    /// When it cannot be reached, or is somebody else.
    pub async fn connect(&self, order: &MigrationOrder) -> Result<Link, Ended> {
        let unreachable = |why: String| Ended {
            kind: MigrationErrorKind::Unreachable,
            message: format!("{} at {} cannot be reached: {why}", order.target, order.address),
        };
        let connecting = async {
            #[cfg(test)]
            if crate::sim::stage::is_set() {
                return Ok(Link::new(crate::sim::stage::dial(self.own_address, order.address).await?, None));
            }
            let socket = match order.address {
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
            };
            // Most of what a move sends goes this way.
            never_pace(&socket);
            if order.address.is_ipv6() {
                socket.bind((self.own_address, 0).into())?;
            }
            let stream = socket.connect(order.address).await?;
            configure(&stream)?;
            let Some(identity) = &self.identity else { return Ok(Link::new(stream, None)) };
            let config = identity.client_config().map_err(io::Error::other)?;
            let name = ServerName::try_from(order.target.as_str().to_owned()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok::<_, io::Error>(Link::new(stream, None))
        };
        match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
            Ok(connected) => connected.map_err(|error| unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no answer within {} s", CONNECT_DEADLINE.as_secs()))),
        }
    }

    /// Takes a connection in.
    ///
    /// # Errors
    /// When the handshake fails or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Link> {
        configure(&stream)?;
        let Some(identity) = &self.identity else { return Ok(Link::new(stream, None)) };
        let config = identity.server_config().map_err(io::Error::other)?;
        let accepting = TlsAcceptor::from(config).accept(stream);
        let stream = tokio::time::timeout(CONNECT_DEADLINE, accepting).await??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        let certificate = certificate.ok_or_else(|| io::Error::other("the other tail has no certificate"))?;
        Ok(Link::new(stream, Some(certificate.into_owned())))
    }
}

fn configure(socket: &TcpStream) -> io::Result<()> {
    let (idle, interval, probes) = KEEPALIVE;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(idle))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(interval))?;
    sockopt::set_tcp_keepcnt(socket, probes)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT_MS)?;
    Ok(())
}

impl Link {
    pub(crate) fn new(stream: impl Stream + 'static, certificate: Option<CertificateDer<'static>>) -> Self {
        Self {
            stream: Box::new(stream),
            certificate,
            input: Vec::new(),
            taken: 0,
            incoming: None,
            output: Vec::new(),
            payload: Vec::new(),
            sent: 0,
            is_unflushed: false,
            spare: Vec::new(),
        }
    }

    /// True when the peer may call itself so. Without TLS nobody can tell.
    pub fn may_be(&self, name: &NodeName) -> bool {
        let Some(certificate) = &self.certificate else { return true };
        let Ok(name) = ServerName::try_from(name.as_str().to_owned()) else { return false };
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
        verify_server_name(&parsed, &name).is_ok()
    }

    /// The next message. What is queued goes out meanwhile.
    ///
    /// # Errors
    /// When there is none: the connection is of no use then.
    pub async fn receive(&mut self) -> Result<Message, LinkError> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            self.input.drain(..std::mem::take(&mut self.taken));
            if poll_fn(|context| self.poll_exchange(context)).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// Takes a buffer that is not needed any more for what comes next.
    pub fn reuse(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = buffer;
    }

    /// Sends what can be sent, and receives some.
    fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.poll_flush(context) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if self.unsent_bytes() > UNSENT_BYTES_MAX => return Poll::Pending,
            _ => {}
        }
        let (into, most) = match &mut self.incoming {
            Some(incoming) => (&mut incoming.bytes, incoming.lacking_bytes),
            None => (&mut self.input, AHEAD_BYTES),
        };
        into.reserve(most);
        let mut limited = (&mut self.stream).take(most as u64);
        let count = ready!(pin!(limited.read_buf(into)).poll(context))?;
        if let Some(incoming) = &mut self.incoming {
            incoming.lacking_bytes -= count;
        }
        Poll::Ready(Ok(count))
    }

    /// A message that has arrived whole.
    fn parse(&mut self) -> Result<Option<Message>, LinkError> {
        if let Some(incoming) = self.incoming.take_if(|incoming| incoming.lacking_bytes == 0) {
            let Incoming { header, front, bytes, .. } = incoming;
            let message = if header.is_data() { header.data(front, bytes) } else { header.message(&bytes) };
            return Ok(Some(message?));
        }
        let rest = &self.input[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(*header)?;
        if let Some(payload) = rest.get(..header.payload_bytes()) {
            let message = header.message(payload)?;
            self.taken += HEADER_BYTES + header.payload_bytes();
            return Ok(Some(message));
        }
        let (front, rest) = match rest.split_first_chunk() {
            Some((front, rest)) if header.is_data() => (*front, rest),
            None if header.is_data() => return Ok(None),
            _ => ([0; OFFSET_BYTES], rest),
        };
        let front_bytes = if header.is_data() { OFFSET_BYTES } else { 0 };
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.extend_from_slice(rest);
        let lacking_bytes = header.payload_bytes() - front_bytes - rest.len();
        self.taken = self.input.len();
        self.incoming = Some(Incoming { header, front, bytes, lacking_bytes });
        Ok(None)
    }

    /// Where the next frame is queued.
    fn end(&mut self) -> &mut Vec<u8> {
        // There are some when somebody has not waited for the end of sending them.
        self.output.append(&mut self.payload);
        &mut self.output
    }

    /// Queues a control message.
    pub fn queue(&mut self, control: &Control) {
        wire::write_control(self.end(), control);
    }

    /// Sends what is queued and then bytes of the disc, and returns their buffer, empty.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send_data(&mut self, offset: u64, bytes: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        wire::write_data_front(self.end(), offset, &bytes);
        self.payload = bytes;
        self.flush().await?;
        Ok(std::mem::take(&mut self.payload))
    }

    /// Queues a hole of the disc.
    pub fn queue_hole(&mut self, offset: u64, length: u64) {
        wire::write_hole(self.end(), offset, length);
    }

    /// Queues space of the disc that nothing was ever written to.
    pub fn queue_space(&mut self, offset: u64, length: u64) {
        wire::write_space(self.end(), offset, length);
    }

    /// Queues what there is in some chunks of the disc.
    pub fn queue_digests(&mut self, digests: &[Digest], is_last: bool) {
        wire::write_digests(self.end(), digests, is_last);
    }

    /// Bytes that are queued and not sent.
    fn unsent_bytes(&self) -> usize {
        self.output.len() + self.payload.len() - self.sent
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        Ok(poll_fn(|context| self.poll_flush(context)).await?)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent_bytes() > 0 {
            let front = self.output.get(self.sent..).unwrap_or_default();
            let payload = &self.payload[self.sent.saturating_sub(self.output.len())..];
            let parts = [IoSlice::new(front), IoSlice::new(payload)];
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &parts))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
            self.is_unflushed = true;
        }
        self.output.clear();
        self.payload.clear();
        self.sent = 0;
        if self.is_unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a control message and sends everything.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send(&mut self, control: &Control) -> Result<(), LinkError> {
        self.queue(control);
        self.flush().await
    }
}

/// How much may be queued, in bytes, before nothing more is received: more than a frame of data and an answer about what was
/// compared, so that two tails never wait for each other, and little enough for a peer that does not read what it asks for.
const UNSENT_BYTES_MAX: usize = 2 * wire::DATA_BYTES_MAX;

/// What is received before it is known where it belongs, in bytes: many short frames, and little of a long one, which is copied.
const AHEAD_BYTES: usize = 4 << 10;

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        let kind = match &error {
            LinkError::Wire(_) => MigrationErrorKind::Protocol,
            LinkError::Io(_) | LinkError::Closed => MigrationErrorKind::Unreachable,
        };
        Self { kind, message: describe(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::wire::{DATA_BYTES_MAX, DIGESTS_MAX};
    use spine::resource::migration::MigrationErrorKind;

    fn pair(between_bytes: usize) -> [Link; 2] {
        let (one, other) = tokio::io::duplex(between_bytes);
        [Link::new(one, None), Link::new(other, None)]
    }

    fn run(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
    }

    #[test]
    fn frames_arrive_whole_and_in_order_however_they_are_cut() {
        // Around the length of a header, of a page, and all at once.
        for between_bytes in [1, 23, 24, 4096, 4 << 20] {
            let [mut source, mut target] = pair(between_bytes);
            let bytes: Vec<u8> = (0..100_000u32).map(|byte| (byte % 251) as u8).collect();
            let sending = async {
                source.queue_hole(1, 2);
                let buffer = source.send_data(3, bytes.clone()).await.unwrap();
                assert!(buffer.is_empty() && buffer.capacity() >= bytes.len(), "it can be used again");
                source.queue_space(4, 5);
                source.send(&Control::PassEnd { pass: 6 }).await.unwrap();
            };
            let receiving = async {
                assert_eq!(target.receive().await.unwrap(), Message::Hole { offset: 1, length: 2 });
                let Message::Data { offset: 3, bytes: received } = target.receive().await.unwrap() else { panic!() };
                assert_eq!(received, bytes);
                target.reuse(received);
                assert_eq!(target.receive().await.unwrap(), Message::Space { offset: 4, length: 5 });
                assert_eq!(target.receive().await.unwrap(), Message::Control(Control::PassEnd { pass: 6 }));
            };
            run(async { tokio::join!(sending, receiving).0 });
        }
    }

    #[test]
    fn what_is_said_behind_data_that_nobody_waited_for_comes_behind_it() {
        let [mut source, mut target] = pair(4096);
        let failed = Control::Failed { kind: MigrationErrorKind::Cancelled, message: "it was cancelled".into() };
        run(async {
            let sending = source.send_data(7, vec![9; DATA_BYTES_MAX]);
            assert!(futures_util::poll!(pin!(sending)).is_pending());
            let saying = async { source.send(&failed).await.unwrap() };
            let receiving = async {
                let data = Message::Data { offset: 7, bytes: vec![9; DATA_BYTES_MAX] };
                assert!(target.receive().await.unwrap() == data);
                assert_eq!(target.receive().await.unwrap(), Message::Control(failed.clone()));
            };
            tokio::join!(saying, receiving);
        });
    }

    #[test]
    fn two_ends_that_both_have_much_to_say_do_not_wait_for_each_other() {
        let mut links = pair(4096);
        let digest = |at: usize| Digest { offset: at as u64, allocated_bytes: 1, hash: [7; 32] };
        let digests: Vec<Digest> = (0..DIGESTS_MAX).map(digest).collect();
        links.iter_mut().for_each(|link| (0..16).for_each(|_| link.queue_digests(&digests, false)));
        let [one, other] = &mut links;
        run(async {
            for _ in 0..16 {
                let received = tokio::join!(one.receive(), other.receive());
                assert!(received.0.is_ok() && received.1.is_ok());
            }
        });
    }

    #[test]
    fn a_peer_that_reads_nothing_is_not_listened_to_without_end() {
        let [mut asking, mut asked] = pair(64 << 10);
        let digest = Digest { offset: 0, allocated_bytes: 1, hash: [7; 32] };
        run(async {
            let asks = async {
                loop {
                    asking.send(&Control::PassEnd { pass: 1 }).await.unwrap();
                }
            };
            let mut answers_count = 0;
            let answers = async {
                loop {
                    asked.receive().await.unwrap();
                    asked.queue_digests(&vec![digest.clone(); DIGESTS_MAX], true);
                    answers_count += 1;
                }
            };
            {
                let (mut asks, mut answers) = (pin!(asks), pin!(answers));
                for _ in 0..1000 {
                    let _ = (futures_util::poll!(&mut answers), futures_util::poll!(&mut asks));
                    tokio::task::yield_now().await;
                }
            }
            assert!((10..100).contains(&answers_count), "{answers_count} answers wait");
        });
    }
}
