//! A disc's move from one tail to another: what the brain orders of each, and what both say of it (R130).
//!
//! ```text
//!   brain                                              source (OWNER g)      target
//!     │ create disc.G.N {…,"generation":g+1,"incoming":{id,source,address}} ──▶ │ INCOMING
//!     │ update disc.G.N {"migration":{id,target,address,generation:g+1,…}} ─▶│  │
//!     │                                                       │ ◀── copies ──▶ │
//!     │                                                FENCED │ ─── commit ──▶ │ OWNER g+1
//!     │ ◀── updated {"owner":"retired"} ──────────────────────│                │
//!     │ ◀── updated {"owner":"owner","generation":g+1} ────────────────────────│
//!     │ remove disc.G.N {"generation":g+1} ──────────────────▶│ gone
//! ```
//!
//! Level-triggered: each order may be repeated, and changes nothing then. An id stands for one attempt: what was
//! cancelled or has failed is tried again with a new id and a higher generation, after the target's copy was removed.
//!
//! | the brain sees | and orders |
//! |---|---|
//! | the target has no such disc | `create` with `incoming` there |
//! | target `incoming`, source `owner` without this migration | `update {"migration":{…}}` at the source |
//! | it is no longer wanted, source still `owner` | `update {"migration":null}` at the source; `no moved` says that it is too late |
//! | the source says that this id ended with an error | `remove {"generation":g+1,"aborted":id}` at the target |
//! | source `fenced`, target still `prepared` | `update {"commit":{id,generation}}` at the target, from the source's own report |
//! | target `owner` of g+1 | records its new tail, then `remove {"generation":g+1}` at the source |
//! | a tail is lost for good, an operator says so, and the VM is off | `update {"promote":{…}}` at the other tail |
//! | the tail that was lost is back | `update {"retire":{…}}` there, before anything else is done about the disc |
//!
//! Size, attachments and their version go from the source to the target inside the freeze (safety rule 5): the target is
//! not told of them by the brain before it is the owner, and a withdrawal counts when the owner has answered it.

use crate::id::{AttachmentsVersion, Generation, MigrationId, NodeName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The attribute of a tail's `hello` that says where other tails reach it for a move, as `[fd00::21]:7771`. A tail
/// without it neither sends nor receives discs.
pub const MIGRATION_ADDRESS: &str = "migration_address";

/// How long clients may be paused at the hand-over when the order does not say, in milliseconds.
pub const PAUSE_MS: u32 = 100;

/// The longest pause that can be ordered, in milliseconds: beyond it the source serves on.
pub const PAUSE_MS_MAX: u32 = 500;

/// The `migration` of an `update` at the source: move this disc there. Null cancels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationOrder {
    /// The attempt.
    pub id: MigrationId,
    /// The tail that gets the disc.
    pub target: NodeName,
    /// Where that tail waits for it: what its `hello` says under [`MIGRATION_ADDRESS`].
    pub address: SocketAddr,
    /// The generation of which the target becomes the owner: higher than the source's.
    pub generation: Generation,
    /// The most that is sent, in 10⁶ bytes a second. None: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_mb_per_s: Option<u32>,
    /// How long clients may be paused at the hand-over, in milliseconds, at most [`PAUSE_MS_MAX`].
    #[serde(default = "default_pause_ms")]
    pub pause_ms: u32,
}

fn default_pause_ms() -> u32 {
    PAUSE_MS
}

/// The `incoming` of a `create` at the target: make room for this disc, and take it from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingOrder {
    /// The attempt.
    pub id: MigrationId,
    /// The tail that has the disc.
    pub source: NodeName,
    /// Where that tail connects from: its storage address.
    pub address: IpAddr,
}

/// The `commit` of an `update` at the target: the brain relays that the source has reported itself `fenced`
/// for this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitOrder {
    /// The attempt.
    pub id: MigrationId,
    /// The generation of which the target is the owner from now on.
    pub generation: Generation,
}

/// The `promote` of an `update` at one end of a move whose other end is lost for good: own the disc from now on, whatever
/// the other end says (safety rule 9). At the target that is promotion, at the source taking back. Nobody is let in
/// before attachments are ordered anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteOrder {
    /// The attempt that both ends took part in.
    pub id: MigrationId,
    /// Higher than what either end was ever granted.
    pub generation: Generation,
    /// The version of the empty attachments that are in force then: higher than those of the end's own, unless these
    /// are empty already.
    pub attachments_version: AttachmentsVersion,
}

/// The `retire` of an `update` at the other end, once it is back: the disc is another tail's. What is there is served no
/// more, and kept until it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireOrder {
    /// The attempt that both ends took part in.
    pub id: MigrationId,
    /// The tail that owns the disc.
    pub owner: NodeName,
    /// Of which it is the owner: higher than what this end has.
    pub generation: Generation,
}

/// What a tail is to a disc, durably (nbd.md section 3, point 2). Only an owner lets clients in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// It serves the disc.
    #[default]
    Owner,
    /// It receives the disc; its copy is worth nothing yet.
    Incoming,
    /// Its copy is whole and durable. Only the source's word makes it the owner, or has it drop the copy.
    Prepared,
    /// It has given the disc up to a target, and never serves this generation again.
    Fenced,
    /// The disc is another tail's: the target has said that it serves, or the brain has retired this end. The copy here
    /// is kept until the brain removes it.
    Retired,
}

/// What a tail says of a move that it takes part in, or of the last one. Numbers that are not known yet are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationReport {
    /// The attempt.
    pub id: MigrationId,
    /// Which end this tail is.
    pub role: MigrationRole,
    /// The tail at the other end.
    pub peer: NodeName,
    /// The generation of which the target becomes the owner.
    pub generation: Generation,
    /// What is being done.
    pub phase: MigrationPhase,
    /// How often the disc was gone through: 1 for the first copy.
    #[serde(default)]
    pub pass: u32,
    /// Bytes sent or received so far, repeats included.
    #[serde(default)]
    pub bytes_copied: u64,
    /// Bytes that are still to be copied.
    #[serde(default)]
    pub bytes_left: u64,
    /// How fast clients make new work, in bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirtied_bytes_per_s: Option<u64>,
    /// How long clients would be paused if the hand-over began now, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_pause_ms: Option<u64>,
    /// How long they were paused, until the target served, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// How much of the copy was read back and compared, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_percent: Option<u8>,
    /// The same in bytes: what was written again since does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub verified_bytes: u64,
    /// What the target's disk had not as it was written, in bytes: it was sent again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mismatched_bytes: u64,
    /// Whether both copies take as much space, within a hundredth. While clients write, the source is ahead of what the
    /// target has said; at the end of a move it is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_equal: Option<bool>,
    /// What it waits for, when it does not get on. It goes on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<MigrationError>,
    /// Why it ended without a hand-over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<MigrationError>,
}

impl MigrationReport {
    /// Of a move of which nothing is done yet.
    pub fn begun(id: MigrationId, role: MigrationRole, peer: NodeName, generation: Generation) -> Self {
        Self {
            id,
            role,
            peer,
            generation,
            phase: MigrationPhase::Connecting,
            pass: 0,
            bytes_copied: 0,
            bytes_left: 0,
            dirtied_bytes_per_s: None,
            expected_pause_ms: None,
            pause_ms: None,
            verified_percent: None,
            verified_bytes: 0,
            mismatched_bytes: 0,
            allocation_equal: None,
            waiting: None,
            error: None,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Which end of a move a tail is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationRole {
    /// The disc leaves it.
    Source,
    /// The disc comes to it.
    Target,
}

/// What a move is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationPhase {
    /// The other end is waited for.
    Connecting,
    /// The first pass: all that is allocated.
    Copying,
    /// What was written meanwhile is sent again, pass by pass.
    Converging,
    /// Writes go to both ends before they are answered, so that what is left can only shrink.
    Mirroring,
    /// Both ends' bytes are compared.
    Verifying,
    /// It is held up, and goes on by itself: see `waiting`.
    Waiting,
    /// Clients are paused: the rest is sent, and the disc changes its owner.
    Handover,
    /// The disc has changed its owner.
    Done,
    /// It ended without a hand-over, and the source serves on: see `error`.
    Failed,
    /// A phase that this build does not know.
    #[serde(other)]
    Unknown,
}

/// Why a move ended without a hand-over, or what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationError {
    /// For programs.
    pub kind: MigrationErrorKind,
    /// A sentence for people.
    pub message: String,
}

/// The kinds of errors that end a move, or hold it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationErrorKind {
    /// Somebody ordered its end.
    Cancelled,
    /// The other tail cannot be reached, or is not ready.
    Unreachable,
    /// The other tail does not expect this disc, this attempt or this tail.
    Refused,
    /// The source cannot read its data.
    ReadError,
    /// The target has no room.
    NoSpace,
    /// The target cannot write its data.
    WriteError,
    /// The bytes at the two ends differ.
    Mismatch,
    /// Clients write so fast that the pause would have been too long.
    Pause,
    /// A flush of the disc failed before or during the move (safety rule 17).
    FlushFailed,
    /// The two tails do not understand each other.
    Protocol,
    /// The tail stopped, or the disc was closed.
    Stopped,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    const ID: &str = "00000000-0000-0000-0000-00000000002a";

    #[track_caller]
    fn reads_back<T: Serialize + DeserializeOwned>(text: &str) -> T {
        let value: T = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
        value
    }

    #[test]
    fn r130_orders_are_golden() {
        let order: MigrationOrder = reads_back(&format!(
            r#"{{"id":"{ID}","target":"tail2","address":"[fd00::22]:7771","generation":8,"limit_mb_per_s":50,"pause_ms":200}}"#
        ));
        assert_eq!(order.limit_mb_per_s, Some(50));
        let short = format!(r#"{{"id":"{ID}","target":"tail2","address":"[fd00::22]:7771","generation":8}}"#);
        let order: MigrationOrder = serde_json::from_str(&short).unwrap();
        assert_eq!((order.limit_mb_per_s, order.pause_ms), (None, PAUSE_MS));
        reads_back::<IncomingOrder>(&format!(r#"{{"id":"{ID}","source":"tail1","address":"fd00::21"}}"#));
        reads_back::<CommitOrder>(&format!(r#"{{"id":"{ID}","generation":8}}"#));
        reads_back::<PromoteOrder>(&format!(r#"{{"id":"{ID}","generation":9,"attachments_version":4}}"#));
        reads_back::<RetireOrder>(&format!(r#"{{"id":"{ID}","owner":"tail2","generation":9}}"#));
    }

    #[test]
    fn r130_reports_are_golden() {
        let report: MigrationReport = reads_back(&format!(
            r#"{{"id":"{ID}","role":"source","peer":"tail2","generation":8,"phase":"converging","pass":2,"bytes_copied":1048576,"bytes_left":65536,"dirtied_bytes_per_s":4096,"expected_pause_ms":12}}"#
        ));
        assert_eq!(report.phase, MigrationPhase::Converging);
        let waiting: MigrationReport = reads_back(&format!(
            r#"{{"id":"{ID}","role":"source","peer":"tail2","generation":8,"phase":"waiting","pass":1,"bytes_copied":1,"bytes_left":1,"waiting":{{"kind":"no-space","message":"no space at tail2"}}}}"#
        ));
        assert_eq!(waiting.waiting.unwrap().kind, MigrationErrorKind::NoSpace);
        let failed: MigrationReport = reads_back(&format!(
            r#"{{"id":"{ID}","role":"target","peer":"tail1","generation":8,"phase":"failed","pass":1,"bytes_copied":0,"bytes_left":0,"error":{{"kind":"no-space","message":"storage pool sata1 is full"}}}}"#
        ));
        assert_eq!(failed.error.unwrap().kind, MigrationErrorKind::NoSpace);
    }

    #[test]
    fn r084_words_of_later_builds_are_carried_as_unknown() {
        assert_eq!(serde_json::from_str::<MigrationPhase>(r#""dancing""#).unwrap(), MigrationPhase::Unknown);
        assert_eq!(serde_json::from_str::<MigrationErrorKind>(r#""tired""#).unwrap(), MigrationErrorKind::Unknown);
    }

    #[test]
    fn owner_states_have_the_names_of_the_specification() {
        for (state, word) in [
            (Ownership::Owner, r#""owner""#),
            (Ownership::Incoming, r#""incoming""#),
            (Ownership::Prepared, r#""prepared""#),
            (Ownership::Fenced, r#""fenced""#),
            (Ownership::Retired, r#""retired""#),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), word);
        }
    }
}
