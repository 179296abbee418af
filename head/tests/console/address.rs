//! The console's address, in a network namespace of the test's own.

use crate::rig::{config, keygen, within};
use head::console::{Console, ConsoleError, remove_strays};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, socket},
};
use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    time::Duration,
};
use tokio::net::TcpStream;

#[test]
fn r109_the_address_is_put_up_announced_and_taken_down() {
    in_namespace(async {
        let directory = tempfile::tempdir().unwrap();
        for name in ["host", "amy", "river"] {
            keygen(directory.path(), name);
        }
        for (address, adopted, announcement) in [
            ("10.16.3.100", false, vec![0x08, 0x06]),
            ("10.16.3.101", true, vec![0x08, 0x06]),
            ("fd00:b16:0:3::7", false, vec![0x86, 0xdd]),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let neighbour = listen_on("mgmt1");
            let bits = if address.is_ipv4() { 32 } else { 128 };
            if adopted {
                ip(&format!("address add {address}/{bits} dev mgmt0"));
            }
            let mut config = config(directory.path(), (address, 22).into());
            config.interface = Some("mgmt0".into());
            let console = Console::start(config).await.unwrap_or_else(|error| panic!("{address}: {error:?}"));
            assert!(ip("address show dev mgmt0").contains(&format!("{address}/{bits}")), "R109: {address} is up");
            let answers = async {
                // The kernel makes an IPv6 address usable a moment after it has confirmed it.
                while TcpStream::connect((address, 22)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            within(answers).await;

            let announced = async {
                loop {
                    let frame = next_frame(&neighbour).await;
                    if frame[12..14] == announcement[..] && contains(&frame, address) {
                        return frame;
                    }
                }
            };
            let frame = within(announced).await;
            let broadcast = if address.is_ipv4() { [0xff; 6] } else { [0x33, 0x33, 0, 0, 0, 1] };
            assert_eq!(frame[..6], broadcast, "R109: {address} is announced to all");

            within(console.stop()).await;
            assert!(!ip("address show dev mgmt0").contains(&address.to_string()), "R109: {address} is gone");
        }

        let mut config = config(directory.path(), "10.16.3.102:22".parse().unwrap());
        config.interface = Some("absent0".into());
        let error = Console::start(config).await.unwrap_err();
        assert!(matches!(error, ConsoleError::Address { .. }), "{error:?}");
    });
}

#[test]
fn r109_addresses_left_by_a_killed_head_are_taken_down_and_no_others() {
    in_namespace(async {
        let directory = tempfile::tempdir().unwrap();
        for name in ["host", "amy", "river"] {
            keygen(directory.path(), name);
        }
        ip("address add 10.16.3.11/24 dev mgmt0");
        ip("address add 10.16.3.12/32 dev mgmt0");
        let [kept, left, left_too]: [IpAddr; 3] =
            ["10.16.3.100", "10.16.3.101", "fd00:b16:0:3::7"].map(|text| text.parse().unwrap());
        for address in [kept, left, left_too] {
            let mut config = config(directory.path(), (address, 22).into());
            config.interface = Some("mgmt0".into());
            // Dropped without a word, as when the head is killed.
            drop(Console::start(config).await.unwrap());
        }
        let mut removed = remove_strays("mgmt0", &[kept]).await.unwrap();
        removed.sort();
        assert_eq!(removed, [left, left_too], "R109");
        let shown = ip("address show dev mgmt0");
        for stays in ["10.16.3.11/24", "10.16.3.12/32", "10.16.3.100/32"] {
            assert!(shown.contains(stays), "R109: {stays} stays: {shown}");
        }
        assert!(!shown.contains("10.16.3.101") && !shown.contains("fd00:b16:0:3::7"), "{shown}");
        assert!(remove_strays("absent0", &[]).await.is_err());
    });
}

/// Runs `test` on a thread of its own whose network is a namespace of its own; it goes with the
/// thread.
fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test must run as root");
        ip("link set lo up");
        ip("link add mgmt0 type veth peer name mgmt1");
        ip("link set mgmt0 up");
        ip("link set mgmt1 up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A child has the namespace of the thread that started it.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A packet socket that hears all that arrives at `interface`.
fn listen_on(interface: &str) -> OwnedFd {
    let link = getifaddrs()
        .unwrap()
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| entry.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .unwrap();
    let heard = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
    bind(heard.as_raw_fd(), link.as_link_addr().unwrap()).unwrap();
    heard
}

async fn next_frame(heard: &OwnedFd) -> Vec<u8> {
    let mut frame = vec![0; 2048];
    loop {
        match recv(heard.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(count) => return frame[..count].to_vec(),
            Err(Errno::EAGAIN) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn contains(frame: &[u8], address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    frame.windows(octets.len()).any(|window| window == octets)
}
