//! Hundreds of discs in one tail, each on its own address and with its own client: what is true of one is true of all.
//! What it costs is measured by `scripts/bench scale`.

mod common;
mod netns;

use common::{Peer, Served, pattern};
use netns::{
    Net,
    brain::{Brain, ok},
    tail::Tail,
};
use serde_json::json;
use spine::{address::StoragePrefix, id::DiscNumber};
use std::collections::BTreeMap;
use tail_nbd::nbd::client::Reply;
use tail_nbd::nbd::offer::Style;
use tail_nbd::nbd::request::Header;
use tail_nbd::nbd::wire::command_type;

const DISCS: u64 = 300;
const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
const KEY: &str = "key";
/// Reads that each busy client has in flight.
const BURST: u64 = 16;

#[test]
fn r127_hundreds_of_discs_with_a_client_each_come_stay_and_go() {
    let net = Net::new();
    net.run(|| async {
        let mut tail = Tail::new(&net);
        tail.start();
        let mut brain = Brain::listen().await;
        brain.connect().await;
        let order = json!({
            "size": MIB, "storage_pool": "sata1", "generation": 1, "attachments_version": 1,
            "attachments": [{"head": "fd00:b16:0:2::11", "key": KEY}],
        });
        for number in 1..=DISCS {
            ok(brain.create(&name(number), order.clone()).await);
        }

        let mut clients: BTreeMap<u64, Peer> = (1..=DISCS).map(|number| (number, connect(number))).collect();
        for (number, client) in &mut clients {
            client.write(0, &pattern(*number, PAGE));
        }
        all_at_once(&mut clients);

        // Every thirtieth goes; the others' connections do not notice.
        for number in (1..=DISCS).filter(|number| number % 30 == 0) {
            ok(brain.remove(&name(number), 1).await);
            assert!(clients.remove(&number).unwrap().is_closed(), "disc {number} is gone");
        }
        brain
            .until("the pool has fewer", |brain| {
                brain.resource("global.storage_pools").unwrap()["sata1"]["discs"] == clients.len()
            })
            .await;
        all_at_once(&mut clients);

        // Over a restart the addresses stay (rule 12), and every disc is there again with its bytes.
        tail.terminate();
        let addresses = || net.tail_addresses().matches("fd00:b16:0:d:").count();
        assert_eq!(addresses(), clients.len(), "rule 12: a stop takes no address away");
        tail.start();
        assert_eq!(addresses(), clients.len());
        for (number, client) in &mut clients {
            *client = connect(*number);
        }
        all_at_once(&mut clients);
        brain.connect().await;
        assert!(clients.keys().all(|number| is_served(&brain, *number)));
        tail.terminate();
    });
}

/// Each client reads its own bytes, all of them at the same time, and each gets all its answers.
fn all_at_once(clients: &mut BTreeMap<u64, Peer>) {
    for client in clients.values_mut() {
        for cookie in 0..BURST {
            let header = Header { flags: 0, command: command_type::READ, cookie, offset: 0, length: PAGE as u64 };
            client.send(header, &[]);
        }
    }
    for (number, client) in clients {
        let wanted = pattern(*number, PAGE);
        for _ in 0..BURST {
            let reply = client.next().unwrap_or_else(|| panic!("disc {number} has closed the connection"));
            assert_eq!(reply.error(), 0, "disc {number}");
            let Reply::Simple { data, .. } = reply else { panic!("disc {number}: {reply:?}") };
            assert!(data == wanted, "disc {number} has its own bytes");
        }
    }
}

fn connect(number: u64) -> Peer {
    let prefix: StoragePrefix = "fd00:b16:0:d::/64".parse().unwrap();
    let number = DiscNumber(number);
    let address = (prefix.address_of(number), spine::limits::NBD_PORT).into();
    Served { number, address }
        .connect_as(KEY, Style::Simple)
        .unwrap_or_else(|error| panic!("disc {number}: {error:#x}"))
}

fn name(number: u64) -> String {
    format!("disc.sata.{number}")
}

fn is_served(brain: &Brain, number: u64) -> bool {
    brain.resource(&name(number)).is_some_and(|disc| disc["state"] == "serving")
}
