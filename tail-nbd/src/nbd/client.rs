//! The other half of the protocol: for tests, load generators and fuzzing.
//!
//! It writes what a client sends and reads what a server answers. Policy, like which option comes next, is
//! its user's.

use super::offer::Style;
use super::request::Header;
use super::wire::{
    CHUNK_DONE, CHUNK_MAGIC, EXTENDED_CHUNK_MAGIC, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, Reader, SIMPLE_REPLY_MAGIC,
    chunk_type, command_flag, command_type, handshake_flag, option_reply, option_type,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The greeting, with the handshake flags.
    Greeting(u16),
    /// A reply to an option.
    Option {
        /// Which option.
        option: u32,
        /// The type of the reply.
        reply: u32,
        /// Its data.
        data: Vec<u8>,
    },
    /// The answer to EXPORT_NAME: size in bytes, and flags.
    Export(u64, u16),
    /// A simple reply with the error and, for a READ that went well, the data.
    Simple {
        /// The request's cookie.
        cookie: u64,
        /// 0 or the error.
        error: u32,
        /// The data read.
        data: Vec<u8>,
    },
    /// A chunk of a structured reply.
    Chunk {
        /// The request's cookie.
        cookie: u64,
        /// It is the last one.
        done: bool,
        /// The type of the chunk.
        kind: u16,
        /// Its payload.
        data: Vec<u8>,
    },
}

/// How a server broke the protocol, as far as this client looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes that no reply starts with.
    Magic(u64),
    /// A reply to a request that is not in flight.
    Cookie(u64),
    /// An extended reply that repeats another offset than the request's.
    Offset(u64),
    /// A reply with more data than a server may send.
    Length(u64),
}

/// Longest reply that is taken in, in bytes: the longest read, and its header.
const REPLY_BYTES_MAX: u64 = (64 << 20) + 64;

/// The client's half of a connection.
#[derive(Debug, Default)]
pub struct Client {
    greeted: bool,
    export_name_sent: bool,
    transmitting: bool,
    style: Style,
    in_flight: BTreeMap<u64, Asked>,
    partial: Vec<u8>,
}

/// A request in flight.
#[derive(Debug)]
struct Asked {
    offset: u64,
    /// How many bytes of data a simple reply to it has.
    data_bytes: u64,
}

impl Client {
    /// A client that has not been greeted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the client flags: fixed newstyle, no zeroes.
    pub fn write_flags(&self, out: &mut Vec<u8>) {
        let flags = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        out.extend_from_slice(&flags.to_be_bytes());
    }

    /// Appends an option.
    pub fn write_option(&mut self, out: &mut Vec<u8>, option: u32, data: &[u8]) {
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&u32::try_from(data.len()).expect("options are short").to_be_bytes());
        out.extend_from_slice(data);
        self.export_name_sent |= option == option_type::EXPORT_NAME;
    }

    /// Appends GO or INFO for an export, asking for these pieces of information.
    pub fn write_go(&mut self, out: &mut Vec<u8>, option: u32, name: &str, infos: &[u16]) {
        let mut data = length_and_text(name);
        data.extend_from_slice(&u16::try_from(infos.len()).expect("few infos").to_be_bytes());
        infos.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
        self.write_option(out, option, &data);
    }

    /// Appends LIST or SET_META_CONTEXT for an export.
    pub fn write_contexts(&mut self, out: &mut Vec<u8>, option: u32, name: &str, queries: &[&str]) {
        let mut data = length_and_text(name);
        data.extend_from_slice(&u32::try_from(queries.len()).expect("few queries").to_be_bytes());
        queries.iter().for_each(|query| data.extend_from_slice(&length_and_text(query)));
        self.write_option(out, option, &data);
    }

    /// How requests look: as the server has agreed to.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Takes a style as agreed on before its reply is here, for a client that sends ahead.
    pub fn assume_style(&mut self, style: Style) {
        self.style = style;
    }

    /// Appends a request and remembers its cookie; with extended headers a WRITE says that it has a payload. The
    /// payload is the caller's to send.
    pub fn write_request(&mut self, out: &mut Vec<u8>, mut header: Header) {
        if self.style == Style::Extended && header.command == command_type::WRITE {
            header.flags |= command_flag::PAYLOAD_LEN;
        }
        header.write(out, self.style);
        let data_bytes = if header.command == command_type::READ { header.length } else { 0 };
        if header.command != command_type::DISC {
            self.in_flight.insert(header.cookie, Asked { offset: header.offset, data_bytes });
        }
    }

    /// Requests without a complete answer.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Consumes all of `bytes` and appends whole replies to `replies`.
    ///
    /// # Errors
    /// When the server broke the protocol; the client is of no use after that.
    pub fn handle_bytes(&mut self, bytes: &[u8], replies: &mut Vec<Reply>) -> Result<(), Fault> {
        self.partial.extend_from_slice(bytes);
        let mut partial = core::mem::take(&mut self.partial);
        let mut reader = Reader(&partial);
        let mut left = partial.len();
        while let Some(reply) = self.read_reply(&mut reader)? {
            replies.push(reply);
            left = reader.0.len();
        }
        partial.drain(..partial.len() - left);
        self.partial = partial;
        Ok(())
    }

    /// One reply; `Ok(None)` when it is not all there.
    fn read_reply(&mut self, reader: &mut Reader<'_>) -> Result<Option<Reply>, Fault> {
        if !self.greeted {
            return self.read_greeting(reader);
        }
        if self.transmitting {
            return self.read_answer(reader);
        }
        let Some(magic) = reader.0.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) else { return Ok(None) };
        if magic == OPTION_REPLY_MAGIC {
            return self.read_option_reply(reader);
        }
        if !self.export_name_sent {
            return Err(Fault::Magic(magic));
        }
        let (Some(size), Some(flags)) = (reader.u64(), reader.u16()) else { return Ok(None) };
        self.transmitting = true;
        Ok(Some(Reply::Export(size, flags)))
    }

    fn read_greeting(&mut self, reader: &mut Reader<'_>) -> Result<Option<Reply>, Fault> {
        let (Some(magic), Some(option_magic), Some(flags)) = (reader.u64(), reader.u64(), reader.u16()) else {
            return Ok(None);
        };
        match (magic, option_magic) {
            (MAGIC, OPTION_MAGIC) => {}
            (MAGIC, other) | (other, _) => return Err(Fault::Magic(other)),
        }
        self.greeted = true;
        Ok(Some(Reply::Greeting(flags)))
    }

    fn read_option_reply(&mut self, reader: &mut Reader<'_>) -> Result<Option<Reply>, Fault> {
        let (Some(_), Some(option), Some(reply), Some(length)) =
            (reader.u64(), reader.u32(), reader.u32(), reader.u32())
        else {
            return Ok(None);
        };
        if u64::from(length) > REPLY_BYTES_MAX {
            return Err(Fault::Length(length.into()));
        }
        let Some(data) = reader.bytes(length as usize) else { return Ok(None) };
        self.transmitting = option == option_type::GO && reply == option_reply::ACK;
        if reply == option_reply::ACK {
            match option {
                option_type::STARTTLS => self.style = Style::Simple,
                option_type::STRUCTURED_REPLY => self.style = Style::Structured,
                option_type::EXTENDED_HEADERS => self.style = Style::Extended,
                _ => {}
            }
        }
        Ok(Some(Reply::Option { option, reply, data: data.to_vec() }))
    }

    fn read_answer(&mut self, reader: &mut Reader<'_>) -> Result<Option<Reply>, Fault> {
        let Some(magic) = reader.u32() else { return Ok(None) };
        match magic {
            SIMPLE_REPLY_MAGIC if self.style != Style::Extended => {
                let (Some(error), Some(cookie)) = (reader.u32(), reader.u64()) else { return Ok(None) };
                let asked = self.in_flight.get(&cookie).ok_or(Fault::Cookie(cookie))?;
                let data_bytes = if error == 0 { asked.data_bytes } else { 0 };
                let Some(data) = reader.bytes(data_bytes as usize) else { return Ok(None) };
                self.in_flight.remove(&cookie);
                Ok(Some(Reply::Simple { cookie, error, data: data.to_vec() }))
            }
            CHUNK_MAGIC if self.style != Style::Extended => {
                let (Some(flags), Some(kind), Some(cookie), Some(length)) =
                    (reader.u16(), reader.u16(), reader.u64(), reader.u32())
                else {
                    return Ok(None);
                };
                self.read_chunk(reader, flags, kind, cookie, length.into())
            }
            EXTENDED_CHUNK_MAGIC if self.style == Style::Extended => {
                let (Some(flags), Some(kind), Some(cookie), Some(offset), Some(length)) =
                    (reader.u16(), reader.u16(), reader.u64(), reader.u64(), reader.u64())
                else {
                    return Ok(None);
                };
                if self.in_flight.get(&cookie).is_some_and(|asked| asked.offset != offset) {
                    return Err(Fault::Offset(offset));
                }
                self.read_chunk(reader, flags, kind, cookie, length)
            }
            other => Err(Fault::Magic(other.into())),
        }
    }
}

impl Client {
    /// What follows the header of a chunk.
    fn read_chunk(
        &mut self,
        reader: &mut Reader<'_>,
        flags: u16,
        kind: u16,
        cookie: u64,
        length: u64,
    ) -> Result<Option<Reply>, Fault> {
        if length > REPLY_BYTES_MAX {
            return Err(Fault::Length(length));
        }
        let Some(data) = reader.bytes(length as usize) else { return Ok(None) };
        if !self.in_flight.contains_key(&cookie) {
            return Err(Fault::Cookie(cookie));
        }
        let done = flags & CHUNK_DONE != 0;
        if done {
            self.in_flight.remove(&cookie);
        }
        Ok(Some(Reply::Chunk { cookie, done, kind, data: data.to_vec() }))
    }
}

impl Reply {
    /// The error of a reply or of an error chunk; 0 when it is none.
    pub fn error(&self) -> u32 {
        match self {
            Self::Simple { error, .. } => *error,
            Self::Chunk { kind: chunk_type::ERROR | chunk_type::ERROR_OFFSET, data, .. } => {
                Reader(data).u32().unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }
}

fn length_and_text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).expect("names are short").to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
