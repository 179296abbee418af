//! What two tails say to each other while a disc moves; no I/O.
//!
//! A frame, numbers little-endian:
//!
//! ```text
//!   0        4      5       8        12        16
//!   ┌────────┬──────┬───────┬────────┬─────────┬─────────────┐
//!   │ "BVMG" │ kind │ zero  │ length │ CRC-32  │ payload     │   CRC-32 (IEEE) of bytes 0–11 and the payload
//!   └────────┴──────┴───────┴────────┴─────────┴─────────────┘
//!   kind 1   a control message as JSON
//!   kind 2   data: offset (8 bytes), then the bytes
//!   kind 3   a hole: offset (8 bytes), length (8 bytes)
//!   kind 4   digests: 1 when they are the last, else 0 (1 byte); for each chunk offset (8 bytes), allocated bytes (8 bytes),
//!            hash (32 bytes)
//!   kind 5   space without anything in it: offset (8 bytes), length (8 bytes)
//! ```
//!
//! Versions: the source says which it speaks, the target chooses one of them. A frame that is too long, has a wrong
//! checksum or says nothing that is known ends the connection; nothing of it has been acted upon.

use super::handover::Attempt;
use crate::sidecar::Record;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use spine::id::{DiscNumber, Generation, MigrationId};
use spine::resource::migration::MigrationErrorKind;
use thiserror::Error;

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 6;

/// Bytes in front of a payload.
pub const HEADER_BYTES: usize = 16;

/// Most bytes of a disc in one frame.
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// Longest control message, in bytes: a sidecar's record with room.
const CONTROL_BYTES_MAX: usize = 16 << 10;

const MAGIC: [u8; 4] = *b"BVMG";
/// Bytes in front of those of a disc.
pub const OFFSET_BYTES: usize = 8;
const HOLE_BYTES: usize = 16;
const DIGEST_BYTES: usize = 48;

/// Most chunks that one frame speaks of.
pub const DIGESTS_MAX: usize = 1024;

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Anything but a disc's bytes.
    Control(Control),
    /// Bytes of the disc.
    Data {
        /// Where they are, in bytes.
        offset: u64,
        /// At least one and at most [`DATA_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// There is nothing here.
    Hole {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes; not 0.
        length: u64,
    },
    /// There is space here that nothing was ever written to: it reads as zeroes.
    Space {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes; not 0.
        length: u64,
    },
    /// What there is in some chunks of the disc.
    Digests {
        /// Each chunk that has anything in it, in order.
        digests: Vec<Digest>,
        /// There are no more in what was asked about.
        is_last: bool,
    },
}

/// What one end has in one chunk of a disc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Where the chunk begins, in bytes.
    pub offset: u64,
    /// How much of it is no hole, in bytes.
    pub allocated_bytes: u64,
    /// BLAKE3 of its bytes; holes are zeroes.
    pub hash: [u8; 32],
}

/// What is said besides data. The source speaks first, and is answered only where it says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Control {
    /// Source: who is it about. Answered by `Welcome` or `Failed`.
    Hello(Hello),
    /// Target: go on.
    Welcome(Welcome),
    /// Target: so many bytes of data more may be sent.
    Credit {
        /// In bytes of payload.
        bytes: u64,
    },
    /// Source: what is on disk there? Answered by [`Message::Digests`], while data of other chunks may follow. Nothing else is
    /// asked before that.
    Compare {
        /// Where it begins, in bytes: with a chunk.
        offset: u64,
        /// How long it is, in bytes; not 0.
        length: u64,
        /// How long a chunk is, in bytes: a power of two.
        chunk_bytes: u64,
    },
    /// Source: a pass is over. Answered by `Synced` once it is durable.
    PassEnd {
        /// Its number.
        pass: u32,
    },
    /// Target: the pass is durable.
    Synced {
        /// Its number.
        pass: u32,
        /// What the copy takes in its pool, in bytes.
        allocated_bytes: u64,
    },
    /// Source: this is all, with what is known of the disc besides its bytes (safety rule 5).
    Prepare {
        /// The freeze.
        attempt: Attempt,
        /// The source's record.
        record: alloc::boxed::Box<Record>,
    },
    /// Target: it is all durable.
    Prepared {
        /// The freeze.
        attempt: Attempt,
        /// What the copy takes in its pool, in bytes.
        allocated_bytes: u64,
    },
    /// Source: it was called off. The copying goes on, or ends.
    Withdraw {
        /// The freeze.
        attempt: Attempt,
    },
    /// Source: the disc is yours.
    Commit {
        /// The freeze.
        attempt: Attempt,
    },
    /// Target: clients are served here.
    Serving,
    /// Either: the move is over without a hand-over.
    Failed {
        /// For programs.
        kind: MigrationErrorKind,
        /// For people.
        message: String,
    },
}

/// What a connection is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version the source speaks.
    pub version_oldest: u32,
    /// The newest.
    pub version_newest: u32,
    /// The attempt.
    pub id: MigrationId,
    /// The disc.
    pub number: DiscNumber,
    /// The generation of which the target becomes the owner.
    pub generation: Generation,
    /// The disc's size in bytes.
    pub size_bytes: u64,
    /// The source has given the disc up for this freeze already: only `Commit` follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<Attempt>,
}

/// The target's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to speak.
    pub version: u32,
    /// Bytes of data that may be sent before the first `Credit`.
    pub credit_bytes: u64,
    /// What the target has.
    pub copy: CopyId,
    /// It has nothing yet.
    pub is_empty: bool,
}

/// What a target has of a disc, while it can vouch for it. It is another one after a restart, and after a sync that failed:
/// then what was acknowledged before may be missing, and no map counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CopyId(pub uuid::Uuid);

/// Why a peer is not listened to any more.
#[derive(Debug, Error)]
pub enum WireError {
    /// It does not speak this protocol.
    #[error("it does not speak the language of tails")]
    Magic,
    /// Of a kind that there is not.
    #[error("a frame of kind {0}, which is not known")]
    Kind(u8),
    /// Longer, or shorter, than any of its kind.
    #[error("a frame of kind {kind} with {length} bytes")]
    Length {
        /// The kind.
        kind: u8,
        /// The length it says.
        length: u32,
    },
    /// Bytes went bad on the way.
    #[error("a frame with a wrong checksum")]
    Checksum,
    /// Bytes outside any disc.
    #[error("a range that no disc has")]
    Range,
    /// Digests that are cut off, or neither the last nor not.
    #[error("digests that cannot be read")]
    Digests,
    /// A control message that is none.
    #[error("a control message that cannot be read")]
    Control(#[source] serde_json::Error),
}

/// Appends a control message.
pub fn write_control(out: &mut Vec<u8>, control: &Control) {
    let payload = serde_json::to_vec(control).expect("messages have string keys only");
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a record is bounded by its sidecar");
    write_frame(out, 1, &[&payload]);
}

/// Appends what must come before `bytes` of a disc at `offset`: the bytes follow as they are.
///
/// # Panics
/// When there are none or more than [`DATA_BYTES_MAX`], which is a bug of the caller.
pub fn write_data_front(out: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    assert!(!bytes.is_empty() && bytes.len() <= DATA_BYTES_MAX);
    let front = offset.to_le_bytes();
    out.extend_from_slice(&header_of(2, &[&front, bytes]));
    out.extend_from_slice(&front);
}

/// Appends a hole.
pub fn write_hole(out: &mut Vec<u8>, offset: u64, length: u64) {
    write_frame(out, 3, &[&offset.to_le_bytes(), &length.to_le_bytes()]);
}

/// Appends what there is in some chunks, at most [`DIGESTS_MAX`].
pub fn write_digests(out: &mut Vec<u8>, digests: &[Digest], is_last: bool) {
    let mut payload = Vec::with_capacity(1 + digests.len() * DIGEST_BYTES);
    payload.push(u8::from(is_last));
    for digest in digests {
        payload.extend_from_slice(&digest.offset.to_le_bytes());
        payload.extend_from_slice(&digest.allocated_bytes.to_le_bytes());
        payload.extend_from_slice(&digest.hash);
    }
    write_frame(out, 4, &[&payload]);
}

/// Appends space without anything in it.
pub fn write_space(out: &mut Vec<u8>, offset: u64, length: u64) {
    write_frame(out, 5, &[&offset.to_le_bytes(), &length.to_le_bytes()]);
}

fn write_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    out.extend_from_slice(&header_of(kind, parts));
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn header_of(kind: u8, parts: &[&[u8]]) -> [u8; HEADER_BYTES] {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind;
    header[8..12].copy_from_slice(&u32::try_from(length).expect("frames are bounded").to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&header[..12]);
    parts.iter().for_each(|part| checksum.update(part));
    header[12..].copy_from_slice(&checksum.finalize().to_le_bytes());
    header
}

/// A header that was read and checked as far as it can be alone.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES],
    length: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, kind, z0, z1, z2, l0, l1, l2, l3, ..] = bytes;
        if [m0, m1, m2, m3] != MAGIC || [z0, z1, z2] != [0; 3] {
            return Err(WireError::Magic);
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let allowed = match kind {
            1 => 2..=CONTROL_BYTES_MAX,
            2 => OFFSET_BYTES + 1..=OFFSET_BYTES + DATA_BYTES_MAX,
            3 | 5 => HOLE_BYTES..=HOLE_BYTES,
            4 => 1..=1 + DIGESTS_MAX * DIGEST_BYTES,
            _ => return Err(WireError::Kind(kind)),
        };
        if !allowed.contains(&(length as usize)) {
            return Err(WireError::Length { kind, length });
        }
        Ok(Self { bytes, length })
    }

    /// How many bytes of payload follow.
    pub fn payload_bytes(&self) -> usize {
        self.length as usize
    }

    /// True when the payload is an offset of [`OFFSET_BYTES`] and bytes of a disc, for [`Self::data`].
    pub fn is_data(&self) -> bool {
        self.bytes[4] == 2
    }

    /// Reads a frame of data whose payload has come in its two parts, so that a disc's bytes are taken as they are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn data(&self, front: [u8; OFFSET_BYTES], bytes: Vec<u8>) -> Result<Message, WireError> {
        self.check(&[&front, &bytes])?;
        let offset = u64::from_le_bytes(front);
        check_range(offset, bytes.len() as u64)?;
        Ok(Message::Data { offset, bytes })
    }

    fn check(&self, payload: &[&[u8]]) -> Result<(), WireError> {
        let is_whole = payload.iter().map(|part| part.len()).sum::<usize>() == self.payload_bytes();
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&self.bytes[..12]);
        payload.iter().for_each(|part| checksum.update(part));
        let is_right = checksum.finalize().to_le_bytes() == self.bytes[12..];
        if is_whole && is_right { Ok(()) } else { Err(WireError::Checksum) }
    }

    /// Reads the frame whose payload is `payload`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn message(&self, payload: &[u8]) -> Result<Message, WireError> {
        if let Some((front, bytes)) = payload.split_first_chunk().filter(|_| self.is_data()) {
            return self.data(*front, bytes.to_vec());
        }
        self.check(&[payload])?;
        let number = |at: usize| {
            let bytes = payload.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes).ok_or(WireError::Range)
        };
        match self.bytes[4] {
            1 => serde_json::from_slice(payload).map(Message::Control).map_err(WireError::Control),
            4 => {
                let is_last = match payload[0] {
                    0 => false,
                    1 => true,
                    _ => return Err(WireError::Digests),
                };
                let (digests, []) = payload[1..].as_chunks::<DIGEST_BYTES>() else { return Err(WireError::Digests) };
                let digests = digests.iter().map(|bytes| {
                    let [offset, allocated_bytes] =
                        [0, 8].map(|at| u64::from_le_bytes(core::array::from_fn(|index| bytes[at + index])));
                    check_range(offset, 1)?;
                    Ok(Digest { offset, allocated_bytes, hash: core::array::from_fn(|index| bytes[16 + index]) })
                });
                Ok(Message::Digests { digests: digests.collect::<Result<_, _>>()?, is_last })
            }
            _ => {
                let (offset, length) = (number(0)?, number(8)?);
                check_range(offset, length)?;
                if self.bytes[4] == 5 {
                    return Ok(Message::Space { offset, length });
                }
                Ok(Message::Hole { offset, length })
            }
        }
    }
}

fn check_range(offset: u64, length: u64) -> Result<(), WireError> {
    let end = offset.checked_add(length).filter(|end| *end <= crate::geometry::DiscSize::BYTES_MAX);
    if length == 0 || end.is_none() { Err(WireError::Range) } else { Ok(()) }
}

/// Any bytes are a frame or an error, and a frame reads back the same when written again.
///
/// # Panics
/// When that is not so.
pub fn fuzz_migration(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::parse(*header) else { return };
    // A fuzzer does not find checksums: both the bytes as they are, and with a checksum that is right.
    let mut framed = Vec::new();
    let payload = payload.get(..header.payload_bytes()).unwrap_or(payload);
    write_frame(&mut framed, header.bytes[4], &[payload]);
    let _ = header.message(payload);
    let Some((header, payload)) = framed.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(message) = Header::parse(*header).and_then(|header| header.message(payload)) else { return };
    let mut again = Vec::new();
    match &message {
        Message::Control(control) => write_control(&mut again, control),
        Message::Data { offset, bytes } => {
            write_data_front(&mut again, *offset, bytes);
            again.extend_from_slice(bytes);
        }
        Message::Hole { offset, length } => write_hole(&mut again, *offset, *length),
        Message::Space { offset, length } => write_space(&mut again, *offset, *length),
        Message::Digests { digests, is_last } => write_digests(&mut again, digests, *is_last),
    }
    let (header, payload) = again.split_first_chunk::<HEADER_BYTES>().expect("it was just written");
    assert_eq!(Header::parse(*header).and_then(|header| header.message(payload)).ok(), Some(message));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::slots::tests::record;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Message, WireError> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        Header::parse(*header)?.message(payload)
    }

    fn hello() -> Hello {
        Hello {
            version_oldest: VERSION,
            version_newest: VERSION,
            id: MigrationId(uuid::Uuid::from_u128(7)),
            number: DiscNumber(8),
            generation: Generation(3),
            size_bytes: 1 << 30,
            fenced: None,
        }
    }

    #[test]
    fn every_message_reads_back() {
        let attempt = Attempt(uuid::Uuid::from_u128(9));
        let controls = [
            Control::Hello(hello()),
            Control::Hello(Hello { fenced: Some(attempt), ..hello() }),
            Control::Welcome(Welcome {
                version: 4,
                credit_bytes: 7,
                copy: CopyId(uuid::Uuid::from_u128(3)),
                is_empty: true,
            }),
            Control::Credit { bytes: 1 << 20 },
            Control::PassEnd { pass: 1 },
            Control::Compare { offset: 0, length: 7, chunk_bytes: 1 << 20 },
            Control::Synced { pass: 1, allocated_bytes: 3 },
            Control::Prepare { attempt, record: record(8).into() },
            Control::Prepared { attempt, allocated_bytes: 5 },
            Control::Withdraw { attempt },
            Control::Commit { attempt },
            Control::Serving,
            Control::Failed { kind: MigrationErrorKind::NoSpace, message: "full".into() },
        ];
        for control in controls {
            let mut bytes = vec![];
            write_control(&mut bytes, &control);
            assert_eq!(read(&bytes).unwrap(), Message::Control(control));
            fuzz_migration(&bytes);
        }
    }

    #[test]
    fn a_control_message_is_golden() {
        let mut bytes = vec![];
        write_control(&mut bytes, &Control::Hello(hello()));
        let text = core::str::from_utf8(&bytes[HEADER_BYTES..]).unwrap();
        assert_eq!(
            text,
            r#"{"say":"hello","version_oldest":6,"version_newest":6,"id":"00000000-0000-0000-0000-000000000007","number":8,"generation":3,"size_bytes":1073741824}"#
        );
        assert_eq!(&bytes[..12], &[b'B', b'V', b'M', b'G', 1, 0, 0, 0, 147, 0, 0, 0]);
    }

    #[test]
    fn digests_read_back_and_what_is_cut_off_is_refused() {
        let digest = |offset| Digest { offset, allocated_bytes: 9, hash: [7; 32] };
        for (count, is_last) in [(0, true), (3, false), (DIGESTS_MAX as u64, true)] {
            let digests: Vec<Digest> = (0..count).map(digest).collect();
            let mut bytes = vec![];
            write_digests(&mut bytes, &digests, is_last);
            assert_eq!(read(&bytes).unwrap(), Message::Digests { digests, is_last });
            fuzz_migration(&bytes);
        }
        for payload in [&[2][..], &[1, 1], &[0; 48]] {
            let mut bytes = vec![];
            write_frame(&mut bytes, 4, &[payload]);
            assert!(matches!(read(&bytes), Err(WireError::Digests)), "{payload:?}");
        }
        let mut bytes = vec![];
        write_digests(&mut bytes, &[digest(u64::MAX)], true);
        assert!(matches!(read(&bytes), Err(WireError::Range)));
    }

    #[test]
    fn what_is_no_frame_is_refused_before_anything_is_taken_in() {
        let header = |kind: u8, length: u32| {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = kind;
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            Header::parse(bytes)
        };
        assert!(matches!(Header::parse(*b"GET / HTTP/1.1\r\n"), Err(WireError::Magic)));
        assert!(matches!(header(9, 10), Err(WireError::Kind(9))));
        for (kind, length) in
            [(1, u32::MAX), (1, 0), (2, 8), (2, (1 << 20) + 9), (3, 15), (3, 17), (4, 0), (4, 48 * 1024 + 2), (5, 15)]
        {
            assert!(matches!(header(kind, length), Err(WireError::Length { .. })), "{kind} {length}");
        }
        for (offset, length) in [(u64::MAX, 1), (0, u64::MAX), (1 << 63, 1), (7, 0)] {
            let mut bytes = vec![];
            write_hole(&mut bytes, offset, length);
            assert!(matches!(read(&bytes), Err(WireError::Range)), "{offset} {length}");
        }
    }

    proptest! {
        #[test]
        fn data_and_holes_read_back_and_a_flipped_bit_is_seen(
            offset in 0u64..1 << 62,
            bytes in proptest::collection::vec(any::<u8>(), 1..5000),
            length in 1u64..1 << 40,
            flip in any::<proptest::sample::Index>(),
        ) {
            let mut data = vec![];
            write_data_front(&mut data, offset, &bytes);
            data.extend_from_slice(&bytes);
            prop_assert_eq!(read(&data).unwrap(), Message::Data { offset, bytes });
            let bit = flip.index(data.len() * 8);
            data[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&data).is_err());
            let mut hole = vec![];
            write_hole(&mut hole, offset, length);
            prop_assert_eq!(read(&hole).unwrap(), Message::Hole { offset, length });
            let mut space = vec![];
            write_space(&mut space, offset, length);
            prop_assert_eq!(read(&space).unwrap(), Message::Space { offset, length });
        }

        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..7) {
            let mut framed = vec![];
            write_frame(&mut framed, kind, &[&bytes]);
            fuzz_migration(&framed);
            fuzz_migration(&bytes);
        }
    }
}
