//! Slows down guessing: after a few failures, a user's name from one address must wait, longer each
//! time. Others, and the same user from elsewhere, are not held up.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures before the first wait: people mistype.
const FREE_FAILURES: u32 = 5;
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Failures are forgotten after this long without one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Names and addresses remembered: about 1 MiB. Beyond it the one that failed longest ago goes.
const REMEMBERED_MAX: usize = 10_000;
/// Bytes of a name that are remembered: longer ones are nobody's.
const NAME_BYTES_MAX: usize = 64;

type Key = (String, Option<IpAddr>);

/// Failed logins of late.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: Mutex<HashMap<Key, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self, now: Instant) -> Option<Duration> {
        let over = self.count.checked_sub(FREE_FAILURES)?;
        let wait = Duration::from_secs(1 << over.min(6)).min(WAIT_MAX);
        (self.last + wait).checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

impl Throttle {
    /// How long this user must still wait before the next try from this address.
    pub fn wait(&self, username: &str, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&key(username, address)).and_then(|failures| failures.wait(now))
    }

    /// A login failed.
    pub fn failed(&self, username: &str, address: Option<IpAddr>, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(username, address);
        if failures.len() >= REMEMBERED_MAX && !failures.contains_key(&key) {
            failures.retain(|_, failures| now.duration_since(failures.last) < FORGOTTEN_AFTER);
            let oldest = failures.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| failures.len() >= REMEMBERED_MAX) {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(key).or_insert(Failures { count: 0, last: now });
        if now.duration_since(entry.last) >= FORGOTTEN_AFTER {
            entry.count = 0;
        }
        *entry = Failures { count: entry.count.saturating_add(1), last: now };
    }

    /// A login succeeded.
    pub fn succeeded(&self, username: &str, address: Option<IpAddr>) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(username, address));
    }
}

fn key(username: &str, address: Option<IpAddr>) -> Key {
    let end = username.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= NAME_BYTES_MAX).last();
    (username[..end.unwrap_or(0)].to_owned(), address.map(network))
}

/// Where somebody comes from: with IPv6 the /64, since whoever has one address of it has them all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        IpAddr::V4(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let throttle = Throttle::default();
        let start = Instant::now();
        for _ in 0..4 {
            throttle.failed("alice", None, start);
        }
        assert_eq!(throttle.wait("alice", None, start), None, "people mistype");
        throttle.failed("alice", None, start);
        assert_eq!(throttle.wait("alice", None, start), Some(Duration::from_secs(1)));
        throttle.failed("alice", None, start);
        assert_eq!(throttle.wait("alice", None, start), Some(Duration::from_secs(2)));
        assert_eq!(throttle.wait("alice", None, start + Duration::from_secs(2)), None);
        assert_eq!(throttle.wait("bob", None, start), None);
        assert_eq!(throttle.wait("alice", "192.0.2.1".parse().ok(), start), None, "from elsewhere");
        let address = |text: &str| text.parse().ok();
        (0..5).for_each(|n| throttle.failed("alice", address(&format!("2001:db8::{n}")), start));
        assert!(throttle.wait("alice", address("2001:db8::ffff"), start).is_some(), "one customer's /64");
        assert_eq!(throttle.wait("alice", address("2001:db8:0:1::1"), start), None);
        throttle.succeeded("alice", address("2001:db8::1"));
        for _ in 0..100 {
            throttle.failed("alice", None, start);
        }
        assert_eq!(throttle.wait("alice", None, start), Some(WAIT_MAX));
        throttle.failed("alice", None, start + FORGOTTEN_AFTER);
        assert_eq!(throttle.wait("alice", None, start + FORGOTTEN_AFTER), None);
        throttle.succeeded("alice", None);
        assert!(throttle.failures.lock().unwrap().is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..REMEMBERED_MAX + 10 {
            throttle.failed(&format!("{n}{}", "ä".repeat(1000)), None, now);
        }
        let failures = throttle.failures.lock().unwrap();
        assert_eq!(failures.len(), REMEMBERED_MAX);
        assert!(failures.keys().all(|(name, _)| name.len() <= NAME_BYTES_MAX));
    }
}
