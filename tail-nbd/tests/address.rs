//! Addresses on a real interface in namespaces of the test's own.

mod netns;

use netns::{Net, ip, run_in, until};
use std::{collections::BTreeSet, io::Read as _, net::Ipv6Addr, sync::mpsc, time::Duration};
use tail_nbd::address::{
    Addresses, KeeperConfig, neighbour,
    netlink::{self, Netlink},
};

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn config() -> KeeperConfig {
    KeeperConfig { interface: "storage0".into(), prefix: "fd00:b16:0:d::/64".parse().unwrap() }
}

#[test]
fn r128_addresses_come_and_go() {
    let net = Net::new();
    run_in(&net.tail, || async {
        let addresses = Addresses::start(config(), BTreeSet::new(), |_| {}).unwrap();
        addresses.add(address("fd00:b16:0:d::7")).await;
        let shown = net.tail_addresses();
        let line = shown.lines().find(|line| line.contains("fd00:b16:0:d::7/128")).expect("it is up");
        assert!(line.contains("deprecated"), "rule 12: preferred lifetime 0, so never a source: {line}");
        assert!(!line.contains("tentative"), "no duplicate-address detection: {line}");
        addresses.add(address("fd00:b16:0:d::7")).await;
        addresses.remove(address("fd00:b16:0:d::7")).await;
        assert!(!net.tail_addresses().contains("fd00:b16:0:d::7"));
    });
}

#[test]
fn rule11_a_start_removes_what_a_killed_process_left() {
    let net = Net::new();
    for left in ["fd00:b16:0:d::8/128", "fd00:b16:0:d::9/128"] {
        ip(&["-n", &net.tail, "addr", "add", left, "dev", "storage0", "nodad"]);
    }
    run_in(&net.tail, || async {
        let addresses = Addresses::start(config(), BTreeSet::from([address("fd00:b16:0:d::8")]), |_| {}).unwrap();
        until("the removal", || !net.tail_addresses().contains("fd00:b16:0:d::9/")).await;
        let shown = net.tail_addresses();
        assert!(shown.contains("fd00:b16:0:d::8/"), "what a disc has stays: {shown}");
        assert!(shown.contains("fd00:b16:0:2::21/"), "what is not under the prefix stays: {shown}");
        drop(addresses);
        assert!(net.tail_addresses().contains("fd00:b16:0:d::8/"), "a stop takes nothing away");
    });
}

#[test]
fn rule11_an_address_that_another_machine_has_is_not_taken() {
    let net = Net::new();
    ip(&["-n", &net.client, "addr", "add", "fd00:b16:0:d::7/128", "dev", "head0", "nodad"]);
    run_in(&net.tail, || async {
        let owned = BTreeSet::from([address("fd00:b16:0:d::7"), address("fd00:b16:0:d::8")]);
        let (sender, changed) = mpsc::channel();
        let addresses = Addresses::start(config(), owned, move |number| sender.send(number).unwrap()).unwrap();
        until("the other address", || net.tail_addresses().contains("fd00:b16:0:d::8/")).await;
        assert!(!net.tail_addresses().contains("fd00:b16:0:d::7/"));
        let trouble = addresses.trouble(address("fd00:b16:0:d::7")).expect("there is trouble");
        assert!(trouble.starts_with("address-taken"), "{trouble}");
        assert_eq!(changed.recv().unwrap().0, 7, "somebody is told");
        assert_eq!(addresses.trouble(address("fd00:b16:0:d::8")), None);
        // When the other machine is gone the address is taken at the next look.
        ip(&["-n", &net.client, "addr", "del", "fd00:b16:0:d::7/128", "dev", "head0"]);
        until("taking it", || net.tail_addresses().contains("fd00:b16:0:d::7/")).await;
        until("the end of the trouble", || addresses.trouble(address("fd00:b16:0:d::7")).is_none()).await;
    });
}

#[test]
fn what_somebody_takes_away_comes_back() {
    let net = Net::new();
    run_in(&net.tail, || async {
        let addresses = Addresses::start(config(), BTreeSet::new(), |_| {}).unwrap();
        addresses.add(address("fd00:b16:0:d::7")).await;
        ip(&["-n", &net.tail, "addr", "del", "fd00:b16:0:d::7/128", "dev", "storage0"]);
        until("its return", || net.tail_addresses().contains("fd00:b16:0:d::7/")).await;
    });
}

#[test]
fn without_the_interface_there_is_trouble_until_it_comes() {
    let net = Net::new();
    ip(&["-n", &net.tail, "link", "set", "storage0", "name", "other0"]);
    run_in(&net.tail, || async {
        let seven = address("fd00:b16:0:d::7");
        let addresses = Addresses::start(config(), BTreeSet::from([seven]), |_| {}).unwrap();
        until("the trouble", || addresses.trouble(seven).is_some()).await;
        assert!(addresses.trouble(seven).unwrap().contains("no interface storage0"));
        ip(&["-n", &net.tail, "link", "set", "other0", "name", "storage0"]);
        until("the address", || net.tail_addresses().contains("fd00:b16:0:d::7/")).await;
        until("the end of the trouble", || addresses.trouble(seven).is_none()).await;
    });
}

/// Hears what is said to the neighbours.
fn listen() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, Some(socket2::Protocol::ICMPV6));
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

fn hear(mut socket: &socket2::Socket) -> Vec<u8> {
    let mut packet = vec![0; 1500];
    let length = socket.read(&mut packet).expect("an advertisement comes");
    packet.truncate(length);
    packet
}

#[test]
fn rule12_an_address_is_announced_several_times() {
    let net = Net::new();
    let (ready, listening) = mpsc::channel();
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            run_in(&net.client, || async {
                let socket = listen();
                ready.send(()).unwrap();
                let mut heard = 0;
                while heard < 4 {
                    let packet = hear(&socket);
                    if neighbour::advertised(&packet) == Some(address("fd00:b16:0:d::7")) {
                        assert_eq!(packet[4] & 0xe0, 0x20, "override, not solicited, no router");
                        heard += 1;
                    }
                }
            });
        });
        listening.recv().unwrap();
        run_in(&net.tail, || async {
            let addresses = Addresses::start(config(), BTreeSet::new(), |_| {}).unwrap();
            addresses.add(address("fd00:b16:0:d::7")).await;
            until("four advertisements", || listener.is_finished()).await;
        });
        listener.join().unwrap();
    });
}

#[test]
fn rule12_an_address_is_announced_again_when_that_is_asked_for() {
    let net = Net::new();
    let (ready, listening) = mpsc::channel();
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            run_in(&net.client, || async {
                let socket = listen();
                ready.send(()).unwrap();
                let mut heard = 0;
                // The series that follows an addition has six.
                while heard < 8 {
                    let about = neighbour::advertised(&hear(&socket));
                    assert_ne!(about, Some(address("fd00:b16:0:d::9")), "that one is not up");
                    heard += usize::from(about == Some(address("fd00:b16:0:d::7")));
                }
            });
        });
        listening.recv().unwrap();
        run_in(&net.tail, || async {
            let addresses = Addresses::start(config(), BTreeSet::new(), |_| {}).unwrap();
            addresses.add(address("fd00:b16:0:d::7")).await;
            while !listener.is_finished() {
                addresses.announce(vec![address("fd00:b16:0:d::7"), address("fd00:b16:0:d::9")]).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        listener.join().unwrap();
    });
}

#[test]
fn r120_an_address_that_another_machine_is_about_to_have_is_not_announced_any_more() {
    let net = Net::new();
    let (ready, listening) = mpsc::channel();
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            run_in(&net.client, || async {
                let socket = listen();
                ready.send(()).unwrap();
                let mut heard = 0;
                // Half a second of the series of an address that came up afterwards.
                while heard < 4 {
                    let about = neighbour::advertised(&hear(&socket));
                    assert!(heard == 0 || about != Some(address("fd00:b16:0:d::7")), "it was hushed");
                    heard += usize::from(about == Some(address("fd00:b16:0:d::9")));
                }
            });
        });
        listening.recv().unwrap();
        run_in(&net.tail, || async {
            let addresses = Addresses::start(config(), BTreeSet::new(), |_| {}).unwrap();
            addresses.add(address("fd00:b16:0:d::7")).await;
            addresses.hush(address("fd00:b16:0:d::7")).await;
            addresses.add(address("fd00:b16:0:d::9")).await;
            while !listener.is_finished() {
                addresses.announce(vec![address("fd00:b16:0:d::7")]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        listener.join().unwrap();
    });
}

#[test]
fn the_neighbours_learn_the_right_mac() {
    let net = Net::new();
    run_in(&net.tail, || async {
        let interface = Netlink::open().unwrap().interface("storage0").await.unwrap();
        // The neighbour knows the address at another machine; the override flag puts that right.
        let wrong = ["neigh", "add", "fd00:b16:0:d::7", "lladdr", "02:00:00:00:00:99", "dev", "head0", "nud", "stale"];
        ip(&[&["-n", &net.client][..], &wrong].concat());
        Netlink::open().unwrap().add(interface, address("fd00:b16:0:d::7")).await.unwrap();
        netlink::announce(interface, address("fd00:b16:0:d::7")).unwrap();
        let mac: Vec<_> = interface.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let knows = || ip(&["-n", &net.client, "-6", "neigh", "show", "fd00:b16:0:d::7"]).contains(&mac.join(":"));
        until("learning the MAC", knows).await;
    });
}
