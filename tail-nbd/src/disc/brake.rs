//! Keeps the writes of a disc that is being moved from outrunning the copying.
//!
//! What counts is bytes that were clean, as the map of written blocks has them ([`Dirty`](super::dirty::Dirty)): they
//! will have to be sent again. Rewriting what is dirty costs nothing, and neither does reading. Whoever begins is charged,
//! and may begin as soon as all before him are paid for: so no more than one piece of a write is ahead of its time.
//!
//! Those who have to wait do so in the order they came. Nobody waits longer than [`BRAKE_SECONDS_MAX`], whatever the
//! rate: a guest must go on, and the move is what fails if there is no other way.

use crate::limits::BRAKE_SECONDS_MAX;
use crate::time::Instant;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// How long the rate may not have been used and still be caught up with.
const SLACK: Duration = Duration::from_millis(10);

/// The brake of one disc, and who waits for it.
#[derive(Debug)]
pub struct Brake<T> {
    bytes_per_s: u64,
    /// When all who have begun are paid for.
    paid_at: Instant,
    waiting: VecDeque<Waiting<T>>,
    /// Memory of those who wait.
    held_bytes: usize,
    /// Somebody was not even let wait.
    has_refused: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    held_bytes: usize,
    who: T,
}

impl<T> Brake<T> {
    /// A brake that lets so many clean bytes be written a second.
    pub fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            paid_at: Instant::default(),
            waiting: VecDeque::new(),
            held_bytes: 0,
            has_refused: false,
        }
    }

    /// Another rate from now on.
    pub fn set_rate(&mut self, bytes_per_s: u64) {
        self.bytes_per_s = bytes_per_s.max(1);
    }

    /// Nothing is to be paid for any more, until there is a rate again.
    pub fn forgive(&mut self) {
        (self.bytes_per_s, self.paid_at) = (u64::MAX, Instant::default());
    }

    /// True when whoever comes now may begin.
    pub fn admits(&self, now: Instant) -> bool {
        self.waiting.is_empty() && self.paid_at <= now
    }

    /// Somebody begins who makes so many clean bytes dirty, or has done so already.
    pub fn charge(&mut self, now: Instant, bytes: u64) {
        let takes_ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let takes = Duration::from_nanos(u64::try_from(takes_ns).unwrap_or(u64::MAX));
        let earliest = Instant::default().plus(now.since(Instant::default().plus(SLACK)));
        self.paid_at = self.paid_at.max(earliest).plus(takes);
    }

    /// `who` waits, with so many bytes of memory. [`Brake::take_due`] says when it may begin.
    pub fn wait(&mut self, now: Instant, who: T, held_bytes: usize) {
        self.held_bytes += held_bytes;
        self.waiting.push_back(Waiting { since: now, held_bytes, who });
    }

    /// Somebody is refused memory to wait in, and has to be looked at again at [`Brake::due_at`].
    pub fn refuse(&mut self) {
        self.has_refused = true;
    }

    /// Memory of those who wait, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// True when nobody waits.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When somebody may begin; `None` when nobody waits.
    pub fn due_at(&self) -> Option<Instant> {
        let first = self.waiting.front().map(|first| self.paid_at.min(first.since.plus_seconds(BRAKE_SECONDS_MAX)));
        first.or(self.has_refused.then_some(self.paid_at))
    }

    /// The next one that may begin, and is to be charged. All may when the brake is `off`.
    pub fn take_due(&mut self, now: Instant, off: bool) -> Option<T> {
        if !off && self.due_at()? > now {
            return None;
        }
        self.has_refused = false;
        let Waiting { held_bytes, who, .. } = self.waiting.pop_front()?;
        self.held_bytes -= held_bytes;
        Some(who)
    }

    /// Those who are meant wait no longer, and do not begin.
    pub fn take_if(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let (taken, left) = core::mem::take(&mut self.waiting).into_iter().partition(|waiting| is_meant(&waiting.who));
        self.waiting = left;
        let taken: VecDeque<Waiting<T>> = taken;
        self.held_bytes = self.waiting.iter().map(|waiting| waiting.held_bytes).sum();
        taken.into_iter().map(|waiting| waiting.who).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at_ms(ms: u64) -> Instant {
        Instant::from_nanoseconds(ms * 1_000_000)
    }

    #[test]
    fn who_comes_early_waits_until_all_before_him_are_paid_for() {
        let mut brake = Brake::new(1_000_000);
        let start = at_ms(1000);
        assert!(brake.admits(start) && brake.due_at().is_none());
        brake.charge(start, 100_000);
        assert!(!brake.admits(at_ms(1089)), "a hundred milliseconds, less what may be caught up with");
        brake.wait(at_ms(1050), 'a', 7);
        brake.wait(at_ms(1060), 'b', 8);
        assert_eq!((brake.due_at(), brake.held_bytes()), (Some(at_ms(1090)), 15));
        assert_eq!(brake.take_due(at_ms(1089), false), None);
        assert_eq!(brake.take_due(at_ms(1090), false), Some('a'));
        assert!(!brake.admits(at_ms(1090)), "nobody overtakes");
        brake.charge(at_ms(1090), 50_000);
        assert_eq!(brake.take_due(at_ms(1130), false), None);
        assert_eq!(brake.take_due(at_ms(1140), false), Some('b'));
        assert!(brake.admits(at_ms(1140)) && brake.held_bytes() == 0);
    }

    #[test]
    fn nobody_waits_longer_than_so_long_or_when_it_is_off() {
        let mut brake = Brake::new(1);
        brake.charge(at_ms(0), u64::MAX);
        brake.wait(at_ms(5), 'a', 1);
        brake.wait(at_ms(6), 'b', 1);
        let patience_ms = BRAKE_SECONDS_MAX * 1000;
        assert_eq!(brake.due_at(), Some(at_ms(5 + patience_ms)));
        assert_eq!(brake.take_due(at_ms(5 + patience_ms), false), Some('a'));
        assert_eq!(brake.take_due(at_ms(5 + patience_ms), false), None);
        assert_eq!(brake.take_due(at_ms(7), true), Some('b'));
    }

    #[test]
    fn who_is_cut_off_waits_no_longer() {
        let mut brake = Brake::new(1);
        brake.charge(at_ms(0), 100);
        (0..6).for_each(|who| brake.wait(at_ms(0), who, 10));
        assert_eq!(brake.take_if(|who| who % 2 == 0), [0, 2, 4]);
        assert_eq!(brake.held_bytes(), 30);
        assert_eq!([(); 4].map(|()| brake.take_due(at_ms(1), true)), [Some(1), Some(3), Some(5), None]);
    }

    #[test]
    fn who_was_refused_is_looked_at_when_it_may_be_let_in() {
        let mut brake = Brake::<char>::new(1_000_000);
        brake.charge(at_ms(100), 20_000);
        brake.refuse();
        assert_eq!(brake.due_at(), Some(at_ms(110)));
        assert_eq!(brake.take_due(at_ms(110), false), None);
        assert_eq!(brake.due_at(), None, "it was looked at");
    }

    proptest! {
        /// Clients that write as fast as they are let make no more dirty than the rate allows, and one piece; and not
        /// much less.
        #[test]
        fn the_rate_is_kept(
            pieces in proptest::collection::vec((1u64..1 << 20, 0u64..5_000_000), 50..200),
            rate in (1u64 << 20)..1 << 30,
        ) {
            let mut brake = Brake::new(rate);
            let (mut now_ns, mut begun_bytes) = (1_000_000_000, 0u64);
            let start_ns = now_ns;
            for (bytes, later_ns) in pieces {
                // They come at once, or a little later.
                brake.wait(Instant::from_nanoseconds(now_ns), bytes, 0);
                let due = brake.due_at().unwrap().since(Instant::default()).as_nanos() as u64;
                now_ns = now_ns.max(due) + later_ns / (1 + rate / (64 << 20));
                let begun = brake.take_due(Instant::from_nanoseconds(now_ns), false).unwrap();
                let elapsed = (now_ns - start_ns) as u128 + SLACK.as_nanos();
                let allowed = elapsed * u128::from(rate) / 1_000_000_000;
                prop_assert!(u128::from(begun_bytes) <= allowed + 1, "{begun_bytes} bytes, allowed {allowed}");
                begun_bytes += begun;
                brake.charge(Instant::from_nanoseconds(now_ns), begun);
            }
        }
    }
}
