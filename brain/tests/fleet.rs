//! Spine sessions over real TCP, spoken by hand.

mod common;

use brain::{
    fleet::{FleetError, Registry, registry::Presence, session},
    reconcile::Poke,
    store::Store,
};
use serde_json::json;
use spine::{
    id::{Epoch, NodeName},
    message::Command,
    resource::Attributes,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Brain {
    registry: Registry,
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

async fn brain(store: &Store) -> Brain {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let registry = Registry::default();
    let fleet = session::Fleet {
        registry: registry.clone(),
        store: store.clone(),
        poke: Poke::default(),
        cluster: uuid::Uuid::from_u128(1),
        epoch: Epoch(3),
        nodes_lock: Arc::default(),
    };
    Brain { registry, address, task: tokio::spawn(session::listen(listener, fleet)) }
}

/// A node that says exactly what it is told to.
struct Hand(BufReader<TcpStream>);

impl Hand {
    async fn connect(brain: &Brain, lines: &[&str]) -> Self {
        let mut hand = Self(BufReader::new(TcpStream::connect(brain.address).await.unwrap()));
        hand.say(lines).await;
        hand
    }

    async fn say(&mut self, lines: &[&str]) {
        for line in lines {
            self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
    }

    /// The next line; empty at the end.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("it says something").unwrap();
        line
    }
}

fn hello(name: &str, role: &str, more: &str) -> String {
    format!(r#"* hello {{"node":"{name}","role":"{role}","spine":[1,1],"boot":"{}"{more}}}"#, uuid::Uuid::from_u128(2))
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !check() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn create() -> Command {
    Command::Create("vm.7".parse().unwrap(), Attributes::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn r034_r067_a_node_counts_from_ready_to_the_end_of_its_connection() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let brain = brain(&store).await;
    let name: NodeName = "head1".parse().unwrap();
    let vm = "7".parse().unwrap();
    let mut node = Hand::connect(&brain, &[&hello("head1", "head", "")]).await;
    assert!(node.hear().await.starts_with(r#"* welcome {"spine":1,"cluster":"00000000-"#));
    node.say(&["* created vm.7 {\"memory\":1,\"cores\":1}"]).await;
    assert!(matches!(brain.registry.presence(&name), Presence::Away(_)));
    let early = brain.registry.command(&name, create(), PATIENCE).await;
    assert_eq!(early, Err(FleetError::NotConnected(name.clone())), "nothing counts before ready");
    node.say(&["* ready"]).await;
    until("it is ready", || brain.registry.presence(&name) == Presence::Ready).await;
    assert_eq!(brain.registry.heads_with(&vm).len(), 1);

    // An answer that does not come, and one that comes too late for anyone to wait for.
    let slow = brain.registry.command(&name, create(), Duration::from_millis(50)).await;
    assert!(matches!(slow, Err(FleetError::Deadline { .. })), "{slow:?}");
    assert!(node.hear().await.starts_with("t1 create vm.7"));
    node.say(&["t1 ok {}"]).await;
    let registry = brain.registry.clone();
    let asked = {
        let name = name.clone();
        tokio::spawn(async move {
            let gone = Command::Remove("vm.7".parse().unwrap(), Attributes::new());
            registry.command(&name, gone, PATIENCE).await
        })
    };
    assert!(node.hear().await.starts_with("t2 remove vm.7"));
    node.say(&["t2 ok {}"]).await;
    assert_eq!(asked.await.unwrap(), Ok(Attributes::new()));
    assert!(brain.registry.heads_with(&vm).is_empty(), "an ok is in the view before its asker goes on");

    let registry = brain.registry.clone();
    let asked = {
        let name = name.clone();
        tokio::spawn(async move { registry.command(&name, create(), PATIENCE).await })
    };
    assert!(node.hear().await.starts_with("t3 create vm.7"));
    drop(node);
    assert_eq!(asked.await.unwrap(), Err(FleetError::WentAway(name.clone())));
    assert!(matches!(brain.registry.presence(&name), Presence::Away(Some(_))));
    brain.task.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tail_told_before_its_ok_stays_as_it_told_it() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let brain = brain(&store).await;
    let name: NodeName = "tail1".parse().unwrap();
    let disc = json!({"size": 1 << 20, "storage_pool": "sata1", "generation": 1, "attachments_version": 0,
        "attachments": [], "address": "fd00:b16:0:d::1", "allocated": 0, "state": "serving"});
    let mut tail = Hand::connect(&brain, &[&hello("tail1", "tail", "")]).await;
    tail.hear().await;
    tail.say(&[&format!("* created disc.sata.1 {disc}"), "* ready"]).await;
    until("it is ready", || brain.registry.presence(&name) == Presence::Ready).await;
    let asked = {
        let (registry, name) = (brain.registry.clone(), name.clone());
        let serde_json::Value::Object(image) = json!({"image": "tiny"}) else { unreachable!() };
        let order = Command::Update("disc.sata.1".parse().unwrap(), image);
        tokio::spawn(async move { registry.command(&name, order, PATIENCE).await })
    };
    assert!(tail.hear().await.starts_with("t1 update disc.sata.1"));
    tail.say(&[
        r#"* updated disc.sata.1 {"state":"importing","progress":0}"#,
        r#"* updated disc.sata.1 {"state":"serving","progress":null}"#,
        "t1 ok {}",
    ])
    .await;
    asked.await.unwrap().unwrap();
    let report = brain.registry.disc(&name, &"sata.1".parse().unwrap());
    assert_eq!(report.expect("a report").state, spine::resource::disc::DiscState::Serving);
    brain.task.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r065_the_newer_connection_wins_and_the_older_is_told_why() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let brain = brain(&store).await;
    let name: NodeName = "tail1".parse().unwrap();
    let pools = json!({"sata1": {"grade": "sata", "size": 1u64 << 40, "free": 1u64 << 39, "allocated": 0, "promised": 0, "discs": 0}});
    let pools = format!("* created global.storage_pools {pools}");
    let lines = [hello("tail1", "tail", ""), pools, "* ready".to_owned()];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut older = Hand::connect(&brain, &lines[..1]).await;
    older.hear().await;
    older.say(&lines[1..]).await;
    until("it is ready", || brain.registry.presence(&name) == Presence::Ready).await;
    let mut newer = Hand::connect(&brain, &lines[..1]).await;
    newer.hear().await;
    assert_eq!(older.hear().await, "* goodbye {\"reason\":\"a newer connection has come under this name\"}\n");
    assert_eq!(older.hear().await, "");
    assert!(brain.registry.is_connected(&name), "the end of the older one does not end the newer one");
    newer.say(&lines[1..]).await;
    until("it is ready again", || brain.registry.presence(&name) == Presence::Ready).await;
    let client = store.client().await.unwrap();
    let row = client.query_one("SELECT label, size_mib, online FROM storage_pools, nodes", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1), row.get::<_, bool>(2)), ("tail1-sata1", 1 << 20, true));
    brain.task.abort();
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn safety_rule_8_nodes_of_another_cluster_epoch_or_role_are_told_why() {
    let Some(server) = common::Server::start().await else { return };
    let store = server.store().await;
    let brain = brain(&store).await;
    let mut known = Hand::connect(&brain, &[&hello("tail1", "tail", "")]).await;
    assert!(known.hear().await.contains("welcome"));
    let foreign = format!(r#","cluster":"{}""#, uuid::Uuid::from_u128(9));
    for (line, why) in [
        (hello("tail2", "tail", &foreign), "belongs to cluster 00000000-0000-0000-0000-000000000009"),
        (hello("tail3", "tail", r#","epoch":4"#), "take-over"),
        (hello("tail4", "tail", "").replace("[1,1]", "[7,9]"), "versions 7 to 9"),
        (hello("tail1", "head", ""), "registered as a tail"),
        ("t1 create vm.1 {}".to_owned(), "may not send commands"),
        ("* ready".to_owned(), "hello"),
        ("\u{1}".repeat(50), "tag"),
    ] {
        let mut node = Hand::connect(&brain, &[&line]).await;
        let told = node.hear().await;
        assert!(told.starts_with("* goodbye") && told.contains(why), "{line} → {told}");
        assert_eq!(node.hear().await, "", "and it is closed");
    }
    let nodes = brain.registry.nodes();
    let refused = nodes.iter().find(|node| node.name.as_str() == "tail3").unwrap();
    assert!(!refused.ready && refused.last_words.as_deref().unwrap().contains("epoch 4"));
    assert!(brain.registry.is_connected(&"tail1".parse().unwrap()), "nobody else was harmed");
    brain.task.abort();
    server.stop().await;
}
