//! The connection between two tails: frames over TCP, with TLS where it is configured.
//!
//! [`Link::receive`] and [`Link::flush`] may be dropped at any time, and go on where they were when they are called again:
//! whoever waits for an answer with a deadline goes on with the same connection.

use super::Ended;
use super::budgets::Budgets;
use super::wire::{self, Control, Digest, HEADER_BYTES, Header, Message, WireError};
use crate::describe::describe;
use crate::shard::never_pace;
use crate::tls::Identity;
use rustix::net::sockopt;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use spine::id::NodeName;
use spine::resource::migration::{MigrationErrorKind, MigrationOrder};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;
use std::{io, sync::Arc};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
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
    input: Vec<u8>,
    /// Bytes of `input` that are done with.
    taken: usize,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    sent: usize,
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
        Self { stream: Box::new(stream), certificate, input: Vec::new(), taken: 0, output: Vec::new(), sent: 0 }
    }

    /// True when the peer may call itself so. Without TLS nobody can tell.
    pub fn may_be(&self, name: &NodeName) -> bool {
        let Some(certificate) = &self.certificate else { return true };
        let Ok(name) = ServerName::try_from(name.as_str().to_owned()) else { return false };
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
        verify_server_name(&parsed, &name).is_ok()
    }

    /// The next message.
    ///
    /// # Errors
    /// When there is none: the connection is of no use then.
    pub async fn receive(&mut self) -> Result<Message, LinkError> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            self.input.drain(..std::mem::take(&mut self.taken));
            self.input.reserve(RECEIVE_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// A message that has arrived whole.
    fn parse(&mut self) -> Result<Option<Message>, LinkError> {
        let rest = &self.input[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(*header)?;
        let Some(payload) = rest.get(..header.payload_bytes()) else { return Ok(None) };
        let message = header.message(payload)?;
        self.taken += HEADER_BYTES + header.payload_bytes();
        Ok(Some(message))
    }

    /// Queues a control message.
    pub fn queue(&mut self, control: &Control) {
        wire::write_control(&mut self.output, control);
    }

    /// Queues bytes of the disc.
    pub fn queue_data(&mut self, offset: u64, bytes: &[u8]) {
        wire::write_data(&mut self.output, offset, bytes);
    }

    /// Queues a hole of the disc.
    pub fn queue_hole(&mut self, offset: u64, length: u64) {
        wire::write_hole(&mut self.output, offset, length);
    }

    /// Queues space of the disc that nothing was ever written to.
    pub fn queue_space(&mut self, offset: u64, length: u64) {
        wire::write_space(&mut self.output, offset, length);
    }

    /// Queues what there is in some chunks of the disc.
    pub fn queue_digests(&mut self, digests: &[Digest], is_last: bool) {
        wire::write_digests(&mut self.output, digests, is_last);
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]).await? {
                0 => return Err(LinkError::Closed),
                count => self.sent += count,
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(self.stream.flush().await?)
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

/// Room made for what arrives, in bytes: a frame of data with its neighbours.
const RECEIVE_BYTES: usize = wire::DATA_BYTES_MAX + (64 << 10);

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        let kind = match &error {
            LinkError::Wire(_) => MigrationErrorKind::Protocol,
            LinkError::Io(_) | LinkError::Closed => MigrationErrorKind::Unreachable,
        };
        Self { kind, message: describe(&error) }
    }
}
