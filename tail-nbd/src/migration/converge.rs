//! When to go over the disc once more, and when to hand it over.
//!
//! Clients write while the disc is copied, so what they wrote meanwhile is sent again in a further pass, which is shorter
//! than the one before as long as the wire is faster than they are. The hand-over pauses them for the time that the last
//! pass and the records take, so it begins only when that is expected to fit into the budget that was ordered: well into
//! it, since a sync may take longer than the one before, and the clients need a moment to come back. Where a few more
//! passes have not brought it there, because the disk is slow, the whole budget has to do.
//!
//! Clients that are as fast as the wire, or faster, would keep the move from its end. So from the first pass on that leaves
//! nearly as much as it sent, what they may make dirty in a second is such a part of what is left that the next pass leaves
//! a third of it: with `left` bytes to send at `rate`, and a sync,
//!
//! ```text
//!   brake = left × share / (left / rate + sync)        share: 1/3, and half of that after a pass that did not obey
//! ```
//!
//! So what is left shrinks geometrically, and all passes after the first one take one and a half times as long as the
//! first of them. When what is left nears what fits into the pause, no more is asked of the clients than that. The brake
//! stays until the end of the move, with a new rate after each pass.

/// A pass that leaves more than this share of what it sent has hardly helped, in percent.
const SHRINKS_PERCENT: u64 = 70;

/// A braked pass is to leave one in so many bytes of what was to be sent, at first.
const SHARE: u64 = 3;

/// … and at last. A slower guest would not help any more: the sync takes most of the time.
const SHARE_LAST: u64 = 48;

/// The least that a brake leaves to the clients, in bytes a second: 32 writes of 4 KiB.
const BRAKE_BYTES_PER_S_MIN: u64 = 128 << 10;

/// Passes, and the time for them in milliseconds, after which a move gives up. Passes over nothing but holes are over in no
/// time, and a guest that trims its disc makes many of them necessary.
pub const PASSES_MAX: u32 = 200;
const PASSES_MS_MAX: u64 = 60_000;

/// How much of the ordered pause a hand-over is to take, in percent, and how many passes are tried for that.
const AIM_PERCENT: u64 = 60;
const AIM_PASSES_MAX: u32 = 5;

/// Hand-overs that may be called off: each is a hiccup for the clients.
const CALLED_OFF_MAX: u32 = 3;

/// What the hand-over takes besides sending what is left and syncing it, in milliseconds: two records and three
/// messages, at a median of one millisecond each, with room (safety rules 3, 23).
const HANDOVER_MS: u64 = 10;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send what was written meanwhile.
    Pass,
    /// Pause the clients and hand the disc over.
    HandOver,
    /// It cannot be done within the budget.
    GiveUp,
}

/// What the passes so far have shown.
#[derive(Clone, Copy, Debug)]
pub struct Convergence {
    pause_ms: u64,
    passes_count: u32,
    passes_ms: u64,
    called_off_count: u32,
    /// Passes after which the hand-over would have fitted into the pause, and not well.
    tight_count: u32,
    bytes_per_s: u64,
    sync_ms: u64,
    share: u64,
    brake: Option<Brake>,
}

/// What was asked of the clients.
#[derive(Clone, Copy, Debug)]
struct Brake {
    bytes_per_s: u64,
    /// How long the next pass would take, in milliseconds.
    expected_ms: u64,
}

/// One pass.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// What was sent, in bytes.
    pub sent_bytes: u64,
    /// How long that took, until the target had it, in milliseconds.
    pub took_ms: u64,
    /// How long the target took to make it durable, in milliseconds.
    pub sync_ms: u64,
    /// What was written meanwhile, in bytes.
    pub left_bytes: u64,
}

impl Convergence {
    /// Nothing is known yet. Clients may be paused for `pause_ms` milliseconds.
    pub fn new(pause_ms: u32) -> Self {
        Self {
            pause_ms: pause_ms.into(),
            passes_count: 0,
            passes_ms: 0,
            called_off_count: 0,
            tight_count: 0,
            bytes_per_s: 0,
            sync_ms: 0,
            share: SHARE,
            brake: None,
        }
    }

    /// How much clients may make dirty from now on, in bytes a second; `None` as long as they may all they want.
    pub fn brake_bytes_per_s(&self) -> Option<u64> {
        self.brake.map(|brake| brake.bytes_per_s)
    }

    /// How many passes there were.
    pub fn passes_count(&self) -> u32 {
        self.passes_count
    }

    /// A pass is over: what comes next.
    pub fn handle_pass(&mut self, pass: Pass) -> Next {
        self.passes_count += 1;
        let pass_ms = pass.took_ms.saturating_add(pass.sync_ms);
        if self.passes_count > 1 {
            self.passes_ms = self.passes_ms.saturating_add(pass_ms);
        }
        // A pass of a few blocks says nothing of the wire.
        if pass.sent_bytes >= 1 << 20 || self.bytes_per_s == 0 {
            self.bytes_per_s = pass.sent_bytes.saturating_mul(1000) / pass.took_ms.max(1);
        }
        // The sync of the last pass is like that of a small one.
        self.sync_ms = if self.passes_count == 1 { pass.sync_ms.min(self.pause_ms / 2) } else { pass.sync_ms };
        let expected_ms = self.expected_pause_ms(pass.left_bytes);
        if expected_ms <= self.aim_ms() {
            return Next::HandOver;
        }
        if expected_ms <= self.pause_ms {
            self.tight_count += 1;
            if self.tight_count > AIM_PASSES_MAX {
                return Next::HandOver;
            }
        }
        if self.passes_count >= PASSES_MAX && self.passes_ms >= PASSES_MS_MAX {
            return Next::GiveUp;
        }
        let shrinks = pass.left_bytes.saturating_mul(100) <= pass.sent_bytes.saturating_mul(SHRINKS_PERCENT);
        match self.brake {
            None if shrinks => {}
            // A pass that took much longer than was expected only shows what can be expected.
            Some(brake) if !shrinks && pass_ms <= brake.expected_ms.saturating_mul(2) => {
                self.share = (self.share * 2).min(SHARE_LAST);
                self.set_brake(pass.left_bytes);
            }
            _ => self.set_brake(pass.left_bytes),
        }
        Next::Pass
    }

    /// How long the hand-over is to take, in milliseconds.
    fn aim_ms(&self) -> u64 {
        self.pause_ms * AIM_PERCENT / 100
    }

    fn set_brake(&mut self, left_bytes: u64) {
        let expected_ms =
            (left_bytes.saturating_mul(1000) / self.bytes_per_s.max(1)).saturating_add(self.sync_ms).max(1);
        let rest_ms = self.aim_ms().saturating_sub(self.sync_ms + HANDOVER_MS);
        let fits_bytes = self.bytes_per_s.saturating_mul(rest_ms) / 1000;
        let dirtied_bytes = (left_bytes / self.share).max(fits_bytes / 2);
        let bytes_per_s = (dirtied_bytes.saturating_mul(1000) / expected_ms).max(BRAKE_BYTES_PER_S_MIN);
        self.brake = Some(Brake { bytes_per_s, expected_ms });
    }

    /// A hand-over was called off because it took too long: what comes next.
    pub fn handle_called_off(&mut self) -> Next {
        self.called_off_count += 1;
        if self.called_off_count >= CALLED_OFF_MAX { Next::GiveUp } else { Next::Pass }
    }

    /// How long a hand-over with so many bytes left would pause the clients, in milliseconds.
    pub fn expected_pause_ms(&self, left_bytes: u64) -> u64 {
        let sending_ms = match self.bytes_per_s {
            0 => left_bytes,
            rate => left_bytes.saturating_mul(1000) / rate,
        };
        sending_ms.saturating_add(self.sync_ms).saturating_add(HANDOVER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn pass(sent_mib: u64, took_ms: u64, left_mib: u64) -> Pass {
        Pass { sent_bytes: sent_mib * MIB, took_ms, sync_ms: 5, left_bytes: left_mib * MIB }
    }

    #[test]
    fn an_idle_disc_is_handed_over_after_one_pass() {
        assert_eq!(Convergence::new(100).handle_pass(pass(1000, 2000, 0)), Next::HandOver);
        let nothing = Pass { sent_bytes: 0, took_ms: 0, sync_ms: 0, left_bytes: 0 };
        assert_eq!(Convergence::new(100).handle_pass(nothing), Next::HandOver, "an empty disc");
    }

    #[test]
    fn passes_go_on_while_they_shrink_what_is_left() {
        let mut convergence = Convergence::new(100);
        assert_eq!(convergence.handle_pass(pass(1000, 10_000, 500)), Next::Pass);
        assert_eq!(convergence.handle_pass(pass(500, 5_000, 250)), Next::Pass);
        assert_eq!(convergence.handle_pass(pass(250, 2_500, 4)), Next::HandOver, "40 ms to send, 5 to sync");
        assert_eq!(convergence.expected_pause_ms(4 * MIB), 40 + 5 + HANDOVER_MS);
    }

    #[test]
    fn r130_a_hand_over_is_to_fit_well_and_a_slow_disk_ends_no_move() {
        let mut convergence = Convergence::new(100);
        assert_eq!(convergence.handle_pass(pass(1000, 10_000, 8)), Next::Pass, "95 of 100 ms");
        for _ in 1..AIM_PASSES_MAX {
            assert_eq!(convergence.handle_pass(pass(8, 80, 8)), Next::Pass);
        }
        assert_eq!(convergence.handle_pass(pass(8, 80, 8)), Next::HandOver, "it does not get any better");
    }

    #[test]
    fn clients_that_outrun_the_wire_are_slowed_down_by_what_it_takes() {
        let mut convergence = Convergence::new(100);
        assert_eq!(convergence.handle_pass(pass(1000, 10_000, 700)), Next::Pass);
        assert_eq!(convergence.brake_bytes_per_s(), None, "this pass has helped");
        assert_eq!(convergence.handle_pass(pass(700, 7000, 600)), Next::Pass);
        assert_eq!(
            convergence.brake_bytes_per_s(),
            Some(200 * MIB * 1000 / 6005),
            "a third, while six hundred are sent"
        );
        assert_eq!(convergence.handle_pass(pass(600, 6000, 200)), Next::Pass);
        assert_eq!(convergence.brake_bytes_per_s(), Some(200 * MIB / 3 * 1000 / 2005), "as was asked for");
        assert_eq!(convergence.handle_pass(pass(200, 4100, 190)), Next::Pass);
        let rate = 200 * MIB * 1000 / 4100;
        let expected_ms = 190 * MIB * 1000 / rate + 5;
        assert_eq!(
            convergence.brake_bytes_per_s(),
            Some(190 * MIB / 3 * 1000 / expected_ms),
            "the wire has become slower"
        );
        assert_eq!(convergence.handle_pass(pass(190, expected_ms, 180)), Next::Pass);
        let rate = 190 * MIB * 1000 / expected_ms;
        let expected_ms = 180 * MIB * 1000 / rate + 5;
        assert_eq!(convergence.brake_bytes_per_s(), Some(180 * MIB / 6 * 1000 / expected_ms), "they have not obeyed");
    }

    #[test]
    fn no_more_is_asked_than_what_fits_into_the_pause() {
        let mut convergence = Convergence::new(100);
        assert_eq!(convergence.handle_pass(pass(6, 60, 6)), Next::Pass);
        let fits = 100 * MIB * (60 - 5 - HANDOVER_MS) / 1000;
        assert_eq!(convergence.brake_bytes_per_s(), Some(fits / 2 * 1000 / 65), "more than a third of six");
    }

    /// A disc of a wire that carries so much, with clients that write all over it as fast as they are let.
    fn simulate(disc: f64, rate: f64, clients: f64, sync_ms: f64) -> Option<f64> {
        let (mut convergence, mut left, mut spent_s) = (Convergence::new(100), disc, 0.0);
        loop {
            let (sent, took_s) = (left, left / rate);
            let may = convergence.brake_bytes_per_s().map_or(clients, |brake| clients.min(brake as f64));
            left = disc * (1.0 - (-may * (took_s + sync_ms / 1e3) / disc).exp());
            if convergence.brake_bytes_per_s().is_some() {
                // Only what is clean counts.
                left = disc.min(may * (took_s + sync_ms / 1e3));
            }
            spent_s += took_s + sync_ms / 1e3;
            let pass = Pass {
                sent_bytes: sent as u64,
                took_ms: (took_s * 1e3) as u64,
                sync_ms: sync_ms as u64,
                left_bytes: left as u64,
            };
            match convergence.handle_pass(pass) {
                Next::HandOver => return Some(spent_s / (disc / rate)),
                Next::GiveUp => return None,
                Next::Pass => {}
            }
        }
    }

    #[test]
    fn r130_whoever_writes_however_fast_a_move_takes_no_longer_than_three_times_an_idle_one() {
        for clients in [10e6, 30e6, 50e6, 60e6, 150e6, 1e9, 100e9] {
            for (disc, rate) in [(128e6, 50e6), (1e9, 50e6), (100e9, 500e6), (10e9, 1e9)] {
                for sync_ms in [1.0, 10.0, 30.0] {
                    let times = simulate(disc, rate, clients, sync_ms);
                    assert!(times.is_some_and(|times| times < 3.0), "{disc} {rate} {clients} {sync_ms}: {times:?}");
                }
            }
        }
    }

    #[test]
    fn a_hand_over_that_took_too_long_counts() {
        let mut convergence = Convergence::new(100);
        assert_eq!(convergence.handle_pass(pass(100, 1000, 1)), Next::HandOver);
        assert_eq!(convergence.handle_called_off(), Next::Pass);
        assert_eq!(convergence.handle_called_off(), Next::Pass);
        assert_eq!(convergence.handle_called_off(), Next::GiveUp, "each is a hiccup for the clients");
    }

    proptest! {
        #[test]
        fn a_hand_over_is_expected_to_fit_and_there_is_an_end(
            passes in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 20, 0u64..10_000, 0u64..1 << 40), 1..300),
            pause_ms in 1u32..500,
        ) {
            let mut convergence = Convergence::new(pause_ms);
            for (sent_bytes, took_ms, sync_ms, left_bytes) in passes {
                let next = convergence.handle_pass(Pass { sent_bytes, took_ms, sync_ms, left_bytes });
                let expected_ms = convergence.expected_pause_ms(left_bytes);
                let may = expected_ms <= pause_ms.into();
                let must = expected_ms <= convergence.aim_ms() || may && convergence.tight_count > AIM_PASSES_MAX;
                prop_assert_eq!(next == Next::HandOver, must);
                let is_late = convergence.passes_count() >= PASSES_MAX && convergence.passes_ms >= PASSES_MS_MAX;
                prop_assert!(!is_late || matches!(next, Next::HandOver | Next::GiveUp));
                prop_assert!(convergence.brake_bytes_per_s().is_none_or(|brake| brake >= BRAKE_BYTES_PER_S_MIN));
            }
        }
    }
}
