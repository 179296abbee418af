//! STARTTLS (proto.md, "TLS support").

use super::*;

/// What a client sends in one piece.
type Write<'a> = &'a dyn Fn(&mut Client, &mut Vec<u8>);

/// The types of the replies to options that a client sends in one piece each, and whether it is closed on then.
fn types(tls: Tls, write: &[Write<'_>]) -> (Vec<u32>, bool) {
    let (mut client, mut flags) = (Client::new(), vec![]);
    client.write_flags(&mut flags);
    let mut driver = Driver::with(tls);
    driver.feed(&flags);
    for write in write {
        let mut bytes = vec![];
        write(&mut client, &mut bytes);
        driver.feed(&bytes);
    }
    (reply_types(&mut client, &driver.out), driver.closed)
}

fn reply_types(client: &mut Client, out: &[u8]) -> Vec<u32> {
    let mut replies = vec![];
    client.handle_bytes(out, &mut replies).unwrap();
    replies.iter().filter_map(|r| if let Reply::Option { reply, .. } = r { Some(*reply) } else { None }).collect()
}

fn option(option: u32) -> impl Fn(&mut Client, &mut Vec<u8>) {
    move |client, out| client.write_option(out, option, &[])
}

fn go(client: &mut Client, out: &mut Vec<u8>) {
    client.write_go(out, option_type::GO, "key", &[]);
}

const ACK: u32 = option_reply::ACK;

#[test]
fn without_tls_it_is_not_known() {
    let starttls = option(option_type::STARTTLS);
    let (types, closed) = types(Tls::Off, &[&starttls, &go]);
    assert_eq!(types, [option_reply::ERR_UNSUP, option_reply::INFO, ACK]);
    assert!(!closed);
}

#[test]
fn it_is_there_once_and_without_data() {
    let starttls = option(option_type::STARTTLS);
    let data = |client: &mut Client, out: &mut Vec<u8>| client.write_option(out, option_type::STARTTLS, b"x");
    for tls in [Tls::Offered, Tls::Required] {
        let (types, closed) = types(tls, &[&data, &starttls, &starttls, &go]);
        let invalid = option_reply::ERR_INVALID;
        assert_eq!(types, [invalid, ACK, invalid, option_reply::INFO, ACK], "{tls:?}");
        assert!(!closed);
    }
}

#[test]
fn what_was_agreed_on_in_the_clear_is_forgotten() {
    let starttls = option(option_type::STARTTLS);
    let structured = option(option_type::STRUCTURED_REPLY);
    let context = |c: &mut Client, out: &mut Vec<u8>| {
        c.write_contexts(out, option_type::SET_META_CONTEXT, "key", &["base:allocation"])
    };
    let (replies, _) = types(Tls::Offered, &[&structured, &context, &starttls, &context]);
    assert_eq!(replies, [ACK, option_reply::META_CONTEXT, ACK, ACK, option_reply::ERR_INVALID]);
    let mut driver = Driver::with(Tls::Offered);
    let mut client = Client::new();
    let mut bytes = vec![];
    client.write_flags(&mut bytes);
    structured(&mut client, &mut bytes);
    context(&mut client, &mut bytes);
    starttls(&mut client, &mut bytes);
    driver.feed(&bytes);
    let mut bytes = vec![];
    go(&mut client, &mut bytes);
    driver.feed(&bytes);
    let agreed = driver.server.agreement().unwrap();
    assert_eq!((agreed.style, agreed.allocation), (Style::Simple, false));
}

#[test]
fn where_it_is_required_nothing_goes_without() {
    use option_type::{EXTENDED_HEADERS, INFO, LIST, LIST_META_CONTEXT, SET_META_CONTEXT, STRUCTURED_REPLY};
    for number in
        [LIST, INFO, option_type::GO, STRUCTURED_REPLY, LIST_META_CONTEXT, SET_META_CONTEXT, EXTENDED_HEADERS, 999]
    {
        let (types, closed) = types(Tls::Required, &[&option(number), &go]);
        assert_eq!(types, [option_reply::ERR_TLS_REQD; 2], "option {number}");
        assert!(!closed);
    }
    assert_eq!(types(Tls::Required, &[&option(option_type::ABORT)]), (vec![ACK], true));
    let name = |client: &mut Client, out: &mut Vec<u8>| client.write_option(out, option_type::EXPORT_NAME, b"key");
    assert_eq!(types(Tls::Required, &[&name]), (vec![], true));
    assert_eq!(types(Tls::Required, &[&option(option_type::STARTTLS), &name]).0, [ACK]);
}

#[test]
fn a_driver_may_refuse_it() {
    for (tls, then) in [(Tls::Offered, ACK), (Tls::Required, option_reply::ERR_TLS_REQD)] {
        let (mut client, mut bytes, mut out) = (Client::new(), vec![], vec![]);
        let mut server = Server::new(tls, &mut out);
        client.write_flags(&mut bytes);
        client.write_option(&mut bytes, option_type::STARTTLS, &[]);
        let step = server.handle_bytes(&bytes, &mut out);
        assert_eq!(step, Ok((bytes.len(), Some(Event::TlsWanted))));
        assert_eq!(server.handle_bytes(b"more", &mut out), Ok((0, None)), "nothing is taken before the answer");
        server.handle_tls(false, &mut out);
        bytes.clear();
        client.write_option(&mut bytes, option_type::STRUCTURED_REPLY, &[]);
        server.handle_bytes(&bytes, &mut out).unwrap();
        assert_eq!(reply_types(&mut client, &out), [option_reply::ERR_POLICY, then], "{tls:?}");
    }
}

#[test]
fn bytes_in_the_clear_behind_it_are_the_end() {
    for tls in [Tls::Offered, Tls::Required] {
        let injected = |client: &mut Client, out: &mut Vec<u8>| {
            client.write_option(out, option_type::STARTTLS, &[]);
            client.write_option(out, option_type::STRUCTURED_REPLY, &[]);
        };
        assert_eq!(types(tls, &[&injected]), (vec![], true), "{tls:?}: not even an ACK");
    }
}

#[test]
fn who_does_not_know_options_gets_no_tls() {
    for (tls, closed) in [(Tls::Off, false), (Tls::Offered, false), (Tls::Required, true)] {
        let mut driver = Driver::with(tls);
        driver.feed(&[0, 0, 0, 2]);
        assert_eq!(driver.closed, closed, "{tls:?}");
        let (mut client, mut bytes) = (Client::new(), vec![]);
        client.write_option(&mut bytes, option_type::STARTTLS, &[]);
        driver.feed(&bytes);
        let wanted: &[u32] = if closed { &[] } else { &[option_reply::ERR_UNSUP] };
        assert_eq!(reply_types(&mut client, &driver.out), wanted, "{tls:?}");
    }
}

#[test]
fn a_whole_life_through_tls_cut_at_every_byte_is_the_same_life() {
    let mut clear = vec![];
    let mut client = Client::new();
    client.write_flags(&mut clear);
    client.write_option(&mut clear, option_type::STARTTLS, &[]);
    for style in STYLES {
        let secured = script(&mut Client::new(), style).split_off(4);
        let run = |first: usize, second: usize| {
            let mut driver = Driver::with(Tls::Required);
            for piece in [&clear[..first], &clear[first..], &secured[..second], &secured[second..]] {
                driver.feed(piece);
            }
            assert!(driver.closed && driver.server.agreement().is_some());
            (driver.events, driver.out)
        };
        let whole = run(0, 0);
        assert!((0..clear.len()).all(|cut| run(cut, 0) == whole));
        assert!((0..secured.len()).all(|cut| run(0, cut) == whole));
    }
}
