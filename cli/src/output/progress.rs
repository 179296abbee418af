//! What is going on while we wait: a spinner on a terminal, else a line whenever there is news.

use super::{one_line, say};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// Without a terminal a line is written when so many per cent more are done.
const STEP_PERCENT: u64 = 10;

/// News of one wait.
pub struct Progress {
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    last: Option<(String, Option<u64>)>,
}

impl Progress {
    /// For the thing called `name`.
    pub fn new(name: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { name: one_line(name), started: Instant::now(), bar, last: None }
    }

    /// Shows the news, if they are new.
    pub fn show(&mut self, text: &str, percent: Option<u64>) {
        let text = one_line(text);
        let percent_shown = percent.map(|n| format!(" {n}%")).unwrap_or_default();
        let line = format!("{}: {text}{percent_shown}", self.name);
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            self.last = Some((text, percent));
            return;
        }
        let is_news = match &self.last {
            Some((old, old_percent)) => *old != text || percent.unwrap_or(0) >= old_percent.unwrap_or(0) + STEP_PERCENT,
            None => true,
        };
        if is_news {
            say(&format!("{line} ({} s)", self.started.elapsed().as_secs()));
            self.last = Some((text, percent));
        }
    }

    /// The last news.
    pub fn last(&self) -> &str {
        self.last.as_ref().map_or("none", |(text, _)| text)
    }

    /// Takes the spinner away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
