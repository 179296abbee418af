//! A record to and from the bytes of a sidecar; no I/O.
//!
//! A slot, numbers little-endian:
//!
//! ```text
//!   0        8        12       16          24                 56               4096
//!   ┌────────┬────────┬────────┬───────────┬──────────────────┬────────┬────────┐
//!   │ magic  │ format │ length │ sequence  │ SHA-256 of 0..24 │ record │ zeroes │
//!   │        │   1    │        │           │  and the record  │ (JSON) │        │
//!   └────────┴────────┴────────┴───────────┴──────────────────┴────────┴────────┘
//! ```
//!
//! The slot with the higher sequence number holds the current record.

use super::record::Record;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Bytes of one slot: the unit in which discs and filesystems write.
pub const SLOT_BYTES: usize = 4096;

/// Bytes of a sidecar.
pub const SIDECAR_BYTES: usize = 2 * SLOT_BYTES;

/// Longest record in bytes of JSON.
pub const RECORD_BYTES_MAX: usize = SLOT_BYTES - HEADER_BYTES;

/// Rises when an older build could not make sense of a record.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"BIGVDISC";
const HEADER_BYTES: usize = 56;

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first 4 KiB.
    First,
    /// The second.
    Second,
}

impl Slot {
    /// Where it begins in the file, in bytes.
    pub fn offset(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => SLOT_BYTES,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// What was found in a sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// The record in force.
    pub record: Record,
    /// The slot it is in.
    pub slot: Slot,
    /// Its sequence number.
    pub sequence: u64,
    /// What is wrong with the other slot: a write of it was torn, or the disc lost it.
    pub other: Option<SlotError>,
}

/// Why a slot has no record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlotError {
    /// It is shorter than a slot.
    #[error("it is cut short")]
    Short,
    /// It was never written, or something else was.
    #[error("it does not start with the mark of a sidecar")]
    Magic,
    /// A newer build wrote it.
    #[error("it has format {0}, and this build knows format {FORMAT} only")]
    Format(u32),
    /// The length is more than a slot holds.
    #[error("its length field is wrong")]
    Length,
    /// A torn write, or bytes that went bad.
    #[error("its checksum is wrong")]
    Checksum,
    /// The bytes are as written, but not a record.
    #[error("its record cannot be read: {0}")]
    Record(String),
}

/// Why no record can be taken from a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlotsError {
    /// Neither slot is readable.
    #[error("neither half is readable: of the first, {first}; of the second, {second}")]
    Both {
        /// What is wrong with the first.
        first: SlotError,
        /// What is wrong with the second.
        second: SlotError,
    },
    /// A newer build wrote one of them: the other is older than the truth.
    #[error("a newer build wrote it (format {0}; this build knows format {FORMAT} only)")]
    Newer(u32),
}

/// A record that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the record needs {0} bytes and a sidecar holds {RECORD_BYTES_MAX}")]
pub struct TooLong(pub usize);

/// Writes `record` as a whole slot.
///
/// # Errors
/// When it does not fit.
pub fn encode_slot(record: &Record, sequence: u64) -> Result<Vec<u8>, TooLong> {
    let json = serde_json::to_vec(record).expect("a record has string keys only");
    if json.len() > RECORD_BYTES_MAX {
        return Err(TooLong(json.len()));
    }
    Ok(slot_of(&json, sequence))
}

fn slot_of(json: &[u8], sequence: u64) -> Vec<u8> {
    let length = u32::try_from(json.len()).expect("checked to be below a slot's size");
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&FORMAT.to_le_bytes());
    slot.extend_from_slice(&length.to_le_bytes());
    slot.extend_from_slice(&sequence.to_le_bytes());
    let hash = checksum(&slot, json);
    slot.extend_from_slice(&hash);
    slot.extend_from_slice(json);
    slot.resize(SLOT_BYTES, 0);
    slot
}

/// Reads the record and the sequence number of one slot.
///
/// # Errors
/// Why there is none.
pub fn decode_slot(slot: &[u8]) -> Result<(Record, u64), SlotError> {
    if slot.len() < SLOT_BYTES {
        return Err(SlotError::Short);
    }
    if &slot[..8] != MAGIC {
        return Err(SlotError::Magic);
    }
    let word = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
    let length = usize::try_from(word(12)).unwrap_or(usize::MAX);
    if length > RECORD_BYTES_MAX {
        return Err(SlotError::Length);
    }
    let json = &slot[HEADER_BYTES..HEADER_BYTES + length];
    if checksum(&slot[..24], json) != slot[24..HEADER_BYTES] {
        return Err(SlotError::Checksum);
    }
    // Only now: a torn header must not pass for the work of a newer build.
    if word(8) != FORMAT {
        return Err(SlotError::Format(word(8)));
    }
    let record: Record = serde_json::from_slice(json).map_err(|error| SlotError::Record(error.to_string()))?;
    record.check().map_err(|reason| SlotError::Record(reason.to_owned()))?;
    let sequence = u64::from_le_bytes(slot[16..24].try_into().expect("eight bytes"));
    Ok((record, sequence))
}

/// Reads the current record from a sidecar's bytes.
///
/// # Errors
/// When neither slot has one, or one of them is of a newer build.
pub fn decode(bytes: &[u8]) -> Result<Current, SlotsError> {
    let half = |slot: Slot| bytes.get(slot.offset()..slot.offset() + SLOT_BYTES).unwrap_or_default();
    match (decode_slot(half(Slot::First)), decode_slot(half(Slot::Second))) {
        (Err(SlotError::Format(format)), _) | (_, Err(SlotError::Format(format))) => Err(SlotsError::Newer(format)),
        (Err(first), Err(second)) => Err(SlotsError::Both { first, second }),
        (Ok((record, sequence)), Err(other)) => Ok(Current { record, slot: Slot::First, sequence, other: Some(other) }),
        (Err(other), Ok((record, sequence))) => {
            Ok(Current { record, slot: Slot::Second, sequence, other: Some(other) })
        }
        (Ok((record, sequence)), Ok((_, older))) if sequence > older => {
            Ok(Current { record, slot: Slot::First, sequence, other: None })
        }
        (Ok(_), Ok((record, sequence))) => Ok(Current { record, slot: Slot::Second, sequence, other: None }),
    }
}

fn checksum(header: &[u8], json: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(header).chain_update(json).finalize().into()
}

/// Property for fuzzing: whatever the bytes, as a sidecar and as the record in one, reading them does not panic, and a
/// record that was read can be written and reads back as the same.
///
/// # Panics
/// When the property does not hold.
pub fn fuzz_sidecar(bytes: &[u8]) {
    assert_reads_back(bytes);
    // No checksum is found by chance.
    if bytes.len() <= RECORD_BYTES_MAX {
        assert_reads_back(&slot_of(bytes, 1));
    }
}

fn assert_reads_back(bytes: &[u8]) {
    let Ok(current) = decode(bytes) else { return };
    // A record can grow in rewriting (JSON has shorter spellings than ours), and then it is refused.
    let Ok(slot) = encode_slot(&current.record, current.sequence) else { return };
    assert_eq!(decode_slot(&slot), Ok((current.record, current.sequence)));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::record::{Owner, RecordedAccess};
    use super::*;
    use proptest::prelude::*;
    use spine::{
        id::{AttachmentsVersion, DiscNumber, Generation},
        resource::disc::AttachmentReport,
        secret::Secret,
    };

    pub(crate) fn record(number: u64) -> Record {
        Record {
            number: DiscNumber(number),
            grade: "sata".parse().unwrap(),
            pool: "sata1".parse().unwrap(),
            owner: Owner::Owner,
            generation: Generation(1),
            attachments_version: AttachmentsVersion(3),
            access: RecordedAccess::Attachments(vec![AttachmentReport {
                head: "fd00:b16:0:2::11".parse().unwrap(),
                key_hash: Secret::new("key").hash(),
            }]),
            size_bytes: 1 << 30,
            address: "fd00:b16:0:d::7".parse().unwrap(),
            importing: None,
            flush_failed: false,
            extra: serde_json::Map::new(),
        }
    }

    fn sidecar(first: &Record, second: &Record) -> Vec<u8> {
        [encode_slot(first, 1).unwrap(), encode_slot(second, 2).unwrap()].concat()
    }

    #[test]
    fn the_higher_sequence_number_is_current() {
        let (old, mut new) = (record(7), record(7));
        new.size_bytes *= 2;
        let current = decode(&sidecar(&old, &new)).unwrap();
        assert_eq!((current.record, current.slot, current.sequence), (new.clone(), Slot::Second, 2));
        let turned = [encode_slot(&new, 3).unwrap(), encode_slot(&old, 2).unwrap()].concat();
        assert_eq!(decode(&turned).unwrap().slot, Slot::First);
    }

    #[test]
    fn nothing_readable_is_refused_with_the_reasons() {
        let error = decode(&[0; SIDECAR_BYTES]).unwrap_err().to_string();
        assert!(error.contains("neither half is readable"), "{error}");
        assert!(decode(&[]).is_err());
        assert!(decode(b"BIGVDISC").is_err());
    }

    #[test]
    fn a_newer_format_is_refused_even_beside_a_readable_slot() {
        let mut bytes = sidecar(&record(7), &record(7));
        bytes[SLOT_BYTES + 8] = 2;
        let length = 4 + usize::from(bytes[SLOT_BYTES + 12]) + 256 * usize::from(bytes[SLOT_BYTES + 13]) - 4;
        let slot = &bytes[SLOT_BYTES..];
        let hash = checksum(&slot[..24], &slot[HEADER_BYTES..HEADER_BYTES + length]);
        bytes[SLOT_BYTES + 24..SLOT_BYTES + HEADER_BYTES].copy_from_slice(&hash);
        assert_eq!(decode(&bytes), Err(SlotsError::Newer(2)));
    }

    #[test]
    fn a_record_with_impossible_values_is_refused() {
        let mut bad = record(7);
        bad.size_bytes = 513;
        let slot = encode_slot(&bad, 1).unwrap();
        assert!(matches!(decode_slot(&slot), Err(SlotError::Record(_))));
    }

    #[test]
    fn a_record_that_does_not_fit_is_refused() {
        let mut long = record(7);
        long.extra.insert("note".into(), "x".repeat(SLOT_BYTES).into());
        assert!(encode_slot(&long, 1).is_err());
    }

    #[test]
    fn the_fuzzers_seeds_are_records() {
        for seed in [
            include_bytes!("../../../fuzz/seeds/sidecar/attachments").as_slice(),
            include_bytes!("../../../fuzz/seeds/sidecar/list"),
        ] {
            decode_slot(&slot_of(seed, 1)).unwrap();
            fuzz_sidecar(seed);
        }
    }

    #[test]
    fn keys_are_not_in_it() {
        let slot = encode_slot(&record(7), 1).unwrap();
        let text = String::from_utf8_lossy(&slot);
        assert!(text.contains("sha256:") && !text.contains("\"key\":"), "{text}");
    }

    proptest! {
        #[test]
        fn rule3_a_write_torn_at_any_byte_leaves_old_or_new(cut in 0..=SLOT_BYTES, to_second: bool, size in 1u64..1000) {
            let old = record(7);
            let mut new = record(7);
            new.size_bytes = size * 512;
            let mut bytes = sidecar(&old, &old);
            let slot = if to_second { Slot::Second } else { Slot::First };
            // The current record is in the slot that is not written.
            bytes[slot.other().offset()..][..SLOT_BYTES].copy_from_slice(&encode_slot(&old, 5).unwrap());
            bytes[slot.offset()..][..SLOT_BYTES].copy_from_slice(&encode_slot(&old, 4).unwrap());
            bytes[slot.offset()..][..cut].copy_from_slice(&encode_slot(&new, 6).unwrap()[..cut]);
            let found = decode(&bytes).unwrap();
            prop_assert!(found.record == old || found.record == new);
            prop_assert!(cut < SLOT_BYTES || found.record == new, "a whole write counts");
        }

        #[test]
        fn one_changed_byte_never_makes_another_record(at in 0..SIDECAR_BYTES, flip in 1u8..) {
            let original = record(7);
            let mut bytes = sidecar(&original, &original);
            bytes[at] ^= flip;
            if let Ok(found) = decode(&bytes) {
                prop_assert_eq!(found.record, original);
            }
        }

        #[test]
        fn a_record_with_any_byte_changed_reads_back_if_it_reads_at_all(at: prop::sample::Index, byte: u8) {
            let mut json = serde_json::to_vec(&record(7)).unwrap();
            let at = at.index(json.len());
            json[at] = byte;
            fuzz_sidecar(&json);
        }

        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_sidecar(&bytes);
        }
    }
}
