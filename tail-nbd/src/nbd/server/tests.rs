use super::*;
use crate::geometry::DiscSize;
use crate::nbd::client::{Client, Reply};
use crate::nbd::fuzz;
use crate::nbd::offer::Style;
use crate::nbd::reply::Answer;
use crate::nbd::request::{Command, Header};
use crate::nbd::wire::{Error, command_type, info_type, option_reply, option_type};
use alloc::vec;
use proptest::prelude::*;

mod starttls;

const SIZE: u64 = 1 << 20;
const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

fn export() -> Export {
    Export { size: DiscSize::from_bytes(SIZE).unwrap(), description: "a disc".into(), read_only: false }
}

/// A server whose driver grants the export "key" and TLS, and whose disc answers at once: reads give the low byte
/// of each offset.
struct Driver {
    server: Server,
    out: Vec<u8>,
    events: Vec<String>,
    closed: bool,
}

impl Driver {
    fn new() -> Self {
        Self::with(Tls::Off)
    }

    fn with(tls: Tls) -> Self {
        let mut out = vec![];
        let server = Server::new(tls, &mut out);
        Self { server, out, events: vec![], closed: false }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        loop {
            if self.server.payload_remaining() > 0 {
                let taken = bytes.len().min(self.server.payload_remaining() as usize);
                self.server.handle_payload(u32::try_from(taken).unwrap());
                bytes = &bytes[taken..];
                if self.server.payload_remaining() > 0 {
                    return;
                }
            }
            let Ok((consumed, event)) = self.server.handle_bytes(bytes, &mut self.out) else {
                self.closed = true;
                self.events.push("violation".into());
                return;
            };
            bytes = &bytes[consumed..];
            match event {
                None if self.server.payload_remaining() > 0 && !bytes.is_empty() => {}
                None => return,
                Some(event) => self.handle(event),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.events.push(format!("{event:?}"));
        match event {
            Event::ExportWanted(name) => {
                let answer = if name == "key" { Ok(export()) } else { Err(Refusal::Unknown) };
                self.closed |= self.server.handle_export(answer, &mut self.out).is_err();
            }
            Event::TlsWanted => self.server.handle_tls(true, &mut self.out),
            Event::Closed => self.closed = true,
            Event::Refused(_) => {}
            Event::Request(request) => {
                let answer = Answer::new(self.server.agreement().unwrap().style, &request);
                if let Command::Read { range, .. } = request.command {
                    let length = u32::try_from(range.length()).unwrap();
                    answer.write_data_header(&mut self.out, range.offset(), length, true);
                    self.out.extend((range.offset()..range.end()).map(|offset| offset as u8));
                } else {
                    answer.write_done(&mut self.out);
                }
            }
        }
    }
}

/// A client's whole life, as bytes.
fn script(client: &mut Client, style: Style) -> Vec<u8> {
    let mut bytes = vec![];
    client.write_flags(&mut bytes);
    client.write_option(&mut bytes, 999, b"what is this");
    if style.has_chunks() {
        let option =
            if style == Style::Extended { option_type::EXTENDED_HEADERS } else { option_type::STRUCTURED_REPLY };
        client.write_option(&mut bytes, option, &[]);
        client.assume_style(style);
        client.write_contexts(&mut bytes, option_type::SET_META_CONTEXT, "key", &["base:allocation", "x:y"]);
    }
    client.write_go(&mut bytes, option_type::INFO, "no such name", &[]);
    client.write_go(&mut bytes, option_type::GO, "key", &[info_type::BLOCK_SIZE]);
    let header = |command, cookie, offset, length| Header { flags: 0, command, cookie, offset, length };
    client.write_request(&mut bytes, header(command_type::READ, 1, 250, 10));
    client.write_request(&mut bytes, header(command_type::WRITE, 2, 0, 5));
    bytes.extend_from_slice(b"hello");
    client.write_request(&mut bytes, header(command_type::WRITE, 3, SIZE, 7));
    bytes.extend_from_slice(b"refused");
    client.write_request(&mut bytes, header(77, 4, 0, 0));
    client.write_request(&mut bytes, header(command_type::FLUSH, 5, 0, 0));
    client.write_request(&mut bytes, header(command_type::DISC, 6, 0, 0));
    bytes
}

fn run(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
    let mut driver = Driver::new();
    pieces.iter().for_each(|piece| driver.feed(piece));
    (driver.events, driver.out)
}

#[test]
fn a_whole_life_cut_at_every_byte_is_the_same_life() {
    for style in STYLES {
        let bytes = script(&mut Client::new(), style);
        let whole = run(&[&bytes]);
        for cut in 0..=bytes.len() {
            assert_eq!(run(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(&single), whole, "a byte at a time");
    }
}

#[test]
fn rule26_a_life_goes_on_in_another_process_after_every_byte() {
    for style in STYLES {
        let bytes = script(&mut Client::new(), style);
        let whole = run(&[&bytes]);
        for cut in 0..bytes.len() {
            let mut driver = Driver::new();
            driver.feed(&bytes[..cut]);
            assert!(driver.server.is_sound(), "cut at {cut}");
            let carried = serde_json::to_string(&driver.server).unwrap();
            driver.server = serde_json::from_str(&carried).unwrap();
            driver.feed(&bytes[cut..]);
            assert_eq!((driver.events, driver.out), whole, "{style:?}, cut at {cut}");
        }
    }
}

#[test]
fn a_state_that_no_connection_can_come_to_is_not_sound() {
    let mut driver = Driver::new();
    let carried = |server: &Server| serde_json::to_value(server).unwrap();
    let is_sound =
        |value: serde_json::Value| serde_json::from_value::<Server>(value).is_ok_and(|server| server.is_sound());
    let fresh = carried(&driver.server);
    assert!(is_sound(fresh.clone()));
    for (field, wrong) in [
        ("partial", serde_json::json!([1, 2, 3, 4])),
        ("options_count", 1_000_000.into()),
        ("state", serde_json::json!({"data": {"option": 7, "length": 1 << 30}})),
        ("state", serde_json::json!({"drain": {"option": 7, "remaining": 1u64 << 31}})),
        ("state", serde_json::json!({"await_export": {"name": "", "kind": "list"}})),
    ] {
        let mut made_up = fresh.clone();
        made_up["phase"]["negotiation"][field] = wrong.clone();
        assert!(!is_sound(made_up), "{field}: {wrong}");
    }
    let mut client = Client::new();
    let bytes = script(&mut client, Style::Simple);
    // The handshake, and a part of the first request.
    let header = bytes.windows(4).position(|four| four == 0x2560_9513u32.to_be_bytes()).unwrap();
    driver.feed(&bytes[..header + 5]);
    let midway = carried(&driver.server);
    assert!(is_sound(midway.clone()), "{midway}");
    for wrong in [
        serde_json::json!({"header": {"partial": vec![0; 32], "filled": 28}}),
        serde_json::json!({"header": {"partial": vec![0; 31], "filled": 1}}),
        serde_json::json!({"payload": {"remaining": 0}}),
        serde_json::json!({"payload": {"remaining": u32::MAX}}),
        serde_json::json!({"payload": {"remaining": 1u64 << 40}}),
    ] {
        let mut made_up = midway.clone();
        made_up["phase"]["transmission"]["state"] = wrong.clone();
        assert!(!is_sound(made_up), "{wrong}");
    }
}

#[test]
fn a_payload_can_be_given_back() {
    let mut client = Client::new();
    let mut driver = Driver::new();
    let mut bytes = script(&mut client, Style::Simple);
    bytes.truncate(bytes.windows(4).position(|four| four == 0x2560_9513u32.to_be_bytes()).unwrap());
    driver.feed(&bytes);
    let mut request = vec![];
    client.write_request(
        &mut request,
        Header { flags: 0, command: command_type::WRITE, cookie: 2, offset: 0, length: 5 },
    );
    let (consumed, _) = driver.server.handle_bytes(&request, &mut driver.out).unwrap();
    assert_eq!((consumed, driver.server.payload_remaining()), (request.len(), 5));
    for taken in [3, 5] {
        driver.server.handle_payload(taken);
        driver.server.handle_payload_returned(taken);
        assert_eq!(driver.server.payload_remaining(), 5);
    }
}

#[test]
fn the_client_understands_the_server() {
    for style in STYLES {
        let mut client = Client::new();
        let bytes = script(&mut client, style);
        let (_, out) = run(&[&bytes]);
        let mut replies = vec![];
        for piece in out.chunks(3) {
            client.handle_bytes(piece, &mut replies).unwrap();
        }
        assert_eq!(client.in_flight_count(), 0, "every request has its answer");
        assert_eq!(replies[0], Reply::Greeting(3));
        let option_types: Vec<u32> = replies
            .iter()
            .filter_map(|reply| if let Reply::Option { reply, .. } = reply { Some(*reply) } else { None })
            .collect();
        let (unsup, unknown, ack) = (option_reply::ERR_UNSUP, option_reply::ERR_UNKNOWN, option_reply::ACK);
        let (info, context) = (option_reply::INFO, option_reply::META_CONTEXT);
        let wanted = if style.has_chunks() {
            vec![unsup, ack, context, ack, unknown, info, info, ack]
        } else {
            vec![unsup, unknown, info, info, ack]
        };
        assert_eq!(option_types, wanted);
        let errors: Vec<u32> = replies[1 + wanted.len()..].iter().map(Reply::error).collect();
        assert_eq!(errors, [0, 0, Error::Enospc.code(), Error::Einval.code(), 0]);
        let data: Vec<u8> = (250..260u32).map(|byte| byte as u8).collect();
        let read = replies.iter().find_map(|reply| match reply {
            Reply::Simple { cookie: 1, data, .. } => Some(data.clone()),
            Reply::Chunk { cookie: 1, data, .. } => Some(data[8..].to_vec()),
            _ => None,
        });
        assert_eq!(read, Some(data));
    }
}

fn replies_to(write: impl FnOnce(&mut Client, &mut Vec<u8>)) -> (Vec<Reply>, bool) {
    let (mut client, mut bytes) = (Client::new(), vec![]);
    client.write_flags(&mut bytes);
    write(&mut client, &mut bytes);
    let mut driver = Driver::new();
    driver.feed(&bytes);
    let mut replies = vec![];
    client.handle_bytes(&driver.out, &mut replies).unwrap();
    (replies.split_off(1), driver.closed)
}

#[test]
fn export_name_gives_size_and_flags_or_the_end() {
    let (replies, closed) = replies_to(|c, out| c.write_option(out, option_type::EXPORT_NAME, b"key"));
    assert!(matches!(replies[..], [Reply::Export(SIZE, _)]), "{replies:?}");
    assert!(!closed);
    let (replies, closed) = replies_to(|c, out| c.write_option(out, option_type::EXPORT_NAME, b"other"));
    assert!(replies.is_empty() && closed);
}

#[test]
fn a_client_without_no_zeroes_gets_the_zeroes() {
    let mut bytes = 1u32.to_be_bytes().to_vec();
    Client::new().write_option(&mut bytes, option_type::EXPORT_NAME, b"key");
    let (_, out) = run(&[&bytes]);
    assert_eq!(out.len(), 18 + 10 + 124);
}

#[test]
fn abort_is_acknowledged() {
    let (replies, closed) = replies_to(|c, out| c.write_option(out, option_type::ABORT, &[]));
    assert!(matches!(replies[..], [Reply::Option { reply: option_reply::ACK, .. }]) && closed);
}

#[test]
fn list_shows_no_key() {
    let (replies, _) = replies_to(|c, out| c.write_option(out, option_type::LIST, &[]));
    assert!(matches!(replies[..], [Reply::Option { reply: option_reply::ACK, .. }]), "{replies:?}");
}

#[test]
fn contexts_need_structured_replies() {
    let (replies, _) =
        replies_to(|c, out| c.write_contexts(out, option_type::SET_META_CONTEXT, "key", &["base:allocation"]));
    assert!(matches!(replies[..], [Reply::Option { reply: option_reply::ERR_INVALID, .. }]), "{replies:?}");
}

#[test]
fn an_option_that_is_too_long_is_drained_and_the_next_one_understood() {
    let (replies, closed) = replies_to(|c, out| {
        c.write_option(out, option_type::GO, &vec![0; 100_000]);
        c.write_option(out, option_type::ABORT, &[]);
    });
    let types: Vec<u32> =
        replies.iter().filter_map(|r| if let Reply::Option { reply, .. } = r { Some(*reply) } else { None }).collect();
    assert_eq!(types, [option_reply::ERR_TOO_BIG, option_reply::ACK]);
    assert!(closed);
}

#[test]
fn what_ends_a_handshake() {
    let too_many = |c: &mut Client, out: &mut Vec<u8>| (0..65).for_each(|_| c.write_option(out, 999, &[]));
    assert!(replies_to(too_many).1, "too many options");
    let too_long = |_: &mut Client, out: &mut Vec<u8>| {
        out.extend_from_slice(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    };
    assert!(replies_to(too_long).1, "an option of 4 GiB");
    assert!(replies_to(|_, out| out.extend_from_slice(b"GET / HTTP/1.0\r\n\r\n")).1, "bytes of another protocol");
    let mut driver = Driver::new();
    driver.feed(&0xff00_0000_u32.to_be_bytes());
    assert!(driver.closed, "unknown client flags");
}

#[test]
fn extended_headers_come_once_and_for_all() {
    let types = |replies: &[Reply]| -> Vec<u32> {
        replies.iter().filter_map(|r| if let Reply::Option { reply, .. } = r { Some(*reply) } else { None }).collect()
    };
    let (replies, _) = replies_to(|c, out| {
        c.write_option(out, option_type::STRUCTURED_REPLY, &[]);
        c.write_option(out, option_type::EXTENDED_HEADERS, b"no data");
        c.write_option(out, option_type::EXTENDED_HEADERS, &[]);
        c.write_option(out, option_type::EXTENDED_HEADERS, &[]);
        c.write_option(out, option_type::STRUCTURED_REPLY, &[]);
        c.write_contexts(out, option_type::LIST_META_CONTEXT, "key", &[]);
    });
    let (ack, context) = (option_reply::ACK, option_reply::META_CONTEXT);
    let (invalid, no_way_back) = (option_reply::ERR_INVALID, option_reply::ERR_EXT_HEADER_REQD);
    assert_eq!(types(&replies), [ack, invalid, ack, ack, no_way_back, context, ack]);
    let (replies, closed) = replies_to(|c, out| {
        c.write_option(out, option_type::EXTENDED_HEADERS, &[]);
        c.write_option(out, option_type::EXPORT_NAME, b"key");
    });
    assert!(types(&replies) == [ack] && closed, "EXPORT_NAME cannot follow: {replies:?}");
}

#[test]
fn the_flags_of_an_export_say_what_is_accepted() {
    for style in STYLES {
        let (replies, _) = replies_to(|c, out| {
            match style {
                Style::Simple => {}
                Style::Structured => c.write_option(out, option_type::STRUCTURED_REPLY, &[]),
                Style::Extended => c.write_option(out, option_type::EXTENDED_HEADERS, &[]),
            }
            c.write_go(out, option_type::INFO, "key", &[]);
        });
        let flags = replies.iter().find_map(|reply| match reply {
            Reply::Option { reply: option_reply::INFO, data, .. } => Some(u16::from_be_bytes([data[10], data[11]])),
            _ => None,
        });
        // Bits 0 to 12 of proto.md: no READ_ONLY, ROTATIONAL, RESIZE, and no choice of contexts.
        let df = if style.has_chunks() { 1 << 7 } else { 0 };
        assert_eq!(flags, Some(0b1101_0110_1101 | df), "{style:?}");
    }
}

#[test]
fn a_server_that_leaves_finishes_what_is_under_way_and_refuses_the_rest() {
    for style in STYLES {
        let (mut client, mut before) = (Client::new(), vec![]);
        client.write_flags(&mut before);
        match style {
            Style::Simple => {}
            Style::Structured => client.write_option(&mut before, option_type::STRUCTURED_REPLY, &[]),
            Style::Extended => client.write_option(&mut before, option_type::EXTENDED_HEADERS, &[]),
        }
        client.assume_style(style);
        client.write_go(&mut before, option_type::GO, "key", &[]);
        let header = |command, cookie, length| Header { flags: 0, command, cookie, offset: 0, length };
        client.write_request(&mut before, header(command_type::WRITE, 1, 6));
        before.extend_from_slice(b"hal");
        let mut after = b"ves".to_vec();
        client.write_request(&mut after, header(command_type::WRITE, 2, 4));
        after.extend_from_slice(b"late");
        client.write_request(&mut after, header(command_type::READ, 3, 4));
        client.write_request(&mut after, header(99, 4, 0));
        client.write_request(&mut after, header(command_type::DISC, 5, 0));
        let mut driver = Driver::new();
        driver.feed(&before);
        driver.server.handle_leaving();
        driver.feed(&after);
        let mut replies = vec![];
        client.handle_bytes(&driver.out, &mut replies).unwrap();
        let errors: Vec<u32> = replies.split_off(replies.len() - 4).iter().map(Reply::error).collect();
        let late = Error::Eshutdown.code();
        assert_eq!(errors, [0, late, late, late], "{style:?}");
        assert!(driver.closed, "DISC is understood");
    }
}

#[test]
fn a_server_that_leaves_refuses_options_and_says_why() {
    let mut client = Client::new();
    let (mut before, mut after) = (vec![], vec![]);
    client.write_flags(&mut before);
    client.write_option(&mut before, option_type::STRUCTURED_REPLY, &[]);
    for option in [option_type::LIST, 99] {
        client.write_option(&mut after, option, &[]);
    }
    client.write_go(&mut after, option_type::GO, "key", &[]);
    client.write_option(&mut after, option_type::ABORT, &[]);
    let mut driver = Driver::new();
    driver.feed(&before);
    driver.server.handle_leaving();
    driver.feed(&after);
    let mut replies = vec![];
    client.handle_bytes(&driver.out, &mut replies).unwrap();
    let codes = replies.iter().filter_map(|reply| match reply {
        Reply::Option { reply, .. } => Some(*reply),
        _ => None,
    });
    let (ack, late) = (option_reply::ACK, option_reply::ERR_SHUTDOWN);
    assert_eq!(codes.collect::<Vec<_>>(), [ack, late, late, late, ack]);
    assert!(driver.closed && driver.server.agreement().is_none());

    let mut driver = Driver::new();
    driver.feed(&before);
    driver.server.handle_leaving();
    let mut name = vec![];
    Client::new().write_option(&mut name, option_type::EXPORT_NAME, b"key");
    driver.feed(&name);
    assert!(driver.closed && driver.server.agreement().is_none(), "EXPORT_NAME has no error reply");

    let mut driver = Driver::new();
    let mut asked = vec![];
    let mut client = Client::new();
    client.write_flags(&mut asked);
    client.write_go(&mut asked, option_type::GO, "key", &[]);
    assert!(matches!(driver.server.handle_bytes(&asked, &mut driver.out), Ok((_, Some(Event::ExportWanted(_))))));
    driver.server.handle_leaving();
    driver.server.handle_export(Err(Refusal::Leaving), &mut driver.out).unwrap();
    let mut replies = vec![];
    client.handle_bytes(&driver.out, &mut replies).unwrap();
    assert!(matches!(replies.last(), Some(Reply::Option { reply: option_reply::ERR_SHUTDOWN, .. })), "{replies:?}");
}

proptest! {
    #[test]
    fn random_cuts_change_nothing(cuts in proptest::collection::vec(0usize..600, 0..12), style in 0usize..3) {
        let bytes = script(&mut Client::new(), STYLES[style]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(run(&pieces), run(&[&bytes]));
    }

    #[test]
    fn no_bytes_break_the_handshake(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz::fuzz_negotiation(&bytes);
    }

    #[test]
    fn no_options_break_the_handshake(
        options in proptest::collection::vec((0u32..13, proptest::collection::vec(0u8..4, 0..40)), 0..10),
        decision: u8,
    ) {
        let mut client = Client::new();
        let mut bytes = vec![decision];
        client.write_flags(&mut bytes);
        options.iter().for_each(|(option, data)| client.write_option(&mut bytes, *option, data));
        fuzz::fuzz_negotiation(&bytes);
    }

    #[test]
    fn no_requests_break_the_transmission(
        requests in proptest::collection::vec((0u16..10, 0u16..64, 0u64..(2 << 20), 0u64..2000), 0..12),
        choice: u8,
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = vec![choice];
        for (cookie, (command, flags, offset, length)) in requests.into_iter().enumerate() {
            let header = Header { flags, command, cookie: cookie as u64, offset, length };
            let style = STYLES[usize::from(choice & 3).min(2)];
            header.write(&mut bytes, style);
            bytes.extend(core::iter::repeat_n(1, header.payload_bytes(style) as usize));
        }
        bytes.extend_from_slice(&tail);
        fuzz::fuzz_transmission(&bytes);
    }

    #[test]
    fn every_option_is_answered_once(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::fuzz_options(&bytes);
    }

    #[test]
    fn every_request_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::fuzz_requests(&bytes);
    }
}
