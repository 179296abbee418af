//! The two ends against each other: a node that loses its connection anywhere, answers in any order
//! and talks in between; and a brain that must see exactly what the node has (R060–R068).

use super::*;
use crate::{
    id::{Epoch, ResourceName},
    limits::{COMMANDS_IN_FLIGHT_MAX, HELLO_DEADLINE_MS, LINE_BYTES_MAX, VERSIONS},
    message::{Answer, Command, Hello, Notice, Role, Tag, VersionRange, Welcome},
    resource::{Attributes, apply_update},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter::from_fn,
};
use uuid::Uuid;

fn hello() -> Hello {
    Hello {
        node: "tail1".parse().unwrap(),
        role: Role::Tail,
        spine: VERSIONS,
        boot: Uuid::nil(),
        cluster: None,
        epoch: Epoch(3),
        extra: Attributes::new(),
    }
}

fn welcome(epoch: u64) -> Welcome {
    Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(epoch) }
}

fn name(n: u8) -> ResourceName {
    format!("disc.sata.{}", u32::from(n) + 1).parse().unwrap()
}

fn sent(session: &mut impl Session) -> String {
    from_fn(|| session.poll_transmit()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
}

fn closed_with<S: Session<Event = BrainSaid>>(session: &mut S) -> String {
    match from_fn(|| session.poll_event()).last() {
        Some(BrainSaid::Closed { reason }) => reason,
        other => panic!("not closed: {other:?}"),
    }
}

/// A pair that has said hello, welcome and ready.
fn ready_pair() -> (NodeSession, BrainSession) {
    let (mut node, mut brain) = (NodeSession::new(hello(), 0), BrainSession::new(0));
    brain.handle_bytes(sent(&mut node).as_bytes());
    brain.handle_welcome(welcome(4));
    node.handle_bytes(sent(&mut brain).as_bytes());
    node.handle_dump(vec![]);
    brain.handle_bytes(sent(&mut node).as_bytes());
    assert_eq!(from_fn(|| brain.poll_event()).last(), Some(NodeSaid::Ready));
    assert_eq!(node.poll_event(), Some(BrainSaid::Welcomed(welcome(4))));
    (node, brain)
}

#[test]
fn r065_hello_comes_first() {
    let mut brain = BrainSession::new(0);
    brain.handle_bytes(b"* created vm.web1 {}\n");
    assert_eq!(sent(&mut brain), "* goodbye {\"reason\":\"the first message must be hello\"}\n");
}

#[test]
fn r064_a_node_cannot_order_the_brain_about() {
    let (_, mut brain) = ready_pair();
    brain.handle_bytes(b"t1 remove vm.web1 {}\n");
    assert!(brain.is_closed());
    assert!(sent(&mut brain).contains("a node may not send commands"));
}

#[test]
fn r067_no_command_leaves_before_ready() {
    let (mut node, mut brain) = (NodeSession::new(hello(), 0), BrainSession::new(0));
    brain.handle_bytes(sent(&mut node).as_bytes());
    brain.handle_command(Tag(1), Command::Remove(name(1), Attributes::new()));
    brain.handle_welcome(welcome(3));
    assert!(!sent(&mut brain).contains("remove"));
    brain.handle_bytes(b"* ready\n");
    assert_eq!(sent(&mut brain), "t1 remove disc.sata.2 {}\n");
}

#[test]
fn safety_rule_8_a_lower_epoch_or_another_cluster_is_refused() {
    for (cluster, welcome, why) in [
        (None, welcome(2), "the brain's epoch is lower"),
        (Some(Uuid::max()), welcome(4), "another cluster"),
        (None, Welcome { spine: 2, ..welcome(4) }, "a version of the protocol"),
    ] {
        let mut node = NodeSession::new(Hello { cluster, ..hello() }, 0);
        sent(&mut node);
        node.handle_bytes(format!("* welcome {}\n", serde_json::to_string(&welcome).unwrap()).as_bytes());
        let reason = closed_with(&mut node);
        assert!(reason.contains(why), "{reason}");
        node.handle_dump(vec![(name(1), json!({}))]);
        assert!(!sent(&mut node).contains("created"), "nothing is dumped to a brain that was refused");
    }
}

#[test]
fn versions_have_a_newest_in_common_or_none() {
    let range = |oldest, newest| VersionRange { oldest, newest };
    assert_eq!(range(1, 2).newest_common(range(2, 3)), Some(2));
    assert_eq!(range(1, 1).newest_common(range(2, 3)), None);
}

#[test]
fn unknown_verbs_are_answered_bad_and_harm_nothing() {
    let (mut node, mut brain) = ready_pair();
    node.handle_bytes(b"t9 explode vm.web1 {}\n");
    assert_eq!(sent(&mut node), "t9 bad {\"message\":\"unknown verb \\\"explode\\\"\"}\n");
    brain.handle_bytes(b"* frobnicate {}\n");
    assert_eq!(sent(&mut brain), "* bad {\"message\":\"unknown verb \\\"frobnicate\\\"\"}\n");
    assert!(!node.is_closed() && !brain.is_closed());
}

#[test]
fn garbage_closes_the_connection_with_a_reason() {
    for garbage in [&b"hello\n"[..], b"* \xff\n", b"* created vm.web1 {\n", b"* created VM {}\n", b"\n", b"t1 ok {}\n"]
    {
        let (_, mut brain) = ready_pair();
        brain.handle_bytes(garbage);
        assert!(brain.is_closed(), "{garbage:?}");
        assert!(sent(&mut brain).starts_with("* goodbye "));
    }
}

#[test]
fn tags_in_flight_are_unique_and_bounded() {
    let (mut node, _) = ready_pair();
    node.handle_bytes(b"t1 remove vm.a {}\nt1 remove vm.b {}\n");
    assert!(closed_with(&mut node).contains("tag of one that is in flight"));

    let (mut node, _) = ready_pair();
    for tag in 0..=COMMANDS_IN_FLIGHT_MAX {
        node.handle_bytes(format!("t{tag} remove vm.a {{}}\n").as_bytes());
    }
    assert!(closed_with(&mut node).contains("too many"));
}

#[test]
fn a_command_too_long_for_a_line_is_refused_and_the_connection_stays() {
    let (_, mut brain) = ready_pair();
    let Value::Object(long) = json!({"text": "x".repeat(LINE_BYTES_MAX)}) else { unreachable!() };
    brain.handle_command(Tag(1), Command::Create(name(1), long));
    brain.handle_command(Tag(2), Command::Remove(name(1), Attributes::new()));
    assert_eq!(sent(&mut brain), "t2 remove disc.sata.2 {}\n");
    let Some(NodeSaid::Answered { tag: Tag(1), answer: Answer::No(refusal) }) = brain.poll_event() else {
        panic!("the long command is not answered")
    };
    assert_eq!(refusal.error, "too-long");
    assert!(!brain.is_closed());
    brain.handle_bytes(b"t1 ok {}\n");
    assert!(brain.is_closed(), "a command that never left has no answer from the node");
}

#[test]
fn the_brain_holds_commands_back_rather_than_flooding_a_node() {
    let (_, mut brain) = ready_pair();
    for tag in 0..COMMANDS_IN_FLIGHT_MAX as u64 + 5 {
        brain.handle_command(Tag(tag), Command::Remove(name(1), Attributes::new()));
    }
    assert_eq!(sent(&mut brain).lines().count(), COMMANDS_IN_FLIGHT_MAX);
    brain.handle_bytes(b"t3 ok\n");
    assert_eq!(sent(&mut brain).lines().count(), 1);
}

#[test]
fn silence_ends_a_session() {
    let (mut node, mut brain) = (NodeSession::new(hello(), 0), BrainSession::new(0));
    assert_eq!((node.poll_timeout(), brain.poll_timeout()), (Some(HELLO_DEADLINE_MS), Some(HELLO_DEADLINE_MS)));
    node.handle_timeout(HELLO_DEADLINE_MS - 1);
    brain.handle_timeout(HELLO_DEADLINE_MS - 1);
    assert!(!node.is_closed() && !brain.is_closed());
    node.handle_timeout(HELLO_DEADLINE_MS);
    brain.handle_timeout(HELLO_DEADLINE_MS);
    assert!(node.is_closed() && brain.is_closed());
}

#[test]
fn an_answer_too_long_for_a_line_becomes_a_refusal() {
    let (mut node, _) = ready_pair();
    node.handle_bytes(b"t1 create vm.a {}\n");
    let mut attributes = Attributes::new();
    attributes.insert("text".into(), Value::from("x".repeat(2 << 20)));
    node.handle_answer(Tag(1), Answer::Ok(attributes));
    assert!(sent(&mut node).starts_with("t1 no {\"error\":\"too-long\""));
}

/// What the world does next in the property test below.
#[derive(Debug, Clone)]
enum Step {
    /// The brain orders something about resource `n`.
    Order { n: u8, kind: u8, value: i32 },
    /// The node answers its oldest (0) or newest (1) open command.
    Answer { newest: bool },
    /// The node changes something by itself.
    Spontaneous { n: u8, kind: u8, value: i32 },
    /// Bytes travel, at most this many each way.
    Travel { bytes: usize },
    /// The connection breaks; what was on its way is lost, perhaps in mid-line.
    Cut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..6, 0u8..3, any::<i32>()).prop_map(|(n, kind, value)| Step::Order { n, kind, value }),
        3 => any::<bool>().prop_map(|newest| Step::Answer { newest }),
        2 => (0u8..6, 0u8..3, any::<i32>()).prop_map(|(n, kind, value)| Step::Spontaneous { n, kind, value }),
        6 => (1usize..200).prop_map(|bytes| Step::Travel { bytes }),
        1 => Just(Step::Cut),
    ];
    prop::collection::vec(step, 0..120)
}

/// A node, a brain and the wire between them.
struct World {
    node: NodeSession,
    brain: BrainSession,
    to_brain: Vec<u8>,
    to_node: Vec<u8>,
    has: BTreeMap<ResourceName, Value>,
    open: Vec<(Tag, Command)>,
    view: View,
    next_tag: u64,
    asked: BTreeSet<Tag>,
    answered: BTreeSet<Tag>,
}

impl World {
    fn new() -> Self {
        Self {
            node: NodeSession::new(hello(), 0),
            brain: BrainSession::new(0),
            to_brain: vec![],
            to_node: vec![],
            has: BTreeMap::new(),
            open: vec![],
            view: View::default(),
            next_tag: 1,
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Order { n, kind, value } => {
                let attributes = json!({ "value": value }).as_object().unwrap().clone();
                let command = match kind {
                    0 => Command::Create(name(n), attributes),
                    1 => Command::Update(name(n), attributes),
                    _ => Command::Remove(name(n), Attributes::new()),
                };
                self.asked.insert(Tag(self.next_tag));
                self.brain.handle_command(Tag(self.next_tag), command);
                self.next_tag += 1;
            }
            Step::Answer { newest } => {
                if !self.open.is_empty() {
                    let (tag, command) = self.open.remove(if newest { self.open.len() - 1 } else { 0 });
                    self.carry_out(command);
                    self.node.handle_answer(tag, Answer::Ok(Attributes::new()));
                }
            }
            Step::Spontaneous { n, kind, value } => {
                let attributes = json!({ "other": value }).as_object().unwrap().clone();
                self.carry_out(match kind {
                    0 => Command::Create(name(n), attributes),
                    1 => Command::Update(name(n), attributes),
                    _ => Command::Remove(name(n), Attributes::new()),
                });
            }
            Step::Travel { bytes } => self.travel(bytes),
            Step::Cut => self.cut(),
        }
    }

    /// Changes what the node has, and says so.
    fn carry_out(&mut self, command: Command) {
        let notice = match command {
            Command::Create(name, attributes) => {
                self.has.insert(name.clone(), Value::Object(attributes.clone()));
                Notice::Created(name, Value::Object(attributes))
            }
            Command::Update(name, changes) => {
                let Some(Value::Object(attributes)) = self.has.get_mut(&name) else { return };
                apply_update(attributes, &changes);
                Notice::Updated(name, Value::Object(changes))
            }
            Command::Remove(name, why) => {
                if self.has.remove(&name).is_none() {
                    return;
                }
                Notice::Destroyed(name, Value::Object(why))
            }
        };
        self.node.handle_notice(notice);
    }

    fn travel(&mut self, bytes: usize) {
        self.to_brain.extend(sent(&mut self.node).into_bytes());
        self.to_node.extend(sent(&mut self.brain).into_bytes());
        let arrived: Vec<u8> = self.to_brain.drain(..bytes.min(self.to_brain.len())).collect();
        self.brain.handle_bytes(&arrived);
        let arrived: Vec<u8> = self.to_node.drain(..bytes.min(self.to_node.len())).collect();
        self.node.handle_bytes(&arrived);
        self.take_events();
    }

    fn take_events(&mut self) {
        while let Some(said) = self.brain.poll_event() {
            self.view.apply(&said).unwrap();
            match said {
                NodeSaid::Hello(_) => self.brain.handle_welcome(welcome(3)),
                NodeSaid::Answered { tag, .. } => {
                    assert!(self.asked.contains(&tag), "an answer to nothing");
                    assert!(self.answered.insert(tag), "{tag} was answered twice");
                }
                NodeSaid::Closed { reason } => assert_eq!(reason, "cut"),
                _ => {}
            }
        }
        while let Some(said) = self.node.poll_event() {
            match said {
                BrainSaid::Welcomed(_) => self.node.handle_dump(self.has.clone().into_iter().collect()),
                BrainSaid::Command(tag, command) => self.open.push((tag, command)),
                BrainSaid::Closed { reason } => assert_eq!(reason, "cut"),
            }
        }
    }

    fn cut(&mut self) {
        self.node.handle_disconnect("cut");
        self.brain.handle_disconnect("cut");
        self.take_events();
        assert!(self.view.is_empty() && !self.view.is_ready(), "R062: resources outlived their connection");
        self.to_brain.clear();
        self.to_node.clear();
        self.open.clear();
        self.node = NodeSession::new(hello(), 0);
        self.brain = BrainSession::new(0);
    }
}

proptest! {
    #[test]
    fn r068_the_brain_sees_exactly_what_the_node_has(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // Whatever happened: when all has travelled and been answered, both agree.
        loop {
            world.travel(usize::MAX);
            if world.open.is_empty() && world.view.is_ready() && world.to_brain.is_empty() {
                break;
            }
            while !world.open.is_empty() {
                world.step(Step::Answer { newest: true });
            }
        }
        world.travel(usize::MAX);
        let seen: BTreeMap<_, _> = world.view.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        prop_assert_eq!(seen, world.has);
    }
}
