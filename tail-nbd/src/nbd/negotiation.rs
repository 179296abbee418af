//! The handshake of a connection, up to the export.

use super::offer::{Style, Tls, export_flags};
use super::option::{Ask, AskKind, ClientOption, Export, write_infos, write_option_reply};
use super::wire::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, MAGIC, OPTION_HEADER_BYTES, OPTION_MAGIC, Reader, handshake_flag,
    option_reply, option_type,
};
use crate::error::Violation;
use crate::geometry::DiscSize;
use crate::limits::{OPTION_BYTES_MAX, OPTION_DRAIN_BYTES_MAX, OPTIONS_MAX};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A handshake under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Negotiation {
    state: State,
    /// The bytes of the item that is being received: at most [`OPTION_BYTES_MAX`].
    partial: Vec<u8>,
    zeroes_left_out: bool,
    style: Style,
    /// The export that `base:allocation` was chosen for.
    allocation_of: Option<String>,
    options_count: u32,
    /// Every option from now on is refused with ERR_SHUTDOWN, but for ABORT.
    #[serde(default)]
    leaving: bool,
    #[serde(default)]
    tls: Tls,
    /// All that is said goes through TLS.
    #[serde(default)]
    secured: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Flags,
    Header,
    Data {
        option: u32,
        length: u32,
    },
    Drain {
        option: u32,
        remaining: u32,
    },
    // The driver decides at once, or holds the client: these are never carried.
    #[serde(skip)]
    AwaitExport(Ask),
    #[serde(skip)]
    AwaitTls,
}

/// What a handshake asks of the driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Decide about this export and call [`Negotiation::handle_export`].
    ExportWanted(String),
    /// Decide whether it goes on through TLS and call [`Negotiation::handle_tls`].
    TlsWanted,
    /// The client gave up; it is to get what is in `out`, and then the end.
    Aborted,
}

/// Why a client does not get an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its address may not: ERR_POLICY.
    Policy,
    /// Its address may, but there is no such name: ERR_UNKNOWN.
    Unknown,
    /// The server is going away: ERR_SHUTDOWN.
    Leaving,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// The size of the export.
    pub size: DiscSize,
    /// How requests and replies look.
    pub style: Style,
    /// `base:allocation` may be asked for.
    pub allocation: bool,
    /// Whatever would change the export is refused.
    pub read_only: bool,
}

impl Negotiation {
    /// Starts a handshake; the greeting is appended to `out`.
    pub fn new(tls: Tls, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
        Self {
            state: State::Flags,
            partial: Vec::new(),
            zeroes_left_out: false,
            style: Style::Simple,
            allocation_of: None,
            options_count: 0,
            leaving: false,
            tls,
            secured: false,
        }
    }

    /// The server is going away: every option from now on is refused, and only ABORT carried out.
    pub fn handle_leaving(&mut self) {
        self.leaving = true;
    }

    /// Consumes a prefix of `bytes` and appends replies to `out`. While an answer of the driver is awaited nothing
    /// is consumed.
    ///
    /// # Errors
    /// When the peer broke the protocol: the connection is to be closed.
    pub fn handle_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Outcome>), Violation> {
        let mut consumed = 0;
        loop {
            let rest = &bytes[consumed..];
            let needed = match &mut self.state {
                State::AwaitExport(_) | State::AwaitTls => return Ok((consumed, None)),
                State::Drain { option, remaining } => {
                    let drained = rest.len().min(*remaining as usize);
                    consumed += drained;
                    *remaining -= u32::try_from(drained).expect("it is at most a u32");
                    if *remaining > 0 {
                        return Ok((consumed, None));
                    }
                    let option = *option;
                    write_option_reply(out, option, option_reply::ERR_TOO_BIG, b"too much data");
                    self.state = State::Header;
                    continue;
                }
                State::Flags => 4,
                State::Header => OPTION_HEADER_BYTES,
                State::Data { length, .. } => *length as usize,
            };
            let taken = (needed - self.partial.len()).min(rest.len());
            self.partial.extend_from_slice(&rest[..taken]);
            consumed += taken;
            if self.partial.len() < needed {
                return Ok((consumed, None));
            }
            let item = core::mem::take(&mut self.partial);
            if let Some(outcome) = self.handle_item(&item, out)? {
                if outcome == Outcome::TlsWanted && consumed < bytes.len() {
                    return Err(Violation::BehindStartTls);
                }
                return Ok((consumed, Some(outcome)));
            }
        }
    }

    /// Answers an `ExportWanted`. With `Some`, the handshake is over.
    ///
    /// # Errors
    /// When the client asked in a way that has no reply for a refusal.
    ///
    /// # Panics
    /// When no export is awaited, which is a bug of the caller.
    pub fn handle_export(
        &mut self,
        answer: Result<Export, Refusal>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Agreement>, Violation> {
        let State::AwaitExport(ask) = core::mem::replace(&mut self.state, State::Header) else {
            panic!("no export is awaited");
        };
        let Ask { name, kind } = ask;
        let option = match kind {
            AskKind::ExportName => option_type::EXPORT_NAME,
            AskKind::Go(_) => option_type::GO,
            AskKind::Info(_) => option_type::INFO,
            AskKind::List => option_type::LIST,
        };
        match (answer, kind) {
            (Ok(export), AskKind::ExportName) => {
                out.extend_from_slice(&export.size.bytes().to_be_bytes());
                out.extend_from_slice(&export_flags(self.style, export.read_only).to_be_bytes());
                if !self.zeroes_left_out {
                    out.extend_from_slice(&[0; 124]);
                }
                Ok(Some(self.agree(&export, &name)))
            }
            (Ok(export), AskKind::Go(infos)) => {
                write_infos(out, option, &export, &name, infos, self.style);
                write_option_reply(out, option, option_reply::ACK, &[]);
                Ok(Some(self.agree(&export, &name)))
            }
            (Ok(export), AskKind::Info(infos)) => {
                write_infos(out, option, &export, &name, infos, self.style);
                write_option_reply(out, option, option_reply::ACK, &[]);
                Ok(None)
            }
            (Ok(export), AskKind::List) => {
                write_listed(out, "", &export.description);
                write_option_reply(out, option, option_reply::ACK, &[]);
                Ok(None)
            }
            (Err(_), AskKind::ExportName) => Err(Violation::ExportRefused),
            (Err(Refusal::Policy), _) => {
                write_option_reply(out, option, option_reply::ERR_POLICY, b"this address may not use this disc");
                Ok(None)
            }
            (Err(Refusal::Leaving), _) => {
                write_option_reply(out, option, option_reply::ERR_SHUTDOWN, GOING_AWAY);
                Ok(None)
            }
            // Names of exports are secrets, so there is nothing to list (safety rule 6).
            (Err(Refusal::Unknown), AskKind::List) => {
                write_option_reply(out, option, option_reply::ACK, &[]);
                Ok(None)
            }
            (Err(Refusal::Unknown), _) => {
                write_option_reply(out, option, option_reply::ERR_UNKNOWN, b"no such export");
                Ok(None)
            }
        }
    }

    /// True for what a handshake can come to; false for what was made up.
    pub fn is_sound(&self) -> bool {
        let partial_bytes = self.partial.len();
        // What goes through TLS is never carried.
        !self.secured
            && self.options_count <= OPTIONS_MAX
            && match self.state {
                State::Flags => partial_bytes < 4,
                State::Header => partial_bytes < OPTION_HEADER_BYTES,
                State::Data { length, .. } => length <= OPTION_BYTES_MAX && partial_bytes < length as usize,
                State::Drain { remaining, .. } => remaining <= OPTION_DRAIN_BYTES_MAX && partial_bytes == 0,
                State::AwaitExport(_) | State::AwaitTls => false,
            }
    }

    /// Answers a `TlsWanted`. When TLS is `accepted`, what is in `out` by now is the last that is sent in the clear, and
    /// what is handed in from now on must have come through TLS.
    ///
    /// # Panics
    /// When it is not awaited, which is a bug of the caller.
    pub fn handle_tls(&mut self, accepted: bool, out: &mut Vec<u8>) {
        assert!(matches!(self.state, State::AwaitTls), "TLS is not awaited");
        self.state = State::Header;
        if !accepted {
            return write_option_reply(
                out,
                option_type::STARTTLS,
                option_reply::ERR_POLICY,
                b"no TLS for this address",
            );
        }
        write_option_reply(out, option_type::STARTTLS, option_reply::ACK, &[]);
        self.secured = true;
        // What was agreed on in the clear, somebody in between may have said (CVE-2021-3716).
        self.style = Style::Simple;
        self.allocation_of = None;
    }

    /// True when the export that is awaited is asked for by LIST.
    pub fn is_list_wanted(&self) -> bool {
        matches!(&self.state, State::AwaitExport(Ask { kind: AskKind::List, .. }))
    }

    /// Answers LIST, in place of [`Negotiation::handle_export`], with these names and texts for people.
    ///
    /// # Panics
    /// When no list is awaited, which is a bug of the caller.
    pub fn handle_list<'a>(&mut self, exports: impl Iterator<Item = (&'a str, &'a str)>, out: &mut Vec<u8>) {
        assert!(self.is_list_wanted(), "no list is awaited");
        self.state = State::Header;
        for (name, description) in exports {
            write_listed(out, name, description);
        }
        write_option_reply(out, option_type::LIST, option_reply::ACK, &[]);
    }

    fn agree(&self, export: &Export, name: &str) -> Agreement {
        let allocation = self.style.has_chunks() && self.allocation_of.as_deref() == Some(name);
        Agreement { size: export.size, style: self.style, allocation, read_only: export.read_only }
    }

    /// The item that `state` waits for is there.
    fn handle_item(&mut self, item: &[u8], out: &mut Vec<u8>) -> Result<Option<Outcome>, Violation> {
        let mut reader = Reader(item);
        match self.state {
            State::Flags => {
                let flags = reader.u32().expect("it has four bytes");
                let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
                if flags & !known != 0 {
                    return Err(Violation::ClientFlags(flags));
                }
                // Who does not know about options cannot ask for TLS (proto.md, "Server-side requirements").
                match self.tls {
                    _ if flags & u32::from(handshake_flag::FIXED_NEWSTYLE) != 0 => {}
                    Tls::Off | Tls::Offered => self.tls = Tls::Off,
                    Tls::Required => return Err(Violation::TlsRequired),
                }
                self.zeroes_left_out = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
                self.state = State::Header;
                Ok(None)
            }
            State::Header => {
                let magic = reader.u64().expect("it has sixteen bytes");
                let option = reader.u32().expect("it has sixteen bytes");
                let length = reader.u32().expect("it has sixteen bytes");
                self.handle_header(magic, option, length, out)
            }
            State::Data { option, .. } => self.handle_option(option, item, out),
            State::Drain { .. } | State::AwaitExport(_) | State::AwaitTls => {
                unreachable!("these states collect no item")
            }
        }
    }

    fn handle_header(
        &mut self,
        magic: u64,
        option: u32,
        length: u32,
        out: &mut Vec<u8>,
    ) -> Result<Option<Outcome>, Violation> {
        if magic != OPTION_MAGIC {
            return Err(Violation::OptionMagic(magic));
        }
        self.options_count += 1;
        if self.options_count > OPTIONS_MAX {
            return Err(Violation::TooManyOptions);
        }
        if length > OPTION_DRAIN_BYTES_MAX || (length > OPTION_BYTES_MAX && option == option_type::EXPORT_NAME) {
            return Err(Violation::OptionTooLong(length));
        }
        if length > OPTION_BYTES_MAX {
            self.state = State::Drain { option, remaining: length };
            return Ok(None);
        }
        if length == 0 {
            return self.handle_option(option, &[], out);
        }
        self.state = State::Data { option, length };
        Ok(None)
    }

    fn handle_option(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Option<Outcome>, Violation> {
        self.state = State::Header;
        let ack = |out: &mut Vec<u8>| write_option_reply(out, option, option_reply::ACK, &[]);
        if self.leaving && option != option_type::ABORT {
            if option == option_type::EXPORT_NAME {
                // It has no error reply.
                return Err(Violation::ExportRefused);
            }
            write_option_reply(out, option, option_reply::ERR_SHUTDOWN, GOING_AWAY);
            return Ok(None);
        }
        if self.tls == Tls::Required && !self.secured {
            match option {
                option_type::STARTTLS | option_type::ABORT => {}
                // It has no error reply.
                option_type::EXPORT_NAME => return Err(Violation::TlsRequired),
                _ => {
                    write_option_reply(out, option, option_reply::ERR_TLS_REQD, b"STARTTLS comes first");
                    return Ok(None);
                }
            }
        }
        match ClientOption::parse(option, data) {
            // It has neither an error reply nor room in its answer for what extended headers ask for.
            Ok(ClientOption::Export(Ask { kind: AskKind::ExportName, .. })) if self.style == Style::Extended => {
                return Err(Violation::ExportRefused);
            }
            Ok(ClientOption::Export(ask)) => {
                let wanted = Outcome::ExportWanted(ask.name.clone());
                self.state = State::AwaitExport(ask);
                return Ok(Some(wanted));
            }
            Ok(ClientOption::Abort) => {
                ack(out);
                return Ok(Some(Outcome::Aborted));
            }
            Ok(ClientOption::StartTls) if self.secured => {
                write_option_reply(out, option, option_reply::ERR_INVALID, b"TLS is in force already");
            }
            Ok(ClientOption::StartTls) if self.tls == Tls::Off => {
                write_option_reply(out, option, option_reply::ERR_UNSUP, &[]);
            }
            Ok(ClientOption::StartTls) => {
                self.state = State::AwaitTls;
                return Ok(Some(Outcome::TlsWanted));
            }
            Ok(ClientOption::StructuredReply) if self.style == Style::Extended => {
                write_option_reply(out, option, option_reply::ERR_EXT_HEADER_REQD, b"headers are extended already");
            }
            Ok(ClientOption::StructuredReply) => {
                self.style = Style::Structured;
                ack(out);
            }
            Ok(ClientOption::ExtendedHeaders) => {
                self.style = Style::Extended;
                ack(out);
            }
            Ok(ClientOption::ListMetaContext(_) | ClientOption::SetMetaContext { .. }) if !self.style.has_chunks() => {
                write_option_reply(out, option, option_reply::ERR_INVALID, b"structured replies come first");
            }
            Ok(ClientOption::ListMetaContext(allocation)) => {
                if allocation {
                    write_context(out, option, 0);
                }
                ack(out);
            }
            Ok(ClientOption::SetMetaContext { name, allocation }) => {
                self.allocation_of = allocation.then_some(name);
                if allocation {
                    write_context(out, option, BASE_ALLOCATION_ID);
                }
                ack(out);
            }
            // It has no error reply.
            Err(_) if option == option_type::EXPORT_NAME => return Err(Violation::ExportRefused),
            Err(reply) => write_option_reply(out, option, reply, &[]),
        }
        Ok(None)
    }
}

const GOING_AWAY: &[u8] = b"the server is going away";

fn write_listed(out: &mut Vec<u8>, name: &str, description: &str) {
    let mut data = u32::try_from(name.len()).expect("names are short").to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(description.as_bytes());
    write_option_reply(out, option_type::LIST, option_reply::SERVER, &data);
}

fn write_context(out: &mut Vec<u8>, option: u32, id: u32) {
    let mut data = id.to_be_bytes().to_vec();
    data.extend_from_slice(BASE_ALLOCATION.as_bytes());
    write_option_reply(out, option, option_reply::META_CONTEXT, &data);
}
