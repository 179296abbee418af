//! Slows down guessing, and keeps floods of logins off the hasher.
//!
//! Failures are counted in three ways. Beyond those that are free each makes the next try wait, longer each time:
//!
//! | failures of | free | so that nobody |
//! | --- | --- | --- |
//! | a user's name from one address | 5 | guesses a password |
//! | an address, with any names | 30 | tries one password with many names |
//! | a name, from any addresses | 100 | guesses from many addresses |
//!
//! With the latter two alone anybody could lock out anybody else. They do not hold up a user who has logged in from
//! the same address of late. Nor may one address fill the queue of those who wait for their password to be checked.

use super::recent::Recent;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Failures are forgotten after this long without one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// How long a user is known at an address after a login.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Entries of each table: about 1 MiB.
const REMEMBERED_MAX: usize = 10_000;
/// Bytes of a name that are remembered: longer ones are nobody's.
const NAME_BYTES_MAX: usize = 64;
/// Logins of one address that are being checked at the same time: half a second of the hasher's work.
const TRIES_PER_NETWORK_MAX: usize = 32;
/// Logins that are being checked at the same time: four seconds of the hasher's work.
const TRIES_MAX: usize = 256;

/// Who tries to log in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Guest {
    name: String,
    network: Option<IpAddr>,
}

/// Whose failures are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Suspect {
    Guest(Guest),
    Network(IpAddr),
    Name(String),
}

impl Suspect {
    fn free_failures(&self) -> u32 {
        match self {
            // People mistype.
            Self::Guest(_) => 5,
            // Many people may share an address.
            Self::Network(_) => 30,
            Self::Name(_) => 100,
        }
    }

    fn wait(&self, failures: u32) -> Option<Duration> {
        let over = failures.checked_sub(self.free_failures())?;
        Some(Duration::from_secs(1 << over.min(6)).min(WAIT_MAX))
    }
}

/// Logins of late, and those in progress.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failures: Recent<Suspect, u32>,
    known: Recent<Guest, ()>,
    tries: HashMap<Option<IpAddr>, usize>,
}

/// A login in progress, until it is dropped.
#[derive(Debug)]
pub struct Try<'a> {
    throttle: &'a Throttle,
    guest: Guest,
}

/// Why a login may not be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There were too many failures: how much longer to wait.
    Wait(Duration),
    /// Too many are in progress.
    Busy,
}

impl Default for Throttle {
    fn default() -> Self {
        let failures = Recent::new(REMEMBERED_MAX, FORGOTTEN_AFTER);
        let known = Recent::new(REMEMBERED_MAX, KNOWN_FOR);
        Self { state: Mutex::new(State { failures, known, tries: HashMap::new() }) }
    }
}

impl Throttle {
    /// Begins a login of this user from this address.
    ///
    /// # Errors
    /// When it may not be tried now.
    pub fn begin(&self, username: &str, address: Option<IpAddr>, now: Instant) -> Result<Try<'_>, Refused> {
        let guest = Guest { name: start_of(username).to_owned(), network: address.map(network) };
        let mut state = self.state();
        if let Some(wait) = state.wait(&guest, now) {
            return Err(Refused::Wait(wait));
        }
        let here = state.tries.get(&guest.network).copied().unwrap_or_default();
        if here >= TRIES_PER_NETWORK_MAX || state.tries.values().sum::<usize>() >= TRIES_MAX {
            return Err(Refused::Busy);
        }
        state.tries.insert(guest.network, here + 1);
        drop(state);
        Ok(Try { throttle: self, guest })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Try<'_> {
    /// How long it has to wait after all, because others have failed since it began.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.throttle.state().wait(&self.guest, now)
    }

    /// The password was right.
    pub fn succeeded(self, now: Instant) {
        let mut state = self.throttle.state();
        // The other two are not forgotten: a guesser may have one good password.
        state.failures.remove(&Suspect::Guest(self.guest.clone()));
        state.known.put(self.guest.clone(), (), now);
    }

    /// The password was wrong.
    pub fn failed(self, now: Instant) {
        let mut state = self.throttle.state();
        for suspect in suspects(&self.guest) {
            let before = state.failures.get(&suspect, now).map_or(0, |failures| failures.value);
            state.failures.put(suspect, before.saturating_add(1), now);
        }
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let mut state = self.throttle.state();
        match state.tries.get_mut(&self.guest.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(state.tries.remove(&self.guest.network)),
        }
    }
}

impl State {
    fn wait(&self, guest: &Guest, now: Instant) -> Option<Duration> {
        let known = self.known.get(guest, now).is_some();
        let counts = |suspect: &Suspect| !known || matches!(suspect, Suspect::Guest(_));
        let wait = |suspect: Suspect| {
            let failures = self.failures.get(&suspect, now)?;
            (failures.at + suspect.wait(failures.value)?).checked_duration_since(now)
        };
        suspects(guest).filter(counts).filter_map(wait).max().filter(|wait| !wait.is_zero())
    }
}

fn suspects(guest: &Guest) -> impl Iterator<Item = Suspect> {
    let network = guest.network.map(Suspect::Network);
    [Suspect::Guest(guest.clone()), Suspect::Name(guest.name.clone())].into_iter().chain(network)
}

fn start_of(username: &str) -> &str {
    &username[..username.floor_char_boundary(NAME_BYTES_MAX)]
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

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// How long this user has to wait.
    fn wait(throttle: &Throttle, name: &str, from: Option<IpAddr>, now: Instant) -> Option<Duration> {
        match throttle.begin(name, from, now) {
            Ok(_) => None,
            Err(Refused::Wait(wait)) => Some(wait),
            Err(Refused::Busy) => panic!("nothing is in progress"),
        }
    }

    /// A failure, that waits for its turn.
    fn fail(throttle: &Throttle, name: &str, from: Option<IpAddr>, now: &mut Instant) {
        *now += wait(throttle, name, from, *now).unwrap_or_default();
        throttle.begin(name, from, *now).unwrap().failed(*now);
    }

    #[test]
    fn waits_grow_and_end() {
        let throttle = Throttle::default();
        let mut now = Instant::now();
        let home = address("192.0.2.1");
        let mut waits = Vec::new();
        for _ in 0..14 {
            fail(&throttle, "alice", home, &mut now);
            waits.push(wait(&throttle, "alice", home, now).map_or(0, |wait| wait.as_secs()));
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60], "people mistype");
        assert_eq!(wait(&throttle, "bob", home, now), None);
        assert_eq!(wait(&throttle, "alice", address("192.0.2.2"), now), None, "from elsewhere");
        assert_eq!(wait(&throttle, "alice", home, now + WAIT_MAX), None);
        fail(&throttle, "alice", home, &mut (now + FORGOTTEN_AFTER));
        assert_eq!(wait(&throttle, "alice", home, now + FORGOTTEN_AFTER), None);
    }

    #[test]
    fn a_login_is_forgiven_its_failures() {
        let throttle = Throttle::default();
        let mut now = Instant::now();
        (0..4).for_each(|_| fail(&throttle, "alice", None, &mut now));
        throttle.begin("alice", None, now).unwrap().succeeded(now);
        (0..4).for_each(|_| fail(&throttle, "alice", None, &mut now));
        assert_eq!(wait(&throttle, "alice", None, now), None);
    }

    #[test]
    fn a_network_is_one_guesser_whatever_names_it_tries() {
        let throttle = Throttle::default();
        let mut now = Instant::now();
        let (home, street) = (address("2001:db8::1"), address("2001:db8::ffff"));
        throttle.begin("alice", home, now).unwrap().succeeded(now);
        (0..30).for_each(|n| fail(&throttle, &format!("user{n}"), street, &mut now));
        assert!(wait(&throttle, "bob", home, now).is_some(), "one customer's /64");
        assert_eq!(wait(&throttle, "bob", address("2001:db8:0:1::1"), now), None);
        assert_eq!(wait(&throttle, "alice", home, now), None, "who is known there is not held up by neighbours");
        (0..5).for_each(|_| fail(&throttle, "alice", home, &mut now));
        assert!(wait(&throttle, "alice", home, now).is_some(), "but by failures of their own");
    }

    #[test]
    fn a_name_is_not_guessed_from_many_addresses() {
        let throttle = Throttle::default();
        let mut now = Instant::now();
        throttle.begin("alice", address("192.0.2.1"), now).unwrap().succeeded(now);
        (0..100).for_each(|n| fail(&throttle, "alice", address(&format!("198.51.100.{n}")), &mut now));
        assert!(wait(&throttle, "alice", address("203.0.113.1"), now).is_some());
        assert_eq!(
            wait(&throttle, "alice", address("192.0.2.1"), now),
            None,
            "nobody locks her out where she is known"
        );
    }

    #[test]
    fn one_address_does_not_fill_the_queue_and_all_together_have_a_bound() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let from = |n: usize| address(&format!("192.0.2.{n}"));
        let mut tries = Vec::new();
        for n in 0..TRIES_MAX {
            tries.push(throttle.begin("alice", from(n / TRIES_PER_NETWORK_MAX), now).unwrap());
            if n + 1 == TRIES_PER_NETWORK_MAX {
                assert_eq!(throttle.begin("bob", from(0), now).unwrap_err(), Refused::Busy);
            }
        }
        assert_eq!(throttle.begin("bob", from(200), now).unwrap_err(), Refused::Busy);
        tries.pop();
        throttle.begin("bob", from(200), now).unwrap();
        drop(tries);
        assert!(throttle.state().tries.is_empty());
    }

    #[test]
    fn names_are_cut_where_characters_end() {
        assert_eq!(start_of(&"ä".repeat(1000)).len(), NAME_BYTES_MAX);
        assert_eq!(start_of(&format!("x{}", "ä".repeat(1000))).len(), NAME_BYTES_MAX - 1);
        assert_eq!(start_of("amy"), "amy");
    }
}
