//! Real sockets on loopback: a node that comes back, a brain that goes away.

use serde_json::json;
use spine::{
    id::Epoch,
    limits::VERSIONS,
    message::{Answer, Command, Hello, Notice, Role, Welcome},
    resource::Attributes,
    session::NodeSaid,
    transport::{BrainLink, NodeConfig, NodeEvent, NodeLink, accept_node, connect_node},
};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should have happened by now")
}

fn node_config(listener: &TcpListener) -> NodeConfig {
    let hello = Hello {
        node: "head1".parse().unwrap(),
        role: Role::Head,
        spine: VERSIONS,
        boot: Uuid::nil(),
        cluster: None,
        epoch: Epoch(0),
        extra: Attributes::new(),
    };
    NodeConfig { brains: vec![listener.local_addr().unwrap()], bind: None, hello }
}

async fn accept(listener: &TcpListener) -> BrainLink {
    let (stream, _) = soon(listener.accept()).await.unwrap();
    accept_node(stream)
}

/// Lets the node in, and gives what its hello said and the names it dumped.
async fn greet(brain: &mut BrainLink, node: &mut NodeLink, epoch: u64) -> (Hello, Vec<String>) {
    let NodeSaid::Hello(hello) = soon(brain.next()).await else { panic!("no hello") };
    brain.welcome(Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(epoch) });
    while !matches!(soon(node.next()).await, NodeEvent::Welcomed(_)) {}
    node.dump(vec![("global.load".parse().unwrap(), json!([0.0, 0.0, 0.0]))]);
    let mut names = vec![];
    loop {
        match soon(brain.next()).await {
            NodeSaid::Created(name, _) => names.push(name.to_string()),
            NodeSaid::Ready => return (hello, names),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_is_answered_and_notices_come_in_between() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut node = connect_node(node_config(&listener));
    let mut brain = accept(&listener).await;
    let (_, names) = greet(&mut brain, &mut node, 1).await;
    assert_eq!(names, ["global.load"]);

    let tag = brain.command(Command::Remove("vm.7".parse().unwrap(), Attributes::new()));
    let NodeEvent::Command { ticket, command } = soon(node.next()).await else { panic!("no command") };
    assert_eq!(command.name().to_string(), "vm.7");
    node.notify(Notice::Destroyed("vm.7".parse().unwrap(), json!({"reason": "asked to"})));
    node.answer(ticket, Answer::Ok(Attributes::new()));
    assert!(matches!(soon(brain.next()).await, NodeSaid::Destroyed(..)));
    assert_eq!(soon(brain.next()).await, NodeSaid::Answered { tag, answer: Answer::Ok(Attributes::new()) });
}

#[tokio::test]
async fn a_node_comes_back_by_itself_and_keeps_the_highest_epoch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut node = connect_node(node_config(&listener));
    let mut brain = accept(&listener).await;
    greet(&mut brain, &mut node, 7).await;
    brain.command(Command::Remove("vm.7".parse().unwrap(), Attributes::new()));
    let NodeEvent::Command { ticket, .. } = soon(node.next()).await else { panic!("no command") };
    brain.close("maintenance");

    let NodeEvent::Disconnected { reason } = soon(node.next()).await else { panic!("still connected") };
    assert_eq!(reason, "the brain said: maintenance");
    node.answer(ticket, Answer::Ok(Attributes::new()));
    node.notify(Notice::Updated("global.load".parse().unwrap(), json!([9.0, 9.0, 9.0])));

    let mut brain = accept(&listener).await;
    let (hello, names) = greet(&mut brain, &mut node, 7).await;
    assert_eq!(hello.epoch, Epoch(7), "safety rule 8");
    assert_eq!(names, ["global.load"], "nothing said while away is sent late");
    // The stale answer must not reach the new connection, where its tag may mean something else.
    let tag = brain.command(Command::Remove("vm.8".parse().unwrap(), Attributes::new()));
    let NodeEvent::Command { ticket, .. } = soon(node.next()).await else { panic!("no command") };
    node.answer(ticket, Answer::Ok(Attributes::new()));
    assert_eq!(soon(brain.next()).await, NodeSaid::Answered { tag, answer: Answer::Ok(Attributes::new()) });
}

#[tokio::test]
async fn a_lower_epoch_is_refused_and_the_node_tries_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = node_config(&listener);
    config.hello.epoch = Epoch(5);
    let mut node = connect_node(config);
    let mut old = accept(&listener).await;
    assert!(matches!(soon(old.next()).await, NodeSaid::Hello(_)));
    old.welcome(Welcome { spine: 1, cluster: Uuid::nil(), epoch: Epoch(4) });
    let NodeSaid::Closed { reason } = soon(old.next()).await else { panic!("let in") };
    assert!(reason.contains("epoch"), "{reason}");
    assert!(matches!(soon(node.next()).await, NodeEvent::Disconnected { .. }));
    let mut brain = accept(&listener).await;
    greet(&mut brain, &mut node, 5).await;
}

#[tokio::test]
async fn a_person_with_nc_can_read_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut person = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut brain = accept(&listener).await;
    person.write_all(b"* hello {\"node\":\"me\",\"role\":\"head\",\"spine\":[1,1],\"boot\":\"00000000-0000-0000-0000-000000000000\"}\n").await.unwrap();
    assert!(matches!(soon(brain.next()).await, NodeSaid::Hello(_)));
    brain.close("not today");
    let mut text = String::new();
    soon(person.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "* goodbye {\"reason\":\"not today\"}\n");
}

#[tokio::test]
async fn a_node_that_is_dropped_says_goodbye() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut node = connect_node(node_config(&listener));
    let mut brain = accept(&listener).await;
    greet(&mut brain, &mut node, 1).await;
    drop(node);
    assert_eq!(soon(brain.next()).await, NodeSaid::Closed { reason: "the node said: the daemon is stopping".into() });
}
