//! All discs and their clients as bytes and descriptors.
//!
//! ```text
//!   while they are served:
//!   {"facts":{…},"clients_count":1}⏎                      a disc; descriptors: its file, its listener
//!   {…}⏎                                                  a client; descriptor: its socket
//!
//!   when they are frozen:
//!   {"facts":{…},"counted":true,"kept":[7],…}⏎            a disc, and those of its clients that are as they were
//!   {…}⏎                                                  what it has done, if that is another thing than when it was lent
//!   {"facts":{…},"input_bytes":28,"output_bytes":0}⏎…     another client, and the bytes; descriptor: its socket
//! ```
//!
//! Lines of JSON, because the two sides are different versions: an attribute that one does not know is left out or has its
//! default. What clients have sent or are to be sent follows as it is. Descriptors are in the order in which they are
//! mentioned. Whatever does not fit together is refused as a whole.

use crate::shard::{
    CarriedClient, CarriedDisc, ClientFacts, DiscFacts, LentClient, LentClientFacts, LentDisc, LentFacts,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, Write},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};
use thiserror::Error;

/// Longest state that is read, in bytes: the buffers of some shards, and a few hundred bytes for each disc and client.
pub const STATE_BYTES_MAX: u64 = 4 << 30;

/// What there is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Descriptors in this message and those that follow it.
    pub descriptors_count: usize,
    /// There is a listener for metrics among them.
    #[serde(default)]
    pub metrics: bool,
}

/// Why a state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It ends too early, or a count is not true.
    #[error("the state that was handed over is cut off")]
    Short,
    /// A line is not what it should be.
    #[error("the state that was handed over is not understood")]
    Line(#[from] serde_json::Error),
    /// More or fewer descriptors than it mentions.
    #[error("{0} descriptors more than the state mentions were handed over")]
    Descriptors(usize),
}

#[derive(Serialize, Deserialize)]
struct LentLine {
    facts: LentFacts,
    clients_count: usize,
}

#[derive(Serialize, Deserialize)]
struct DiscLine {
    facts: DiscFacts,
    /// What it has done is in the next line: apart, because numbers that are not understood are no reason to refuse, and
    /// it takes long to find that out in the midst of a line.
    #[serde(default)]
    counted: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kept: Vec<u64>,
    clients_count: usize,
}

#[derive(Serialize, Deserialize)]
struct ClientLine {
    facts: ClientFacts,
    input_bytes: usize,
    output_bytes: usize,
}

/// Writes the bytes of discs that are lent.
///
/// # Errors
/// What `out` says.
pub fn write_lent(discs: &[LentDisc], out: &mut impl Write) -> io::Result<()> {
    for disc in discs {
        write_line(out, &LentLine { facts: disc.facts.clone(), clients_count: disc.clients.len() })?;
        disc.clients.iter().try_for_each(|client| write_line(out, &client.facts))?;
    }
    Ok(())
}

/// The descriptors of discs that are lent, in the order of [`write_lent()`].
pub fn lent_descriptors(discs: &[LentDisc]) -> impl Iterator<Item = BorrowedFd<'_>> {
    discs.iter().flat_map(|disc| {
        let clients = disc.clients.iter().map(|client| client.socket.as_fd());
        [disc.data.as_fd(), disc.listener.as_fd()].into_iter().chain(clients)
    })
}

/// The discs from what [`write_lent()`] and [`lent_descriptors`] gave.
///
/// # Errors
/// When it is anything else.
pub fn read_lent(
    mut bytes: &[u8],
    descriptors: impl IntoIterator<Item = OwnedFd>,
) -> Result<Vec<LentDisc>, StateError> {
    let mut descriptors = descriptors.into_iter();
    let mut discs = Vec::new();
    while !bytes.is_empty() {
        let LentLine { facts, clients_count } = read_line(&mut bytes)?;
        let data = descriptors.next().ok_or(StateError::Short)?;
        let listener = descriptors.next().ok_or(StateError::Short)?.into();
        let mut clients = Vec::new();
        for _ in 0..clients_count {
            let facts: LentClientFacts = read_line(&mut bytes)?;
            clients.push(LentClient { facts, socket: descriptors.next().ok_or(StateError::Short)? });
        }
        discs.push(LentDisc { facts, data, listener, clients });
    }
    nothing_left(descriptors).map(|()| discs)
}

fn nothing_left(descriptors: impl Iterator<Item = OwnedFd>) -> Result<(), StateError> {
    match descriptors.count() {
        0 => Ok(()),
        count => Err(StateError::Descriptors(count)),
    }
}

/// Writes the bytes of all discs, which are frozen.
///
/// # Errors
/// What `out` says.
pub fn write(discs: &[CarriedDisc], out: &mut impl Write) -> io::Result<()> {
    for disc in discs {
        let counted = disc.facts.counters.is_some();
        let (facts, kept, clients_count) = (disc.facts.clone(), disc.kept.clone(), disc.clients.len());
        write_line(out, &DiscLine { facts, counted, kept, clients_count })?;
        if let Some(counters) = &disc.facts.counters {
            write_line(out, counters)?;
        }
        for client in &disc.clients {
            let (input_bytes, output_bytes) = (client.input.len(), client.output.len());
            write_line(out, &ClientLine { facts: client.facts.clone(), input_bytes, output_bytes })?;
            out.write_all(&client.input)?;
            out.write_all(&client.output)?;
        }
    }
    Ok(())
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// The descriptors of all discs, in the order of [`write()`].
pub fn descriptors(discs: &[CarriedDisc]) -> impl Iterator<Item = BorrowedFd<'_>> {
    discs.iter().flat_map(|disc| &disc.clients).map(|client| client.socket.as_fd())
}

/// The discs from what [`write()`] and [`descriptors`] gave.
///
/// # Errors
/// When it is anything else.
pub fn read(mut bytes: &[u8], descriptors: impl IntoIterator<Item = OwnedFd>) -> Result<Vec<CarriedDisc>, StateError> {
    let mut descriptors = descriptors.into_iter();
    let mut discs = Vec::new();
    while !bytes.is_empty() {
        let DiscLine { mut facts, counted, kept, clients_count } = read_line(&mut bytes)?;
        if counted {
            facts.counters = Some(serde_json::from_slice(take_line(&mut bytes)?).unwrap_or_default());
        }
        let mut clients = Vec::new();
        for _ in 0..clients_count {
            let ClientLine { facts, input_bytes, output_bytes } = read_line(&mut bytes)?;
            let socket = descriptors.next().ok_or(StateError::Short)?;
            let (input, output) = (take(&mut bytes, input_bytes)?, take(&mut bytes, output_bytes)?);
            clients.push(CarriedClient { facts, socket, input, output });
        }
        discs.push(CarriedDisc { facts, kept, clients });
    }
    nothing_left(descriptors).map(|()| discs)
}

fn read_line<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, StateError> {
    Ok(serde_json::from_slice(take_line(bytes)?)?)
}

fn take_line<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], StateError> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(StateError::Short)?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Ok(line)
}

fn take(bytes: &mut &[u8], count: usize) -> Result<Vec<u8>, StateError> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(StateError::Short)?;
    *bytes = rest;
    Ok(taken.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::DiscSize;
    use crate::metrics::DiscCounters;
    use crate::nbd::negotiation::Agreement;
    use crate::nbd::offer::{Style, Tls};
    use crate::nbd::{request::Header, server::Server};
    use crate::shard::{Grant, Suspended};
    use proptest::prelude::*;
    use spine::id::DiscNumber;
    use std::net::{Ipv4Addr, TcpListener};

    fn descriptor() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn counters() -> DiscCounters {
        let mut counters = DiscCounters { reads_count: 7, ..DiscCounters::default() };
        counters.read_latency_us.record(1000);
        counters
    }

    fn lent(number: u64, counters: DiscCounters) -> LentDisc {
        LentDisc {
            facts: LentFacts { number: DiscNumber(number), incarnation: 3, size_bytes: 1 << 40, counters },
            data: descriptor(),
            listener: TcpListener::from(descriptor()),
            clients: (1..number).map(lent_client).collect(),
        }
    }

    fn lent_client(key: u64) -> LentClient {
        let peer = Ipv4Addr::LOCALHOST.into();
        let agreement = Agreement {
            size: DiscSize::from_bytes(1 << 40).unwrap(),
            style: Style::Structured,
            allocation: true,
            read_only: false,
        };
        LentClient { facts: LentClientFacts { key, peer, grant: Grant::Listed(peer), agreement }, socket: descriptor() }
    }

    fn disc(number: u64, clients: &[(&[u8], &[u8])]) -> CarriedDisc {
        let header = Header { flags: 1, command: 1, cookie: u64::MAX, offset: 512, length: 4096 };
        let client = |(input, output): &(&[u8], &[u8])| CarriedClient {
            facts: ClientFacts {
                peer: Ipv4Addr::LOCALHOST.into(),
                grant: None,
                draining: false,
                server: Server::new(Tls::Off, &mut vec![]),
                pending: Some(header),
                landing: None,
                suspended: vec![Suspended { header, done: 3, error: None }],
            },
            socket: descriptor(),
            input: input.to_vec(),
            output: output.to_vec(),
        };
        let number = DiscNumber(number);
        let counters = Some(counters());
        CarriedDisc {
            facts: DiscFacts { number, incarnation: 3, size_bytes: 1 << 40, sync_failed: true, counters },
            kept: (0..number.0 - 1).collect(),
            clients: clients.iter().map(client).collect(),
        }
    }

    fn bytes(discs: &[CarriedDisc]) -> Vec<u8> {
        let mut bytes = vec![];
        write(discs, &mut bytes).unwrap();
        bytes
    }

    fn lent_bytes(discs: &[LentDisc]) -> Vec<u8> {
        let mut bytes = vec![];
        write_lent(discs, &mut bytes).unwrap();
        bytes
    }

    fn new_descriptors(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| descriptor()).collect()
    }

    fn copies<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<OwnedFd> {
        descriptors.map(|fd| fd.try_clone_to_owned().unwrap()).collect()
    }

    fn inodes<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<u64> {
        descriptors.map(|fd| rustix::fs::fstat(fd).unwrap().st_ino).collect()
    }

    #[test]
    fn what_is_written_is_read_with_each_byte_and_each_descriptor() {
        let discs = [disc(1, &[]), disc(2, &[(b"{\n", b""), (b"", b"\n\n}")])];
        let read = read(&bytes(&discs), copies(descriptors(&discs))).unwrap();
        assert_eq!(bytes(&read), bytes(&discs));
        assert_eq!(inodes(descriptors(&read)), inodes(descriptors(&discs)));
        assert_eq!(
            (read[1].facts.counters, read[1].kept.as_slice(), read[1].clients[1].output.as_slice()),
            (discs[1].facts.counters, &[0][..], &b"\n\n}"[..])
        );
        let discs = [lent(1, counters()), lent(2, DiscCounters::default())];
        let read = read_lent(&lent_bytes(&discs), copies(lent_descriptors(&discs))).unwrap();
        assert_eq!(read.iter().map(|disc| &disc.facts).collect::<Vec<_>>(), [&discs[0].facts, &discs[1].facts]);
        assert_eq!((read[0].clients.len(), &read[1].clients[0].facts), (0, &discs[1].clients[0].facts));
        assert_eq!(inodes(lent_descriptors(&read)), inodes(lent_descriptors(&discs)));
    }

    #[test]
    fn a_cut_or_a_wrong_count_is_refused() {
        let whole = bytes(&[disc(1, &[(b"abc", b"de")])]);
        assert!(read(&whole, new_descriptors(1)).is_ok());
        for end in 1..whole.len() {
            assert!(read(&whole[..end], new_descriptors(1)).is_err(), "cut at {end}");
        }
        assert!(matches!(read(&whole, new_descriptors(0)), Err(StateError::Short)));
        assert!(matches!(read(&whole, new_descriptors(2)), Err(StateError::Descriptors(1))));
        let whole = lent_bytes(&[lent(2, counters())]);
        assert!(read_lent(&whole, new_descriptors(3)).is_ok());
        for end in 1..whole.len() {
            assert!(read_lent(&whole[..end], new_descriptors(3)).is_err(), "cut at {end}");
        }
        assert!(matches!(read_lent(&whole, new_descriptors(2)), Err(StateError::Short)));
        assert!(matches!(read_lent(&whole, new_descriptors(4)), Err(StateError::Descriptors(1))));
    }

    #[test]
    fn a_disc_whose_client_rests_is_a_short_line_while_clients_wait() {
        let mut idle = disc(1, &[]);
        (idle.facts.number, idle.facts.counters, idle.kept) = (DiscNumber(u64::from(u32::MAX)), None, vec![u64::MAX]);
        assert!(bytes(&[idle]).len() < 200);
    }

    #[test]
    fn what_another_version_counts_in_another_way_begins_again() {
        let text = String::from_utf8(bytes(&[disc(1, &[])])).unwrap();
        let counters = |to: &str| {
            let read = read(text.replace("\"reads_count\":7", to).as_bytes(), []).unwrap();
            assert!(read[0].facts.sync_failed);
            read[0].facts.counters.unwrap()
        };
        let counted = counters("\"reads_count\":7");
        assert_eq!(counters("\"reads_total\":7"), DiscCounters { reads_count: 0, ..counted });
        assert_eq!(counters("\"reads_count\":{}"), DiscCounters::default());
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_and_harms_nobody(place in 0usize..700, byte: u8) {
            let mut whole = bytes(&[disc(1, &[(b"abc", b"de")])]);
            let place = place % whole.len();
            whole[place] = byte;
            // It is understood or refused, and never more than what was given.
            if let Ok(discs) = read(&whole, new_descriptors(1)) {
                prop_assert_eq!(discs.iter().map(|disc| disc.clients.len()).sum::<usize>(), 1);
            }
        }
    }
}
