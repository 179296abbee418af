//! Waiting: asks until a thing is as wanted, shows what it is doing, and gives up only when the time
//! is up. Whatever ends the waiting, Ctrl-C included, the operation goes on.
//!
//! * [`vm`]: for a VM to run, to run again, to be off.
//! * [`disc`]: for a disc to be there. [`job`]: for discs to have moved.
//!
//! What an answer means is decided by pure functions; only [`Patience::ask`] has a clock.

pub mod disc;
pub mod job;
pub mod vm;

use crate::{args::WaitArgs, client::ClientError, error::Error, interrupt, output::progress::Progress};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long one question may stay open. The brain allows 60 s; news are only seen between two.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// The least time between two questions, for a brain that answers at once; and how long one stays
/// open at first, when there is news every second.
const PAUSE: Duration = Duration::from_secs(1);
/// How long that is so.
const AT_FIRST: Duration = Duration::from_secs(15);
/// The longest time between two attempts to reach a brain that is away.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What an answer means.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is as wanted.
    Reached,
    /// It will not be.
    Failed(String),
    /// Not yet.
    NotYet {
        /// What it is doing.
        text: String,
        /// How much of that is done.
        percent: Option<u64>,
    },
}

/// How long to wait, and what to say when that was not enough.
pub struct Patience {
    /// Whom the news are about.
    pub name: String,
    /// How long at most.
    pub time_max: Duration,
    /// What goes on without us: `web1.default.acme is still being made`.
    pub going_on: String,
    /// The command that shows how it stands.
    pub look: String,
    /// What else may be done when the time is up.
    pub advice: Option<String>,
}

impl Patience {
    /// As long as the options say.
    pub fn with(mut self, args: &WaitArgs) -> Self {
        self.time_max = args.wait_max.map_or(self.time_max, Duration::from_secs);
        self
    }

    /// Asks until the verdict is clear. `question` gets the time that an answer may take, and the
    /// time since the waiting began.
    pub fn ask(
        &self,
        mut question: impl FnMut(Duration, Duration) -> Result<Verdict, ClientError>,
    ) -> Result<(), Error> {
        interrupt::set_note(Some(self.last_words()));
        let mut progress = Progress::new(&self.name);
        let started = Instant::now();
        let mut failures = 0u32;
        let result = loop {
            let asked = Instant::now();
            let left = self.time_max.saturating_sub(started.elapsed());
            let time = if started.elapsed() < AT_FIRST { PAUSE } else { QUESTION_TIME.min(left).max(PAUSE) };
            match question(time, started.elapsed()) {
                Ok(Verdict::Reached) => break Ok(()),
                Ok(Verdict::Failed(reason)) => break Err(Error::Failed(format!("{}: {reason}", self.name))),
                Ok(Verdict::NotYet { text, percent }) => {
                    failures = 0;
                    progress.show(&text, percent);
                }
                Err(error) if error.is_passing() => {
                    failures += 1;
                    progress.show(&format!("{error}; trying again"), None);
                }
                Err(ClientError::NotFound { .. }) => {
                    break Err(Error::Failed(format!("{} was destroyed meanwhile", self.name)));
                }
                Err(error) => break Err(error.into()),
            }
            if started.elapsed() >= self.time_max {
                break Err(self.out_of_time(progress.last()));
            }
            let pause = (PAUSE * 2u32.pow(failures.min(5).saturating_sub(1))).min(PAUSE_MAX);
            thread::sleep(pause.saturating_sub(asked.elapsed()));
        };
        progress.finish();
        interrupt::set_note(None);
        result
    }

    fn last_words(&self) -> String {
        format!("{}; look again with `{}`", self.going_on, self.look)
    }

    fn out_of_time(&self, last: &str) -> Error {
        let advice = self.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
        let seconds = self.time_max.as_secs();
        Error::StillGoing(format!("waited {seconds} s, the last news was: {last}. {}{advice}", self.last_words()))
    }
}

fn not_yet(state: &str, status: Option<&spine::api::Status>) -> Verdict {
    let text = match status.and_then(|status| status.reason.as_deref()) {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    };
    let percent = status.and_then(|status| status.progress).and_then(|n| u64::try_from(n).ok());
    Verdict::NotYet { text, percent: percent.map(|n| n.min(100)) }
}
