//! What must hold whatever a peer sends. A fuzz target is one call of these; the tests call them too.

use super::negotiation::{Agreement, Refusal};
use super::offer::Style;
use super::option::Export;
use super::request::Command;
use super::server::{Event, Server};
use super::transmission::{Outcome, Transmission};
use crate::geometry::DiscSize;
use crate::limits::PAYLOAD_BYTES_MAX;
use alloc::string::String;
use alloc::vec::Vec;

/// Feeds a server from the first byte on; the first byte of the input decides about exports.
///
/// # Panics
/// When a property does not hold: more is consumed than there is, an export is granted twice, a closed
/// connection says something, or the answers are out of proportion to the questions.
pub fn fuzz_negotiation(input: &[u8]) {
    let Some((&decision, mut bytes)) = input.split_first() else { return };
    let mut out = Vec::new();
    let mut server = Server::new(&mut out);
    let mut granted = false;
    loop {
        assert!(server.is_negotiating() || granted);
        let (consumed, event) = match server.handle_bytes(bytes, &mut out) {
            Ok(step) => step,
            Err(_) => return assert_silent(&mut server),
        };
        assert!(consumed <= bytes.len());
        bytes = &bytes[consumed..];
        match event {
            Some(Event::ExportWanted(name)) => {
                assert!(!granted, "an export was asked for after one was granted");
                let refused = (name.len() + usize::from(decision)) % 2 == 1;
                let answer = if refused { Err(Refusal::Unknown) } else { Ok(export()) };
                if server.handle_export(answer, &mut out).is_err() {
                    return assert_silent(&mut server);
                }
                granted |= server.agreement().is_some();
            }
            Some(Event::Request(request)) => {
                assert!(granted, "a request before an export");
                assert_inside(&request.command);
            }
            Some(Event::Closed) => return assert_silent(&mut server),
            None if server.payload_remaining() > 0 && !bytes.is_empty() => {
                let taken = bytes.len().min(server.payload_remaining() as usize);
                server.handle_payload(u32::try_from(taken).expect("it is at most a u32"));
                bytes = &bytes[taken..];
            }
            None => break,
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

const FUZZ_DISC_BYTES: u64 = 1 << 20;

fn export() -> Export {
    Export {
        size: DiscSize::from_bytes(FUZZ_DISC_BYTES).expect("it is a small disc"),
        description: String::new(),
        read_only: false,
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
