//! What must hold whatever a peer sends. A fuzz target is one call of these; the tests call them too.

use super::client::{Client, Reply};
use super::negotiation::{Agreement, Refusal};
use super::offer::{Style, Tls};
use super::option::Export;
use super::reply::{Answer, Extent};
use super::request::{Command, Header, Request};
use super::server::{Event, Server};
use super::transmission::{Outcome, Transmission};
use super::wire::{Error, Reader, option_reply, option_type};
use crate::geometry::DiscSize;
use crate::limits::{DRAIN_BYTES_MAX, OPTION_BYTES_MAX, PAYLOAD_BYTES_MAX};
use alloc::string::String;
use alloc::vec::Vec;
use core::iter::repeat_n;

/// Feeds a server from the first byte on; the first byte of the input decides about exports and TLS, and whether the
/// others come one at a time: only then may something follow STARTTLS.
///
/// # Panics
/// When a property does not hold: more is consumed than there is, an export is granted twice, a closed
/// connection says something, what was said in the clear is taken for something else, or the answers are out of proportion to the questions.
pub fn fuzz_negotiation(input: &[u8]) {
    let Some((&decision, mut bytes)) = input.split_first() else { return };
    let mut out = Vec::new();
    let tls = offered(decision);
    let piece_bytes = if decision & 8 == 0 { usize::MAX } else { 1 };
    let mut server = Server::new(tls, &mut out);
    let (mut granted, mut secured) = (false, false);
    loop {
        assert!(server.is_negotiating() || granted);
        let piece = &bytes[..bytes.len().min(piece_bytes)];
        let (consumed, event) = match server.handle_bytes(piece, &mut out) {
            Ok(step) => step,
            Err(_) => return assert_silent(&mut server),
        };
        assert!(consumed <= piece.len());
        bytes = &bytes[consumed..];
        match event {
            Some(Event::TlsWanted) => {
                assert!(tls != Tls::Off && !secured, "TLS is there once, where it is offered");
                assert!(consumed == piece.len(), "what follows in the clear is not taken for what comes through TLS");
                secured = decision & 16 == 0;
                server.handle_tls(secured, &mut out);
            }
            Some(Event::ExportWanted(name)) => {
                assert!(tls != Tls::Required || secured, "an export was asked for without TLS");
                assert!(!granted, "an export was asked for after one was granted");
                if server.handle_export(decide(decision, &name), &mut out).is_err() {
                    return assert_silent(&mut server);
                }
                granted |= server.agreement().is_some();
            }
            Some(Event::Request(request)) => {
                assert!(granted, "a request before an export");
                assert_inside(&request.command);
            }
            Some(Event::Refused(_)) => assert!(granted, "a refusal before an export"),
            Some(Event::Closed) => return assert_silent(&mut server),
            None if server.payload_remaining() > 0 && !bytes.is_empty() => {
                let taken = bytes.len().min(server.payload_remaining() as usize);
                server.handle_payload(u32::try_from(taken).expect("it is at most a u32"));
                bytes = &bytes[taken..];
            }
            None if consumed == 0 => break,
            None => {}
        }
    }
    assert!(bytes.is_empty(), "{} bytes are left and nobody asked for anything", bytes.len());
    assert!(out.len() <= 64 + 8 * (input.len() + 1) * 64, "{} bytes of answers", out.len());
}

/// Feeds requests to a connection whose handshake is over; the first byte says what was agreed on.
///
/// # Panics
/// When a property does not hold: more is consumed than there is, a request reaches outside the disc or is
/// longer than it may be, or the same bytes give other requests when they come one at a time.
pub fn fuzz_transmission(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let size = DiscSize::from_bytes(FUZZ_DISC_BYTES).expect("it is a small disc");
    let style = match choice & 3 {
        0 => Style::Simple,
        1 => Style::Structured,
        _ => Style::Extended,
    };
    let agreement =
        Agreement { size, style, allocation: style.has_chunks() && choice & 4 == 0, read_only: choice & 16 != 0 };
    let leaving = choice & 8 != 0;
    let whole = run_transmission(agreement, leaving, bytes, bytes.len().max(1));
    let single = run_transmission(agreement, leaving, bytes, 1);
    assert_eq!(whole, single, "the cuts between the bytes must not matter");
}

/// Sends options that are framed as they should be, with any numbers and data, to a server that decides about exports
/// by the first byte.
///
/// # Panics
/// When an option is not answered by exactly one last reply of its own, or an answer breaks the protocol.
pub fn fuzz_options(input: &[u8]) {
    let Some((&decision, rest)) = input.split_first() else { return };
    let (mut reader, mut client, mut out) = (Reader(rest), Client::new(), Vec::new());
    let (mut server, mut sent) = (Server::new(offered(decision), &mut out), Vec::new());
    client.write_flags(&mut sent);
    loop {
        let end = negotiate(&mut server, &sent, decision, &mut out);
        let mut replies = Vec::new();
        client.handle_bytes(&out, &mut replies).expect("the server keeps the protocol");
        if let Some(option) = sent.get(8..12) {
            let option = u32::from_be_bytes(option.try_into().expect("four bytes"));
            assert_answered(option, &replies, end);
        }
        if end != End::Open {
            return assert_eq!(end == End::Granted, server.agreement().is_some());
        }
        let Some((option, data)) = next_option(&mut reader) else { return };
        sent.clear();
        out.clear();
        client.write_option(&mut sent, option, &data);
    }
}

/// Sends requests that are framed as they should be, with any commands, flags and ranges, to a server that answers
/// them as the first byte says.
///
/// # Panics
/// When a request is not answered, or an answer breaks the protocol.
pub fn fuzz_requests(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    let (mut client, mut server) = agreed(choice);
    let (mut reader, mut sent, mut out) = (Reader(rest), Vec::new(), Vec::new());
    let (mut waiting, mut is_whole) = (Vec::new(), true);
    for cookie in 0..64 {
        let style = client.style();
        let Some(header) = next_header(&mut reader, style, cookie).filter(|_| is_whole) else { break };
        // The client remembers it, and would send some flags otherwise.
        client.write_request(&mut Vec::new(), header);
        sent.clear();
        header.write(&mut sent, style);
        // Of a long payload the rest stays away, and then there is no next request.
        is_whole = header.payload_bytes(style) <= 600;
        sent.extend(repeat_n(7, header.payload_bytes(style).min(600) as usize));
        if choice & 32 != 0 && cookie == 3 {
            server.handle_leaving();
        }
        let mut bytes = &sent[..];
        while !bytes.is_empty() {
            let Ok((consumed, event)) = server.handle_bytes(bytes, &mut out) else { return };
            bytes = &bytes[consumed..];
            match event {
                Some(Event::Request(request)) => waiting.push(request),
                Some(Event::Closed) => return,
                Some(Event::ExportWanted(_) | Event::TlsWanted) => unreachable!("it has an export"),
                Some(Event::Refused(_)) | None => {}
            }
            let taken = bytes.len().min(server.payload_remaining() as usize);
            if taken > 0 {
                server.handle_payload(u32::try_from(taken).expect("it is at most a u32"));
                bytes = &bytes[taken..];
            }
        }
    }
    // They may be done in any order.
    for request in waiting.iter().rev() {
        assert_inside(&request.command);
        answer(client.style(), request, choice & 16 != 0, &mut out);
    }
    client.handle_bytes(&out, &mut Vec::new()).expect("the server keeps the protocol");
    // A refusal waits for the payload.
    let unanswered_max = usize::from(!is_whole);
    assert!(client.in_flight_count() <= unanswered_max, "{} requests without an answer", client.in_flight_count());
}

const FUZZ_DISC_BYTES: u64 = 1 << 20;

fn export() -> Export {
    Export {
        size: DiscSize::from_bytes(FUZZ_DISC_BYTES).expect("it is a small disc"),
        description: String::new(),
        read_only: false,
    }
}

fn offered(decision: u8) -> Tls {
    match decision & 6 {
        0 => Tls::Off,
        2 => Tls::Offered,
        _ => Tls::Required,
    }
}

fn decide(decision: u8, name: &str) -> Result<Export, Refusal> {
    match (name.len() + usize::from(decision)) % 3 {
        0 => Err(Refusal::Unknown),
        1 if decision & 64 != 0 => Err(Refusal::Policy),
        _ => Ok(Export { read_only: decision & 32 != 0, ..export() }),
    }
}

/// What became of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It goes on.
    Open,
    /// There is an export.
    Granted,
    /// The client gave up.
    Aborted,
    /// The client broke the protocol, or was refused where there is no reply for it.
    Violation,
}

/// Feeds all of `bytes`, deciding about exports and TLS.
fn negotiate(server: &mut Server, mut bytes: &[u8], decision: u8, out: &mut Vec<u8>) -> End {
    loop {
        let Ok((consumed, event)) = server.handle_bytes(bytes, out) else { return End::Violation };
        bytes = &bytes[consumed..];
        match event {
            Some(Event::ExportWanted(name)) => {
                if server.handle_export(decide(decision, &name), out).is_err() {
                    return End::Violation;
                }
                if server.agreement().is_some() {
                    assert!(bytes.is_empty(), "an option ends where it says");
                    return End::Granted;
                }
            }
            Some(Event::TlsWanted) => server.handle_tls(decision & 16 == 0, out),
            Some(Event::Closed) => return End::Aborted,
            Some(Event::Request(_) | Event::Refused(_)) => unreachable!("no export is granted"),
            None => return End::Open,
        }
    }
}

fn assert_answered(option: u32, replies: &[Reply], end: End) {
    if end == End::Violation {
        return;
    }
    let (last, others) = replies.split_last().expect("every option is answered");
    let is_last = |reply: u32| reply == option_reply::ACK || reply & (1 << 31) != 0;
    match last {
        Reply::Export(..) => assert!(option == option_type::EXPORT_NAME && end == End::Granted),
        Reply::Option { option: about, reply, .. } => assert!(*about == option && is_last(*reply), "{last:?}"),
        other => panic!("{other:?} to an option"),
    }
    for other in others {
        assert!(matches!(other, Reply::Option { option: about, reply, .. } if *about == option && !is_last(*reply)));
    }
}

/// A number and data for an option: a byte for the number, one for how long the data is.
fn next_option(reader: &mut Reader<'_>) -> Option<(u32, Vec<u8>)> {
    let &[number, length] = reader.bytes(2)? else { return None };
    let data = reader.bytes(usize::from(length).min(reader.0.len()))?.to_vec();
    // Some are longer than a server looks at.
    let padding = if number & 0xc0 == 0xc0 { OPTION_BYTES_MAX as usize } else { 0 };
    let option = if number & 0x3f == 0x3f { u32::MAX } else { u32::from(number & 0x0f) };
    Some((option, [data, alloc::vec![0; padding]].concat()))
}

/// A client and a server that have agreed on the style and the rights that the first bits of `choice` say.
fn agreed(choice: u8) -> (Client, Server) {
    let (mut client, mut sent, mut out) = (Client::new(), Vec::new(), Vec::new());
    let mut server = Server::new(Tls::Off, &mut out);
    client.write_flags(&mut sent);
    match choice & 3 {
        0 => {}
        1 => client.write_option(&mut sent, option_type::STRUCTURED_REPLY, &[]),
        _ => client.write_option(&mut sent, option_type::EXTENDED_HEADERS, &[]),
    }
    if choice & 4 == 0 {
        client.write_contexts(&mut sent, option_type::SET_META_CONTEXT, "a", &["base:allocation"]);
    }
    client.write_go(&mut sent, option_type::GO, "a", &[]);
    let decision = if choice & 8 == 0 { 1 } else { 1 | 32 };
    assert_eq!(negotiate(&mut server, &sent, decision, &mut out), End::Granted);
    client.handle_bytes(&out, &mut Vec::new()).expect("the server keeps the protocol");
    (client, server)
}

/// A request of six bytes: command, flags, and a choice of offset and length near what matters.
fn next_header(reader: &mut Reader<'_>, style: Style, cookie: u64) -> Option<Header> {
    let bytes: [u8; 6] = reader.bytes(6)?.try_into().ok()?;
    let [command, flags, from, offset, until, length] = bytes.map(u64::from);
    let places = [0, FUZZ_DISC_BYTES / 2, FUZZ_DISC_BYTES, u64::MAX - 255, 1 << 32, 1 << 63];
    let lengths = [0, 256, FUZZ_DISC_BYTES, PAYLOAD_BYTES_MAX.into(), DRAIN_BYTES_MAX.into(), 1 << 32, u64::MAX - 255];
    let length_max = if style == Style::Extended { u64::MAX } else { u32::MAX.into() };
    Some(Header {
        // Few are beyond the last one, since nothing new happens there.
        command: if command < 240 { (command % 8) as u16 } else { command as u16 },
        flags: (flags & 0x3f | (flags & 0x40) << 9) as u16,
        cookie,
        offset: places[from as usize % places.len()] + offset,
        length: (lengths[until as usize % lengths.len()] + length).min(length_max),
    })
}

/// Answers as the engine does; data is zeroes.
fn answer(style: Style, request: &Request, fails: bool, out: &mut Vec<u8>) {
    let answer = Answer::new(style, request);
    match request.command {
        _ if fails && request.cookie.is_multiple_of(2) => answer.write_error(out, Error::Eio),
        // Only to be quick.
        Command::Read { range, .. } if range.length() > 64 << 10 => answer.write_error(out, Error::Eio),
        Command::Read { range, whole } if style.has_chunks() && !whole && range.length() > 1 => {
            let half = u32::try_from(range.length() / 2).expect("a read is bounded");
            answer.write_hole(out, range.offset(), half, false);
            let rest = u32::try_from(range.length()).expect("a read is bounded") - half;
            answer.write_data_header(out, range.offset() + u64::from(half), rest, true);
            out.extend(repeat_n(0, rest as usize));
        }
        Command::Read { range, .. } => {
            let length = u32::try_from(range.length()).expect("a read is bounded");
            answer.write_data_header(out, range.offset(), length, true);
            out.extend(repeat_n(0, length as usize));
        }
        Command::BlockStatus { range, .. } => {
            answer.write_block_status(out, &[Extent { length: range.length(), state: 0 }]);
        }
        _ => answer.write_done(out),
    }
}

fn run_transmission(agreement: Agreement, leaving: bool, bytes: &[u8], step: usize) -> (Vec<Outcome>, Vec<u8>, bool) {
    let mut transmission = Transmission::new(agreement);
    if leaving {
        transmission.handle_leaving();
    }
    let (mut outcomes, mut out) = (Vec::new(), Vec::new());
    for mut piece in bytes.chunks(step) {
        while !piece.is_empty() {
            let Ok((consumed, outcome)) = transmission.handle_bytes(piece, &mut out) else {
                return (outcomes, out, true);
            };
            piece = &piece[consumed..];
            if let Some(Outcome::Request(request)) = &outcome {
                assert!(!leaving, "a request is let through by a server that is leaving");
                assert_inside(&request.command);
            }
            let nothing_happened = consumed == 0 && outcome.is_none();
            outcomes.extend(outcome);
            let payload = piece.len().min(transmission.payload_remaining() as usize);
            assert!(payload > 0 || !nothing_happened, "bytes that nobody takes");
            if payload > 0 {
                transmission.handle_payload(u32::try_from(payload).expect("it is at most a u32"));
                piece = &piece[payload..];
            }
        }
    }
    (outcomes, out, false)
}

fn assert_inside(command: &Command) {
    let (range, payload) = match *command {
        Command::Read { range, .. } | Command::Write { range, .. } => (range, true),
        Command::Trim { range, .. }
        | Command::WriteZeroes { range, .. }
        | Command::BlockStatus { range, .. }
        | Command::Cache(range) => (range, false),
        Command::Flush => return,
    };
    assert!(range.end() <= FUZZ_DISC_BYTES);
    assert!(!payload || range.length() <= u64::from(PAYLOAD_BYTES_MAX));
}

fn assert_silent(server: &mut Server) {
    let mut out = Vec::new();
    assert_eq!(server.handle_bytes(&[0; 64], &mut out), Ok((64, None)));
    assert!(out.is_empty(), "a closed connection said something");
}
