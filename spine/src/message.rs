//! One line of the protocol: parsed into a typed message, written from one.
//!
//! ```text
//! node → brain   * hello {…}   * created NAME {…}   * updated NAME {…}   * destroyed NAME {…}
//!                * ready       * goodbye {"reason":…}
//!                TAG ok {…}    TAG no {"error":…,"message":…}    TAG bad {"message":…}
//! brain → node   * welcome {…}   * bad {"message":…}   * goodbye {"reason":…}
//!                TAG create NAME {…}   TAG update NAME {…}   TAG remove NAME {…}
//! ```
//!
//! A tag is `t` and a number. What follows a verb is at most one resource name and one JSON value.

use crate::{
    id::{Epoch, IdError, NodeName, ResourceName},
    resource::Attributes,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fmt, str::FromStr};
use thiserror::Error;
use uuid::Uuid;

/// Ties an answer to its command; unique among those in flight on a connection (R060).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u64);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl FromStr for Tag {
    type Err = Violation;
    fn from_str(text: &str) -> Result<Self, Violation> {
        let digits = text.strip_prefix('t').filter(|d| d.len() <= 20 && d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|d| d.parse().ok()).map(Self).ok_or(Violation::Tag)
    }
}

/// Which versions of the protocol a node speaks, as `[oldest, newest]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "[u32; 2]", into = "[u32; 2]")]
pub struct VersionRange {
    /// The oldest it still speaks.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl VersionRange {
    /// The newest version that both ends speak.
    pub fn newest_common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl From<[u32; 2]> for VersionRange {
    fn from([oldest, newest]: [u32; 2]) -> Self {
        Self { oldest, newest }
    }
}

impl From<VersionRange> for [u32; 2] {
    fn from(range: VersionRange) -> Self {
        [range.oldest, range.newest]
    }
}

/// What a node is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It runs VMs.
    Head,
    /// It serves discs.
    Tail,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Tail => "tail",
        })
    }
}

/// The first line of a connection: who the node is (R065).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Its configured name.
    pub node: NodeName,
    /// What it is for.
    pub role: Role,
    /// The versions it speaks.
    pub spine: VersionRange,
    /// Made at each start of the process.
    pub boot: Uuid,
    /// The cluster it belongs to; none until it has been welcomed once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Uuid>,
    /// The highest epoch it has seen (safety rule 8).
    #[serde(default)]
    pub epoch: Epoch,
    /// What else it says of itself: `storage_address`, `memory_total`, `cores`, …
    #[serde(flatten)]
    pub extra: Attributes,
}

/// The brain's answer to hello, before anything is dumped (safety rule 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak.
    pub spine: u32,
    /// The cluster's identity.
    pub cluster: Uuid,
    /// Rises with each start of a brain as the active one.
    pub epoch: Epoch,
}

/// What a node says of its own accord (R061).
#[derive(Clone, PartialEq, Debug)]
pub enum Notice {
    /// The first line.
    Hello(Hello),
    /// It has this resource.
    Created(ResourceName, Value),
    /// These attributes of the resource changed, or its whole value if that is not an object.
    Updated(ResourceName, Value),
    /// It no longer has the resource; the value says why.
    Destroyed(ResourceName, Value),
    /// All it has was said (R067).
    Ready,
    /// It is about to close.
    Goodbye(Reason),
}

/// What a node answers to a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// Done; with what there is to say of it.
    Ok(Attributes),
    /// Refused or failed; nothing was changed unless the message says so.
    No(Refusal),
    /// Not understood.
    Bad(Complaint),
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// A word for programs, as `pool-full`.
    pub error: String,
    /// A sentence for people.
    pub message: String,
}

/// Why a line was not understood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Complaint {
    /// A sentence for people.
    pub message: String,
}

/// Why a connection is closed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// A sentence for people.
    pub reason: String,
}

/// What the brain orders (R032).
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// Make the resource.
    Create(ResourceName, Attributes),
    /// Change the attributes named (R086).
    Update(ResourceName, Attributes),
    /// Stop the VM, or destroy the disc (R090, R091).
    Remove(ResourceName, Attributes),
}

impl Command {
    /// The resource it is about.
    pub fn name(&self) -> &ResourceName {
        match self {
            Self::Create(name, _) | Self::Update(name, _) | Self::Remove(name, _) => name,
        }
    }
}

/// A line from a node.
#[derive(Clone, PartialEq, Debug)]
pub enum NodeMessage {
    /// Untagged.
    Notice(Notice),
    /// The answer to a command.
    Answer(Tag, Answer),
}

/// A line from the brain.
#[derive(Clone, PartialEq, Debug)]
pub enum BrainMessage {
    /// Answers hello.
    Welcome(Welcome),
    /// Something the node said was not understood; the connection goes on.
    Bad(Complaint),
    /// The brain is about to close.
    Goodbye(Reason),
    /// An order.
    Command(Tag, Command),
}

/// What a peer did wrong. All but [`Violation::Verb`] end the connection.
#[derive(Debug, Error)]
pub enum Violation {
    /// Over [`crate::limits::LINE_BYTES_MAX`].
    #[error("a line is longer than {} bytes", crate::limits::LINE_BYTES_MAX)]
    LineTooLong,
    /// Not UTF-8.
    #[error("a line is not valid UTF-8")]
    Utf8,
    /// The first word is neither `*` nor a tag.
    #[error("a line must start with * or a tag (t and a number)")]
    Tag,
    /// The verb is unknown: answered `bad`, and the connection goes on.
    #[error("unknown verb {verb:?}")]
    Verb {
        /// The tag it came with, if any.
        tag: Option<Tag>,
        /// The verb, shortened.
        verb: String,
    },
    /// The resource's name is missing or malformed.
    #[error("{0}")]
    Name(#[from] IdError),
    /// The value is missing, not JSON, or lacks something.
    #[error("the value of {verb} is not what it should be: {source}")]
    Value {
        /// The verb.
        verb: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A node tried to order the brain about (R064).
    #[error("a node may not send commands ({0})")]
    CommandFromNode(String),
    /// The message is not allowed at this point of the session.
    #[error("{0}")]
    Order(&'static str),
}

struct Line<'a> {
    tag: Option<Tag>,
    verb: &'a str,
    rest: &'a str,
}

fn split(line: &str) -> Result<Line<'_>, Violation> {
    let (first, rest) = line.split_once(' ').ok_or(Violation::Tag)?;
    let tag = match first {
        "*" => None,
        tag => Some(tag.parse()?),
    };
    let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok(Line { tag, verb, rest })
}

impl Line<'_> {
    fn value<T: DeserializeOwned>(&self, text: &str) -> Result<T, Violation> {
        serde_json::from_str(text).map_err(|source| Violation::Value { verb: self.verb.to_owned(), source })
    }

    fn named<T: DeserializeOwned>(&self) -> Result<(ResourceName, T), Violation> {
        let (name, text) = self.rest.split_once(' ').unwrap_or((self.rest, ""));
        let text = if text.is_empty() { "{}" } else { text };
        Ok((name.parse()?, self.value(text)?))
    }

    fn unknown_verb(&self) -> Violation {
        Violation::Verb { tag: self.tag, verb: self.verb.chars().take(40).collect() }
    }
}

impl NodeMessage {
    /// Reads a line from a node, without its LF.
    ///
    /// # Errors
    /// What the node did wrong.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let line = split(text)?;
        let Some(tag) = line.tag else { return Notice::parse(&line).map(Self::Notice) };
        let answer = match line.verb {
            "ok" if line.rest.is_empty() => Answer::Ok(Attributes::new()),
            "ok" => Answer::Ok(line.value(line.rest)?),
            "no" => Answer::No(line.value(line.rest)?),
            "bad" => Answer::Bad(line.value(line.rest)?),
            "create" | "update" | "remove" => return Err(Violation::CommandFromNode(line.verb.to_owned())),
            _ => return Err(line.unknown_verb()),
        };
        Ok(Self::Answer(tag, answer))
    }
}

impl Notice {
    fn parse(line: &Line<'_>) -> Result<Self, Violation> {
        Ok(match line.verb {
            "hello" => Self::Hello(line.value(line.rest)?),
            "created" => line.named().map(|(name, value)| Self::Created(name, value))?,
            "updated" => line.named().map(|(name, value)| Self::Updated(name, value))?,
            "destroyed" => line.named().map(|(name, value)| Self::Destroyed(name, value))?,
            "ready" => Self::Ready,
            "goodbye" => Self::Goodbye(line.value(line.rest)?),
            "create" | "update" | "remove" => return Err(Violation::CommandFromNode(line.verb.to_owned())),
            _ => return Err(line.unknown_verb()),
        })
    }
}

impl BrainMessage {
    /// Reads a line from the brain, without its LF.
    ///
    /// # Errors
    /// What the brain did wrong.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let line = split(text)?;
        let Some(tag) = line.tag else {
            return Ok(match line.verb {
                "welcome" => Self::Welcome(line.value(line.rest)?),
                "bad" => Self::Bad(line.value(line.rest)?),
                "goodbye" => Self::Goodbye(line.value(line.rest)?),
                _ => return Err(line.unknown_verb()),
            });
        };
        let command = match line.verb {
            "create" => line.named().map(|(name, value)| Command::Create(name, value))?,
            "update" => line.named().map(|(name, value)| Command::Update(name, value))?,
            "remove" => line.named().map(|(name, value)| Command::Remove(name, value))?,
            _ => return Err(line.unknown_verb()),
        };
        Ok(Self::Command(tag, command))
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("messages have string keys only")
}

/// The line without its LF.
impl fmt::Display for NodeMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notice(Notice::Hello(hello)) => write!(f, "* hello {}", json(hello)),
            Self::Notice(Notice::Created(name, value)) => write!(f, "* created {name} {}", json(value)),
            Self::Notice(Notice::Updated(name, value)) => write!(f, "* updated {name} {}", json(value)),
            Self::Notice(Notice::Destroyed(name, value)) => write!(f, "* destroyed {name} {}", json(value)),
            Self::Notice(Notice::Ready) => f.write_str("* ready"),
            Self::Notice(Notice::Goodbye(reason)) => write!(f, "* goodbye {}", json(reason)),
            Self::Answer(tag, Answer::Ok(attributes)) => write!(f, "{tag} ok {}", json(attributes)),
            Self::Answer(tag, Answer::No(refusal)) => write!(f, "{tag} no {}", json(refusal)),
            Self::Answer(tag, Answer::Bad(complaint)) => write!(f, "{tag} bad {}", json(complaint)),
        }
    }
}

/// The line without its LF.
impl fmt::Display for BrainMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Welcome(welcome) => write!(f, "* welcome {}", json(welcome)),
            Self::Bad(complaint) => write!(f, "* bad {}", json(complaint)),
            Self::Goodbye(reason) => write!(f, "* goodbye {}", json(reason)),
            Self::Command(tag, Command::Create(name, value)) => write!(f, "{tag} create {name} {}", json(value)),
            Self::Command(tag, Command::Update(name, value)) => write!(f, "{tag} update {name} {}", json(value)),
            Self::Command(tag, Command::Remove(name, value)) => write!(f, "{tag} remove {name} {}", json(value)),
        }
    }
}
