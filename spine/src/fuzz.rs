//! What the fuzz targets call: each function takes any bytes and checks what must hold for them.

use crate::{
    limits::VERSIONS,
    message::{Answer, BrainMessage, Hello, NodeMessage, Role, Welcome},
    session::{BrainSaid, BrainSession, NodeSaid, NodeSession, Session},
};
use std::iter::from_fn;

/// Reads a line as both ends would: what is understood must read back the same when written again.
///
/// # Panics
/// When it does not.
pub fn line(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(message) = NodeMessage::parse(text) {
        assert_eq!(NodeMessage::parse(&message.to_string()).ok(), Some(message));
    }
    if let Ok(message) = BrainMessage::parse(text) {
        assert_eq!(BrainMessage::parse(&message.to_string()).ok(), Some(message));
    }
}

/// Feeds bytes to both sessions as if a peer had sent them. The first byte says how they are cut.
///
/// # Panics
/// When a session says something after `Closed`, or sends half a line.
pub fn session(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let hello = Hello {
        node: "tail1".parse().expect("a valid name"),
        role: Role::Tail,
        spine: VERSIONS,
        boot: uuid::Uuid::nil(),
        cluster: None,
        epoch: Default::default(),
        extra: Default::default(),
    };
    let mut brain = BrainSession::new(0);
    let mut node = NodeSession::new(hello, 0);
    for chunk in bytes.chunks(usize::from(*cut).max(1)) {
        brain.handle_bytes(chunk);
        while let Some(event) = brain.poll_event() {
            match event {
                NodeSaid::Hello(hello) => {
                    brain.handle_welcome(Welcome { spine: 1, cluster: uuid::Uuid::nil(), epoch: hello.epoch });
                }
                NodeSaid::Closed { .. } => assert!(brain.is_closed() && brain.poll_event().is_none()),
                _ => {}
            }
        }
        node.handle_bytes(chunk);
        while let Some(event) = node.poll_event() {
            match event {
                BrainSaid::Welcomed(_) => node.handle_dump(Vec::new()),
                BrainSaid::Command(tag, _) => node.handle_answer(tag, Answer::Ok(Default::default())),
                BrainSaid::Closed { .. } => assert!(node.is_closed() && node.poll_event().is_none()),
            }
        }
        let sent = from_fn(|| brain.poll_transmit()).chain(from_fn(|| node.poll_transmit()));
        sent.for_each(|lines| assert!(lines.ends_with(b"\n")));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            super::line(&bytes);
            super::session(&bytes);
        }

        #[test]
        fn lines_that_are_nearly_right_will_do(
            words in prop::collection::vec(prop::sample::select(vec![
                "*", "t1", "t2", "hello", "welcome", "created", "updated", "destroyed", "ready", "ok", "no", "bad",
                "create", "update", "remove", "goodbye", "vm.a", "disc.sata.1", "global.load", "{}", "[1]", "\n", "\r\n",
                r#"{"node":"a","role":"tail","spine":[1,1],"boot":"00000000-0000-0000-0000-000000000000"}"#,
                r#"{"spine":1,"cluster":"00000000-0000-0000-0000-000000000000","epoch":1}"#,
                r#"{"error":"e","message":"m"}"#, r#"{"message":"m"}"#, r#"{"reason":"r"}"#,
            ]), 0..60),
            cut in any::<char>(),
        ) {
            let text = words.join(" ").replace(" \n ", "\n").replace("\n ", "\n");
            text.lines().for_each(|line| super::line(line.as_bytes()));
            super::session(format!("{cut}{text}\n").as_bytes());
        }
    }
}
