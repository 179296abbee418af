//! A client that knows what every byte may legally be.

use super::chance::Chance;
use super::history::{Content, History, Tick};
use super::network::{Link, LinkId, take};
use crate::nbd::client::{self as nbd, Reply};
use crate::nbd::request::Header;
use crate::nbd::wire::{
    Reader, STATE_ZERO, chunk_type, command_flag, command_type, info_type, option_reply, option_type,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As the protocol wants it.
    Honest,
    /// Sends something that is no request, some time.
    Rude,
    /// Stops in the middle of something, and stays.
    Silent,
    /// Asks, and takes no replies.
    Deaf,
}

/// A client and what it waits for.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) disc: usize,
    /// Which of the disc's attachments it belongs to; a stranger to none.
    pub(super) attachment: Option<usize>,
    pub(super) address: Ipv4Addr,
    pub(super) key: String,
    pub(super) manner: Manner,
    /// Requests it has in flight at most.
    pub(super) depth: usize,
    /// The bytes that it writes to: those of its attachment. It reads everywhere.
    pub(super) region: (u64, u64),
    pub(super) disc_bytes: u64,
    pub(super) link: Option<LinkId>,
    /// It was let in.
    pub(super) attached: bool,
    /// It says and hears nothing more.
    pub(super) silent: bool,
    /// It has said good-bye.
    pub(super) leaving: bool,
    nbd: nbd::Client,
    structured: bool,
    asked: BTreeMap<u64, Asked>,
    cookie: u64,
    /// Requests that were answered.
    pub(super) answered_count: u64,
}

#[derive(Debug)]
struct Asked {
    command: u16,
    fua: bool,
    range: (u64, u64),
    issued: Tick,
    /// Bytes of a READ that have come.
    received_count: u64,
    /// The error that it must be answered with.
    expected: Option<u32>,
    failed: Option<u32>,
}

/// The place a client is in.
pub(super) struct Scene<'a> {
    pub(super) chance: &'a mut Chance,
    pub(super) history: &'a mut History,
    pub(super) link: &'a mut Link,
    pub(super) tick: &'a mut Tick,
    /// Requests may fail because the disk does.
    pub(super) disk_failed: bool,
    /// The disk makes zeroes without writing them.
    pub(super) can_punch: bool,
    /// A sync failed then, and FLUSH and FUA must fail from then on.
    pub(super) sync_failed: Option<Tick>,
    /// A sync may have failed.
    pub(super) sync_may_fail: bool,
    /// The disc is empty behind this write: no read was issued before.
    pub(super) oldest: Tick,
}

const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;

impl Client {
    pub(super) fn new(disc: usize, attachment: Option<usize>, region: (u64, u64), disc_bytes: u64) -> Self {
        Self {
            disc,
            attachment,
            address: Ipv4Addr::new(127, 0, 1, attachment.map_or(99, |attachment| attachment as u8)),
            key: attachment.map_or_else(|| "stranger".to_owned(), |attachment| key_of(disc, attachment)),
            manner: Manner::Honest,
            depth: 8,
            region,
            disc_bytes,
            link: None,
            attached: false,
            silent: false,
            leaving: false,
            nbd: nbd::Client::new(),
            structured: false,
            asked: BTreeMap::new(),
            cookie: 0,
            answered_count: 0,
        }
    }

    /// It will take nothing more.
    pub(super) fn is_deaf(&self) -> bool {
        self.attached && self.manner == Manner::Deaf
    }

    /// Requests without an answer.
    pub(super) fn waiting_count(&self) -> usize {
        self.asked.len()
    }

    /// When its oldest request was issued.
    pub(super) fn oldest(&self) -> Option<Tick> {
        self.asked.values().map(|asked| asked.issued).min()
    }

    /// A connection begins: says everything that a handshake needs.
    pub(super) fn greet(&mut self, id: LinkId, link: &mut Link, chance: &mut Chance) {
        (self.link, self.attached, self.silent, self.leaving) = (Some(id), false, false, false);
        self.nbd = nbd::Client::new();
        let (kind, extended) = (chance.below(3), option_type::EXTENDED_HEADERS);
        self.structured = kind > 0;
        let mut out = Vec::new();
        self.nbd.write_flags(&mut out);
        if self.structured {
            let style = if kind == 1 { option_type::STRUCTURED_REPLY } else { extended };
            self.nbd.write_option(&mut out, style, &[]);
            self.nbd.write_contexts(&mut out, option_type::SET_META_CONTEXT, &self.key, &["base:allocation"]);
        }
        self.nbd.write_go(&mut out, option_type::GO, &self.key, &[]);
        if self.manner == Manner::Silent && chance.one_in(3) {
            out.truncate(chance.below(out.len() as u64) as usize);
            (self.silent, link.excused) = (true, true);
        }
        link.to_server.extend(out);
    }

    /// The connection is over. Returns the writes whose fate nobody knows.
    pub(super) fn lose(&mut self) -> Vec<(u64, (u64, u64))> {
        (self.link, self.attached) = (None, false);
        let asked = std::mem::take(&mut self.asked).into_iter();
        asked.filter(|(_, asked)| asked.changes()).map(|(cookie, asked)| (cookie, asked.range)).collect()
    }

    /// Reads some of what has come.
    pub(super) fn listen(&mut self, scene: &mut Scene<'_>) -> Result<(), String> {
        if self.silent || scene.link.to_client.is_empty() {
            return Ok(());
        }
        if self.is_deaf() {
            scene.link.excused = true;
            return Ok(());
        }
        let count = scene.chance.portion(scene.link.to_client.len());
        let mut bytes = vec![0; count];
        take(&mut scene.link.to_client, &mut bytes);
        let mut replies = Vec::new();
        self.nbd.handle_bytes(&bytes, &mut replies).map_err(|fault| format!("a broken reply: {fault:?}"))?;
        for reply in replies {
            *scene.tick += 1;
            self.take(reply, scene)?;
        }
        Ok(())
    }

    fn take(&mut self, reply: Reply, scene: &mut Scene<'_>) -> Result<(), String> {
        match reply {
            Reply::Greeting(_) => Ok(()),
            Reply::Export(..) => Err("an export that nobody asked for so".to_owned()),
            Reply::Option { option: option_type::GO, reply: option_reply::ACK, .. } => {
                self.attached = true;
                if self.attachment.is_none() { Err("a stranger was let in".to_owned()) } else { Ok(()) }
            }
            Reply::Option { option: option_type::GO, reply: option_reply::INFO, data } => {
                let mut reader = Reader(&data);
                if reader.u16() == Some(info_type::EXPORT) {
                    self.disc_bytes = reader.u64().ok_or("an export without a size")?;
                }
                Ok(())
            }
            Reply::Option { option: option_type::GO, reply, .. } if reply & (1 << 31) != 0 => {
                // It goes and comes back.
                scene.link.finished = true;
                if scene.link.excused { Ok(()) } else { Err("a client was refused for no reason".to_owned()) }
            }
            Reply::Option { .. } => Ok(()),
            Reply::Simple { cookie, error, data } => {
                let asked = self.asked.get_mut(&cookie).ok_or("an answer to nothing")?;
                if error == 0 && asked.command == command_type::READ {
                    asked.received_count = data.len() as u64;
                    scene.history.check_read(asked.range.0, &data, asked.issued)?;
                }
                self.conclude(cookie, error, scene)
            }
            Reply::Chunk { cookie, done, kind, data } => {
                let asked = self.asked.get_mut(&cookie).ok_or("a chunk for nothing")?;
                asked.take_chunk(kind, &data, scene.history)?;
                let error = asked.failed.unwrap_or(0);
                if done { self.conclude(cookie, error, scene) } else { Ok(()) }
            }
        }
    }

    /// A request is answered.
    fn conclude(&mut self, cookie: u64, error: u32, scene: &mut Scene<'_>) -> Result<(), String> {
        let asked = self.asked.remove(&cookie).expect("it was found");
        self.answered_count += 1;
        let now = *scene.tick;
        tracing::debug!(disc = self.disc, cookie, error, now, "answered");
        if asked.changes() && (error != 0 || asked.command == command_type::TRIM) {
            scene.history.finish(cookie, asked.range, now);
        }
        let wants_sync = asked.command == command_type::FLUSH || asked.fua;
        if error != 0 {
            let legal = match error {
                _ if asked.expected == Some(error) => true,
                EIO => scene.disk_failed || (wants_sync && scene.sync_may_fail),
                ENOSPC => scene.disk_failed && asked.changes(),
                ESHUTDOWN => scene.link.excused,
                _ => false,
            };
            return if legal { Ok(()) } else { Err(format!("error {error} for no reason: {asked:?}")) };
        }
        if let Some(expected) = asked.expected {
            return Err(format!("no error {expected}: {asked:?}"));
        }
        if wants_sync && scene.sync_failed.is_some_and(|at| at < asked.issued) {
            return Err(format!("it cannot be durable after a failed sync: {asked:?}"));
        }
        match asked.command {
            command_type::READ if asked.received_count != asked.range.1 - asked.range.0 => {
                Err(format!("{} bytes came: {asked:?}", asked.received_count))
            }
            command_type::WRITE | command_type::WRITE_ZEROES => {
                scene.history.acknowledge(cookie, asked.range, asked.fua, now);
                Ok(())
            }
            command_type::FLUSH => {
                scene.history.flushed(asked.issued, scene.oldest);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks for something, if it has not asked for enough.
    pub(super) fn ask(&mut self, scene: &mut Scene<'_>, cookies: &mut u64) {
        if !self.attached || self.silent || self.leaving || self.asked.len() >= self.depth {
            return;
        }
        if self.manner == Manner::Rude && scene.chance.one_in(40) {
            let garbage: Vec<u8> = (0..scene.chance.between(1, 60)).map(|_| scene.chance.number() as u8).collect();
            scene.link.to_server.extend(garbage);
            (self.leaving, scene.link.excused) = (true, true);
            return;
        }
        *cookies += 1;
        self.cookie = *cookies;
        let (header, asked) = self.choose(scene);
        let mut out = Vec::new();
        self.nbd.write_request(&mut out, header);
        *scene.tick += 1;
        let asked = Asked { issued: *scene.tick, ..asked };
        let content = match asked.command {
            command_type::WRITE => Content::Pattern(scene.chance.number()),
            _ => Content::Zeroes,
        };
        if header.command == command_type::WRITE {
            out.extend(content.bytes(header.offset, header.length as usize));
        }
        if asked.changes() && asked.expected.is_none() {
            scene.history.begin(self.cookie, asked.range, &content, asked.issued);
        }
        if self.manner == Manner::Silent && scene.chance.one_in(30) {
            out.truncate(scene.chance.between(1, out.len() as u64 - 1) as usize);
            (self.silent, scene.link.excused) = (true, true);
        }
        tracing::debug!(disc = self.disc, cookie = self.cookie, ?asked, "asked");
        scene.link.to_server.extend(out);
        self.asked.insert(self.cookie, asked);
    }

    /// Says good-bye when everything is answered; who takes no answers just goes.
    pub(super) fn leave(&mut self, link: &mut Link) {
        if self.is_deaf() {
            (link.finished, link.excused) = (true, true);
            return;
        }
        if !self.asked.is_empty() || self.leaving || self.silent {
            return;
        }
        (self.leaving, link.excused) = (true, true);
        if self.attached {
            let mut out = Vec::new();
            let header = Header { flags: 0, command: command_type::DISC, cookie: 0, offset: 0, length: 0 };
            self.nbd.write_request(&mut out, header);
            link.to_server.extend(out);
        } else {
            link.finished = true;
        }
    }

    fn choose(&mut self, scene: &mut Scene<'_>) -> (Header, Asked) {
        let chance = &mut *scene.chance;
        let command = match chance.below(20) {
            0..6 => command_type::READ,
            6..13 => command_type::WRITE,
            13..15 => command_type::FLUSH,
            15..17 => command_type::WRITE_ZEROES,
            17 => command_type::TRIM,
            18 if self.structured => command_type::BLOCK_STATUS,
            _ => command_type::CACHE,
        };
        let changes = matches!(command, command_type::WRITE | command_type::WRITE_ZEROES | command_type::TRIM);
        let (low, high) =
            if changes { (self.region.0, self.region.1.min(self.disc_bytes)) } else { (0, self.disc_bytes) };
        let length_max = match chance.below(16) {
            0 => high - low,
            1..4 => 64 << 10,
            4..9 => 4096,
            _ => 700,
        };
        let mut length = chance.between(1, length_max.min(high - low));
        let mut offset = low + chance.below(high - low - length + 1);
        if chance.one_in(3) && length >= 4096 {
            (offset, length) = (offset & !511, length & !511);
        }
        if command == command_type::FLUSH {
            (offset, length) = (0, 0);
        }
        let mut expected = None;
        if command != command_type::FLUSH && chance.one_in(40) {
            offset = self.disc_bytes - length + chance.between(1, 10_000);
            let writes = matches!(command, command_type::WRITE | command_type::WRITE_ZEROES);
            expected = Some(if writes { ENOSPC } else { EINVAL });
        }
        let fua = changes && chance.one_in(6);
        let mut flags = if fua { command_flag::FUA } else { 0 };
        if command == command_type::WRITE_ZEROES && chance.one_in(2) {
            flags |= command_flag::NO_HOLE;
        }
        if command == command_type::WRITE_ZEROES && chance.one_in(3) {
            flags |= command_flag::FAST_ZERO;
            if !scene.can_punch {
                expected = expected.or(Some(ENOTSUP));
            }
        }
        if command == command_type::READ && self.structured && chance.one_in(4) {
            flags |= command_flag::DF;
        }
        let header = Header { flags, command, cookie: self.cookie, offset, length };
        let range = (offset, offset + length);
        (header, Asked { command, fua, range, issued: 0, received_count: 0, expected, failed: None })
    }
}

impl Asked {
    fn changes(&self) -> bool {
        matches!(self.command, command_type::WRITE | command_type::WRITE_ZEROES | command_type::TRIM)
    }

    fn take_chunk(&mut self, kind: u16, data: &[u8], history: &History) -> Result<(), String> {
        let mut reader = Reader(data);
        match kind {
            chunk_type::NONE => Ok(()),
            chunk_type::OFFSET_DATA => {
                let offset = reader.u64().ok_or("a chunk without an offset")?;
                self.received_count += reader.0.len() as u64;
                history.check_read(offset, reader.0, self.issued)
            }
            chunk_type::OFFSET_HOLE => {
                let (Some(offset), Some(length)) = (reader.u64(), reader.u32()) else {
                    return Err("half a hole".to_owned());
                };
                self.received_count += u64::from(length);
                history.check_read(offset, &vec![0; length as usize], self.issued)
            }
            chunk_type::BLOCK_STATUS => self.take_extents(&mut reader, history),
            chunk_type::BLOCK_STATUS_EXT => self.take_long_extents(&mut reader, history),
            chunk_type::ERROR | chunk_type::ERROR_OFFSET => {
                self.failed = Some(reader.u32().ok_or("an error without a number")?);
                Ok(())
            }
            other => Err(format!("a chunk of type {other}")),
        }
    }

    fn take_extents(&self, reader: &mut Reader<'_>, history: &History) -> Result<(), String> {
        reader.u32();
        let next = || Some((u64::from(reader.u32()?), u64::from(reader.u32()?)));
        self.check_extents(std::iter::from_fn(next), history)
    }

    fn take_long_extents(&self, reader: &mut Reader<'_>, history: &History) -> Result<(), String> {
        reader.u32();
        reader.u32();
        let next = || Some((reader.u64()?, reader.u64()?));
        self.check_extents(std::iter::from_fn(next), history)
    }

    /// What is said to be zero must be. An extent is a length and a state.
    fn check_extents(&self, extents: impl Iterator<Item = (u64, u64)>, history: &History) -> Result<(), String> {
        let mut offset = self.range.0;
        for (length, state) in extents {
            let end = (offset + length).min(self.range.1);
            if state & u64::from(STATE_ZERO) != 0 {
                history.check_read(offset, &vec![0; (end - offset) as usize], self.issued)?;
            }
            offset = end;
        }
        if offset == self.range.0 { Err("no extent at all".to_owned()) } else { Ok(()) }
    }
}

/// The secret of an attachment.
pub(super) fn key_of(disc: usize, attachment: usize) -> String {
    format!("key {attachment} of disc {disc}")
}
