//! Network namespaces of a test's own, gone when the test ends.
//!
//! ```text
//!   "client" namespace: the test's thread,          "tail" namespace: the daemon
//!   its fake brain and its NBD clients
//!      head0 fd00:b16:0:2::11, ::1 ───── veth ───── storage0 fd00:b16:0:2::21
//! ```

#![allow(dead_code, reason = "each test file uses its part")]

pub mod brain;
pub mod lan;
pub mod pool;
pub mod tail;

use brain::{Brain, DEADLINE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    future::Future,
    os::fd::AsFd as _,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tail::Tail;

/// Two joined namespaces.
pub struct Net {
    /// Where the test runs.
    pub client: String,
    /// Where the tail runs.
    pub tail: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Net {
    /// Makes them.
    pub fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self { client: format!("tnc-{id}"), tail: format!("tnt-{id}") };
        let (client, tail) = (net.client.as_str(), net.tail.as_str());
        for name in [client, tail] {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        ip(&["-n", client, "link", "add", "head0", "type", "veth", "peer", "name", "storage0", "netns", tail]);
        for (name, link, addresses) in [
            (client, "head0", &["fd00:b16:0:2::11/64", "fd00:b16:0:2::1/64"][..]),
            (tail, "storage0", &["fd00:b16:0:2::21/64"]),
        ] {
            for address in addresses {
                ip(&["-n", name, "addr", "add", address, "dev", link, "nodad"]);
            }
            ip(&["-n", name, "link", "set", link, "up"]);
        }
        ip(&["-n", client, "-6", "route", "add", "fd00:b16:0:d::/64", "dev", "head0", "src", "fd00:b16:0:2::11"]);
        net
    }

    /// Runs `test` on a thread within the client namespace, and so all it connects and spawns.
    pub fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        run_in(&self.client, test);
    }

    /// The IPv6 addresses on the tail's storage interface, as `ip` shows them.
    pub fn tail_addresses(&self) -> String {
        ip(&["-n", &self.tail, "-6", "addr", "show", "dev", "storage0"])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.client, &self.tail] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Runs `test` on a thread within the namespace `name`.
pub fn run_in<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F + Send) {
    let namespace = File::open(format!("/run/netns/{name}")).expect("the namespace was made");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("entering it");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A tail that runs, and a brain that is connected to it.
pub async fn start(net: &Net) -> (Tail, Brain) {
    let mut tail = Tail::new(net);
    tail.start();
    let mut brain = Brain::listen().await;
    brain.connect().await;
    (tail, brain)
}

/// Waits until something is so.
///
/// # Panics
/// When that does not happen.
pub async fn until(what: &str, happens: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !happens() {
        assert!(Instant::now() < deadline, "{what}: it does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs `ip` and returns what it prints.
pub fn ip(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new("ip").args(arguments).output().expect("ip is installed");
    assert!(status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}
