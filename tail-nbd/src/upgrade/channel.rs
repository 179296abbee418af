//! Messages with descriptors between two processes: one line of JSON in each packet of a unix socket.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// Descriptors of one message (SCM_MAX_FD in the kernel).
pub const DESCRIPTORS_MAX: usize = 253;

/// One end. All calls block.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Two ends. Packets keep their limits, and what one end has sent can be received after its process is gone.
    ///
    /// # Errors
    /// When there is no descriptor to be had.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the other end is gone, or does not take it within `deadline`.
    ///
    /// # Panics
    /// When there are too many descriptors, which is a bug of the caller.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<()> {
        assert!(descriptors.len() <= DESCRIPTORS_MAX);
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        loop {
            self.wait(PollFlags::OUT, deadline)?;
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
                assert!(fits, "there is room for that many");
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// Receives a message and its descriptors.
    ///
    /// # Errors
    /// When the other end is gone (`UnexpectedEof`), says nothing until `deadline`, or something that is no message.
    pub fn receive<M: DeserializeOwned>(&self, deadline: Instant) -> io::Result<(M, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            self.wait(PollFlags::IN, deadline)?;
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => break other?,
            }
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            let reason = "a message is cut off: it is too long, or there are too many open files";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&bytes[..message.bytes])?, descriptors))
    }

    /// The socket itself, to be given to a child.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), flags)], Some(&timeout)) {
                Ok(0) if left == Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn messages_and_descriptors_arrive_together_and_outlive_their_sender() {
        let (one, other) = Channel::pair().unwrap();
        let files: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| tempfile::tempfile().unwrap()).collect();
        let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        one.send(&"first", &descriptors, soon()).unwrap();
        one.send(&"second", &[], soon()).unwrap();
        drop(one);
        let (message, received) = other.receive::<String>(soon()).unwrap();
        assert_eq!((message.as_str(), received.len()), ("first", DESCRIPTORS_MAX));
        for (file, received) in files.iter().zip(&received) {
            assert_eq!(fstat(file).unwrap().st_ino, fstat(received).unwrap().st_ino);
        }
        let (message, received) = other.receive::<String>(soon()).unwrap();
        assert_eq!((message.as_str(), received.len()), ("second", 0));
        assert_eq!(other.receive::<String>(soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn silence_ends_at_the_deadline_and_nonsense_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        assert_eq!(other.receive::<String>(Instant::now()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        one.send(&7, &[], soon()).unwrap();
        assert!(other.receive::<String>(soon()).is_err());
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        assert_eq!(one.send(&long, &[], soon()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        rustix::io::write(&one.socket, &vec![b'1'; MESSAGE_BYTES_MAX + 1]).unwrap();
        assert_eq!(other.receive::<u64>(soon()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
