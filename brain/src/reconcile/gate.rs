//! How many VMs the reconciler starts and stops of its own accord in a while: a wrong database does bounded
//! harm. What users have ordered does not pass here: nobody's order waits for those of others.

use crate::config::LimitsConfig;
use std::{collections::VecDeque, time::Duration};
use time::OffsetDateTime;

/// Counts starts and stops in a sliding window.
#[derive(Debug)]
pub struct Gate {
    limits: LimitsConfig,
    starts: VecDeque<OffsetDateTime>,
    stops: VecDeque<OffsetDateTime>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A run is opened.
    Start,
    /// A machine is ordered to stop.
    Stop,
}

/// There were enough for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// For people.
    pub reason: String,
    /// When there is room again.
    pub until: OffsetDateTime,
}

impl Gate {
    /// A gate with nothing counted.
    pub fn new(limits: LimitsConfig) -> Self {
        Self { limits, starts: VecDeque::new(), stops: VecDeque::new() }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// [`Closed`] when the window is full.
    pub fn pass(&mut self, kind: Kind, now: OffsetDateTime) -> Result<(), Closed> {
        let window = Duration::from_secs(self.limits.window_s);
        let (passed, count_max, what) = match kind {
            Kind::Start => (&mut self.starts, self.limits.vm_starts_max, "started"),
            Kind::Stop => (&mut self.stops, self.limits.vm_stops_max, "stopped"),
        };
        while passed.front().is_some_and(|first| now - *first >= window) {
            passed.pop_front();
        }
        if passed.len() >= usize::try_from(count_max).unwrap_or(usize::MAX) {
            let until = passed.front().map_or(now, |first| *first) + window;
            let reason = format!(
                "{count_max} VMs were {what} automatically in the last {} s, which is the limit",
                self.limits.window_s
            );
            return Err(Closed { reason, until });
        }
        passed.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lets_so_many_through() {
        let mut gate =
            Gate::new(LimitsConfig { vm_starts_max: 2, vm_stops_max: 1, window_s: 60, ..LimitsConfig::default() });
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(gate.pass(Kind::Start, at(0)).is_ok() && gate.pass(Kind::Start, at(30)).is_ok());
        let closed = gate.pass(Kind::Start, at(59)).unwrap_err();
        assert_eq!(closed.until, at(60));
        assert!(gate.pass(Kind::Stop, at(59)).is_ok(), "stops are counted apart");
        assert!(gate.pass(Kind::Start, at(60)).is_ok());
        assert!(gate.pass(Kind::Start, at(61)).is_err());
    }
}
