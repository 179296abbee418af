//! When addresses are announced; pure: time is passed in.
//!
//! One lost advertisement costs a client 55 s, until its kernel doubts its neighbour table
//! (safety rule 12), so each address is announced several times.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

/// After an address came up, in milliseconds (safety rule 12).
const AT_MS: [u64; 6] = [0, 20, 100, 500, 2_000, 10_000];

/// Which addresses are to be announced at which time. Call [`Announcements::add`] and
/// [`Announcements::remove`] as addresses come and go, and [`Announcements::due`] at
/// [`Announcements::next`] or whenever else.
#[derive(Debug, Default)]
pub struct Announcements {
    /// When each address came up, and how many announcements it has had.
    pending: BTreeMap<Ipv6Addr, (Instant, usize)>,
    /// When each is due: a start with thousands of addresses asks for the next one after each of them.
    queue: BTreeSet<(Instant, Ipv6Addr)>,
}

impl Announcements {
    /// An address came up at `now`.
    pub fn add(&mut self, address: Ipv6Addr, now: Instant) {
        self.remove(address);
        self.pending.insert(address, (now, 0));
        self.queue.insert((due_at(now, 0), address));
    }

    /// An address is to be announced once more at `now`, unless that is going to happen anyway.
    pub fn again(&mut self, address: Ipv6Addr, now: Instant) {
        let last = AT_MS.len() - 1;
        let Some(since) = now.checked_sub(Duration::from_millis(AT_MS[last])) else { return };
        if let Entry::Vacant(vacant) = self.pending.entry(address) {
            vacant.insert((since, last));
            self.queue.insert((now, address));
        }
    }

    /// An address is going.
    pub fn remove(&mut self, address: Ipv6Addr) {
        if let Some((since, sent)) = self.pending.remove(&address) {
            self.queue.remove(&(due_at(since, sent), address));
        }
    }

    /// When the next one is due; none when there is none.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The addresses to announce at `now`; each is counted as announced. One that is late is announced
    /// once, not once for each time that was missed.
    pub fn due(&mut self, now: Instant) -> Vec<Ipv6Addr> {
        let mut due = Vec::new();
        while let Some((at, address)) = self.queue.first().copied().filter(|(at, _)| *at <= now) {
            self.queue.remove(&(at, address));
            due.push(address);
            let Some((since, sent)) = self.pending.get_mut(&address) else { continue };
            while *sent < AT_MS.len() && due_at(*since, *sent) <= now {
                *sent += 1;
            }
            if *sent < AT_MS.len() {
                self.queue.insert((due_at(*since, *sent), address));
            } else {
                self.pending.remove(&address);
            }
        }
        due
    }
}

fn due_at(since: Instant, sent: usize) -> Instant {
    since + Duration::from_millis(AT_MS[sent])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule12_an_address_is_announced_six_times() {
        let (start, address) = (Instant::now(), Ipv6Addr::LOCALHOST);
        let mut announcements = Announcements::default();
        announcements.add(address, start);
        let mut times = Vec::new();
        while let Some(next) = announcements.next() {
            assert_eq!(announcements.due(next), [address]);
            assert!(announcements.due(next).is_empty(), "once at a time");
            times.push((next - start).as_millis() as u64);
        }
        assert_eq!(times, AT_MS);
    }

    #[test]
    fn rule12_an_address_can_be_announced_once_more() {
        let (now, address) = (Instant::now() + Duration::from_secs(60), Ipv6Addr::LOCALHOST);
        let mut announcements = Announcements::default();
        announcements.again(address, now);
        assert_eq!(announcements.next(), Some(now));
        assert_eq!(announcements.due(now), [address]);
        assert_eq!(announcements.next(), None, "once");
        announcements.add(address, now);
        announcements.due(now);
        announcements.again(address, now);
        assert_eq!(announcements.next(), Some(now + Duration::from_millis(20)), "its series goes on as it was");
    }

    #[test]
    fn missed_times_are_not_made_up_for() {
        let start = Instant::now();
        let mut announcements = Announcements::default();
        announcements.add(Ipv6Addr::LOCALHOST, start);
        let later = start + Duration::from_millis(600);
        assert_eq!(announcements.due(later).len(), 1);
        assert_eq!(announcements.next(), Some(start + Duration::from_secs(2)));
    }

    #[test]
    fn an_address_that_goes_is_not_announced() {
        let mut announcements = Announcements::default();
        announcements.add(Ipv6Addr::LOCALHOST, Instant::now());
        announcements.remove(Ipv6Addr::LOCALHOST);
        assert_eq!(announcements.next(), None);
        assert!(announcements.due(Instant::now()).is_empty());
    }

    #[test]
    fn an_address_that_comes_up_again_starts_anew() {
        let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut announcements = Announcements::default();
        announcements.add(Ipv6Addr::LOCALHOST, start);
        assert_eq!(announcements.due(start).len(), 1);
        announcements.add(Ipv6Addr::LOCALHOST, later);
        assert_eq!(announcements.next(), Some(later));
        assert_eq!(announcements.due(later).len(), 1, "and only once at a time");
    }
}
