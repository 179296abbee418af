//! A storage LAN with two tails, in namespaces of the test's own.
//!
//! ```text
//!   "client": the test's thread, its brains and clients: br0 fd00:b16:0:2::11, ::1
//!      ├── veth ── "tail1": storage0 fd00:b16:0:2::21
//!      └── veth ── "tail2": storage0 fd00:b16:0:2::22
//! ```

use super::{ip, run_in};
use std::{
    future::Future,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Three joined namespaces.
pub struct Lan {
    /// Where the test runs.
    pub client: String,
    /// Where the tails run.
    pub tails: [String; 2],
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Lan {
    /// Makes them.
    pub fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let tails = [1, 2].map(|number| format!("tnl{number}-{id}"));
        let lan = Self { client: format!("tnl-{id}"), tails };
        let client = lan.client.as_str();
        ip(&["netns", "add", client]);
        ip(&["-n", client, "link", "set", "lo", "up"]);
        ip(&["-n", client, "link", "add", "br0", "type", "bridge"]);
        for address in ["fd00:b16:0:2::11/64", "fd00:b16:0:2::1/64"] {
            ip(&["-n", client, "addr", "add", address, "dev", "br0", "nodad"]);
        }
        ip(&["-n", client, "link", "set", "br0", "up"]);
        for (number, tail) in (1..).zip(&lan.tails) {
            let port = format!("port{number}");
            ip(&["netns", "add", tail]);
            ip(&["-n", tail, "link", "set", "lo", "up"]);
            ip(&["-n", client, "link", "add", &port, "type", "veth", "peer", "name", "storage0", "netns", tail]);
            ip(&["-n", client, "link", "set", &port, "master", "br0", "up"]);
            let address = format!("fd00:b16:0:2::{}/64", 20 + number);
            ip(&["-n", tail, "addr", "add", &address, "dev", "storage0", "nodad"]);
            ip(&["-n", tail, "link", "set", "storage0", "up"]);
        }
        ip(&["-n", client, "-6", "route", "add", "fd00:b16:0:d::/64", "dev", "br0", "src", "fd00:b16:0:2::11"]);
        lan
    }

    /// Runs `test` on a thread within the client namespace, and so all it connects and spawns.
    pub fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        run_in(&self.client, test);
    }

    /// Loses whatever tail1 sends to tail2, or no longer. Everybody else hears both.
    pub fn separate(&self, lost: bool) {
        let verb = if lost { "add" } else { "del" };
        ip(&["-n", &self.tails[0], "-6", "route", verb, "blackhole", "fd00:b16:0:2::22/128"]);
    }

    /// Breaks the connection that tail1 has to tail2's `migration_listen`. False when there is none, or it cannot be done here.
    pub fn break_link(&self) -> bool {
        let arguments = ["netns", "exec", &self.tails[0], "ss", "-HKt6", "dport = 7771"];
        let output = Command::new("ip").args(arguments).output().expect("ip is installed");
        String::from_utf8_lossy(&output.stdout).contains("7771")
    }

    /// The IPv6 addresses on a tail's storage interface, as `ip` shows them.
    pub fn addresses(&self, number: usize) -> String {
        ip(&["-n", &self.tails[number - 1], "-6", "addr", "show", "dev", "storage0"])
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.tails.iter().chain([&self.client]) {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
