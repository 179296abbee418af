//! The new process's side: it gets ready, takes everything, and says that it serves before it begins.

use super::{
    FORMAT, GiverSaid, PREPARED_DEADLINE, SERVING_DEADLINE, TakerSaid,
    channel::{Channel, MESSAGE_BYTES_MAX},
    state::{self, Contents, STATE_BYTES_MAX, StateError},
};
use crate::shard::{CarriedDisc, LentDisc};
use rustix::stdio::dup2_stdin;
use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    net::TcpListener,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};
use thiserror::Error;

/// Why nothing was taken over.
#[derive(Debug, Error)]
pub enum TakeOverError {
    /// It is for another version.
    #[error(
        "the running server hands over in form {0}, and this program knows form {FORMAT}: stop it and start this one"
    )]
    Format(u32),
    /// Standard input is no socket of a server.
    #[error("--take-over is for a running server that starts its successor; use `tail-nbd upgrade`")]
    Input(#[source] io::Error),
    /// The old process is gone, or says nothing.
    #[error("the server that was to hand over {what}")]
    Giver {
        /// What it did not do.
        what: &'static str,
        /// What the channel says.
        source: io::Error,
    },
    /// What it handed over is not what it should be.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The link to the old process.
#[derive(Debug)]
pub struct Taker {
    channel: Channel,
}

/// What the old process has, and goes on using.
#[derive(Debug)]
pub struct Loan {
    /// The lock of the state directory.
    pub lock: File,
    /// Where Prometheus asks.
    pub metrics: Option<TcpListener>,
    /// The discs.
    pub discs: Vec<LentDisc>,
}

impl Taker {
    /// Takes the link from standard input, where nothing is left.
    ///
    /// # Errors
    /// When there is none, or the old process hands over in a `format` that is not known here.
    pub fn from_stdin(format: u32) -> Result<Self, TakeOverError> {
        let socket = io::stdin().as_fd().try_clone_to_owned().map_err(TakeOverError::Input)?;
        rustix::net::sockopt::socket_type(&socket).map_err(|errno| TakeOverError::Input(errno.into()))?;
        let nothing = File::open("/dev/null").map_err(TakeOverError::Input)?;
        dup2_stdin(nothing).map_err(|errno| TakeOverError::Input(errno.into()))?;
        let taker = Self { channel: Channel::from(socket) };
        if format != FORMAT {
            let error = TakeOverError::Format(format);
            taker.fail(&error.to_string());
            return Err(error);
        }
        Ok(taker)
    }

    /// Says that this process can run, and waits until the records do not change any more. Blocks.
    ///
    /// # Errors
    /// When the old process is gone or says nothing, or what comes cannot be used.
    pub fn ready(&self) -> Result<Loan, TakeOverError> {
        self.say(&TakerSaid::Ready)?;
        let (said, descriptors) = self.hear(PREPARED_DEADLINE, "says nothing")?;
        let GiverSaid::Lent(contents) = said else { return Err(out_of_turn()) };
        let mut descriptors = self.hear_all(contents, descriptors)?;
        let mut next = || descriptors.next().ok_or(StateError::Short);
        let (bytes, lock) = (read_all(next()?)?, File::from(next()?));
        let metrics = if contents.metrics { Some(TcpListener::from(next()?)) } else { None };
        Ok(Loan { lock, metrics, discs: state::read_lent(&bytes, descriptors)? })
    }

    /// Says that the discs are open here, and waits for what has become of them: clients wait from then on. Blocks.
    ///
    /// # Errors
    /// When the old process changes its mind, or what comes cannot be used.
    pub fn take(&self) -> Result<Vec<CarriedDisc>, TakeOverError> {
        self.say(&TakerSaid::Prepared)?;
        let (said, descriptors) = self.hear(PREPARED_DEADLINE, "keeps its discs")?;
        let GiverSaid::State(contents) = said else { return Err(out_of_turn()) };
        let mut descriptors = self.hear_all(contents, descriptors)?;
        let bytes = read_all(descriptors.next().ok_or(StateError::Short)?)?;
        Ok(state::read(&bytes, descriptors)?)
    }

    /// All descriptors of a message that came with some of them.
    fn hear_all(
        &self,
        contents: Contents,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<impl Iterator<Item = OwnedFd> + use<>, TakeOverError> {
        while descriptors.len() < contents.descriptors_count {
            match self.hear(SERVING_DEADLINE, "does not hand over all of it")? {
                (GiverSaid::Descriptors, more) if !more.is_empty() => descriptors.extend(more),
                _ => return Err(out_of_turn()),
            }
        }
        Ok(descriptors.into_iter())
    }

    /// Says that this process serves. It must not have begun before this returns, and must begin then, whatever comes.
    ///
    /// # Errors
    /// When the old process is gone: it cannot have ended in good order, and this one is to end as well.
    pub fn serving(&self) -> Result<(), TakeOverError> {
        self.say(&TakerSaid::Serving)
    }

    /// Says why this process does not take over. It is to end.
    pub fn fail(&self, reason: &str) {
        let mut reason = reason.to_owned();
        // What JSON makes of a text may be several times as long.
        reason.truncate(reason.floor_char_boundary(MESSAGE_BYTES_MAX / 8));
        // Without the other side there is nobody to tell.
        let _ = self.say(&TakerSaid::Failed(reason));
    }

    fn say(&self, said: &TakerSaid) -> Result<(), TakeOverError> {
        let sent = self.channel.send(said, &[], Instant::now() + SERVING_DEADLINE);
        sent.map_err(|source| TakeOverError::Giver { what: "is gone", source })
    }

    fn hear(&self, patience: Duration, what: &'static str) -> Result<(GiverSaid, Vec<OwnedFd>), TakeOverError> {
        self.channel.receive(Instant::now() + patience).map_err(|source| TakeOverError::Giver { what, source })
    }
}

fn read_all(state: OwnedFd) -> Result<Vec<u8>, TakeOverError> {
    let failed = |source| TakeOverError::Giver { what: "hands over what cannot be read", source };
    let mut bytes = Vec::new();
    let mut state = File::from(state);
    state.rewind().map_err(failed)?;
    state.take(STATE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn out_of_turn() -> TakeOverError {
    TakeOverError::Giver { what: "says something out of turn", source: io::ErrorKind::InvalidData.into() }
}
