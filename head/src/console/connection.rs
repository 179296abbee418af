//! One SSH connection, from accept to the last byte.
//!
//! ```text
//!   stranger ── proof accepted ──▶ user ── client leaves, right withdrawn, console stopped ──▶ closed
//!      └── deadline, too many failures, no place left ─────────────────────────────────────────▶ closed
//! ```

use super::{
    limits::{
        AUTH_ATTEMPTS_MAX, AUTH_DEADLINE, AUTH_REFUSAL, CHANNELS_MAX, GOODBYE, KEEPALIVE_INTERVAL, PASSWORD_CHECKS_MAX,
    },
    serial::Serial,
    users::{ConsoleUsers, Identity, Proof, password_matches},
    viewer::{STDERR, Viewer},
};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, Pty, SshId,
    keys::PrivateKey,
    server::{
        Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, RunningSession, Session, VerifiedPublicKey,
        run_stream,
    },
};
use std::{
    borrow::Cow,
    collections::HashMap,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
};

/// What the connections of one console share.
#[derive(Debug)]
pub struct Shared {
    /// The machine's display name, for people and logs.
    pub machine: String,
    /// Keys and limits of the SSH server.
    pub config: Arc<Config>,
    /// The serial line.
    pub serial: Arc<Serial>,
    /// Who may come in now.
    pub users: watch::Receiver<Arc<ConsoleUsers>>,
    /// Turns true when the console stops.
    pub stopping: watch::Receiver<bool>,
    /// Places for connections that have proved who they are.
    pub places: Arc<Semaphore>,
}

/// The SSH server's settings with the machine's own keys.
pub fn server_config(keys: Vec<PrivateKey>) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-BigV_console")),
        methods: MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..]),
        auth_rejection_time: AUTH_REFUSAL,
        // Every client begins by asking, without a proof, which methods there are.
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: AUTH_ATTEMPTS_MAX,
        keys,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    }
}

/// Serves one connection to its end. `stranger` is its place among those that have proved nothing.
pub async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, stranger: OwnedSemaphorePermit) {
    // The library's task owns the stream; this second handle ends it even when that task is stuck.
    let Ok(socket) = socket2::SockRef::from(&stream).try_clone() else { return };
    let end = converse(stream, Arc::clone(&shared), stranger).await;
    let _ = socket.shutdown(Shutdown::Both);
    // Anybody can cause this line: it is for those who look for it.
    tracing::debug!(machine = shared.machine, %peer, "console: connection ended: {end}");
}

/// Returns why it ended.
async fn converse(stream: TcpStream, shared: Arc<Shared>, stranger: OwnedSemaphorePermit) -> String {
    let mut stopping = shared.stopping.clone();
    let mut users = shared.users.clone();
    let (proved, mut proof) = oneshot::channel();
    let handler = Connection::new(Arc::clone(&shared), proved);

    let deadline = tokio::time::Instant::now() + AUTH_DEADLINE;
    let begin = run_stream(Arc::clone(&shared.config), stream, handler);
    let begun = tokio::select! {
        begun = tokio::time::timeout_at(deadline, begin) => begun,
        () = stopped(&mut stopping) => return STOPPED.into(),
    };
    let mut session = match begun {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return format!("no SSH client: {error}"),
        Err(_) => return "no SSH client: it said nothing".into(),
    };
    let identity = tokio::select! {
        biased;
        Ok(identity) = &mut proof => identity,
        ended = &mut session => return describe(ended),
        () = tokio::time::sleep_until(deadline) => return part(session, "too slow to prove who you are").await,
        () = stopped(&mut stopping) => return part(session, STOPPED).await,
    };
    let Ok(_place) = Arc::clone(&shared.places).try_acquire_owned() else {
        return part(session, "too many people are at this console").await;
    };
    drop(stranger);
    tracing::info!(machine = shared.machine, user = identity.user, "console: came in");
    loop {
        if !users.borrow_and_update().still_accept(&identity) {
            return part(session, "your right to use this console was withdrawn").await;
        }
        tokio::select! {
            ended = &mut session => return describe(ended),
            () = stopped(&mut stopping) => return part(session, STOPPED).await,
            changed = users.changed() => if changed.is_err() { return part(session, STOPPED).await },
        }
    }
}

/// Waits until the console stops.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

const STOPPED: &str = "the machine's console has stopped here";

/// Says goodbye with a reason, to a client that takes it in time.
async fn part(session: RunningSession<Connection>, reason: &str) -> String {
    let goodbye = async {
        let _ = session.handle().disconnect(Disconnect::ByApplication, reason.into(), String::new()).await;
        let _ = session.await;
    };
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    reason.to_owned()
}

fn describe(ended: Result<(), russh::Error>) -> String {
    match ended {
        Ok(()) => "the client left".into(),
        Err(error) => error.to_string(),
    }
}

/// What the SSH library asks, for one connection.
struct Connection {
    shared: Arc<Shared>,
    /// Set by the proof that was accepted, taken when the library has let the user in.
    identity: Option<Identity>,
    proved: Option<oneshot::Sender<Identity>>,
    /// Channels that are open and show nothing yet.
    waiting: HashMap<ChannelId, Channel<Msg>>,
    viewers: HashMap<ChannelId, Viewer>,
}

impl Connection {
    fn new(shared: Arc<Shared>, proved: oneshot::Sender<Identity>) -> Self {
        Self { shared, identity: None, proved: Some(proved), waiting: HashMap::new(), viewers: HashMap::new() }
    }

    fn accept(&mut self, user: &str, proof: Proof) -> Auth {
        self.identity = Some(Identity { user: user.to_owned(), proof });
        Auth::Accept
    }

    fn refuse(&self, user: &str, what: &str) -> Auth {
        let user: String = user.chars().filter(|c| !c.is_control()).take(64).collect();
        tracing::debug!(machine = self.shared.machine, user, "console: {what} refused");
        Auth::reject()
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let accepted = self.shared.users.borrow().accept_key(user, offer.public_key.key_data());
        Ok(if accepted { Auth::Accept } else { self.refuse(user, "key offered") })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let key = key.public_key.key_data();
        let accepted = self.shared.users.borrow().accept_key(user, key);
        Ok(if accepted { self.accept(user, Proof::Key(key.clone())) } else { self.refuse(user, "key") })
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let stored = self.shared.users.borrow().stored_password(user).cloned();
        let Some(stored) = stored else { return Ok(self.refuse(user, "password")) };
        let (asked, typed) = (stored.clone(), password.to_owned());
        // Never closed: the permit can always be had in the end.
        let _turn = PASSWORD_CHECKS.acquire().await;
        let matches = tokio::task::spawn_blocking(move || password_matches(&asked, &typed)).await.unwrap_or(false);
        Ok(if matches { self.accept(user, Proof::Password(stored)) } else { self.refuse(user, "password") })
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        match (self.identity.take(), self.proved.take()) {
            (Some(identity), Some(proved)) => proved.send(identity).map_err(|_| russh::Error::Disconnect),
            _ => Err(russh::Error::Inconsistent),
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.waiting.len() + self.viewers.len() >= CHANNELS_MAX {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.waiting.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.waiting.remove(&channel);
        self.viewers.remove(&channel);
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        let Some(opened) = self.waiting.remove(&channel) else { return session.channel_failure(channel) };
        session.channel_success(channel)?;
        let viewer = Viewer::start(opened, Arc::clone(&self.shared.serial), &self.shared.machine);
        self.viewers.insert(channel, viewer);
        Ok(())
    }

    /// A command is answered in words: a bare refusal would leave its author guessing.
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.waiting.remove(&channel).is_none() {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        session.extended_data(
            channel,
            STDERR,
            "This is a serial console: it runs no commands. Connect without one.\r\n",
        )?;
        session.exit_status_request(channel, 1)?;
        session.eof(channel)?;
        session.close(channel)
    }

    #[allow(clippy::too_many_arguments, reason = "the library's signature")]
    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _pixels_wide: u32,
        _pixels_high: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // Only with a terminal does the client pass each key as it is struck.
        session.channel_success(channel)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _columns: u32,
        _rows: u32,
        _pixels_wide: u32,
        _pixels_high: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}

static PASSWORD_CHECKS: Semaphore = Semaphore::const_new(PASSWORD_CHECKS_MAX);
