//! Every message of the protocol as a golden line: what a change breaks here, it breaks between
//! versions.

use serde_json::{Value, json};
use spine::{
    id::{Epoch, ResourceName},
    message::{
        Answer, BrainMessage, Command, Complaint, Hello, NodeMessage, Notice, Reason, Refusal, Role, Tag, VersionRange,
        Violation, Welcome,
    },
    resource::Attributes,
};
use uuid::Uuid;

fn resource(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn attributes(value: Value) -> Attributes {
    value.as_object().unwrap().clone()
}

#[test]
fn every_line_of_a_node() {
    let hello = Hello {
        node: "tail1".parse().unwrap(),
        role: Role::Tail,
        spine: VersionRange { oldest: 1, newest: 2 },
        boot: Uuid::from_u128(7),
        cluster: Some(Uuid::from_u128(9)),
        epoch: Epoch(4),
        extra: attributes(json!({"storage_address": "fd00::21"})),
    };
    let lines: Vec<(NodeMessage, &str)> = vec![
        (
            NodeMessage::Notice(Notice::Hello(hello)),
            r#"* hello {"node":"tail1","role":"tail","spine":[1,2],"boot":"00000000-0000-0000-0000-000000000007","cluster":"00000000-0000-0000-0000-000000000009","epoch":4,"storage_address":"fd00::21"}"#,
        ),
        (
            NodeMessage::Notice(Notice::Created(resource("disc.sata.7"), json!({"size": 512}))),
            r#"* created disc.sata.7 {"size":512}"#,
        ),
        (
            NodeMessage::Notice(Notice::Updated(resource("global.load"), json!([0.1, 0.2, 0.3]))),
            "* updated global.load [0.1,0.2,0.3]",
        ),
        (
            NodeMessage::Notice(Notice::Destroyed(resource("vm.web1"), json!({"reason": "guest shut down"}))),
            r#"* destroyed vm.web1 {"reason":"guest shut down"}"#,
        ),
        (NodeMessage::Notice(Notice::Ready), "* ready"),
        (
            NodeMessage::Notice(Notice::Goodbye(Reason { reason: "stopping".into() })),
            r#"* goodbye {"reason":"stopping"}"#,
        ),
        (
            NodeMessage::Answer(Tag(17), Answer::Ok(attributes(json!({"address": "fd00::8"})))),
            r#"t17 ok {"address":"fd00::8"}"#,
        ),
        (
            NodeMessage::Answer(Tag(17), Answer::No(Refusal { error: "pool-full".into(), message: "no room".into() })),
            r#"t17 no {"error":"pool-full","message":"no room"}"#,
        ),
        (
            NodeMessage::Answer(Tag(0), Answer::Bad(Complaint { message: "unknown verb \"x\"".into() })),
            r#"t0 bad {"message":"unknown verb \"x\""}"#,
        ),
    ];
    for (message, line) in lines {
        assert_eq!(message.to_string(), line);
        assert_eq!(NodeMessage::parse(line).unwrap(), message);
    }
}

#[test]
fn every_line_of_the_brain() {
    let lines: Vec<(BrainMessage, &str)> = vec![
        (
            BrainMessage::Welcome(Welcome { spine: 1, cluster: Uuid::from_u128(9), epoch: Epoch(4) }),
            r#"* welcome {"spine":1,"cluster":"00000000-0000-0000-0000-000000000009","epoch":4}"#,
        ),
        (BrainMessage::Bad(Complaint { message: "what?".into() }), r#"* bad {"message":"what?"}"#),
        (
            BrainMessage::Goodbye(Reason { reason: "a newer connection of tail1".into() }),
            r#"* goodbye {"reason":"a newer connection of tail1"}"#,
        ),
        (
            BrainMessage::Command(Tag(17), Command::Create(resource("disc.sata.8"), attributes(json!({"size": 512})))),
            r#"t17 create disc.sata.8 {"size":512}"#,
        ),
        (
            BrainMessage::Command(
                Tag(18),
                Command::Update(resource("vm.web1"), attributes(json!({"cdrom_url": null}))),
            ),
            r#"t18 update vm.web1 {"cdrom_url":null}"#,
        ),
        (
            BrainMessage::Command(Tag(19), Command::Remove(resource("disc.sata.7"), Attributes::new())),
            "t19 remove disc.sata.7 {}",
        ),
    ];
    for (message, line) in lines {
        assert_eq!(message.to_string(), line);
        assert_eq!(BrainMessage::parse(line).unwrap(), message);
    }
}

#[test]
fn what_a_person_types_into_nc_is_understood_too() {
    assert_eq!(
        BrainMessage::parse("t19 remove disc.sata.7").unwrap(),
        BrainMessage::Command(Tag(19), Command::Remove(resource("disc.sata.7"), Attributes::new()))
    );
    assert_eq!(NodeMessage::parse("t1 ok").unwrap(), NodeMessage::Answer(Tag(1), Answer::Ok(Attributes::new())));
}

#[test]
fn r084_unknown_attributes_and_kinds_are_carried() {
    let line = r#"* created snapshot.sata.7.1 {"colour":"blue"}"#;
    assert_eq!(NodeMessage::parse(line).unwrap().to_string(), line);
}

#[test]
fn a_bad_line_says_what_is_wrong_with_it() {
    for (line, why) in [
        ("", "must start with * or a tag"),
        ("x created vm.a {}", "must start with * or a tag"),
        ("t99999999999999999999999 ok {}", "must start with * or a tag"),
        ("* created", "is not a valid resource name"),
        ("* created vm.UPPER {}", "must start with a lower-case letter or a digit"),
        ("* created vm.a {\"a\":", "the value of created"),
        ("* hello {}", "missing field `node`"),
        ("t1 create vm.a {}", "a node may not send commands"),
        ("* remove vm.a {}", "a node may not send commands"),
    ] {
        let error = NodeMessage::parse(line).unwrap_err().to_string();
        assert!(error.contains(why), "{line:?}: {error}");
    }
    assert!(matches!(BrainMessage::parse("t1 explode vm.a {}"), Err(Violation::Verb { tag: Some(Tag(1)), .. })));
}
