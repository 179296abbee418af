//! When to go over the disc once more, and when to hand it over.
//!
//! Clients write while the disc is copied, so what they wrote meanwhile is sent again in a further pass, which is shorter
//! than the one before as long as the wire is faster than they are. The hand-over pauses them for the time that the last
//! pass and the records take, so it begins only when that is expected to fit into the budget that was ordered.

/// A pass that leaves more than this share of what the one before left has hardly helped, in percent.
const SHRINKS_PERCENT: u64 = 70;

/// Passes that hardly help before clients are slowed down.
const FRUITLESS_MAX: u32 = 2;

/// How much of the time clients are held at most, in eighths: an eighth is left to them whatever happens.
const BRAKE_EIGHTHS_MAX: u32 = 7;

/// Passes after which a move gives up.
pub const PASSES_MAX: u32 = 200;

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
    fruitless_count: u32,
    called_off_count: u32,
    left_bytes: Option<u64>,
    bytes_per_s: u64,
    sync_ms: u64,
    brake_eighths: u32,
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
            fruitless_count: 0,
            called_off_count: 0,
            left_bytes: None,
            bytes_per_s: 0,
            sync_ms: 0,
            brake_eighths: 0,
        }
    }

    /// How much of the time clients are to be held during the next pass, in eighths: their writes outrun the wire.
    pub fn brake_eighths(&self) -> u32 {
        self.brake_eighths
    }

    /// How many passes there were.
    pub fn passes_count(&self) -> u32 {
        self.passes_count
    }

    /// A pass is over: what comes next.
    pub fn handle_pass(&mut self, pass: Pass) -> Next {
        self.passes_count += 1;
        // A pass of a few blocks says nothing of the wire.
        if pass.sent_bytes >= 1 << 20 || self.bytes_per_s == 0 {
            self.bytes_per_s = pass.sent_bytes.saturating_mul(1000) / pass.took_ms.max(1);
        }
        // The sync of the last pass is like that of a small one.
        self.sync_ms = if self.passes_count == 1 { pass.sync_ms.min(self.pause_ms / 2) } else { pass.sync_ms };
        let shrinks = self.left_bytes.is_none_or(|before| pass.left_bytes * 100 <= before * SHRINKS_PERCENT);
        self.left_bytes = Some(pass.left_bytes);
        if self.expected_pause_ms(pass.left_bytes) <= self.pause_ms {
            return Next::HandOver;
        }
        if self.passes_count >= PASSES_MAX {
            return Next::GiveUp;
        }
        self.fruitless_count += u32::from(!shrinks);
        if !shrinks && self.fruitless_count >= FRUITLESS_MAX {
            self.brake_eighths = (self.brake_eighths + 2).min(BRAKE_EIGHTHS_MAX);
        }
        Next::Pass
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
        assert_eq!(convergence.handle_pass(pass(250, 2_500, 8)), Next::HandOver, "80 ms to send, 5 to sync");
        assert_eq!(convergence.expected_pause_ms(8 * MIB), 80 + 5 + HANDOVER_MS);
    }

    #[test]
    fn clients_that_outrun_the_wire_are_slowed_down() {
        let mut convergence = Convergence::new(100);
        assert_eq!(convergence.handle_pass(pass(1000, 10_000, 3000)), Next::Pass);
        assert_eq!(convergence.handle_pass(pass(3000, 30_000, 9000)), Next::Pass);
        assert_eq!(convergence.brake_eighths(), 0, "one that hardly helped is no proof");
        for eighths in [2, 4, 6, 7, 7] {
            assert_eq!(convergence.handle_pass(pass(9000, 90_000, 9000)), Next::Pass);
            assert_eq!(convergence.brake_eighths(), eighths);
        }
        assert_eq!(convergence.handle_pass(pass(9000, 90_000, 900)), Next::Pass);
        assert_eq!(convergence.brake_eighths(), 7, "and stays so");
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
                let fits = convergence.expected_pause_ms(left_bytes) <= pause_ms.into();
                prop_assert_eq!(next == Next::HandOver, fits);
                prop_assert!(convergence.passes_count() < PASSES_MAX || matches!(next, Next::HandOver | Next::GiveUp));
            }
        }
    }
}
